"""``snapfs restore``: go back to a snapshot, on a mounted volume or in an image."""

from __future__ import annotations

import argparse

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.exits import OK
from snapfs.cli.target import session


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument("name", metavar="NAME", help="the snapshot to go back to")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Restore, and say how to undo it."""
    with session(arguments.target, write=True) as volume:
        result = volume.call("restore", name=arguments.name)
    undo = result["undo"]
    if arguments.json:
        output.print_json({"name": result["name"], "changed": result["changed"], "undo": undo and undo["name"]})
    elif not result["changed"]:
        print(f"nothing differs from '{arguments.name}': nothing was changed")
    else:
        print(f"restored '{arguments.name}'" + (f"; the state from before is the snapshot '{undo['name']}'" if undo else ""))
    return OK
