"""Which inodes a snapshot of parts preserves, found anew by the checker from what the walk has read
(C1, C2).
"""

from __future__ import annotations

from collections.abc import Callable

from snapfs.blocks.inode import FLAG_HEIR, FLAG_LINKED
from snapfs.filesystem import Inode
from snapfs.ids import HIDDEN_INOS, ROOT_INO
from snapfs.store.tables.instances import Instance

#: Gives the inode of a number in an instance's view, None when there is none.
Find = Callable[[int, Instance], Inode | None]


class Parts:
    """Masks of the instances that preserve parts only, by inode."""

    def __init__(self, instances: list[Instance], find: Find) -> None:
        self._partial = [one for one in instances if one.covered]
        self._find = find
        self._inside: dict[tuple[int, int], bool] = {}
        #: All instances that preserve parts only.
        self.mask = sum(1 << one.id for one in self._partial)

    def outside(self, ino: int) -> int:
        """The instances that preserve no data and no names of an inode."""
        return sum(1 << one.id for one in self._partial if not self._covers(one, ino, linked=True))

    def outside_attributes(self, ino: int) -> int:
        """The instances that preserve no extended attributes of it."""
        return self.outside(ino) & ~sum(1 << one.id for one in self._partial if ino in one.passed)

    def outside_names(self, ino: int) -> int:
        """The instances that cannot tell how many names it has: it is not within, or it may have
        other names elsewhere.
        """
        out = 0
        for one in self._partial:
            inode = self._find(ino, one)
            if (
                inode is None
                or not inode.nlink
                or inode.flags & FLAG_LINKED
                or not self._covers(one, ino, linked=False)
            ):
                out |= 1 << one.id
        return out

    def tops(self) -> dict[int, int]:
        """What parts begin with, and in which views: their own names are outside."""
        found: dict[int, int] = {}
        for one in self._partial:
            for ino in one.covered:
                found[ino] = found.get(ino, 0) | 1 << one.id
        return found

    def _covers(self, one: Instance, ino: int, *, linked: bool) -> bool:
        inode = self._find(ino, one)
        if inode is None:
            return False
        if ino in HIDDEN_INOS:
            return True
        if linked and inode.flags & FLAG_LINKED and not inode.is_directory:
            return True
        if not inode.nlink and ino not in one.covered:
            return (
                bool(inode.parent) and inode.parent in one.covered and not inode.flags & FLAG_HEIR
            )
        way: list[int] = []
        answer = False
        while inode is not None and inode.ino not in way:
            known = self._inside.get((one.id, inode.ino))
            if known is not None or inode.ino == ROOT_INO or inode.ino in one.covered:
                answer = known if known is not None else inode.ino != ROOT_INO
                break
            way.append(inode.ino)
            inode = self._find(inode.parent, one)
        for number in way:
            self._inside[one.id, number] = answer
        return answer
