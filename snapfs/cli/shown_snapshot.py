"""A snapshot as commands show it: in a table, as facts, as a JSON document."""

from __future__ import annotations

import pwd
from typing import Any

from snapfs.cli import output


def print_list(found: list[dict[str, Any]]) -> None:
    """Print a table with a row for each snapshot."""
    output.print_table(
        ("Name", "Created", "Only here", "By", "State", "Paths", "Description"),
        [
            (
                one["name"], output.time_text(one["created_ns"]),
                output.size_text(one["only_here"]),
                _user(one["owner"]), ",".join(_state(one)) or "-",
                ", ".join(one["paths"]), one["description"],
            )
            for one in found
        ],
        whole=["Name"],
    )  # fmt: skip


def facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of a snapshot: a heading and its text for each line."""
    found = [
        ("Name", one["name"]),
        ("Created", output.time_text(one["created_ns"])),
        ("Created by", _user(one["owner"])),
        ("Made from", f"snapshot {one['origin']}" if one["origin"] else "the live tree"),
        ("Path" if one["path"] else "Paths", ", ".join(one["paths"])),
        ("Read-only", "yes" if one["read_only"] else "no"),
        ("Changed", output.time_text(one["changed_ns"]) if one["changed"] else "never"),
    ]
    if one["refers"] is not None:
        found.append(("Refers to", output.size_text(one["refers"])))
    found.append(
        ("Only here", f"{output.size_text(one['only_here'])}: what deleting just this one frees")
    )
    if one["description"]:
        found.append(("Description", one["description"]))
    found += [("Tag", f"{key}={value}") for key, value in one["tags"].items()]
    for hold in one["holds"]:
        since = f"since {output.time_text(hold['since_ns'])} by {_user(hold['owner'])}"
        found.append(
            (
                "Held as",
                f"{hold['name']}, {since}" + (f": {hold['reason']}" if hold["reason"] else ""),
            )
        )
    return found


def _state(one: dict[str, Any]) -> list[str]:
    """What is special about a snapshot, in a word each."""
    words = {
        "held": one["holds"],
        "read-only": one["read_only"],
        "changed": one["changed"],
        "undo": one["undo"],
    }
    return [word for word, holds in words.items() if holds] + (
        [f"of {one['origin']}"] if one["origin"] else []
    )


def document(one: dict[str, Any]) -> dict[str, Any]:
    """A snapshot as a JSON document."""
    return {
        "name": one["name"],
        "created": output.time_json(one["created_ns"]),
        "changed": one["changed"],
        "changed_at": output.time_json(one["changed_ns"]) if one["changed"] else None,
        "path": one["path"],
        "paths": one["paths"],
        "owner": one["owner"],
        "owner_name": _user(one["owner"]),
        "origin": one["origin"],
        "undo": one["undo"],
        "read_only": one["read_only"],
        "description": one["description"],
        "tags": one["tags"],
        "holds": [
            {
                "name": hold["name"],
                "reason": hold["reason"],
                "since": output.time_json(hold["since_ns"]),
                "owner": hold["owner"],
                "owner_name": _user(hold["owner"]),
            }
            for hold in one["holds"]
        ],
        "id": one["id"],
        "refers": one["refers"],
        "only_here": one["only_here"],
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
