"""Heirs: inodes without a name that a file of the base has handed its content to, when it was
emptied; they are orphans, and freed behind.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_HEIR
from snapfs.errors import StaleInode
from snapfs.filesystem.coverage import Handed
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from collections.abc import Collection

    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.names import Entry
    from snapfs.filesystem.view import View
    from snapfs.interrupts import Want


class Heirs:
    """Those of the base that are not freed yet, as far as they were noted."""

    def __init__(self) -> None:
        self._handed: dict[int, dict[int, Handed]] = {}  # file -> its heirs, by their numbers

    def of(self, file: int) -> Collection[Handed]:
        """The heirs of a file."""
        return self._handed.get(file, {}).values()

    def note(self, inode: Inode) -> None:
        """An orphan was found or made, which may be an heir."""
        if inode.view.id == BASE_VIEW and inode.flags & FLAG_HEIR:
            self._handed.setdefault(inode.parent, {})[inode.ino] = Handed(
                inode.ino, inode.rdev, inode.generation
            )

    def forget(self, inode: Inode) -> None:
        """An orphan was freed, which may be an heir."""
        if inode.view.id == BASE_VIEW and inode.flags & FLAG_HEIR:
            heirs = self._handed.get(inode.parent, {})
            heirs.pop(inode.ino, None)
            if not heirs:
                self._handed.pop(inode.parent, None)

    def clear(self) -> None:
        """The base view is another one."""
        self._handed.clear()


def heirs_among(view: View, items: list[Entry]) -> list[Inode]:
    """The heirs in a part of a view's list of orphans; only the base has any. Raises
    ``NotCached`` for all that it misses.
    """
    found: list[Inode] = []
    wants: dict[Want, None] = {}
    for entry in items if view.id == BASE_VIEW else ():
        try:
            if stat.S_ISREG(entry.type):
                found.append(view.raw_inode(entry.ino))
        except NotCached as exc:
            wants.update(dict.fromkeys(exc.wants))
        except StaleInode:
            continue  # whoever would free it says so
    if wants:
        raise NotCached(list(wants))
    return [inode for inode in found if inode.flags & FLAG_HEIR]
