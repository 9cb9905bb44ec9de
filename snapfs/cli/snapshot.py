"""``snapfs snapshot create|list|show|rename|delete``."""

from __future__ import annotations

import argparse
import os
import pwd
from typing import Any

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.exits import ERROR, OK, report
from snapfs.cli.target import Session, session
from snapfs.errors import SnapfsError


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make a snapshot", allow_abbrev=False)
    add_target(create)
    create.add_argument("name", metavar="NAME", nargs="?", help="its name (default: the time in UTC)")
    create.add_argument("--path", metavar="DIRECTORY", help="cover only this directory, given by its path in the volume or in the mount")
    add_json(create)
    create.set_defaults(action=_create)

    listing = actions.add_parser("list", help="list the snapshots, oldest first", allow_abbrev=False)
    add_target(listing)
    add_json(listing)
    listing.set_defaults(action=_list)

    show = actions.add_parser("show", help="show one snapshot", allow_abbrev=False)
    add_target(show)
    show.add_argument("name", metavar="NAME")
    add_json(show)
    show.set_defaults(action=_show)

    rename = actions.add_parser("rename", help="give a snapshot another name", allow_abbrev=False)
    add_target(rename)
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new_name", metavar="NEW-NAME")
    rename.set_defaults(action=_rename)

    delete = actions.add_parser("delete", help="delete snapshots", allow_abbrev=False)
    add_target(delete)
    delete.add_argument("names", metavar="NAME", nargs="+")
    delete.set_defaults(action=_delete)


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    code: int = arguments.action(arguments)
    return code


def _create(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True) as volume:
        path = arguments.path and _in_volume(arguments.path, volume)
        created = volume.call("snapshot.create", name=arguments.name, path=path)
    if arguments.json:
        output.print_json(_document(created))
    else:
        print(created["name"])
    return OK


def _list(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=False) as volume:
        found = volume.call("snapshot.list")["snapshots"]
    if arguments.json:
        output.print_json([_document(one) for one in found])
    elif found:
        output.print_table(
            ("Name", "Created", "Directory"),
            [(_plain(one["name"]), output.time_text(one["created_ns"]), _plain(one["path"])) for one in found],
        )
    return OK


def _show(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=False) as volume:
        one = volume.call("snapshot.show", name=arguments.name)
        mountpoint = volume.mountpoint
    if arguments.json:
        output.print_json(_document(one))
        return OK
    facts = [
        ("Name", _plain(one["name"])),
        ("Created", output.time_text(one["created_ns"])),
        ("Changed", output.time_text(one["changed_ns"]) if one["changed_ns"] else "never"),
        ("Owner", _user(one["owner"])),
        ("Directory", _plain(one["path"])),
        ("Made from", f"snapshot {_plain(one['origin'])}" if one["origin"] else "the live tree"),
    ]
    if mountpoint:
        facts.append(("Seen at", _plain(os.path.join(mountpoint, one["path"].lstrip("/"), ".snap", one["name"]))))
    output.print_facts(facts)
    return OK


def _rename(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True) as volume:
        volume.call("snapshot.rename", name=arguments.name, new_name=arguments.new_name)
    return OK


def _delete(arguments: argparse.Namespace) -> int:
    """Delete all that can be; each that cannot gets its line."""
    code = OK
    with session(arguments.target, write=True) as volume:
        for name in arguments.names:
            try:
                volume.call("snapshot.delete", name=name)
            except SnapfsError as exc:
                report(str(exc))
                code = ERROR
    return code


def _in_volume(path: str, volume: Session) -> str:
    """A path below the mount point becomes one in the volume; any other is one already."""
    if volume.mountpoint and os.path.isabs(path):
        whole = os.path.realpath(path)
        if whole == volume.mountpoint or whole.startswith(volume.mountpoint.rstrip("/") + "/"):
            return whole[len(volume.mountpoint.rstrip("/")) :] or "/"
    return path


def _document(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "created": output.time_json(one["created_ns"]),
        "changed": output.time_json(one["changed_ns"]) if one["changed_ns"] else None,
        "directory": one["path"],
        "owner": one["owner"],
        "origin": one["origin"],
        "id": one["id"],
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _plain(text: str) -> str:
    """Text that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
