"""From a request's bytes to the handler that it is for, and from what that returns to the bytes of
the reply.

The handlers are those that pyfuse3's own loop would call, with the same arguments.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import pyfuse3

from snapfs.fuse.kernel.shortage import MIN_MINOR
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import WRITER_BIT
from snapfs.fuse.protocol.wire import (
    Op,
    Piece,
    RequestCaller,
    Set,
)

if TYPE_CHECKING:
    from snapfs.fuse.requests.operations import Operations

Answer = tuple[Piece, ...]
Work = Callable[[int, memoryview, RequestCaller], Coroutine[Any, Any, Answer | None]]

#: No data: it is done.
_DONE: Final[Answer] = ()


class Fields:
    """Which attributes a SETATTR sets, as ``pyfuse3.SetattrFields`` tells it."""

    def __init__(self, valid: int) -> None:
        self.update_mode = bool(valid & Set.MODE)
        self.update_uid = bool(valid & Set.UID)
        self.update_gid = bool(valid & Set.GID)
        self.update_size = bool(valid & Set.SIZE)
        self.update_atime = bool(valid & Set.ATIME)
        self.update_mtime = bool(valid & Set.MTIME)
        self.update_ctime = bool(valid & Set.CTIME)


class Exchange:
    """``work`` has a coroutine function for every request that gets an answer: of the inode, what
    follows the header, and the caller.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations: Any = (
            operations  # its arguments are typed as pyfuse3's, which nobody but pyfuse3 can make
        )
        self.work: dict[int, Work] = {
            Op.LOOKUP: self._lookup,
            Op.GETATTR: self._getattr,
            Op.SETATTR: self._setattr,
            Op.READLINK: self._readlink,
            Op.SYMLINK: self._symlink,
            Op.MKNOD: self._mknod,
            Op.MKDIR: self._mkdir,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._rmdir,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.LINK: self._link,
            Op.OPEN: self._open,
            Op.CREATE: self._create,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: self._statfs,
            Op.RELEASE: self._release,
            Op.FSYNC: self._fsync,
            Op.FLUSH: self._flush,
            Op.SETXATTR: self._setxattr,
            Op.GETXATTR: self._getxattr,
            Op.LISTXATTR: self._listxattr,
            Op.REMOVEXATTR: self._removexattr,
            Op.OPENDIR: self._opendir,
            Op.READDIRPLUS: self._readdirplus,
            Op.RELEASEDIR: self._releasedir,
            Op.FSYNCDIR: self._fsyncdir,
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._batch_forget,
            Op.INIT: self._init,
            Op.DESTROY: self._destroy,
        }

    # --- names ---

    async def _lookup(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        return (wire.entry_out(await self._operations.lookup(node, bytes(body[:-1]), caller)),)

    async def _symlink(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        name, target = wire.names_in(body)
        return (wire.entry_out(await self._operations.symlink(node, name, target, caller)),)

    async def _mknod(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        mode, rdev, _ = wire.MKNOD_IN.unpack_from(body)
        (name,) = wire.names_in(body[wire.MKNOD_IN.size :])
        return (wire.entry_out(await self._operations.mknod(node, name, mode, rdev, caller)),)

    async def _mkdir(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        mode, _ = wire.MKDIR_IN.unpack_from(body)
        (name,) = wire.names_in(body[wire.MKDIR_IN.size :])
        return (
            wire.entry_out(await self._operations.mkdir(node, name, mode | stat.S_IFDIR, caller)),
        )

    async def _create(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        flags, mode, _, _ = wire.CREATE_IN.unpack_from(body)
        name = bytes(body[wire.CREATE_IN.size : -1])
        info, entry = await self._operations.create(node, name, mode, flags, caller)
        return (wire.entry_out(entry), wire.open_out(info))

    async def _link(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        (inode,) = wire.LINK_IN.unpack_from(body)
        (name,) = wire.names_in(body[wire.LINK_IN.size :])
        return (wire.entry_out(await self._operations.link(inode, node, name, caller)),)

    async def _unlink(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        await self._operations.unlink(node, bytes(body[:-1]), caller)
        return _DONE

    async def _rmdir(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        await self._operations.rmdir(node, bytes(body[:-1]), caller)
        return _DONE

    async def _rename(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        (new,) = wire.RENAME_IN.unpack_from(body)
        name, new_name = wire.names_in(body[wire.RENAME_IN.size :])
        await self._operations.rename(node, name, new, new_name, 0, caller)
        return _DONE

    async def _rename2(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        new, flags = wire.RENAME2_IN.unpack_from(body)
        name, new_name = wire.names_in(body[wire.RENAME2_IN.size :])
        await self._operations.rename(node, name, new, new_name, flags, caller)
        return _DONE

    async def _forget(self, node: int, body: memoryview, _: RequestCaller) -> None:
        (count,) = wire.FORGET_IN.unpack_from(body)
        await self._operations.forget([(node, count)])

    async def _batch_forget(self, _: int, body: memoryview, __: RequestCaller) -> None:
        count, _unused = wire.BATCH_FORGET_IN.unpack_from(body)
        start, size = wire.BATCH_FORGET_IN.size, wire.FORGET_ONE.size
        await self._operations.forget(
            list(wire.FORGET_ONE.iter_unpack(body[start : start + count * size]))
        )

    # --- attributes ---

    async def _getattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer | None:
        shortage = self._operations.kernel.shortage
        if node in shortage.files:
            flags, handle = wire.GETATTR_IN.unpack_from(body) if body else (0, 0)
            if flags & wire.GETATTR_FH and handle & WRITER_BIT:
                shortage.before_write(node)
            elif shortage.holds(node, caller):
                return None
            else:
                await shortage.before_look(node)
        return (wire.attr_out(await self._operations.getattr(node, caller)),)

    async def _setattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        (
            valid, handle, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, uid,
            gid,
        ) = wire.SETATTR_IN.unpack_from(body)  # fmt: skip
        wanted = pyfuse3.EntryAttributes()
        wanted.st_mode, wanted.st_uid, wanted.st_gid, wanted.st_size = mode, uid, gid, size
        # "Now" comes with the time that the kernel holds for now.
        wanted.st_atime_ns = atime * 1_000_000_000 + atime_ns
        wanted.st_mtime_ns = mtime * 1_000_000_000 + mtime_ns
        wanted.st_ctime_ns = ctime * 1_000_000_000 + ctime_ns
        caller = caller._replace(keeps_set_id=not valid & Set.KILL_SUIDGID)
        fields, handle = Fields(valid), handle if valid & Set.FH else None
        return (
            wire.attr_out(await self._operations.setattr(node, wanted, fields, handle, caller)),
        )

    async def _readlink(self, node: int, _: memoryview, caller: RequestCaller) -> Answer:
        return (await self._operations.readlink(node, caller),)

    async def _statfs(self, _: int, __: memoryview, caller: RequestCaller) -> Answer:
        found = await self._operations.statfs(caller)
        return (
            wire.STATFS_OUT.pack(
                found.f_blocks,
                found.f_bfree,
                found.f_bavail,
                found.f_files,
                found.f_ffree,
                found.f_bsize,
                found.f_namemax,
                found.f_frsize,
            ),
        )

    async def _setxattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        size, flags = wire.SETXATTR_IN.unpack_from(body)
        start = bytes(body[wire.SETXATTR_IN.size :]).index(b"\0") + wire.SETXATTR_IN.size
        name, value = (
            bytes(body[wire.SETXATTR_IN.size : start]),
            bytes(body[start + 1 : start + 1 + size]),
        )
        if flags & (os.XATTR_CREATE | os.XATTR_REPLACE):
            try:
                await self._operations.getxattr(node, name, caller)
            except pyfuse3.FUSEError as exc:
                if exc.errno != errno.ENODATA or flags & os.XATTR_REPLACE:
                    raise
            else:
                if flags & os.XATTR_CREATE:
                    raise pyfuse3.FUSEError(errno.EEXIST)
        await self._operations.setxattr(node, name, value, caller)
        return _DONE

    async def _getxattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        (size,) = wire.GETXATTR_IN.unpack_from(body)
        name = bytes(body[wire.GETXATTR_IN.size : -1])
        return _sized(await self._operations.getxattr(node, name, caller), size)

    async def _listxattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        (size,) = wire.GETXATTR_IN.unpack_from(body)
        return _sized(
            b"".join(name + b"\0" for name in await self._operations.listxattr(node, caller)), size
        )

    async def _removexattr(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        await self._operations.removexattr(node, bytes(body[:-1]), caller)
        return _DONE

    # --- contents ---

    async def _open(self, node: int, body: memoryview, caller: RequestCaller) -> Answer:
        flags, open_flags = wire.OPEN_IN.unpack_from(body)
        if flags & os.O_TRUNC:
            caller = caller._replace(keeps_set_id=not open_flags & wire.OPEN_KILL_SUIDGID)
        return (wire.open_out(await self._operations.open(node, flags, caller)),)

    async def _read(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        handle, offset, size, _flags, _owner, _open_flags = wire.READ_IN.unpack_from(body)
        return (await self._operations.read(handle, offset, size),)

    async def _write(self, _: int, body: memoryview, caller: RequestCaller) -> Answer:
        handle, offset, size, flags, _owner, _open_flags = wire.WRITE_IN.unpack_from(body)
        start = wire.WRITE_IN.size
        deprived = caller if flags & wire.WRITE_KILL_SUIDGID else None
        return (
            wire.WRITE_OUT.pack(
                await self._operations.write(
                    handle, offset, body[start : start + size], deprived=deprived
                )
            ),
        )

    async def _release(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        await self._operations.release(*wire.RELEASE_IN.unpack_from(body))
        return _DONE

    async def _flush(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        await self._operations.flush(*wire.RELEASE_IN.unpack_from(body))
        return _DONE

    async def _fsync(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        handle, flags = wire.FSYNC_IN.unpack_from(body)
        await self._operations.fsync(handle, bool(flags & 1))
        return _DONE

    async def _opendir(self, node: int, _: memoryview, caller: RequestCaller) -> Answer:
        return (wire.OPEN_OUT.pack(await self._operations.opendir(node, caller), 0),)

    async def _readdirplus(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        handle, offset, size, _flags, _owner, _open_flags = wire.READ_IN.unpack_from(body)
        rows = wire.Rows(size)
        await self._operations.readdir(handle, offset, rows)
        return (rows.data,)

    async def _releasedir(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        await self._operations.releasedir(*wire.RELEASE_IN.unpack_from(body))
        return _DONE

    async def _fsyncdir(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        handle, flags = wire.FSYNC_IN.unpack_from(body)
        await self._operations.fsyncdir(handle, bool(flags & 1))
        return _DONE

    # --- the mount ---

    async def _init(self, _: int, body: memoryview, __: RequestCaller) -> Answer:
        self._operations.init()
        return (init_out(body, self._operations),)

    async def _destroy(self, _: int, __: memoryview, ___: RequestCaller) -> Answer:
        return _DONE


def init_out(body: memoryview, operations: Operations) -> bytes:
    """The reply to INIT. A kernel with a newer protocol asks again when it has seen ours."""
    _, minor, read_ahead, offered = wire.INIT_IN.unpack_from(body)
    operations.kernel.shortage.is_usable = operations.enable_writeback_cache and minor >= MIN_MINOR
    wanted = (
        wire.Init.ASYNC_READ
        | wire.Init.ATOMIC_O_TRUNC
        | wire.Init.EXPORT_SUPPORT
        | wire.Init.BIG_WRITES
        | wire.Init.AUTO_INVAL_DATA
        | wire.Init.DO_READDIRPLUS
        | wire.Init.ASYNC_DIO
        | wire.Init.PARALLEL_DIROPS
        | wire.Init.MAX_PAGES
        | wire.Init.HANDLE_KILLPRIV_V2
    )
    if operations.enable_writeback_cache:
        wanted |= wire.Init.WRITEBACK_CACHE
    if operations.enable_acl:
        wanted |= wire.Init.POSIX_ACL
    return wire.INIT_OUT.pack(
        wire.MAJOR,
        min(minor, wire.MINOR),
        read_ahead,
        offered & wanted,
        0,
        0,
        wire.MAX_WRITE,
        1,
        wire.MAX_PAGES,
        0,
        0,
    )


def _sized(value: bytes, size: int) -> Answer:
    """A value for somebody who has room for ``size`` bytes; 0 asks how long it is."""
    if not size:
        return (wire.GETXATTR_OUT.pack(len(value)),)
    if len(value) > size:
        raise pyfuse3.FUSEError(errno.ERANGE)
    return (value,)
