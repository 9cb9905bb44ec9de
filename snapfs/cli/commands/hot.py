"""``snapfs snapshot show TARGET NAME --hot``: what was written most since a snapshot."""

from __future__ import annotations

import argparse
from typing import Any

from snapfs.cli import output
from snapfs.cli.exits import OK
from snapfs.cli.target import session


def show(arguments: argparse.Namespace) -> int:
    """Two tables: files, and blocks of files."""
    with session(arguments.target, write=False, timeout=arguments.timeout) as volume:
        found = volume.call("snapshot.hot", name=arguments.name, limit=arguments.limit)
    block_size = found["block_size"]
    for one in found["blocks"]:
        one["offset"] = one["index"] * block_size
    if arguments.json:
        output.print_json(found)
        return OK
    if not found["files"]:
        output.line(f"nothing of the live tree was written since '{arguments.name}'")
        return OK
    rows = [
        (_count(one), str(one["blocks"]), output.size_text(one["blocks"] * block_size), _path(one))
        for one in found["files"]
    ]
    output.print_table(("Writes", "Blocks", "Size", "File"), rows, whole=["File"])
    output.line()
    blocks = [(_count(one), str(one["offset"]), _path(one)) for one in found["blocks"]]
    output.print_table(("Writes", "Offset", "Block of file"), blocks, whole=["Block of file"])
    return OK


def _count(one: dict[str, Any]) -> str:
    """A number of writes; with a plus when a block in it has been written so often that it counts
    no further.
    """
    return f"{one['writes']}+" if one["saturated"] else str(one["writes"])


def _path(one: dict[str, Any]) -> str:
    return one["path"] if one["path"] is not None else f"(inode {one['ino']})"
