"""The page of a file's map: every pointer block, and what they name."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from snapfs.check.inspect.inodes import TYPES, find
from snapfs.check.inspect.page import OK, BlockPage, Checksum
from snapfs.check.inspect.paths import show_way
from snapfs.check.inspect.trees import Node, Step, load, nodes
from snapfs.check.scrub.places import BUCKETS, Tree, TreeKind, data_kind, root_of
from snapfs.errors import CorruptBlock, DeviceError

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected
    from snapfs.filesystem import View


def block_map(image: Inspected, view: View, wanted: bytes) -> BlockPage:
    """Every pointer block of the file or directory at a path, and the runs of blocks that they
    name.
    """
    page = image.page()
    way = show_way(page, image, view, wanted)
    page.table(
        "pointer_blocks",
        "tree",
        "level",
        "number",
        "block",
        "held_by",
        "slot",
        "used",
        "epoch",
        "checksum",
        "state",
    )
    runs = page.table("runs", "tree", "index", "length", "block", "held_by", "epoch", "writes")
    found = page.table(
        "buckets",
        "depth",
        "prefix",
        "block",
        "held_by",
        "items",
        "bytes",
        "epoch",
        "checksum",
        "state",
    )
    if way.problem:
        return page
    _, last, ino = way.steps[-1]
    page.facts.update(inode=ino, snapshot=last.instance.name if last.instance else None)
    try:
        one = find(image, last, ino).inode
    except (CorruptBlock, DeviceError):
        return page  # the way says so
    if one is None:
        return page
    page.facts.update(type=TYPES[stat.S_IFMT(one.mode)], size=one.size, blocks=one.blocks)
    for kind in (data_kind(one), TreeKind.ATTRIBUTES):
        first, second, depth = root_of(one, kind)
        tree = Tree(kind, last.id, ino=ino)
        for node in nodes(image.volume, tree, (first, second), depth):
            if node.parent is not None:
                _pointer_block(page, node)
            if kind in BUCKETS:
                _buckets(page, image, node)
            elif not node.problem and node.level == 0:
                _runs(page, node)
            if runs.is_cut or found.is_cut:
                break
    return page


def _pointer_block(page: BlockPage, node: Node) -> None:
    assert node.parent is not None  # noqa: S101 - asked by the caller
    step = node.parent.step(node.at)
    state = (
        page.trouble(f"inode {node.tree.ino}, {node.tree.kind}", node.problem)
        if node.problem
        else OK
    )
    used = None if node.problem else sum(1 for word in node.words[::2] if word)
    page.tables["pointer_blocks"].add(
        str(node.tree.kind),
        step.level,
        step.number,
        step.block,
        step.holder or None,
        step.slot,
        used,
        step.epoch,
        Checksum(step.checksum),
        state,
    )


def _runs(page: BlockPage, node: Node) -> None:
    """Blocks that lie side by side, of one epoch, that were written equally often."""
    start: Step | None = None
    length = 0
    for at in range(len(node.words) // 2 + 1):
        step = node.step(at) if at < len(node.words) // 2 and node.words[2 * at] else None
        if start is not None:
            if (
                step is not None
                and step.number == start.number + length
                and step.block == start.block + length
                and (step.epoch, step.writes) == (start.epoch, start.writes)
            ):
                length += 1
                continue
            page.tables["runs"].add(
                str(node.tree.kind),
                start.number,
                length,
                start.block,
                start.holder or None,
                start.epoch,
                start.writes,
            )
        start, length = step, 1


def _buckets(page: BlockPage, image: Inspected, node: Node) -> None:
    for at in range(len(node.words) // 2):
        if not node.words[2 * at] or node.leads_on(at):
            continue
        step = node.step(at)
        row = (step.level, f"{step.number:#x}", step.block, step.holder or None)
        tail = (step.epoch, Checksum(step.checksum))
        try:
            bucket = load(image.volume, "names", (step.first, step.second))
            page.tables["buckets"].add(*row, len(bucket.items), bucket.size, *tail, OK)
        except (CorruptBlock, DeviceError) as exc:
            page.tables["buckets"].add(
                *row, None, None, *tail, page.trouble(f"inode {node.tree.ino}, names", exc)
            )
