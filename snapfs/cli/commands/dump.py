"""``snapfs dump``: look into an image that nobody has mounted: what stands where, and why. Good on
damaged images, too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json
from snapfs.cli.exits import DAMAGED, OK

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected
    from snapfs.check.inspect.page import BlockPage, Table, Value
    from snapfs.device import Device

#: What can be looked at: a word for the command line, its argument, what it shows.
WHAT: Final = {
    "superblock": ("", "the slots of both superblock rings, and who has the volume open"),
    "root": ("", "the root record: counters, roots of trees, restores, a running copy"),
    "groups": ("", "the group table"),
    "group": ("N", "one group: header slots, bitmaps, records"),
    "instances": ("", "the instance table: snapshots, what they cover, what is said about them"),
    "sets": ("", "the holder sets that records name"),
    "log": ("", "the records of the log, and whether what they name is there"),
    "inode": ("N", "one inode: its slot, its names, attributes or target"),
    "path": ("P", "the way along a path, and the inode that it leads to"),
    "map": (
        "P",
        "all pointer blocks of a file or directory, and the runs of blocks that they name",
    ),
    "block": ("N", "one block: its bits, its record, and what is in it by the looks of it"),
    "why": (
        "N",
        "who reaches a block, by which pointers, as what of which files; takes as long as a check",
    ),
}

#: Columns with names that are to be copied.
WHOLE: Final = ("Name", "Path")

#: Values of a list that a line names; of more, the number is told. JSON has all.
LISTED: Final = 6

_HELP: Final = {
    "N": "a number, decimal or with 0x",
    "P": "a path in the volume, whose root is /; .snap/NAME in it leads into a snapshot",
}

EPILOG: Final = (
    "Shows the newest generation as it was sealed; what its log tells since is shown by 'log'. "
    "What cannot be read is said in its place, and the rest is shown. Exit codes: 0 done, 1 error "
    "(also when there is no such inode, path or block), 2 usage, 4 something could not be read or "
    "makes no sense."
)


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", metavar="IMAGE", help="an image file or a block device")
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, (argument, words) in WHAT.items():
        kind = kinds.add_parser(
            name, help=words, description=words.capitalize() + ".", allow_abbrev=False
        )
        if argument:
            kind.add_argument(
                "which",
                metavar=argument,
                type=_number if argument == "N" else str,
                help=_HELP[argument],
            )
        if name in ("inode", "path", "map"):
            kind.add_argument(
                "--snapshot",
                metavar="NAME",
                help="look at the view of a snapshot (default: the present)",
            )
        kind.add_argument(
            "--rows",
            metavar="N",
            type=_number,
            help="show at most so many rows of a table (default: 100000)",
        )
        kind.add_argument(
            "--in-use",
            action="store_true",
            help="also look at an image that somebody has open: what is changed meanwhile "
            "looks like damage",
        )
        add_json(kind)
    parser.epilog = EPILOG


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number: give it as 4711 or 0x1267")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Open the image, fill the page, print it."""
    from snapfs.check.inspect.page import ROWS
    from snapfs.control.copies.memory import resolve
    from snapfs.copying import open_image
    from snapfs.device import Lock, open_device

    limit = ROWS if arguments.rows is None else arguments.rows
    image = resolve(arguments.image)
    device = (
        open_device(image, read_only=True, lock=Lock.NONE)
        if arguments.in_use
        else open_image(image, read_only=True)
    )
    try:
        page = _page(device, arguments, limit)
    finally:
        device.close()
    if arguments.json:
        output.print_json({"image": arguments.image, "what": arguments.what, **document(page)})
    else:
        _print(page)
    return DAMAGED if page.problems else OK


def _page(device: Device, arguments: argparse.Namespace, limit: int) -> BlockPage:
    from snapfs.check.inspect import blocks, fixed, inodes, maps, opened, paths, tables
    from snapfs.check.inspect.why import why

    if arguments.what == "superblock":
        return fixed.superblocks(device, limit)
    image = opened.inspect(device, limit)
    plain: dict[str, Callable[[Inspected], BlockPage]] = {
        "root": fixed.root,
        "log": fixed.log,
        "groups": tables.groups,
        "instances": tables.instances,
        "sets": tables.sets,
    }
    numbered: dict[str, Callable[[Inspected, int], BlockPage]] = {
        "group": tables.group,
        "block": blocks.block,
    }
    if arguments.what in plain:
        return plain[arguments.what](image)
    if arguments.what in numbered:
        return numbered[arguments.what](image, arguments.which)
    if arguments.what == "why":
        with output.progress("Walking") as progress:
            return why(image, arguments.which, progress)
    view = image.view(arguments.snapshot)
    if arguments.what == "inode":
        return inodes.inode(image, view, arguments.which)
    show = paths.path if arguments.what == "path" else maps.block_map
    return show(image, view, os.fsencode(arguments.which))


def document(page: BlockPage) -> dict[str, Any]:
    """A page for programs: facts by their names, each table as a list of rows by columns, what was
    cut, what was wrong.
    """
    return {
        **{name: _json(value) for name, value in page.facts.items()},
        **{
            name: [dict(zip(table.columns, map(_json, row), strict=True)) for row in table.rows]
            for name, table in page.tables.items()
        },
        "cut": [name for name, table in page.tables.items() if table.is_cut],
        "problems": [{"place": one.place, "problem": one.problem} for one in page.problems],
    }


def _json(value: Value) -> Any:
    from snapfs.check.inspect.page import Checksum, Time

    if isinstance(value, Time):
        return output.time_json(value)
    return f"{value:08x}" if isinstance(value, Checksum) else value


def _print(page: BlockPage) -> None:
    output.print_facts([(_title(name), _text(value)) for name, value in page.facts.items()])
    for name, table in page.tables.items():
        if table.rows:
            _print_table(name, table)
    if page.problems:
        output.line()
        output.line("Problems:")
        for one in page.problems:
            output.line(f"  {one.place}: {one.problem}")


def _print_table(name: str, table: Table) -> None:
    output.line()
    output.line(f"{_title(name)}:")
    output.print_table(
        [_title(column) for column in table.columns],
        [[_text(value) for value in row] for row in table.rows],
        whole=WHOLE,
    )
    if table.is_cut:
        output.line(f"  and more, beyond {table.limit} rows: --rows shows them")


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _text(value: Value) -> str:
    from snapfs.check.inspect.page import Checksum, Time

    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Time):
        return output.time_text(value)
    if isinstance(value, Checksum):
        return f"{value:08x}"
    if isinstance(value, list):
        more = [f"{len(value) - LISTED} more"] if len(value) > LISTED else []
        return ", ".join([*map(str, value[:LISTED]), *more]) or "-"
    return str(value) or "-"
