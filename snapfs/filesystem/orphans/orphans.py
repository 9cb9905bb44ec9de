"""Orphans: inodes that have lost their last name and are not freed yet, because the kernel still
holds them or freeing takes time.

While the volume runs they are in memory; a commit lists those that it cannot free in the hidden
orphan directory of their view, so that nothing is lost after a crash but the time to free them. A
snapshot's instance says whether its list has any.

An orphan may be a directory that still has names (``snapshots.purge.taking_out``). It loses them
some at a time; what has no other name becomes an orphan in turn, and is freed before the rest, so
that there are never many.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.errors import CorruptBlock
from snapfs.filesystem import names
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.orphans.emptying import named_children
from snapfs.filesystem.orphans.heirs import Heirs, heirs_among
from snapfs.ids import BASE_VIEW, ORPHANS_INO
from snapfs.store.commit import costs
from snapfs.store.trees import cutting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from snapfs.filesystem.coverage import Coverage, Handed
    from snapfs.filesystem.designation import Designations
    from snapfs.filesystem.view import View
    from snapfs.filesystem.views import Views

#: Pointer blocks of level 1 that one step of freeing drops.
STEP_BUDGET = 64

#: Steps of freeing in one call of ``work``: some milliseconds.
STEPS = 8

#: Names that one step takes out of a directory; fewer when little space is left for the blocks that
#: are written anew.
STEP_NAMES = 32


def listed_name(ino: int) -> bytes:
    """The name of an orphan in the hidden directory."""
    return b"%x" % ino


class Orphans:
    """Frees the orphans of all views. ``queue`` holds those that there is something to do with."""

    def __init__(self, views: Views, coverage: Coverage, designations: Designations) -> None:
        self._views = views
        self._coverage = coverage
        self._designations = designations
        coverage.handed = self.handed
        self.queue: dict[tuple[int, int], None] = {}
        self._unread: int | None = (
            0  # where in the base's list of an earlier mount to read on; None: read
        )
        #: Told of a directory and its name for an inode that the kernel knows, when an orphan loses
        #: that name.
        self.unnamed: Callable[[Inode, bytes, Inode], None] = lambda _directory, _name, _inode: None
        self._at = BASE_VIEW, 0  # the snapshot whose list is being read, and where to read on
        self._heirs = Heirs()

    def rescan(self) -> None:
        """The base view is another one: what is in its list is to be freed."""
        self._unread = 0
        self._heirs.clear()

    # What files have lost

    def hand_over(self, heir: Inode) -> None:
        """A new inode of the view has what the file that its parent field names has lost: it is
        freed behind. Cannot fail.
        """
        probes.HEIR_MADE.hit()
        view = heir.view
        view.add(heir)
        view.orphans.add(heir.ino)
        self.queue[view.id, heir.ino] = None
        self._heirs.note(heir)
        if view.id == BASE_VIEW and self._coverage.parts:
            view.volume.instances.version += (
                1  # what views share with the base is another inode's there
            )

    def handed(self, file: int) -> Collection[Handed]:
        """The heirs of a file that the base has. May raise ``NotCached``."""
        while self._unread is not None:
            self._unread = self._read_list(self._views.base, self._unread)
        return self._heirs.of(file)

    @property
    def is_reading(self) -> bool:
        """Are there orphans of an earlier mount that are not in the queue yet?"""
        return self._unread is not None

    @property
    def pending(self) -> bool:
        """Is there anything to do?"""
        return (
            bool(self.queue)
            or self._unread is not None
            or bool(self._views.volume.instances.unread_orphans)
        ) and not self._views.volume.read_only

    def is_busy(self, views: Collection[int]) -> bool:
        """Is there anything to do in these views?"""
        return any(view_id in views for view_id, _ in self.queue) or any(
            number in views for number in self._views.volume.instances.unread_orphans
        )

    def is_emptying(self, view_id: int) -> bool:
        """Has a snapshot's view, now or as it was sealed last, inodes with names that no path from
        its root leads to?
        """
        view = self._views.views.get(view_id)
        unread = view_id in self._views.volume.instances.unread_orphans
        return unread or (view is not None and (bool(view.emptying) or view.was_emptying))

    # When the last name goes

    @staticmethod
    def _roots(inode: Inode) -> list[tuple[int, int]] | None:
        """The blocks of an inode that can be freed without looking further; None for one that takes
        longer.
        """
        if inode.is_directory and not inode.names.is_empty():
            return None
        trees = [inode.attribute_map] if inode.is_directory else [inode.attribute_map, inode.map]
        if any(tree.depth or tree.dirty for tree in trees):
            return None
        return [(tree.root[0] & BLOCK_MASK, 1) for tree in trees if tree.root[0]]

    def plan_release(self, *inodes: Inode) -> None:
        """Load what ``release`` needs. May raise ``NotCached``."""
        runs = [
            run
            for inode in inodes
            if inode.ino not in inode.view.known
            for run in self._roots(inode) or ()
        ]
        if runs:
            inodes[0].view.volume.allocator.need(runs)

    def release(self, inode: Inode) -> None:
        """The last name has gone: free the inode if that is quick and nobody
        holds it. Cannot fail.
        """
        view = inode.view
        if inode.ino not in view.known and self._roots(inode) is not None:
            cutting.cut(inode.attribute_map, 0, 1)
            if not inode.is_directory:
                cutting.cut(inode.map, 0, 1)
            view.free(inode)
            return
        self.leave(inode)

    def leave(self, inode: Inode) -> None:
        """The last name has gone, and the rest is done in the background. Cannot fail."""
        view = inode.view
        if view.instance is not None and view.instance.covered:
            inode.parent = max(
                view.instance.covered
            )  # it was within, whatever becomes of the directory that it was in
        view.orphans.add(inode.ino)
        if inode.is_directory and not inode.names.is_empty():
            view.emptying.add(inode.ino)
        if inode.ino not in view.known or inode.ino in view.emptying:
            self.queue[view.id, inode.ino] = None

    def forgotten(self, view: View, ino: int) -> None:
        """The kernel no longer knows an inode."""
        if ino in view.orphans:
            self.queue[view.id, ino] = None

    # Freeing

    def work(self) -> bool:
        """Free some; True while there is more. May raise ``NotCached``, ``CommitNeeded``."""
        self._read_some()
        for _ in range(STEPS):
            if not self.queue:
                break
            (view_id, ino) = next(reversed(self.queue))
            view = self._views.views.get(view_id)
            if (
                view is None
                or ino not in view.orphans
                or (ino in view.known and ino not in view.emptying)
            ):
                del self.queue[view_id, ino]
                continue
            inode = view.inode(ino)
            if inode.nlink:
                raise CorruptBlock(f"inode {ino} is listed as an orphan, and has names")
            if ino in view.emptying:
                self._empty(view, inode)
            elif self._step(view, inode):
                del self.queue[view_id, ino]
        return self.pending

    def work_for(self, count: int) -> None:
        """Free ``count`` orphans, if they are small: those that came last."""
        for _ in range(0, count, STEPS):
            if not self.work():
                break

    def _step(self, view: View, inode: Inode) -> bool:
        """Free a bounded part of an inode; True when it is gone."""
        cost = (
            costs.FREE
            + (0 if inode.is_directory else costs.of_cut(inode.map))
            + costs.of_cut(inode.attribute_map)
        )
        view.volume.allocator.prepare(0, urgency=1, metadata=view.volume.dirtied + cost)
        listed = inode.ino in view.listed_orphans
        if listed:
            place = view.inode(ORPHANS_INO)
            view.change(place)
            place.names.touch(listed_name(inode.ino))
        view.change(inode)
        if not inode.is_directory and cutting.cut(inode.map, 0, STEP_BUDGET):
            return False
        cutting.cut(inode.attribute_map, 0, STEP_BUDGET)  # it has fewer pointer blocks than that
        view.free(inode)
        self._heirs.forget(inode)
        if listed:
            view.inode(ORPHANS_INO).names.pop(listed_name(inode.ino))
            view.listed_orphans.discard(inode.ino)
        return True

    # Directories that have names

    def _empty(self, view: View, directory: Inode) -> None:
        """Take some names out of an orphan. The whole of one call happens or nothing."""
        probes.DIRECTORY_EMPTIED.hit()
        allocator, dirtied = view.volume.allocator, view.volume.dirtied
        room = (
            allocator.available - dirtied - allocator.reserve // 2 - costs.EMPTY
        ) // costs.EMPTY_NAME
        items = directory.names.scan(0, 1)[: max(1, min(room, STEP_NAMES))]
        allocator.prepare(
            0, urgency=1, metadata=dirtied + costs.EMPTY + costs.EMPTY_NAME * len(items)
        )
        view.change(directory)
        children = named_children(view, directory, items)
        lost = Counter(inode.ino for _, inode in children)
        self.plan_release(
            *(
                inode
                for _, inode in children
                if not inode.is_directory and inode.nlink <= lost[inode.ino]
            )
        )
        designated = self._designations.plan_forget(*(inode for _, inode in children))
        if designated:  # their lists come to it
            allocator.prepare(
                0,
                urgency=1,
                metadata=view.volume.dirtied + costs.EMPTY + costs.EMPTY_NAME * len(items),
            )
        for name, inode in children:
            view.change(inode)
            if inode.is_directory:
                inode.nlink = 0
                self.leave(inode)
            else:
                inode.nlink -= 1
                if not inode.nlink:
                    self.release(inode)
            if inode.ino in view.known:
                self.unnamed(directory, name, inode)
        self._designations.forget(designated)
        for _, name, _ in items:
            directory.names.pop(name)
        directory.count_size()
        if directory.names.is_empty():
            view.emptying.discard(directory.ino)

    # Lists

    def _read_some(self) -> None:
        """Find some of what an earlier mount left, or what a snapshot has from the one that it was
        made of.
        """
        unread = self._views.volume.instances.unread_orphans
        if self._unread is not None:
            self._unread = self._read_list(self._views.base, self._unread)
        elif unread and not self.queue:
            number = next(iter(unread))
            after = self._read_list(
                self._views.view(number), self._at[1] if self._at[0] == number else 0
            )
            self._at = number, after or 0
            if after is None:
                unread.discard(number)
                view = self._views.view(number)
                if view.instance is not None and not view.orphans:
                    self._views.volume.instances.note_orphans(view.instance, False)

    def _is_ours(self, view: View, ino: int) -> bool:
        """Can a listed orphan be freed? A part has in its list those that there were outside, too,
        and preserves nothing of them.
        """
        one = view.instance
        return one is None or one not in self._coverage.parts or self._coverage.covers(one, ino)

    @staticmethod
    def _is_named(view: View, entry: names.Entry) -> bool:
        return stat.S_ISDIR(entry.type) and not view.inode(entry.ino).names.is_empty()

    def _read_list(self, view: View, after: int) -> int | None:
        """Take some from a list; where to read on, None at the end."""
        items = names.entries(view, ORPHANS_INO, after, 1)
        if items:
            probes.ORPHANS_FOUND.hit()
        heirs = heirs_among(view, items)
        new = [
            (entry.ino, self._is_named(view, entry))
            for entry in items
            if entry.ino not in view.orphans and self._is_ours(view, entry.ino)
        ]
        for ino, is_named in new:
            if is_named:
                view.emptying.add(ino)
                view.was_emptying = True
            view.orphans.add(ino)
            view.listed_orphans.add(ino)
            self.queue[view.id, ino] = None
        for heir in heirs:
            self._heirs.note(heir)
        return items[-1].cookie if items else None

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

    def sealed(self, view: View) -> None:
        """The view was sealed. Cannot fail."""
        view.was_emptying = bool(view.emptying)
        if view.instance is not None:
            instances = self._views.volume.instances
            instances.note_orphans(
                view.instance, bool(view.orphans) or view.id in instances.unread_orphans
            )
