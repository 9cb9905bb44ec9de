"""Answers to the most frequent requests where nothing has to be waited for: without a coroutine,
from the core to the bytes of the reply.

What cannot be answered at once, or only with an errno, is left to the request's handler, which
begins anew: a core call that ends with such an exception has changed nothing. Every other exception
comes out, and what that means for the volume is said by ``store.commit.guard``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from snapfs.errors import CorruptBlock, DeviceFull, NoAttribute, NotFound, SnapfsError
from snapfs.filesystem import Inode, View, designation
from snapfs.filesystem.rules import SET_ID
from snapfs.fuse.kernel.pause import VALID
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import (
    KERNEL_ROOT,
    SNAPDIR_BIT,
    WRITER_BIT,
)
from snapfs.fuse.protocol.wire import Op, Piece, Set
from snapfs.fuse.requests import facts
from snapfs.fuse.requests.attributes import SECOND
from snapfs.fuse.requests.name_handlers import RENAME_FLAGS
from snapfs.fuse.serving.reading import Reading
from snapfs.ids import BASE_VIEW
from snapfs.store.commit.guard import REPEATABLE, broke_off

if TYPE_CHECKING:
    from snapfs.fuse.requests.operations import Operations

#: A whole reply, its header first; an empty one where there is none; None: the handler's.
Reply = list[Piece] | None
Work = Callable[[int, int, memoryview, int, int], Reply]

_DOTS: Final = (b".", b"..")


class Quick:
    """``work`` has a function for every request that may be answered here: of its number, the
    inode, what follows the header, uid, gid.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._fs = operations.fs
        self._volume = operations.fs.volume
        edge = operations.edge
        self._reading = Reading(lambda: self._volume.device, lambda: not edge.in_progress)
        self._gate = edge.gate
        self._known = operations.known
        self._attributes = operations.attributes
        self._kernel = operations.kernel
        self._pause = operations.kernel.pause
        self._renewed = operations.kernel.renewed
        self._short = operations.kernel.shortage.files
        self._split = operations.numbers.split
        self._node = operations.numbers.node
        self._count = edge.requests
        self._snapdir = operations.snapdir_name
        self._stamps = not operations.options.writeback
        self._has_xattrs = operations.options.xattr
        self.work: dict[int, Work] = {
            Op.LOOKUP: self._lookup,
            Op.GETATTR: self._getattr,
            Op.SETATTR: self._setattr,
            Op.CREATE: self._create,
            Op.UNLINK: self._unlink,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.RELEASE: self._release,
            Op.FORGET: self._forget,
            Op.GETXATTR: self._getxattr,
        }
        if operations.stored_at_once:  # which has to be waited for
            for op in (Op.SETATTR, Op.CREATE, Op.UNLINK, Op.RENAME, Op.RENAME2):
                del self.work[op]

    def _place(self, node: int) -> tuple[View, int]:
        view_id, ino = self._split(node)
        return (self._fs.view(view_id) if view_id else self._fs.base), ino

    def _can_change(self) -> bool:
        """Whether a change need not wait for a snapshot, or for a commit."""
        return not (self._gate.is_closed or self._volume.commit_wanted)

    # --- names ---

    def _lookup(self, unique: int, parent: int, body: memoryview, _: int, __: int) -> Reply:
        name = bytes(body[:-1])
        # Names that mean something else; in the root, those of the daemon.
        if (
            parent & SNAPDIR_BIT
            or name == self._snapdir
            or name in _DOTS
            or (parent == KERNEL_ROOT and name in self._kernel.aliases)
        ):
            return None
        try:
            view, ino = self._place(parent)
            inode = self._fs.lookup(view, ino, name)
        except NotFound:
            self._count["lookup"] += 1
            # No such name, and the kernel need not ask again: it will be the one to create it.
            return [
                wire.ENTRY_REPLY.pack(
                    wire.ENTRY_REPLY.size, 0, unique, 0, 0, VALID, 0, 0, 0, *(0,) * 16
                )
            ]
        except REPEATABLE:
            return None
        except CorruptBlock as exc:
            broke_off(self._volume, exc)
            raise
        self._count["lookup"] += 1
        node = self._learned(view, parent, name, inode)
        return [
            wire.ENTRY_REPLY.pack(
                wire.ENTRY_REPLY.size, 0, unique,
                node, self._attributes.generation(node, inode), VALID, self._pause.valid, 0, 0,
                *self._attributes.words(node, inode),
            )
        ]  # fmt: skip

    def _learned(self, view: View, parent: int, name: bytes, inode: Inode) -> int:
        node = self._node(view.id, inode.ino)
        self._known.add(node)
        self._known.name(node, inode.mode, parent, name)
        return node

    def _create(self, unique: int, parent: int, body: memoryview, uid: int, gid: int) -> Reply:
        name = bytes(body[wire.CREATE_IN.size : -1])
        if parent & SNAPDIR_BIT or name == self._snapdir or not self._can_change():
            return None
        flags, mode, _, _ = wire.CREATE_IN.unpack_from(body)
        try:
            view, ino = self._place(parent)
            inode = self._fs.make(view, ino, name, wire.S_IFREG | mode & 0o7777, uid, gid)
        except REPEATABLE:
            return None
        except BaseException as exc:
            broke_off(self._volume, exc)
            raise
        self._count["create"] += 1
        node = self._learned(view, parent, name, inode)
        return [
            wire.CREATE_REPLY.pack(
                wire.CREATE_REPLY.size, 0, unique,
                node, self._attributes.generation(node, inode), VALID, self._pause.valid, 0, 0,
                *self._attributes.words(node, inode),
                self._known.opened(node, flags), wire.FOPEN_KEEP_CACHE,
            )
        ]  # fmt: skip

    def _unlink(self, unique: int, parent: int, body: memoryview, _: int, __: int) -> Reply:
        if parent & SNAPDIR_BIT or not self._can_change():
            return None
        try:
            view, ino = self._place(parent)
            name = bytes(body[:-1])
            inode = self._fs.unlink(view, ino, name)
        except REPEATABLE:
            return None
        except BaseException as exc:
            broke_off(self._volume, exc)
            raise
        self._count["unlink"] += 1
        self._operations.unlinked(view.id, inode, parent, name)
        return [wire.OUT_HEADER.pack(wire.OUT_HEADER.size, 0, unique)]

    def _rename(self, unique: int, parent: int, body: memoryview, _: int, __: int) -> Reply:
        (new,) = wire.RENAME_IN.unpack_from(body)
        return self._move(unique, parent, new, 0, body[wire.RENAME_IN.size :])

    def _rename2(self, unique: int, parent: int, body: memoryview, _: int, __: int) -> Reply:
        new, flags = wire.RENAME2_IN.unpack_from(body)
        return self._move(unique, parent, new, flags, body[wire.RENAME2_IN.size :])

    def _move(self, unique: int, parent: int, new: int, flags: int, names: memoryview) -> Reply:
        name, new_name = wire.names_in(names)
        if (
            flags & ~RENAME_FLAGS
            or (parent | new) & SNAPDIR_BIT
            or self._snapdir in (name, new_name)
            or not self._can_change()
        ):
            return None
        if self._split(parent)[
            0
        ]:  # in a snapshot, where the kernel may have to hear more than the answer
            return None
        try:
            self._operations.rename_now(parent, name, new, new_name, flags)
        except REPEATABLE:
            return None
        except BaseException as exc:
            broke_off(self._volume, exc)
            raise
        self._count["rename"] += 1
        return [wire.OUT_HEADER.pack(wire.OUT_HEADER.size, 0, unique)]

    def _forget(self, _: int, node: int, body: memoryview, __: int, ___: int) -> Reply:
        (count,) = wire.FORGET_IN.unpack_from(body)
        if self._known.drop(node, count):
            # Not done here, it is begun anew: what is dropped once more was not there any more, and
            # is still to be released.
            if not self._can_change():
                return None
            try:
                self._operations.release_now(node)
            except REPEATABLE:
                return None
            except BaseException as exc:
                broke_off(self._volume, exc)
                raise
        self._count["forget"] += 1
        return []

    # --- attributes ---

    def _getattr(self, unique: int, node: int, body: memoryview, _: int, __: int) -> Reply:
        if node & SNAPDIR_BIT or node in self._short:
            return None
        if not self._pause.valid:
            flags, handle = wire.GETATTR_IN.unpack_from(body)
            if flags & wire.GETATTR_FH and self._pause.holds(unique, node, handle):
                return []
        try:
            view, ino = self._place(node)
            inode = view.inode(ino)
        except REPEATABLE:
            return None
        except CorruptBlock as exc:
            broke_off(self._volume, exc)
            raise
        self._count["getattr"] += 1
        return [
            wire.ATTR_REPLY.pack(
                wire.ATTR_REPLY.size,
                0,
                unique,
                self._pause.valid,
                0,
                *self._attributes.words(node, inode),
            )
        ]

    def _setattr(self, unique: int, node: int, body: memoryview, _: int, __: int) -> Reply:
        """Times alone: what the kernel, with its writeback cache, says after every change."""
        valid, _, _, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, _, _, _ = (
            wire.SETATTR_IN.unpack_from(body)
        )
        if (
            valid & wire.SET_MORE
            or not valid & wire.SET_TIMES
            or node & SNAPDIR_BIT
            or node in self._short
            or self._renewed
            or not self._can_change()
        ):
            return None
        try:
            view, ino = self._place(node)
            inode = self._fs.set_times(
                view,
                ino,
                atime=atime * SECOND + atime_ns if valid & Set.ATIME else None,
                mtime=mtime * SECOND + mtime_ns if valid & Set.MTIME else None,
                ctime=ctime * SECOND + ctime_ns if valid & Set.CTIME else None,
            )
        except REPEATABLE:
            return None
        except BaseException as exc:
            broke_off(self._volume, exc)
            raise
        self._count["setattr"] += 1
        return [
            wire.ATTR_REPLY.pack(
                wire.ATTR_REPLY.size,
                0,
                unique,
                self._pause.valid,
                0,
                *self._attributes.words(node, inode),
            )
        ]

    def _getxattr(self, unique: int, node: int, body: memoryview, _: int, __: int) -> Reply:
        """That there is none: the kernel asks for capabilities before it writes to a file."""
        name = bytes(body[wire.GETXATTR_IN.size : -1])
        if (
            node & SNAPDIR_BIT
            or not self._has_xattrs
            or facts.is_answered(name)
            or name == designation.NAME
        ):
            return None
        try:
            view, ino = self._place(node)
            self._fs.xattr_get(view, ino, name)
        except NoAttribute:
            self._count["getxattr"] += 1
            return [wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -errno.ENODATA, unique)]
        except REPEATABLE:
            return None
        except CorruptBlock as exc:
            broke_off(self._volume, exc)
            raise
        return None

    # --- contents ---

    def _open(self, unique: int, node: int, body: memoryview, _: int, __: int) -> Reply:
        flags, _ = wire.OPEN_IN.unpack_from(body)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if flags & os.O_TRUNC or (
            writing and (self._volume.read_only_reason is not None or not self._pause.valid)
        ):
            return None
        try:
            view, ino = self._place(node)
            view.inode(ino)
            if writing and not view.writable:
                return None
        except REPEATABLE:
            return None
        except CorruptBlock as exc:
            broke_off(self._volume, exc)
            raise
        self._count["open"] += 1
        return [
            wire.OPEN_REPLY.pack(
                wire.OPEN_REPLY.size,
                0,
                unique,
                self._known.opened(node, flags),
                wire.FOPEN_KEEP_CACHE,
            )
        ]

    def _release(self, unique: int, node: int, body: memoryview, __: int, ___: int) -> Reply:
        if node in self._short:
            return None
        self._known.closed(*wire.RELEASE_IN.unpack_from(body))
        self._count["release"] += 1
        return [wire.OUT_HEADER.pack(wire.OUT_HEADER.size, 0, unique)]

    def _read(self, unique: int, _: int, body: memoryview, __: int, ___: int) -> Reply:
        handle, offset, size, _, _, _ = wire.READ_IN.unpack_from(body)
        try:
            view, ino = self._place(handle & ~WRITER_BIT)
            plan = self._fs.plan_read(view, ino, offset, size)
            parts = self._reading.parts(plan)
            if parts is None:
                return None
            data = plan.pieces_of(parts)
        except REPEATABLE:
            return None
        except CorruptBlock as exc:
            broke_off(self._volume, exc)
            raise
        try:
            if view.id == BASE_VIEW and self._can_change():
                self._fs.touch_atime(view, ino)
        except REPEATABLE:
            return None
        except BaseException as exc:
            broke_off(self._volume, exc)
            raise
        self._count["read"] += 1
        return [wire.OUT_HEADER.pack(wire.OUT_HEADER.size + plan.size, 0, unique), *data]

    def _write(self, unique: int, _: int, body: memoryview, __: int, ___: int) -> Reply:
        if not self._can_change():
            return None
        handle, offset, size, flags, _, _ = wire.WRITE_IN.unpack_from(body)
        data = body[wire.WRITE_IN.size : wire.WRITE_IN.size + size]
        try:
            view, ino = self._place(handle & ~WRITER_BIT)
            if flags & wire.WRITE_KILL_SUIDGID and view.inode(ino).mode & SET_ID:
                return None
            done = self._fs.write(view, ino, offset, data, stamp=self._stamps)
        except (*REPEATABLE, DeviceFull):
            return None
        except BaseException as exc:
            if isinstance(exc, SnapfsError):  # damaged data as well, which does not end writing
                self._kernel.lost(handle & ~WRITER_BIT, exc)
            broke_off(self._volume, exc)
            raise
        self._count["write"] += 1
        return [wire.WRITE_REPLY.pack(wire.WRITE_REPLY.size, 0, unique, done)]
