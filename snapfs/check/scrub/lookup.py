"""Walking to one place from the root that counts now: what a scrub does where a block fails, and
where it needs an inode that it has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    decode_pointers,
)
from snapfs.check.scrub import fixed
from snapfs.check.scrub.fixed import Steps
from snapfs.check.scrub.places import BUCKETS, Tree, TreeKind, TreePlace, data_kind, root_of
from snapfs.check.scrub.verifying import Verified, WantedBlocks
from snapfs.errors import CorruptBlock
from snapfs.filesystem.inode import Inode
from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem


class Looked(NamedTuple):
    """What stands at a place, and what was read there."""

    place: TreePlace
    block: int
    checksum: int
    epoch: int
    inner: bool
    found: Verified


class LostPlaceError(Exception):
    """A place cannot be walked to: something on the way fails."""


class Lookup:
    """Finds places of an open volume. Each of them is steps of a scrub, which may find another
    generation than those before it.
    """

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._volume = fs.volume

    def look(self, place: TreePlace) -> Steps[Looked | None]:
        """Walk to a place from the root, and read what stands there; None when nothing does, or
        when it cannot be found.
        """
        try:
            found = yield from self._pointer(place)
        except (LostPlaceError, CorruptBlock):
            return None
        if found is None:
            return None
        now, (first, second) = found
        kind = now.tree.kind
        inner = (
            not first & FLAG_BUCKET if kind in BUCKETS else now.level > 0 or kind is TreeKind.INODES
        )
        block, checksum = first & BLOCK_MASK, second >> CHECKSUM_SHIFT
        (read,) = yield [WantedBlocks(block, [checksum])]
        return Looked(now, block, checksum, second & EPOCH_MASK, inner, read)

    def _pointer(self, place: TreePlace) -> Steps[tuple[TreePlace, tuple[int, int]] | None]:
        """The pointer at a place, and the place: a map that has become lower has its root there."""
        root = yield from self._root(place.tree)
        if root is None or not root[0]:
            return None
        first, second, depth = root
        bits = self._volume.geometry.fan_bits
        mask = (1 << bits) - 1
        is_map = place.tree.kind not in BUCKETS
        if is_map and place.level > depth:
            place = TreePlace(place.tree, depth, 0)
        steps = depth - place.level if is_map else place.level
        if place.number >> bits * steps:
            return None
        for step in range(steps - 1, -1, -1):
            if first & FLAG_BUCKET:
                return None
            words = decode_pointers((yield from self._load(first, second)))
            slot = place.number >> bits * step & mask
            first, second = words[2 * slot], words[2 * slot + 1]
            if not first:
                return None
        return place, (first, second)

    def _root(self, tree: Tree) -> Steps[tuple[int, int, int] | None]:
        """The root pointer of a tree, and its depth; None when the tree is gone."""
        if tree.kind in (TreeKind.GROUPS, TreeKind.SETS, TreeKind.INSTANCES):
            record = yield from fixed.root_record(self._volume)
            if record is None:
                return None
            if tree.kind is TreeKind.GROUPS:
                return *record.groups[0], record.groups[1]
            return *(record.sets if tree.kind is TreeKind.SETS else record.instances)[0], 0
        if tree.kind is TreeKind.INODES:
            view = self._volume.base_root
            if tree.view != BASE_VIEW:
                one = self._volume.instances.table.get(tree.view)
                if one is None or one.going or one.serial != tree.serial:
                    return None
                view = one.root
            return view.first, view.second, view.depth
        inode = yield from self.inode(Tree(TreeKind.INODES, tree.view, tree.serial), tree.ino)
        if inode is None or (
            tree.kind is not TreeKind.ATTRIBUTES and tree.kind is not data_kind(inode)
        ):
            return None
        return root_of(inode, tree.kind)

    def _load(self, first: int, second: int) -> Steps[bytes]:
        """A block on the way to a place."""
        if not 0 < first & BLOCK_MASK < self._volume.geometry.blocks:
            raise LostPlaceError
        (found,) = yield [WantedBlocks(first & BLOCK_MASK, [second >> CHECKSUM_SHIFT])]
        if found.problems:
            raise LostPlaceError
        return found.content

    def inode(self, table: Tree, ino: int) -> Steps[Inode | None]:
        """An inode as it is now, None when there is none. Raises ``LostPlaceError``,
        ``CorruptBlock``.
        """
        per_leaf = self._volume.geometry.block_size // INODE_BYTES
        found = yield from self._pointer(TreePlace(table, 0, ino // per_leaf))
        if found is None:
            return None
        leaf = yield from self._load(*found[1])
        at = ino % per_leaf * INODE_BYTES
        return Inode.decode(self._fs.base, ino, leaf[at : at + INODE_BYTES])
