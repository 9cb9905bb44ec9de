"""Which inodes a snapshot of parts preserves, as a scrub finds it: by the parents of directories
that are on the device (C1, C2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_HEIR, FLAG_LINKED
from snapfs.check.scrub.fixed import Steps
from snapfs.check.scrub.lookup import Lookup, LostPlaceError
from snapfs.check.scrub.places import Tree
from snapfs.errors import CorruptBlock
from snapfs.filesystem.inode import Inode
from snapfs.ids import HIDDEN_INOS, ROOT_INO

if TYPE_CHECKING:
    from snapfs.store.tables.instances import Instance


class ScrubbedCoverage:
    """What snapshots of parts preserve. What is found of directories is remembered."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        #: Directories (instance, when it was made, inode): are they in what a snapshot of parts
        #: preserves?
        self._inside: dict[tuple[int, int, int], bool] = {}

    def has(self, part: Instance, table: Tree, inode: Inode) -> Steps[bool]:
        """Is an inode in what a snapshot of parts preserves? As ``filesystem.coverage`` has it,
        without the cache.
        """
        if inode.ino in HIDDEN_INOS or (inode.flags & FLAG_LINKED and not inode.is_directory):
            return True
        ino = inode.ino
        if not inode.nlink and ino not in part.covered:
            return (
                bool(inode.parent) and inode.parent in part.covered and not inode.flags & FLAG_HEIR
            )
        way: list[int] = []
        answer = False
        while ino not in way:
            known = self._inside.get((part.id, part.serial, ino))
            if known is not None or ino in (0, ROOT_INO) or ino in part.covered:
                answer = known if known is not None else ino not in (0, ROOT_INO)
                break
            way.append(ino)
            try:
                above = yield from self._lookup.inode(table, ino)
            except (LostPlaceError, CorruptBlock):
                break
            if above is None:
                break
            ino = above.parent
        for number in way[1:]:
            self._inside[part.id, part.serial, number] = answer
        return answer
