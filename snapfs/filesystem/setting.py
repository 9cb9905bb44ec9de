"""Setting what an inode says of itself: owners, permissions, times, sizes and extended attributes,
with the errors that ext4 gives.

The kernel has checked permissions. Every function first finds and makes writable all that it needs,
and then changes everything.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_HEIR
from snapfs.errors import InvalidArgument, IsDirectory, NoSpace, NotPermitted
from snapfs.filesystem import (
    acl,
    designation,
    writing,
    xattrs,
)
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.rules import SET_ID
from snapfs.filesystem.view import View
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import CommitNeeded
from snapfs.store.commit import costs
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.filesystem.context import Context

#: relatime: an access time is renewed when it is older than this (mount(8)).
ATIME_INTERVAL = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Changes:
    """What ``set_attributes`` shall change; None leaves as it is. Times are nanoseconds, the mode
    has permission bits only.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None


def set_times(
    fs: Context, view: View, ino: int, atime: int | None, mtime: int | None, ctime: int | None
) -> Inode:
    """Set times alone: what the kernel's writeback cache asks for after most changes. See
    ``Filesystem.set_times``.
    """
    inode = _changeable(view, ino)
    volume = view.volume
    account = volume.account
    before = account.changes
    volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.INODE)
    view.change(inode)
    if atime is not None:
        inode.atime = atime
    if mtime is not None:
        inode.mtime = mtime
    inode.ctime = ctime if ctime is not None else fs.now()
    if view.id == BASE_VIEW:
        account.tell(before, ino)
    return inode


def renew_atime(inode: Inode, now: int) -> None:
    """Say that an inode was read just now, if there is space for that."""
    view = inode.view
    volume = view.volume
    try:
        volume.allocator.prepare(0, metadata=volume.dirtied + costs.INODE)
    except (NoSpace, CommitNeeded):
        return  # an access time is not worth the last blocks
    before = volume.account.changes
    view.change(inode)
    inode.atime = now
    volume.account.tell(before, inode.ino)


def set_attributes(
    fs: Context,
    view: View,
    ino: int,
    changes: Changes,
    *,
    privileged: bool,
    in_group: bool | None,
    stamp: bool,
) -> Inode:
    """Set any of them. See ``Filesystem.set_attributes``."""
    if (
        changes.size is None
        and changes.mode is None
        and changes.uid is None
        and changes.gid is None
    ):
        return set_times(fs, view, ino, changes.atime, changes.mtime, changes.ctime)
    inode = _changeable(view, ino)
    now = fs.now()
    access = xattrs.load(inode).get(acl.ACCESS) if changes.mode is not None else None
    stamp = stamp or changes != Changes(size=inode.size)
    if view.hides_set_id and (changes.size, changes.uid, changes.gid) != (None, None, None):
        lose_privileges(inode)
    if changes.size is not None:
        if inode.is_directory:
            raise IsDirectory("a directory has no size to set")
        if not stat.S_ISREG(inode.mode):
            raise InvalidArgument("only files have a size to set")
        _set_size(fs, inode, changes.size)
        if stamp:
            inode.mtime = now
        if not privileged:
            clear_set_id(inode, in_group=in_group is not False)
    view.volume.allocator.prepare(0, urgency=1, metadata=view.volume.dirtied + costs.INODE)
    view.change(inode)
    if changes.uid is not None or changes.gid is not None:
        if changes.uid is not None:
            inode.uid = changes.uid
        if changes.gid is not None:
            inode.gid = changes.gid
        if changes.mode is None:
            clear_set_id(inode, in_group=in_group is not False)
    if changes.mode is not None:
        mode = changes.mode & 0o7777
        if mode & stat.S_ISGID and not privileged and in_group is False and not inode.is_directory:
            mode &= ~stat.S_ISGID
        if access is not None:
            found = xattrs.load(inode)
            updated = {**found, acl.ACCESS: acl.Acl.decode(access).with_mode(mode).encode()}
            xattrs.store(inode, updated, xattrs.plan_store(inode, updated))
        # Who was not shown the bits does not mean to take them away.
        hidden = inode.mode & SET_ID if view.hides_set_id and stat.S_ISREG(inode.mode) else 0
        inode.mode = stat.S_IFMT(inode.mode) | mode | hidden
    if changes.atime is not None:
        inode.atime = changes.atime
    if changes.mtime is not None:
        inode.mtime = changes.mtime
    if stamp:
        inode.ctime = changes.ctime if changes.ctime is not None else now
    return inode


