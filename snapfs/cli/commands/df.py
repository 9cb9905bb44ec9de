"""``snapfs df``: where the space of a volume is, and what deleting snapshots would give back."""

from __future__ import annotations

import argparse
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.exits import OK
from snapfs.cli.target import session

#: The parts of a volume, which add up to its size. See ``snapshots.space.Usage``.
PARTS: Final = {
    "present": "Used by the present",
    "snapshots": "Only by snapshots",
    "leaving": "Being freed",
    "tables": "The volume's tables",
    "due": "For the next commit",
    "reserved": "Reserved",
    "available": "Available",
}


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        default=[],
        help="snapshots: what each has, and what deleting all of these would free",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    with session(arguments.target, write=False, timeout=arguments.timeout) as volume:
        found = volume.call("df", names=arguments.names)
    if arguments.json:
        output.print_json(found)
    elif arguments.names:
        _print_snapshots(found)
    else:
        _print_volume(found["volume"])
    return OK


def _print_volume(sizes: dict[str, int]) -> None:
    rows = [
        ("Size", sizes["size"]),
        *((title, sizes[name]) for name, title in PARTS.items() if sizes[name] or name != "due"),
    ]
    width = max(len(str(size)) for _, size in rows)
    output.print_facts(
        [(title, f"{size:>{width}} bytes  {output.size_text(size):>10}") for title, size in rows]
    )


def _print_snapshots(found: dict[str, Any]) -> None:
    rows = [
        (
            one["name"],
            "-" if one["refers"] is None else output.size_text(one["refers"]),
            output.size_text(one["only_here"]),
        )
        for one in found["snapshots"]
    ]
    output.print_table(("Name", "Refers", "Only here"), rows, whole=["Name"])
    what = "it" if len(rows) == 1 else f"all {len(rows)}"
    output.line()
    output.line(
        f"deleting {what} would free {output.size_text(found['frees'])} ({found['frees']} bytes)"
    )
