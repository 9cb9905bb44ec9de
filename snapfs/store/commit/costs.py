"""What changes cost the commit that follows them: blocks of metadata that it has to write anew, at
most.

Whoever changes something has these blocks set aside before (``Allocator.prepare`` with
``metadata=volume.dirtied + COST``), so that no commit lacks space after success was told.
``Volume.dirtied`` counts what is dirty already; a cost is what an operation adds to that. The first
costs follow from the structures of the volume, those of operations from what these do. The tests
hold every operation and every commit against them (``tests/harness/tally.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.tree import BlockMap

#: Bytes that one run of a record takes in msgpack, at most for volumes of sane size.
RUN_BYTES: Final = 11

# Structures

#: An inode that is made or changed: its block of the inode table, and the pointer block above.
#: ``View.change`` counts as many.
INODE: Final = 2
#: An inode that is freed, once more.
FREED: Final = 1
#: A bucket that is written anew, with the pointer blocks above it. 2**24 buckets have three of
#: these on their way, of the smallest size.
BUCKET: Final = 4
#: The same when something is put into it: where it splits there is another bucket, and perhaps a
#: pointer block for the two.
PUT: Final = BUCKET + 2
#: The block of a symbolic link's target.
TARGET: Final = 1

# Operations on files

TIMES: Final = INODE
ATTRIBUTES: Final = INODE
MAKE: Final = 2 * INODE + PUT + TARGET
LINK: Final = 2 * INODE + PUT
REMOVE: Final = 2 * INODE + FREED + BUCKET
#: Two directories, what moves, and what is replaced or exchanged.
RENAME: Final = 4 * INODE + FREED + 2 * PUT
#: The file and its heir.
HAND_OVER: Final = 2 * INODE
#: A directory is put on a list of its view, or taken from it.
LISTED: Final = INODE + PUT
#: A step of freeing an orphan that is listed; what of its maps is cut comes to it.
FREE: Final = 2 * INODE + FREED + BUCKET
#: Taking names out of a directory that is an orphan: the directory; and each name with its inode,
#: neighbours of one bucket mostly.
EMPTY: Final = INODE + BUCKET + 2
EMPTY_NAME: Final = INODE + FREED
#: Taking a name out of a snapshot, whose blocks no other name shares.
TAKE_OUT: Final = 2 * INODE + BUCKET

#: What a step of the background deletion leaves behind that is not counted where it is made dirty:
#: records, and holder sets.
RECORDS: Final = 2
#: Blocks that change hands in a restore: records that do not fit a header, and their holder sets.
EXCHANGE: Final = 8
#: One mending of a repair.
MEND: Final = 16


def of_write(tree: BlockMap, first: int, last: int) -> int:
    """Writing the blocks from ``first`` to ``last`` of a file: its inode, and the pointer blocks on
    their ways, new levels among them.
    """
    bits, depth = tree.store.geometry.fan_bits, tree.depth
    cost = INODE
    if last >> bits * depth:
        depth = tree.levels_for(last + 1)
        cost += depth - tree.depth  # the old root gets its place below the new one
    for level in range(1, depth + 1):
        cost += (last >> bits * level) - (first >> bits * level) + 1
    return cost


def of_cut(tree: BlockMap) -> int:
    """Cutting off the end of a map: the pointer blocks on the way to where it is cut."""
    return tree.depth


def of_attributes(data: bytes, geometry: Geometry) -> int:
    """Storing so many bytes of extended attributes in blocks of their own: these, and the pointer
    block above them.
    """
    return -(-len(data) // geometry.block_size) + 1 if data else 0


def of_commit(volume: Volume) -> int:
    """What a commit writes whatever has changed: the root record, and of the tables of groups and
    holder sets a path, or all there is.

    Operations that may use all of the reserve leave their commit nothing else, and set this aside
    with the rest.
    """
    return (
        1 + min(3, volume.group_tree.blocks) + min(BUCKET, volume.sets_tree.blocks) + PUT - BUCKET
    )


def of_instances(volume: Volume, count: int = 1, *, grow: bool = True) -> int:
    """Changing ``count`` snapshots, with that commit: an item of the table for each, and one for
    its facts, which may ``grow``.
    """
    return (
        of_commit(volume)
        + min(2 * BUCKET * count, volume.instances_tree.blocks)
        + (2 * (PUT - BUCKET) * count if grow else 0)
    )


def of_deletion(volume: Volume) -> int:
    """A step of the background deletion: records show in the groups, and in the table of holder
    sets.
    """
    return of_commit(volume) + BUCKET + RECORDS


def of_copy(volume: Volume) -> int:
    """Registering a copy, or its end, with that commit: the block that describes it."""
    return 1 + of_commit(volume)


def of_tables(volume: Volume) -> int:
    """What the next commit takes besides what is counted in ``Volume.dirtied``: the tables, and the
    lists that it brings up to date.

    Of what may change without an operation, such as records that no longer fit a header, the
    reserve is for.
    """
    instances, holders, allocator = volume.instances, volume.holders, volume.allocator
    block_size = volume.geometry.block_size
    views = set(volume.contents.dirty_views())
    changed = instances.dirty | {one.id for one in instances.pending} | views
    sets = len(
        holders.dirty
        | {
            number
            for one in instances.pending
            if one.origin
            for number in holders.naming(1 << one.origin)
        }
    )
    groups = min(len(allocator.changed | set(allocator.window)) + 1, volume.group_tree.blocks)
    records = sum(
        -(-(len(group.records) + 64) * RUN_BYTES // block_size)
        for group in allocator.groups.values()
        if group.records_dirty
    )
    return (
        of_instances(volume, len(changed))
        + PUT * (sets + len(views))
        + groups
        + records
        + (volume.copies.dirty)
    )
