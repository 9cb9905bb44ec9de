"""Which files and blocks of the present were written most since a snapshot (A3).

Every pointer counts the writes to its place within one epoch, up to 255. So the counts begin anew
with each snapshot of the base, whichever it is: of a place that was written in several epochs
since, only the writes of the last one are known, and a count is a lower bound. The cost is that of
what differs from the snapshot.
"""

from __future__ import annotations

import heapq
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from snapfs.blocks.inode import LAYOUT
from snapfs.blocks.pointer import EPOCH_MASK, WRITES_MAX, WRITES_SHIFT
from snapfs.filesystem import Inode
from snapfs.ids import HIDDEN_INOS
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Side,
    State,
    Steps,
    ask,
    join,
    same_file,
)
from snapfs.store.trees.difference import (
    MapDifference,
    MapRoot,
    SlotDifference,
)

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import Instance

#: Files, and blocks, that are shown when nobody says how many; and at most.
HOT_LIMIT: Final = 10
HOT_LIMIT_MAX: Final = 10_000

NO_MAP: Final[MapRoot] = (0, 0, 0)


@dataclass(frozen=True, slots=True, order=True)
class HotFile:
    """A file: the writes to its blocks, how many blocks that are, how many of them count no
    further. The path is None if it is unknown.
    """

    writes: int
    blocks: int
    saturated: int
    ino: int
    path: bytes | None = None


@dataclass(frozen=True, slots=True, order=True)
class HotBlock:
    """A block of a file, by its index."""

    writes: int
    ino: int
    index: int
    path: bytes | None = None

    @property
    def saturated(self) -> bool:
        """May there have been more writes?"""
        return self.writes == WRITES_MAX


One = TypeVar("One", HotFile, HotBlock)


class Heat:
    """The hottest of what a sealed base has in the parts that a snapshot covers; hottest first,
    when all ``steps`` are taken.

    ``compared`` counts inodes that were looked at.
    """

    def __init__(self, volume: Volume, instance: Instance, *, limit: int) -> None:
        self.files: list[HotFile] = []
        self.blocks: list[HotBlock] = []
        self.compared = 0
        self._volume = volume
        self._since = instance.epoch
        self._limit = limit
        self._old = Side(volume, State(instance.root, instance))
        self._new = Side(volume, State(volume.base_root))

    def steps(self) -> Steps[None]:
        """Find them: yields lists of blocks to be fetched, and empty ones between steps. May raise
        ``CorruptBlock``.
        """
        yield from self._choose_parts()
        slots = SlotDifference(
            self._volume,
            *(
                (one.first, one.second, one.depth)
                for one in (self._old.state.root, self._new.state.root)
            ),
        )
        while (found := (yield from ask(slots.next))) is not None:
            self.compared += len(found)
            for ino, before, now in found:
                yield from self._file(ino, before, now)
            yield PAUSE
        paths: dict[int, bytes | None] = {}
        for ino in sorted({file.ino for file in self.files} | {block.ino for block in self.blocks}):
            paths[ino] = yield from self._path(ino)
        self.files = [replace(one, path=paths[one.ino]) for one in sorted(self.files, reverse=True)]
        self.blocks = [
            replace(one, path=paths[one.ino]) for one in sorted(self.blocks, reverse=True)
        ]

    def _choose_parts(self) -> Steps[None]:
        """Of the present, the parts that are still there count, wherever they are now."""
        if not self._old.is_whole:
            there = set()
            for ino in self._old.tops:
                old, new = (yield from self._old.inode(ino)), (yield from self._new.inode(ino))
                if old is not None and new is not None and same_file(old, new):
                    there.add(ino)
            self._new.show(there)

    def _file(self, ino: int, before: bytes, now: bytes) -> Steps[None]:
        if not stat.S_ISREG(LAYOUT.unpack_from(now)[0]) or ino in HIDDEN_INOS:
            return
        new, old = Inode.decode(self._new.view, ino, now), Inode.decode(self._old.view, ino, before)
        if (
            new is None
            or not new.nlink
            or not (ino in self._new.tops or (yield from self._new.shows(new.parent)))
        ):
            return
        is_known = (
            old is not None and old.nlink and stat.S_ISREG(old.mode)
        )  # not what was purged from the snapshot and waits to be freed
        walk = MapDifference(
            self._volume, _map(old) if old is not None and is_known else NO_MAP, _map(new)
        )
        writes = blocks = saturated = 0
        while (places := (yield from ask(walk.next))) is not None:
            for index, _, (first, second) in places:
                if first and second & EPOCH_MASK > self._since:
                    count = first >> WRITES_SHIFT & WRITES_MAX
                    writes, blocks, saturated = (
                        writes + count,
                        blocks + 1,
                        saturated + (count == WRITES_MAX),
                    )
                    _keep(self.blocks, HotBlock(count, ino, index), self._limit)
            yield PAUSE
        if blocks:
            _keep(self.files, HotFile(writes, blocks, saturated, ino), self._limit)

    def _path(self, ino: int) -> Steps[bytes | None]:
        """A path of a file; None if the directory that it was made in has no
        name for it any more.
        """
        inode = yield from self._new.inode(ino)
        directory = (yield from self._new.directory(inode.parent)) if inode is not None else None
        if directory is None:
            return None
        named = yield from self._new.names_of(directory, {ino}, once=True)
        if not named:
            return None
        yield from self._new.find_paths([directory.ino])
        return join(self._new.path(directory.ino), named[0][0])


def _map(inode: Inode) -> MapRoot:
    return (*inode.map.root_words, inode.map.depth)


def _keep(kept: list[One], one: One, limit: int) -> None:
    """Keep the hottest, in a heap."""
    if len(kept) < limit:
        heapq.heappush(kept, one)
    elif kept:
        heapq.heappushpop(kept, one)
