"""``snapfs versions``: what has stood under a path: all versions of a file, or the names that a
directory has lost.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_timeout
from snapfs.cli.exits import OK
from snapfs.cli.paths import PATHS_HELP, PathAlone, in_volume
from snapfs.cli.target import session

#: Snapshots that a line names; of more, the number is told.
NAMED: Final = 4

Document = dict[str, Any]


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "target",
        metavar="PATH",
        help="a file in a mount, there or deleted; with --path an image, or any path in a mount",
    )
    parser.add_argument("--path", metavar="PATH", help="the file")
    parser.add_argument(
        "--deleted",
        action="store_true",
        help="of a directory: names that snapshots have and the present has not",
    )
    add_timeout(parser)
    add_json(parser)
    parser.epilog = (
        "Newest first. A version that was written anew is another one even if its bytes "
        "are the same; what a restore brought back is the "
        "one that it was. Exit codes: 0 done, 1 error (also when no state has the path), 2 usage. "
        + PATHS_HELP
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    alone = (
        None
        if arguments.path is not None
        else PathAlone(arguments.target, "name the file in it with --path", arguments.timeout)
    )
    found: list[Document] = []

    def told(event: Document) -> None:
        found.extend(event["found"])

    with session(
        alone.target if alone else arguments.target, write=False, timeout=arguments.timeout
    ) as volume:
        inside = alone.without_snapshot(volume) if alone else in_volume(arguments.path, volume)
        result = volume.call("versions", told=told, path=inside, deleted=arguments.deleted)
        mountpoint = volume.mountpoint
    head = {
        "target": arguments.target,
        "mounted": mountpoint,
        "path": "/" + result["path"].strip("/"),
    }
    if arguments.deleted:
        lost = _lost(found)
        if arguments.json:
            output.print_json({**head, "deleted": [_lost_document(one) for one in lost]})
        elif lost:
            columns = ("Name", "Last in", "Snapshot made", "Modified", "Size")
            output.print_table(columns, [_lost_row(one) for one in lost], whole=columns[:2])
        return OK
    versions = _versions(found)
    if arguments.json:
        output.print_json({**head, "versions": [_document(one) for one in versions]})
    else:
        output.print_table(
            ("Modified", "Size", "Change", "Shown by"), [_row(one) for one in versions]
        )
    return OK


def _versions(found: list[Document]) -> list[Document]:
    """Versions, newest first, each with the snapshots that show it, and what distinguishes it from
    the next older one.
    """
    versions = {
        one["version"]: {**one, "snapshots": [], "present": False}
        for one in found
        if "version" in one
    }
    for one in found:
        if "seen" in one and one["snapshot"] is None:
            versions[one["seen"]]["present"] = True
        elif "seen" in one:
            versions[one["seen"]]["snapshots"].append(
                {"name": one["snapshot"], "created_ns": one["created_ns"]}
            )
    out = list(versions.values())
    for one, older in zip(out, [*out[1:], None], strict=True):
        one["change"] = _change(one, older)
    return out


def _change(one: Document, older: Document | None) -> list[str]:
    if older is None:
        return ["first"]
    if one["file"] != older["file"]:
        return ["another file"]
    return [name for name in ("data", "attributes") if one[name] != older[name]] or ["time"]


def _document(one: Document) -> Document:
    return {
        **output.shown_json(one["shown"]),
        "change": one["change"],
        "file": one["file"],
        "present": one["present"],
        "snapshots": [
            {"name": snapshot["name"], "created": output.time_json(snapshot["created_ns"])}
            for snapshot in one["snapshots"]
        ],
    }


def _row(one: Document) -> tuple[str, str, str, str]:
    shown, names = one["shown"], [snapshot["name"] for snapshot in one["snapshots"]]
    where = (
        ["the present"] * one["present"]
        + names[:NAMED]
        + ([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])
    )
    return (
        output.time_text(shown["mtime_ns"]),
        _size(shown),
        ", ".join(one["change"]),
        ", ".join(where),
    )


def _size(shown: Document) -> str:
    return str(shown["type"]) if shown["size"] is None else output.size_text(shown["size"])


def _lost(found: list[Document]) -> list[Document]:
    """Each name with the newest snapshot that has it, by name."""
    newest: dict[str, Document] = {}
    for one in found:
        newest.setdefault(one["name"], one)
    return sorted(newest.values(), key=lambda one: str(one["name"]))


def _lost_document(one: Document) -> Document:
    return {
        "name": one["name"],
        "snapshot": one["snapshot"],
        "created": output.time_json(one["created_ns"]),
        **output.shown_json(one["shown"]),
    }


def _lost_row(one: Document) -> tuple[str, str, str, str, str]:
    shown, name = one["shown"], one["name"]
    mark = "/" if shown["type"] == "directory" else ""
    times = output.time_text(one["created_ns"]), output.time_text(shown["mtime_ns"])
    return name + mark, one["snapshot"], *times, "" if mark else _size(shown)
