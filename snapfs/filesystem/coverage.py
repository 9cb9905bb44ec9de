"""Which snapshots of parts an inode belongs to (C1 to C4): whatever is outside, they preserve
nothing of.

An instance covers the inodes that were at or below its parts when it was made, in its own view:
found by their parents, one after the other. What has several names is covered by every instance,
because where its other names are cannot be told without a search. Making a snapshot looks at
nothing. The first look at an inode after that finds out, and the inode's trees remember.

The inode table is one for all files, so its blocks are preserved whatever they hold: 256 bytes for
each inode that changes outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from snapfs.blocks.inode import FLAG_HEIR, FLAG_LINKED
from snapfs.errors import StaleInode
from snapfs.ids import HIDDEN_INOS, ROOT_INO
from snapfs.store.trees.owners import TreeOwner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.view import View
    from snapfs.filesystem.views import Views
    from snapfs.store.tables.instances import Instance


class Heir(NamedTuple):
    """Says of an inode with what a file has lost which file that is; the generation tells it from
    others of its number.
    """

    file: int
    generation: int


class Handed(NamedTuple):
    """An heir of the base, and the epoch in which it got what it has; 0: nobody knows."""

    ino: int
    epoch: int
    generation: int


class Coverage:
    """Answers for all live instances that cover parts only. What it has found of directories it
    keeps.
    """

    def __init__(self, views: Views) -> None:
        self._views = views
        #: What a file of the base has handed over, as heirs that are orphans (``Orphans.handed``).
        self.handed: Callable[[int], Iterable[Handed]] = lambda _file: ()
        self._version = -1
        self._parts: list[Instance] = []
        self._passed: dict[
            int, int
            # directory above parts -> the instances that keep its extended attributes, as a mask
        ] = {}
        self._inside: dict[
            int, dict[int, bool]
        ] = {}  # by instance: is a directory part of what it covers?

    @property
    def parts(self) -> list[Instance]:
        """The live instances that cover parts only."""
        instances = self._views.volume.instances
        if instances.version != self._version:
            self._parts = [one for one in instances.live() if one.covered]
            self._passed = {}
            for one in self._parts:
                for ino in one.passed:
                    self._passed[ino] = self._passed.get(ino, 0) | 1 << one.id
            known = {one.id for one in self._parts}
            self._inside = {key: value for key, value in self._inside.items() if key in known}
            self._version = (
                instances.version
            )  # when all of it fits, or what breaks off here would be believed
        return self._parts

    def refresh(self, inode: Inode) -> None:
        """Have the inode's trees know which instances do not preserve them. May raise
        ``NotCached``.
        """
        view = inode.view
        version = view.volume.instances.version
        if not self.parts:
            inode.data.owner = inode.attribute_map.owner = view.owner
        else:
            uncovered = self.uncovered(
                inode.ino, Heir(inode.parent, inode.generation) if inode.flags & FLAG_HEIR else None
            )
            place = self._place_in_base(inode)
            inode.data.owner = TreeOwner(
                view.owner, uncovered if place is None else self.uncovered(*place)
            )
            inode.attribute_map.owner = TreeOwner(
                view.owner, uncovered & ~self._passed.get(inode.ino, 0)
            )
        inode.coverage = version

    def _place_in_base(self, inode: Inode) -> tuple[int, Heir | None] | None:
        """Which inode of the base has the data that a view's inode shares with it, if that is
        another one. May raise ``NotCached``.

        A record that lets newer instances count in means what they cover of the base's inode. That
        is the one of the same number, or of the number of the file that the view's inode is an heir
        of; and once the base has emptied that file since the view was made, it is the heir that was
        made first. Whatever gets into the base again later has a record that no view from before
        counts in by.
        """
        instance = inode.view.instance
        if instance is None or inode.is_directory or inode.view.volume.read_only:
            return None
        is_own = (
            bool(inode.flags & FLAG_HEIR) and inode.rdev > instance.epoch
        )  # the view has emptied the file, not the base
        if inode.flags & FLAG_HEIR and not is_own:
            return None
        file = inode.parent if is_own else inode.ino
        later = [one for one in self.handed(file) if one.epoch > instance.epoch]
        if later:
            first = min(later, key=lambda one: one.epoch)
            return first.ino, Heir(file, first.generation)
        return (file, None) if is_own else None

    def uncovered(self, ino: int, heir: Heir | None = None) -> int:
        """The instances, as a mask, whose part of the volume an inode is not in. May raise
        ``NotCached``.

        What a file has lost to an ``heir`` is in those that know it as the file's.
        """
        return sum(1 << one.id for one in self.parts if not self._preserves(one, ino, heir))

    def _preserves(self, instance: Instance, ino: int, heir: Heir | None) -> bool:
        if heir is None:
            return self.covers(instance, ino)
        inode = _inode(self._views.view(instance.id), ino)
        was_there = (
            inode is not None
            and inode.flags & FLAG_HEIR
            and (inode.parent, inode.generation) == heir
        )
        return not was_there and self.covers(instance, heir.file)

    def uncovered_attributes(self, ino: int) -> int:
        """The same for its extended attributes: those of the directories on the way to a part are
        shown with it.
        """
        return self.uncovered(ino) & ~self._passed.get(ino, 0)

    def covers(self, instance: Instance, ino: int) -> bool:
        """Was the inode in a part that an instance covers, when it was made? May raise
        ``NotCached``.
        """
        known = self._inside.setdefault(instance.id, {})
        return is_part(self._views.view(instance.id), ino, instance.covered, known)


def is_part(view: View, ino: int, tops: Collection[int], known: dict[int, bool]) -> bool:
    """Does a snapshot of the view that covers what is at or below ``tops`` preserve an inode?
    ``known`` remembers directories.

    Of what had lost its last name before, it preserves nothing. What loses it in the view of the
    snapshot itself says by its parent that it was within (``Orphans.release``), because the
    directories above it may go as well. May raise ``NotCached``.
    """
    if ino in HIDDEN_INOS:
        return True  # each view has its own
    inode = _inode(view, ino)
    if inode is None:
        return False
    if inode.flags & FLAG_LINKED and not inode.is_directory:
        return True
    if not inode.nlink and ino not in tops:
        return bool(inode.parent) and inode.parent in tops and not inode.flags & FLAG_HEIR
    way: list[int] = []
    answer = False
    while inode is not None:
        found = known.get(inode.ino)
        if found is not None or inode.ino in tops or inode.ino == ROOT_INO:
            answer = found if found is not None else inode.ino in tops
            break
        if inode.ino in way:
            break
        way.append(inode.ino)
        inode = _inode(view, inode.parent)
    known.update(
        dict.fromkeys(way[1:], answer)
    )  # directories; an inode that is asked for once is asked for once
    return answer


def _inode(view: View, ino: int) -> Inode | None:
    try:
        return view.raw_inode(ino)
    except StaleInode:
        return None
