"""Changing names in directories: making, linking, removing and renaming, with the errors that ext4
gives.

The kernel has checked permissions. Every function first finds and makes writable all that it needs,
and then changes everything.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_LINKED, INLINE_BYTES, INLINE_TARGET
from snapfs.errors import (
    CorruptBlock,
    Exists,
    InvalidArgument,
    IsDirectory,
    NameTooLong,
    NoSpace,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from snapfs.filesystem import acl, xattrs
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.names import check_changeable, check_name, directory, entry_value, named
from snapfs.filesystem.view import View
from snapfs.ids import LINK_MAX, ROOT_INO, SYMLINK_MAX
from snapfs.interrupts import CommitNeeded
from snapfs.store.commit import costs

if TYPE_CHECKING:
    from snapfs.filesystem.context import Context

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def _touch(parent: Inode, *names: bytes) -> None:
    parent.view.change(parent)
    for name in names:
        parent.names.touch(name)


def _changed(parent: Inode, now: int) -> None:
    parent.mtime = parent.ctime = now
    parent.count_size()


def make(
    fs: Context,
    view: View,
    parent_ino: int,
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    *,
    rdev: int = 0,
    target: bytes = b"",
) -> Inode:
    """Create a file, directory, symbolic link, FIFO, socket or device. See ``Filesystem.make``."""
    volume = view.volume
    parent = directory(view, parent_ino)
    check_name(name)
    check_changeable(view, parent)
    if parent.names.get(name) is not None:
        raise Exists("the name exists")
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK and len(target) > SYMLINK_MAX:
        raise NameTooLong("the target is too long")
    if kind == stat.S_IFDIR and parent.nlink >= LINK_MAX:
        raise TooManyLinks("too many subdirectories")
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if kind == stat.S_IFDIR:
            mode |= stat.S_ISGID
    inherited = {}
    default = xattrs.load(parent).get(acl.DEFAULT)
    if default is not None and kind != stat.S_IFLNK:
        access = acl.Acl.decode(default).inherited(mode & 0o777)
        mode = mode & ~0o777 | access.mode
        if not access.is_minimal:
            inherited[acl.ACCESS] = access.encode()
        if kind == stat.S_IFDIR:
            inherited[acl.DEFAULT] = default
    ino = view.plan_new()
    volume.allocator.prepare(
        0, metadata=volume.dirtied + costs.MAKE + xattrs.blocks_for(view, inherited)
    )
    _touch(parent, name)
    now = fs.now()
    inode = Inode(
        view,
        ino,
        mode,
        uid=uid,
        gid=gid,
        generation=volume.next_inode_generation & 0xFFFF_FFFF,
        now=now,
    )
    # Nothing can be missing from here on: what is new is in memory.
    view.add(inode)
    volume.next_inode_generation += 1
    inode.nlink = 2 if kind == stat.S_IFDIR else 1
    inode.parent = parent_ino
    inode.rdev = rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    if inherited:
        xattrs.store_new(inode, inherited)
    if kind == stat.S_IFLNK:
        inode.size = len(target)
        if len(target) <= INLINE_BYTES and not inode.inline:
            inode.inline_kind, inode.inline = INLINE_TARGET, target
        else:
            inode.map.writable(0, 0)[: len(target)] = target
    parent.names.put(name, entry_value(inode))
    if kind == stat.S_IFDIR:
        parent.nlink += 1
    _changed(parent, now)
    return inode


def link(fs: Context, view: View, ino: int, parent_ino: int, name: bytes) -> Inode:
    """Give an inode another name. See ``Filesystem.link``."""
    inode = view.inode(ino)
    parent = directory(view, parent_ino)
    check_name(name)
    check_changeable(view, parent)
    if inode.is_directory:
        raise NotPermitted("directories have one name")
    if not inode.nlink:
        raise NotFound("the file has been removed")
    if inode.nlink >= LINK_MAX:
        raise TooManyLinks("too many names")
    if parent.names.get(name) is not None:
        raise Exists("the name exists")
    view.volume.allocator.prepare(0, metadata=view.volume.dirtied + costs.LINK)
    _touch(parent, name)
    view.change(inode)
    parent.names.put(name, entry_value(inode))
    inode.flags |= FLAG_LINKED
    inode.nlink += 1
    now = fs.now()
    inode.ctime = now
    _changed(parent, now)
    return inode


def _prepare_removal(view: View) -> None:
    """Make sure of the blocks that removing a name takes; before anything is changed. Raises
    ``CommitNeeded``, ``NoSpace``.

    What waits for a commit is estimated, and a full volume may have no room for the estimate of
    much: removing must work there, so the commit comes first.
    """
    volume = view.volume
    try:
        volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.REMOVE)
    except NoSpace:
        if not volume.dirty:
            raise
        raise CommitNeeded from None


def unlink(fs: Context, view: View, parent_ino: int, name: bytes) -> Inode:
    """Remove a name of something that is not a directory. See ``Filesystem.unlink``."""
    parent = directory(view, parent_ino)
    check_changeable(view, parent)
    inode = named(view, parent, name)
    if inode.is_directory:
        raise IsDirectory("it is a directory")
    _prepare_removal(view)
    last = inode.nlink <= 1
    if last:
        fs.orphans.plan_release(inode)
    _touch(parent, name)
    view.change(inode)
    parent.names.pop(name)
    now = fs.now()
    inode.nlink -= 1
    inode.ctime = now
    _changed(parent, now)
    if last:
        fs.orphans.release(inode)
    return inode


def rmdir(fs: Context, view: View, parent_ino: int, name: bytes) -> Inode:
    """Remove an empty directory. See ``Filesystem.rmdir``."""
    if name == b".":
        raise InvalidArgument("a directory cannot remove itself")
    if name == b"..":
        raise NotEmpty("the directory is not empty")
    parent = directory(view, parent_ino)
    check_changeable(view, parent)
    inode = named(view, parent, name)
    if not inode.is_directory:
        raise NotDirectory("it is not a directory")
    if not inode.names.is_empty():
        raise NotEmpty("the directory is not empty")
    designated = fs.designations.plan_forget(inode)  # what this makes dirty is counted from here on
    _prepare_removal(view)
    fs.orphans.plan_release(inode)
    _touch(parent, name)
    view.change(inode)
    parent.names.pop(name)
    parent.nlink -= 1
    inode.nlink = 0
    fs.designations.forget(designated)
    now = fs.now()
    inode.ctime = now
    _changed(parent, now)
    fs.orphans.release(inode)
    return inode


def rename(
    fs: Context,
    view: View,
    parent_ino: int,
    name: bytes,
    new_parent_ino: int,
    new_name: bytes,
    flags: int,
) -> tuple[Inode, Inode | None]:
    """Rename, replace or exchange. See ``Filesystem.rename``."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
        raise InvalidArgument("unknown flags")
    exchange = bool(flags & RENAME_EXCHANGE)
    parent, new_parent = directory(view, parent_ino), directory(view, new_parent_ino)
    inode = named(view, parent, name)
    check_name(new_name)
    check_changeable(view, parent)
    check_changeable(view, new_parent)
    there = new_parent.names.get(new_name)
    other = named(view, new_parent, new_name) if there is not None else None
    if other is None and exchange:
        raise NotFound("there is nothing to exchange with")
    if other is not None and flags & RENAME_NOREPLACE:
        raise Exists("the name exists")
    if inode.is_directory:
        _check_not_below(view, inode, new_parent)
    if exchange and other is not None and other.is_directory:
        _check_not_below(view, other, parent)
    if other is inode:
        return inode, None
    replaced = None if exchange else other
    if replaced is not None:
        if inode.is_directory and not replaced.is_directory:
            raise NotDirectory("a directory cannot replace a file")
        if replaced.is_directory and not inode.is_directory:
            raise IsDirectory("a file cannot replace a directory")
        if replaced.is_directory and not replaced.names.is_empty():
            raise NotEmpty("the directory is not empty")
    designated = fs.designations.plan_forget(replaced) if replaced is not None else []
    view.volume.allocator.prepare(0, metadata=view.volume.dirtied + costs.RENAME)
    last = replaced is not None and (replaced.is_directory or replaced.nlink <= 1)
    if replaced is not None and last:
        fs.orphans.plan_release(replaced)
    _touch(parent, name)
    _touch(new_parent, new_name)
    view.change(inode)
    if other is not None:
        view.change(other)
    now = fs.now()
    # What is put comes before what is removed: a bucket that a removal empties is gone (see
    # ``BucketTree``).
    new_parent.names.put(new_name, entry_value(inode))
    if exchange and other is not None:
        parent.names.put(name, entry_value(other))
        other.ctime = now
        if parent is not new_parent:
            other.parent = parent_ino
            _count_subdirectories(other, new_parent, parent)
    else:
        parent.names.pop(name)
    if parent is not new_parent:
        inode.parent = new_parent_ino
        _count_subdirectories(inode, parent, new_parent)
    inode.ctime = now
    if replaced is not None:
        replaced.ctime = now
        if replaced.is_directory:
            replaced.nlink = 0
            new_parent.nlink -= 1
            fs.designations.forget(designated)
        else:
            replaced.nlink -= 1
    _changed(parent, now)
    _changed(new_parent, now)
    if replaced is not None and last:
        fs.orphans.release(replaced)
    return inode, other


def _count_subdirectories(inode: Inode, old: Inode, new: Inode) -> None:
    if inode.is_directory:
        old.nlink -= 1
        new.nlink += 1


def _check_not_below(view: View, inode: Inode, where: Inode) -> None:
    """A directory cannot move below itself. Raises ``InvalidArgument``."""
    seen = set()
    while True:
        if where is inode or where.ino == inode.ino:
            raise InvalidArgument("a directory cannot move below itself")
        if where.ino == ROOT_INO:
            return
        if where.ino in seen:
            raise CorruptBlock("directories form a cycle")
        seen.add(where.ino)
        where = view.inode(where.parent)
