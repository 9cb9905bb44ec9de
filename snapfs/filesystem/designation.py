"""Designated directories (C8): an extended attribute names the policy whose snapshots cover a
directory and all below it, now and later.

The attribute stands on the directory alone, and is answered for everything below it. Which
directories have it is listed in a hidden directory of the view, as orphans are: so a snapshot of a
policy searches nothing, and a restore brings the list back with all else. The list is made with the
first designation of a view; who designates nothing pays nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from snapfs.blocks.inode import FLAG_LINKED
from snapfs.errors import (
    CorruptBlock,
    InvalidArgument,
    NoAttribute,
    NotDirectory,
    NotFound,
    NotSupported,
    StaleInode,
)
from snapfs.filesystem import names, xattrs
from snapfs.filesystem.inode import Home, Inode
from snapfs.filesystem.searching import name_of
from snapfs.ids import DESIGNATED_INO, ROOT_INO
from snapfs.interrupts import NotCached
from snapfs.store.commit import costs
from snapfs.store.tables.instances import name_fault

if TYPE_CHECKING:
    from snapfs.filesystem.view import View
    from snapfs.filesystem.views import Views
    from snapfs.interrupts import Want

#: The attribute. Its value is the name of a policy.
NAME: Final = b"user.snapfs.designate"

#: Bytes of a policy's name.
POLICY_MAX: Final = 64


def label(ino: int) -> bytes:
    """The name of a directory in the list."""
    return b"%x" % ino


def new_list(view: Home, now_ns: int) -> Inode:
    """An empty list, which is not in the view yet."""
    place = Inode(view, DESIGNATED_INO, stat.S_IFDIR | 0o700, now=now_ns)
    place.nlink, place.parent = 2, ROOT_INO
    return place


def policy_fault(policy: str) -> str | None:
    """Why this cannot be a policy's name; None when it can: the rules are those of snapshots'
    names.
    """
    if len(policy.encode(errors="replace")) > POLICY_MAX:
        return f"a policy's name has at most {POLICY_MAX} bytes"
    fault = name_fault(policy)
    return fault and fault.replace("a snapshot's name", "a policy's name")


def check(inode: Inode, value: bytes) -> None:
    """Raises ``NotSupported`` for what is no directory, ``InvalidArgument`` for what is no policy's
    name.
    """
    if not inode.is_directory:
        raise NotSupported(
            f"{NAME.decode()} designates directories: a file is covered by its directory's"
        )
    try:
        fault = policy_fault(value.decode())
    except UnicodeDecodeError:
        fault = "a policy's name must be valid UTF-8"
    if fault:
        raise InvalidArgument(fault)


class Designations:
    """The designated directories of all views."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def answer(self, inode: Inode, known_as: Collection[tuple[int, bytes]] = ()) -> bytes:
        """The policy of the nearest designated directory above an inode, or of itself. Raises
        ``NoAttribute``, ``CorruptBlock``.

        Of a file with several names the directory counts that it was made in or moved to last. If
        it has no name there any more, ``known_as`` count, directories and names that it may have:
        others could only be searched for in the whole view.
        """
        found = xattrs.load(inode).get(NAME)
        place = self._list(inode.view)
        if found is None and inode.nlink:
            tops = (
                [ROOT_INO]
                if place is None or place.names.is_empty()
                else self._above(inode, known_as)
            )
            found = next(
                (
                    policy
                    for top in tops
                    if (policy := self._climb(inode.view.inode(top))) is not None
                ),
                None,
            )
        if found is None:
            raise NoAttribute("nothing here is designated")
        return found

    @staticmethod
    def _climb(directory: Inode) -> bytes | None:
        seen = {directory.ino}
        while (found := xattrs.load(directory).get(NAME)) is None and directory.ino != ROOT_INO:
            directory = directory.view.inode(directory.parent)
            if directory.ino in seen:
                raise CorruptBlock("directories form a cycle")
            seen.add(directory.ino)
        return found

    def _above(self, inode: Inode, known_as: Collection[tuple[int, bytes]]) -> list[int]:
        """The directories that count, best first. What an inode calls its parent may be gone, or
        another one by now.
        """
        if inode.is_directory or not inode.flags & FLAG_LINKED:
            return [inode.parent]
        there = {directory for directory, name in known_as if self._leads(inode, directory, name)}
        if inode.parent in there or self._leads(inode, inode.parent):
            return [inode.parent]
        return sorted(there) or [ROOT_INO]

    def _leads(self, inode: Inode, directory: int, name: bytes | None = None) -> bool:
        """Whether there is such a directory, and has that name for an inode, or any."""
        try:
            place = names.directory(inode.view, directory)
            if name is None:
                return name_of(self._views, place, inode.ino) is not None
            return names.find(inode.view, place, name) == inode.ino
        except (StaleInode, NotDirectory, NotFound):
            return False

    def plan(self, inode: Inode, *, urgency: int = 0) -> Inode | None:
        """Make everything writable that ``note`` or ``forget`` changes; the list, None where
        nothing is to be listed.

        The root is not: it is looked at when the list is. May raise ``NotCached``,
        ``CommitNeeded``, ``NoSpace``.
        """
        view = inode.view
        if not inode.is_directory or not inode.nlink or inode.ino == ROOT_INO:
            return None
        view.volume.allocator.prepare(
            0, urgency=urgency, metadata=view.volume.dirtied + costs.LISTED
        )
        place = self._list(view)
        if place is None:
            place = new_list(view, self._views.now())
            place.generation = view.volume.next_inode_generation & 0xFFFF_FFFF
        else:
            view.change(place)
        place.names.touch(label(inode.ino))
        return place

    def plan_forget(self, *inodes: Inode) -> list[Inode]:
        """The same before directories are removed, or lose their designations: those of the inodes
        that have one. Raises the same.
        """
        found: list[Inode] = []
        wants: dict[Want, None] = {}
        for inode in inodes:
            try:
                if (
                    inode.is_directory
                    and NAME in xattrs.load(inode)
                    and self.plan(inode, urgency=1) is not None
                ):
                    found.append(inode)
            except NotCached as exc:
                wants.update(dict.fromkeys(exc.wants))
        if wants:
            raise NotCached(list(wants))
        return found

    @staticmethod
    def note(place: Inode | None, inode: Inode) -> None:
        """The inode is designated. Cannot fail after ``plan``."""
        if place is not None:
            view = place.view
            if place.ino not in view.dirty:
                view.add(place)
                view.volume.next_inode_generation += 1
            place.names.put(label(inode.ino), names.entry_value(inode))

    def forget(self, inodes: Iterable[Inode]) -> None:
        """They are no longer designated, or no longer there. Cannot fail after ``plan_forget``,
        which has found them.
        """
        of_views: dict[int, list[Inode]] = {}
        for inode in inodes:
            of_views.setdefault(inode.view.id, []).append(inode)
        for found in of_views.values():
            if (place := self._list(found[0].view)) is not None:
                place.names.pop_all([label(inode.ino) for inode in found])

    def of(self, view: View, policy: bytes) -> list[Inode]:
        """The directories that are designated with a policy. May raise ``NotCached``,
        ``CorruptBlock``.
        """
        found: list[Inode] = []
        wants: dict[Want, None] = {}
        for ino in (ROOT_INO, *self._listed(view)):
            try:
                inode = view.inode(ino)
                if xattrs.load(inode).get(NAME) == policy:
                    found.append(inode)
            except NotCached as exc:
                wants.update(dict.fromkeys(exc.wants))
            except StaleInode as exc:
                raise CorruptBlock(
                    f"inode {ino} is listed as designated, and does not exist"
                ) from exc
        if wants:
            raise NotCached(list(wants))
        return found

    def _listed(self, view: View) -> list[int]:
        found: list[int] = []
        after = 0
        while self._list(view) is not None and (
            entries := names.entries(view, DESIGNATED_INO, after, 1000)
        ):
            after = entries[-1].cookie
            found += [entry.ino for entry in entries]
        return found

    @staticmethod
    def _list(view: Home) -> Inode | None:
        try:
            place = view.inode(DESIGNATED_INO)
        except StaleInode:
            return None
        if not place.is_directory:
            raise CorruptBlock(
                f"inode {DESIGNATED_INO}, the list of designated directories, is not a directory"
            )
        return place
