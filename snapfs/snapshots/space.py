"""Space figures: where the blocks of a volume are, and what deleting snapshots would free. Exact,
and O(holder sets).

All of it comes from counters that are in memory: nothing is walked, nothing read, so nothing here
raises ``NotCached``. The figures are of this moment; what is dirty has no block yet, so whoever
wants to know what is on the volume commits first.

A block of files (data, names, attributes, inode tables and pointer blocks) counts once, wherever it
is shared. It is freed by deleting a set of snapshots if and only if the base does not reach it,
some of them do, and no other live snapshot does: what its record says. The volume's own tables, the
storage of records and what a running copy has among them, are counted apart; deleting usually makes
them smaller, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import Instance


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the blocks of a volume are. ``size`` is the sum of all others, and what statfs(2) says:
    without fixed metadata.

    - ``present``: what the live tree reaches, whatever else does;
    - ``snapshots``: what live snapshots reach and the live tree does not;
    - ``leaving``: what only deleted snapshots reached, until the background deletion frees it;
    - ``tables``: the volume's own tables, the storage of records, and what a running copy has;
    - ``due``: what the next commit takes for what is dirty, about; nothing just after a commit;
    - ``reserved``: free, and kept for commits, for deleting, and for the pointers of what can still
      be written;
    - ``available``: what files can take.
    """

    size: int
    present: int
    snapshots: int
    leaving: int
    tables: int
    due: int
    reserved: int
    available: int


def usage(fs: Filesystem) -> Usage:
    """The whole volume, in blocks."""
    volume, allocator = fs.volume, fs.volume.allocator
    space = fs.statfs()
    leaving = volume.holders.leaving()
    snapshots = allocator.held - volume.record_blocks - leaving
    tables = table_blocks(volume)
    return Usage(
        size=space.blocks,
        present=space.blocks - allocator.free - snapshots - leaving - tables,
        snapshots=snapshots,
        leaving=leaving,
        tables=tables,
        due=allocator.free - space.free,
        reserved=space.free - space.available,
        available=space.available,
    )


def table_blocks(volume: Volume) -> int:
    """Blocks of the root record, the group table, the instance table, record storage and a running
    copy; what is dirty of them has none.
    """
    trees = volume.group_tree, volume.instances_tree
    return (
        1
        + volume.record_blocks
        + volume.copies.blocks
        + sum(tree.blocks - len(tree.dirty) for tree in trees)
    )


def frees(fs: Filesystem, instances: Iterable[Instance]) -> int:
    """Blocks that deleting exactly these instances frees."""
    return fs.volume.holders.only(sum({1 << one.id for one in instances}))


def only_here(fs: Filesystem) -> dict[int, int]:
    """For each live instance, by its id, the blocks that deleting just this one frees."""
    return fs.volume.holders.alone()


def refers(instance: Instance) -> int | None:
    """Blocks that the instance's view reached at the last commit, shared or not.

    None for a snapshot of parts: its view has one inode table with all the others, and what lies
    below a directory is not counted.
    """
    return instance.root.blocks + instance.root.content if not instance.parts else None
