"""Orphans: inodes that have lost their last name and are not freed yet, because the kernel still holds them or freeing takes time.

While the volume runs they are in memory; a commit lists those that it cannot free in the hidden orphan directory of their view, so
that nothing is lost after a crash but the time to free them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.errors import CorruptBlock
from snapfs.filesystem import names
from snapfs.filesystem.inode import Inode
from snapfs.ids import BASE_VIEW, ORPHANS_INO

if TYPE_CHECKING:
    from snapfs.filesystem.filesystem import Filesystem
    from snapfs.filesystem.view import View

#: Pointer blocks of level 1 that one step of freeing drops.
STEP_BUDGET = 64

#: Steps of freeing in one call of ``work``: some milliseconds.
STEPS = 8


def listed_name(ino: int) -> bytes:
    """The name of an orphan in the hidden directory."""
    return b"%x" % ino


class Orphans:
    """Frees the orphans of all views. ``queue`` holds those that nobody knows any more."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self.queue: dict[tuple[int, int], None] = {}
        self._unread: int | None = 0  # where in the base's list of an earlier mount to read on; None: read

    def rescan(self) -> None:
        """The base view is another one: what is in its list is to be freed."""
        self._unread = 0

    @property
    def is_reading(self) -> bool:
        """Are there orphans of an earlier mount that are not in the queue yet?"""
        return self._unread is not None

    @property
    def pending(self) -> bool:
        """Is there anything to do?"""
        return (bool(self.queue) or self._unread is not None) and not self._fs.volume.read_only

    # When the last name goes

    @staticmethod
    def _roots(inode: Inode) -> list[tuple[int, int]] | None:
        """The blocks of an inode that can be freed without looking further; None for one that takes longer."""
        trees = [inode.attribute_map] if inode.is_directory else [inode.attribute_map, inode.map]
        if any(tree.depth or tree.dirty for tree in trees):
            return None
        return [(tree.root[0] & BLOCK_MASK, 1) for tree in trees if tree.root[0]]

    def plan_release(self, inode: Inode) -> None:
        """Load what ``release`` needs. May raise ``NotCached``."""
        if inode.ino not in inode.view.known:
            roots = self._roots(inode)
            if roots:
                inode.view.volume.allocator.need(roots)

    def release(self, inode: Inode) -> None:
        """The last name has gone: free the inode if that is quick and nobody holds it. Cannot fail."""
        view = inode.view
        if inode.ino not in view.known and self._roots(inode) is not None:
            inode.attribute_map.cut(0, 1)
            if not inode.is_directory:
                inode.map.cut(0, 1)
            view.free(inode)
            return
        if view.instance is not None and view.instance.covered:
            inode.parent = max(view.instance.covered)  # it was within, whatever becomes of the directory that it was in
        view.orphans.add(inode.ino)
        if inode.ino not in view.known:
            self.queue[view.id, inode.ino] = None

    def forgotten(self, view: View, ino: int) -> None:
        """The kernel no longer knows an inode."""
        if ino in view.orphans:
            self.queue[view.id, ino] = None

    # Freeing

    def work(self) -> bool:
        """Free some; True while there is more. May raise ``NotCached``, ``CommitNeeded``."""
        fs = self._fs
        if self._unread is not None:
            self._read_list(self._unread)
        for _ in range(STEPS):
            if not self.queue:
                break
            (view_id, ino) = next(iter(self.queue))
            view = fs.views.get(view_id)
            if view is None or ino not in view.orphans or ino in view.known:
                del self.queue[view_id, ino]
                continue
            inode = view.inode(ino)
            if inode.nlink:
                raise CorruptBlock(f"inode {ino} is listed as an orphan, and has names")
            if self._step(view, inode):
                del self.queue[view_id, ino]
        return self.pending

    def _step(self, view: View, inode: Inode) -> bool:
        """Free a bounded part of an inode; True when it is gone."""
        view.volume.allocator.prepare(0, urgency=1, metadata=view.volume.dirtied + 8)
        listed = inode.ino in view.listed_orphans
        if listed:
            place = view.inode(ORPHANS_INO)
            view.change(place)
            place.names.touch(listed_name(inode.ino))
        view.change(inode)
        if not inode.is_directory and inode.map.cut(0, STEP_BUDGET):
            return False
        inode.attribute_map.cut(0, STEP_BUDGET)  # it has fewer pointer blocks than that
        view.free(inode)
        if listed:
            view.inode(ORPHANS_INO).names.pop(listed_name(inode.ino))
            view.listed_orphans.discard(inode.ino)
        return True

    def _read_list(self, after: int) -> None:
        """Find some of what an earlier mount left."""
        view = self._fs.base
        items = names.entries(view, ORPHANS_INO, after, 1)
        for entry in items:
            if entry.ino not in view.orphans:
                view.orphans.add(entry.ino)
                view.listed_orphans.add(entry.ino)
                self.queue[BASE_VIEW, entry.ino] = None
        self._unread = items[-1].cookie if items else None

    # Commit

    def plan_seal(self, view: View) -> None:
        """List what would otherwise be lost. May raise ``NotCached``."""
        missing = view.orphans - view.listed_orphans
        if not missing:
            return
        place = view.inode(ORPHANS_INO)
        view.change(place)
        for ino in sorted(missing):
            inode = view.inode(ino)
            if inode.nlink:
                raise CorruptBlock(f"inode {ino} has names, and is an orphan")
            place.names.touch(listed_name(ino))
            place.names.put(listed_name(ino), names.entry_value(inode))
            view.listed_orphans.add(ino)