def drop_set_id(fs: Context, view: View, ino: int, ctime: int | None, *, in_group: bool) -> Inode:
    """Take set-id bits away, if there are any. See ``Filesystem.drop_set_id``."""
    inode = _changeable(view, ino)
    view.volume.allocator.prepare(0, urgency=1, metadata=view.volume.dirtied + costs.INODE)
    view.change(inode)
    clear_set_id(inode, in_group=in_group)
    inode.ctime = ctime if ctime is not None else fs.now()
    return inode


def clear_set_id(inode: Inode, *, in_group: bool = True) -> None:
    """What changing the content or the owner takes from anything but a directory: the set-user-ID
    bit, and the set-group-ID bit.

    That one stays where the group may not execute, so that it is no privilege, if whoever changes
    something is in the file's group.
    """
    if inode.is_directory:
        return
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP or not in_group:
        inode.mode &= ~stat.S_ISGID


def lose_privileges(inode: Inode) -> None:
    """What changing the content or the owner takes from a file whose set-id bits and capabilities
    the kernel is not shown.

    A kernel that does not know of them neither removes them nor says who may keep them, and with a
    restore they would come back to a program that somebody else has written. So nobody keeps them.
    May raise ``NotCached``, ``CommitNeeded``, ``NoSpace``.
    """
    if not stat.S_ISREG(inode.mode):
        return
    if xattrs.CAPABILITY in xattrs.load(inode):
        xattrs.remove(inode, xattrs.CAPABILITY)
    if inode.mode & SET_ID:
        inode.view.volume.allocator.prepare(
            0, urgency=1, metadata=inode.view.volume.dirtied + costs.INODE
        )
        inode.view.change(inode)
        inode.mode &= ~SET_ID


def xattr_set(
    fs: Context,
    view: View,
    ino: int,
    name: bytes,
    value: bytes,
    *,
    create: bool,
    replace: bool,
    groups: Collection[int] | None,
) -> None:
    """Set an extended attribute. See ``Filesystem.xattr_set``."""
    inode = _changeable(view, ino)
    place = None
    if name == designation.NAME:
        designation.check(inode, value)
        place = fs.designations.plan(inode)
    xattrs.set_value(
        inode,
        name,
        value,
        create=create,
        replace=replace,
        beside=0 if place is None else costs.LISTED,
    )
    fs.designations.note(place, inode)
    if name == acl.ACCESS and groups is not None and inode.gid not in groups:
        inode.mode &= ~stat.S_ISGID
    inode.ctime = fs.now()


def xattr_remove(fs: Context, view: View, ino: int, name: bytes) -> None:
    """Remove an extended attribute. See ``Filesystem.xattr_remove``."""
    inode = _changeable(view, ino)
    designated = fs.designations.plan_forget(inode) if name == designation.NAME else []
    xattrs.remove(inode, name)
    if (
        inode.ino not in view.dirty
    ):  # there was none to remove, as with an access list that says no more than the mode
        view.volume.allocator.prepare(0, urgency=1, metadata=view.volume.dirtied + costs.INODE)
    fs.designations.forget(designated)
    view.change(inode)
    inode.ctime = fs.now()


def _changeable(view: View, ino: int) -> Inode:
    view.check_writable()
    inode = view.inode(ino)
    if ino in view.above:
        raise NotPermitted("this snapshot does not cover this directory")
    return inode


def _set_size(fs: Context, inode: Inode, size: int) -> None:
    if size < 0:
        raise InvalidArgument("a size cannot be negative")
    # In a snapshot of parts nobody could tell whether what is at the heir is part of it once the
    # file is gone.
    if (
        size == 0
        and inode.data.blocks > fs.detach_blocks
        and not (inode.view.instance and inode.view.instance.covered)
    ):
        _detach(fs, inode)
    else:
        writing.truncate(inode, size)


def _detach(fs: Context, inode: Inode) -> None:
    """Empty a large file at once: its blocks go to an orphan of their own,
    which is freed behind.
    """
    view, volume = inode.view, inode.view.volume
    ino = view.plan_new()
    volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.HAND_OVER + costs.INODE)
    view.change(inode)
    heir = Inode(
        view, ino, stat.S_IFREG, generation=volume.next_inode_generation & 0xFFFF_FFFF, now=fs.now()
    )
    volume.next_inode_generation += 1
    heir.flags |= FLAG_HEIR
    heir.parent = inode.parent if inode.flags & FLAG_HEIR else inode.ino
    heir.rdev = volume.epoch
    heir.size = inode.size
    heir.data, inode.data = inode.data, BlockMap(volume, view.owner)
    inode.size = 0
    fs.orphans.hand_over(heir)
