"""The inode tables of all views: their blocks, the inodes in them, and what roots count (I1)."""

from __future__ import annotations

from collections import defaultdict

from snapfs.blocks.inode import INODE_BYTES
from snapfs.check.findings import Fault, Findings, Mend, Severity, Subject
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.check.walk.reach import BASE
from snapfs.check.walk.trees import Root, Walker
from snapfs.check.walk.versions import InodeVersion
from snapfs.errors import CorruptBlock
from snapfs.filesystem import Inode
from snapfs.filesystem.inode import EMPTY_SLOT
from snapfs.ids import FIRST_INO
from snapfs.store.tables.instances import ViewRoot


def read_inode_tables(checked: CheckedViews, walker: Walker) -> dict[int, list[InodeVersion]]:
    """Claim the blocks of all inode tables. All inodes, by number; what is wrong with the tables,
    or cannot be an inode, is found.
    """
    views: list[tuple[ViewRoot, int, str]] = [(checked.fs.volume.base_root, BASE, "the base")]
    views += [(one.root, 1 << one.id, f"snapshot {one.name}") for one in checked.instances]
    roots = [Root((root.first, root.second), root.depth, mask) for root, mask, _ in views]
    totals, leaves = walker.block_map(
        roots, "inodes", Subject(lambda _mask: "inode table", "inodes")
    )
    slots: dict[tuple[int, bytes], int] = {}
    per_leaf = checked.fs.volume.geometry.block_size // INODE_BYTES
    for number, leaf, mask in leaves:
        if not any(leaf):
            fault = Fault(Mend.DROP_EMPTY, mask, "inodes", number=number)
            checked.findings.add(
                "I1",
                "empty-inode-block",
                f"inode table, block {number}",
                "no inode is in it",
                fault=fault,
            )
        for index in range(per_leaf):
            slot = bytes(leaf[index * INODE_BYTES : (index + 1) * INODE_BYTES])
            if slot != EMPTY_SLOT:
                key = number * per_leaf + index, slot
                slots[key] = slots.get(key, 0) | mask
    versions = _decode(checked, slots)
    for (root, mask, what), (blocks, _) in zip(views, totals, strict=True):
        inodes = [one.inode for found in versions.values() for one in found if one.mask & mask]
        _check_counts(checked.findings, root, mask, what, blocks, inodes)
    return versions


def _decode(
    checked: CheckedViews, slots: dict[tuple[int, bytes], int]
) -> dict[int, list[InodeVersion]]:
    """The inodes of the slots, which are given by number and content with the views they are in."""
    versions: dict[int, list[InodeVersion]] = defaultdict(list)
    for (ino, slot), mask in slots.items():
        try:
            inode = Inode.decode(checked.fs.base, ino, slot)
        except CorruptBlock as exc:
            checked.findings.add(
                "format",
                "inode",
                checked.place(ino, mask),
                str(exc),
                fault=Fault(Mend.CLEAR_INODE, mask, ino=ino),
            )
            continue
        if inode is None:
            fault = Fault(Mend.CLEAR_INODE, mask, ino=ino)
            checked.findings.add(
                "format",
                "inode",
                checked.place(ino, mask),
                "a free slot is not empty",
                fault=fault,
            )
            continue
        versions[ino].append(InodeVersion(inode, mask))
    return versions


def _check_counts(
    findings: Findings, root: ViewRoot, mask: int, what: str, blocks: int, inodes: list[Inode]
) -> None:
    """Has a view as many blocks and inodes as its root counts?"""
    if blocks != root.blocks:
        fault = Fault(Mend.SET_BLOCKS, mask, "inodes", value=blocks)
        findings.add(
            "I1",
            "table-blocks",
            what,
            f"its inode table has {blocks} blocks, {root.blocks} are counted",
            fault=fault,
        )
    count = len(inodes)
    if count != root.inodes:
        fault = Fault(Mend.SET_INODES, mask, value=count)
        findings.add(
            "format",
            "inode-count",
            what,
            f"it has {count} inodes, {root.inodes} are counted",
            fault=fault,
        )
    content = sum(inode.data.blocks + inode.attribute_map.blocks for inode in inodes)
    if content != root.content:
        fault = Fault(Mend.SET_CONTENT, mask, value=content)
        detail = f"its inodes count {content} blocks, {root.content} are counted together"
        findings.add("format", "content-count", what, detail, Severity.WARNING, fault=fault)
    highest = max((inode.ino for inode in inodes), default=0)
    if highest >= max(root.next_ino, FIRST_INO):
        fault = Fault(Mend.SET_NEXT_INODE, mask, value=highest + 1)
        findings.add(
            "format",
            "next-inode",
            what,
            "an inode has a number that is still to be given out",
            fault=fault,
        )
