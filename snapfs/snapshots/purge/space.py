"""What purging frees: the blocks of files and directories that nothing else needs. Exact, as of the
last commit.

First the inodes are found that each snapshot loses, then their blocks are looked at. A block's
record tells whether the present or a snapshot that keeps it reaches it, and then what lies below it
as well: the cost is that of what is freed. Not counted are the tables of the snapshots: the
directory that loses a name, and the inodes, are written anew in each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapfs.blocks.pointer import BLOCK_MASK, FLAG_BUCKET, pointer_runs
from snapfs.filesystem import names
from snapfs.filesystem.names import TYPE_BITS
from snapfs.snapshots.compare.differing import ShownInode
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Side,
    State,
    Steps,
    ask,
)
from snapfs.snapshots.purge.taking_out import NamesInSnapshot
from snapfs.store.trees.difference import BucketDifference
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode
    from snapfs.store.trees.buckets import BucketTree

#: Names and pointer blocks that are looked at, at most; of more, only a bound is told.
VISITS_MAX: Final = 500_000


@dataclass(frozen=True, slots=True)
class Had:
    """What a snapshot has at a path."""

    snapshot: str
    created_ns: int
    path: bytes
    shown: ShownInode


class _TooMuch(Exception):
    """To be exact would take too long."""


class PurgeSpace:
    """Tells what snapshots have, and ``blocks``: how many purging that frees, at most so many
    unless ``exact``.
    """

    def __init__(self, fs: Filesystem, found: Sequence[NamesInSnapshot]) -> None:
        self._volume = fs.volume
        self._found = [
            (one, Side(fs.volume, State(one.instance.root, one.instance.copy()))) for one in found
        ]
        self._chosen = sum(1 << one.instance.id for one in found)
        self._lost: dict[int, int] = {}  # inode -> the snapshots that lose it, as a mask
        self._partly: dict[
            int, tuple[int, int]
        ] = {}  # block -> holders, and those among them that are known to lose it
        self.visited = 0
        self.blocks = 0
        self.exact = True

    def steps(self) -> Steps[None]:
        """Yields ``Had``, lists of blocks to be fetched, and empty ones between steps. The states
        must stay readable meanwhile.
        """
        tops: list[tuple[Side, int, list[Inode]]] = []
        for one, side in self._found:
            here: list[Inode] = []
            for place in one.places:
                inode = yield from side.inode(place.ino)
                if inode is not None:
                    here.append(inode)
                    yield Had(
                        one.instance.name, one.instance.created_ns, place.path, ShownInode.of(inode)
                    )
            tops.append((side, 1 << one.instance.id, here))
        try:
            for side, bit, here in tops:
                yield from self._lose(side, bit, here)
            for side, bit, _ in tops:
                yield from self._count(side, bit)
            self.blocks += sum(holders == known for holders, known in self._partly.values())
        except _TooMuch:
            self.give_up()

    def give_up(self) -> None:
        """Leave it at a bound: what deleting all of these snapshots would free."""
        self.exact = False
        self.blocks = self._volume.holders.only(self._chosen)

    def _visit(self, count: int) -> None:
        self.visited += count
        if self.visited > VISITS_MAX:
            raise _TooMuch

    # Inodes

    def _lose(self, side: Side, bit: int, tops: Iterable[Inode]) -> Steps[None]:
        """Find all inodes that a snapshot loses: those that have no name left."""
        links: Counter[int] = Counter()
        directories: list[Inode] = []
        self._unname(tops, bit, links, directories)
        while directories:
            directory = directories.pop()
            walk = BucketDifference(None, directory.names)
            while (items := (yield from ask(walk.next))) is not None:
                self._visit(len(items))
                for name, _, value in items:
                    names.check_entry(directory.ino, name, value)
                inos = [value >> TYPE_BITS for _, _, value in items]
                yield from side.fetch(inos)
                found: list[Inode] = []
                for ino in inos:
                    inode = yield from side.inode(ino)
                    if inode is not None:
                        found.append(inode)
                self._unname(found, bit, links, directories)
                yield PAUSE

    def _unname(
        self, inodes: Iterable[Inode], bit: int, links: Counter[int], directories: list[Inode]
    ) -> None:
        for inode in inodes:
            if self._lost.get(inode.ino, 0) & bit:
                continue
            links[inode.ino] += 1
            if inode.is_directory or links[inode.ino] >= inode.nlink:
                self._lost[inode.ino] = self._lost.get(inode.ino, 0) | bit
                if inode.is_directory:
                    directories.append(inode)

    # Blocks

    def _count(self, side: Side, bit: int) -> Steps[None]:
        for ino, losing in self._lost.items():
            if losing & bit:
                inode = yield from side.inode(ino)
                if inode is not None:
                    for tree in (inode.data, inode.attribute_map):
                        yield from self._walk(tree, bit, losing)
                yield PAUSE

    def _walk(self, tree: BlockMap | BucketTree, bit: int, losing: int) -> Steps[None]:
        stack = (
            [(*tree.root_words, tree.depth if isinstance(tree, BlockMap) else -1)]
            if tree.root_words[0]
            else []
        )
        while stack:
            first, second, level = stack.pop()
            if (
                not (yield from self._frees(first & BLOCK_MASK, 1, bit, losing))
                or level == 0
                or (level < 0 and first & FLAG_BUCKET)
            ):
                continue
            self._visit(1)
            node = yield from ask(self._volume.load, "node", first, second)
            if level == 1:
                for block, length, _ in pointer_runs(
                    node, 0, self._volume.geometry.fan_out, BLOCK_MASK
                ):
                    yield from self._frees(block, length, bit, losing)
            else:
                stack += [
                    (node[slot], node[slot + 1], level - 1)
                    for slot in range(0, len(node), 2)
                    if node[slot]
                ]

    def _frees(self, start: int, length: int, bit: int, losing: int) -> Steps[bool]:
        """Count what is freed of a run that the snapshot ``bit`` reaches in an inode that
        ``losing`` lose; whether to look below it.

        Of several snapshots that share a block, and with it all that is below, the first one
        counts.
        """
        allocator, sets = self._volume.allocator, self._volume.holders
        yield from ask(allocator.need, [(start, length)])
        is_ours = False
        for block, size, number in allocator.pieces(start, length):
            if number is None or sets.get(number).base_held:
                continue
            holders = sets.holders(number)
            lost = holders & losing
            if holders & ~self._chosen or lost & -lost != bit:
                continue
            is_ours = True
            if holders == lost:
                self.blocks += size
                continue
            self._visit(size)  # the others have it elsewhere, and may lose it there
            for each in range(block, block + size):
                self._partly[each] = holders, self._partly.get(each, (0, 0))[1] | lost
        return is_ours
