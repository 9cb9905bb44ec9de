"""Requests that pyfuse3's own loop reads, as observers want them: as the bytes that the kernel
sent, and those of the reply.

That loop tells nobody what it reads and sends, so the handlers' arguments and results are put into
these forms again. What pyfuse3 does not say is missing: the kernel's number of a request (they are
counted here), who reads and writes, and how long a listing may be. Handlers are replaced only while
somebody listens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import pyfuse3

from snapfs.fuse.driving.metrics import InProgress
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import WRITER_BIT
from snapfs.fuse.protocol.observing import Observers
from snapfs.fuse.protocol.wire import Op, Piece, Set

#: Of a listing, and of an extended attribute's value: what the kernel asks for is not known here.
ROOM: Final = 1 << 16

#: Of a request: what it is, which inode it is about, what follows the header, and who asks.
Call = tuple[int, int, list[Piece], Any]

#: Handlers that exist only within a request that is observed.
_NOBODY: Final = None


def _named(op: Op) -> Callable[..., Call]:
    return lambda node, name, ctx: (op, node, [name, b"\0"], ctx)


def _plain(op: Op) -> Callable[..., Call]:
    return lambda node, ctx: (op, node, [], ctx)


def _handled(op: Op) -> Callable[..., Call]:
    return lambda handle: (op, handle & ~WRITER_BIT, [wire.RELEASE_IN.pack(handle)], _NOBODY)


def _synced(op: Op) -> Callable[..., Call]:
    return lambda handle, datasync: (
        op,
        handle & ~WRITER_BIT,
        [wire.FSYNC_IN.pack(handle, bool(datasync))],
        _NOBODY,
    )


def _getattr(node: int, ctx: Any) -> Call:
    return Op.GETATTR, node, [wire.GETATTR_IN.pack(0, 0)], ctx


def _setattr(node: int, attr: Any, fields: Any, handle: int | None, ctx: Any) -> Call:
    flags = {
        Set.MODE: fields.update_mode,
        Set.UID: fields.update_uid,
        Set.GID: fields.update_gid,
        Set.SIZE: fields.update_size,
        Set.ATIME: fields.update_atime,
        Set.MTIME: fields.update_mtime,
        Set.CTIME: fields.update_ctime,
        Set.FH: handle is not None,
    }
    valid = sum(flag for flag, is_set in flags.items() if is_set)
    atime, mtime, ctime = (
        divmod(time_ns, 1_000_000_000)
        for time_ns in (attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns)
    )
    body = wire.SETATTR_IN.pack(
        valid, handle or 0, attr.st_size, 0,
        atime[0], mtime[0], ctime[0], atime[1], mtime[1], ctime[1],
        attr.st_mode, attr.st_uid, attr.st_gid,
    )  # fmt: skip
    return Op.SETATTR, node, [body], ctx


def _symlink(parent: int, name: bytes, target: bytes, ctx: Any) -> Call:
    return Op.SYMLINK, parent, [name, b"\0", target, b"\0"], ctx


def _mknod(parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Call:
    return Op.MKNOD, parent, [wire.MKNOD_IN.pack(mode, rdev, ctx.umask), name, b"\0"], ctx


def _mkdir(parent: int, name: bytes, mode: int, ctx: Any) -> Call:
    return Op.MKDIR, parent, [wire.MKDIR_IN.pack(mode, ctx.umask), name, b"\0"], ctx


def _create(parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Call:
    return Op.CREATE, parent, [wire.CREATE_IN.pack(flags, mode, ctx.umask, 0), name, b"\0"], ctx


def _link(node: int, parent: int, name: bytes, ctx: Any) -> Call:
    return Op.LINK, parent, [wire.LINK_IN.pack(node), name, b"\0"], ctx


def _rename(parent: int, name: bytes, new: int, new_name: bytes, flags: int, ctx: Any) -> Call:
    return Op.RENAME2, parent, [wire.RENAME2_IN.pack(new, flags), name, b"\0", new_name, b"\0"], ctx


def _open(node: int, flags: int, ctx: Any) -> Call:
    return Op.OPEN, node, [wire.OPEN_IN.pack(flags, 0)], ctx


def _opendir(node: int, ctx: Any) -> Call:
    return Op.OPENDIR, node, [wire.OPEN_IN.pack(0, 0)], ctx


def _read(handle: int, offset: int, size: int) -> Call:
    return (
        Op.READ,
        handle & ~WRITER_BIT,
        [wire.READ_IN.pack(handle, offset, size, 0, 0, 0)],
        _NOBODY,
    )


def _write(handle: int, offset: int, data: bytes) -> Call:
    return (
        Op.WRITE,
        handle & ~WRITER_BIT,
        [wire.WRITE_IN.pack(handle, offset, len(data), 0, 0, 0), data],
        _NOBODY,
    )


def _readdir(handle: int, cookie: int, _: Any) -> Call:
    return (
        Op.READDIRPLUS,
        handle & ~WRITER_BIT,
        [wire.READ_IN.pack(handle, cookie, ROOM, 0, 0, 0)],
        _NOBODY,
    )


def _statfs(ctx: Any) -> Call:
    return Op.STATFS, 0, [], ctx


def _setxattr(node: int, name: bytes, value: bytes, ctx: Any) -> Call:
    return Op.SETXATTR, node, [wire.SETXATTR_IN.pack(len(value), 0), name, b"\0", value], ctx


def _getxattr(node: int, name: bytes, ctx: Any) -> Call:
    return Op.GETXATTR, node, [wire.GETXATTR_IN.pack(ROOM), name, b"\0"], ctx


def _listxattr(node: int, ctx: Any) -> Call:
    return Op.LISTXATTR, node, [wire.GETXATTR_IN.pack(ROOM)], ctx


def _forget(nodes: Sequence[tuple[int, int]]) -> Call:
    body = wire.BATCH_FORGET_IN.pack(len(nodes), 0) + b"".join(
        wire.FORGET_ONE.pack(*one) for one in nodes
    )
    return Op.BATCH_FORGET, 0, [body], _NOBODY


def _statfs_out(found: Any) -> bytes:
    return wire.STATFS_OUT.pack(
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_bsize,
        found.f_namemax,
        found.f_frsize,
    )


def _nothing(_: Any) -> bytes:
    return b""


#: By the handler's name: the request that its arguments are of, and the reply that its result
#: stands for.
_CALLS: Final[dict[str, tuple[Callable[..., Call], Callable[[Any], bytes]]]] = {
    "lookup": (_named(Op.LOOKUP), wire.entry_out),
    "getattr": (_getattr, wire.attr_out),
    "setattr": (_setattr, wire.attr_out),
    "readlink": (_plain(Op.READLINK), bytes),
    "symlink": (_symlink, wire.entry_out),
    "mknod": (_mknod, wire.entry_out),
    "mkdir": (_mkdir, wire.entry_out),
    "unlink": (_named(Op.UNLINK), _nothing),
    "rmdir": (_named(Op.RMDIR), _nothing),
    "rename": (_rename, _nothing),
    "link": (_link, wire.entry_out),
    "open": (_open, wire.open_out),
    "create": (_create, lambda made: wire.entry_out(made[1]) + wire.open_out(made[0])),
    "read": (_read, bytes),
    "write": (_write, wire.WRITE_OUT.pack),
    "statfs": (_statfs, _statfs_out),
    "release": (_handled(Op.RELEASE), _nothing),
    "fsync": (_synced(Op.FSYNC), _nothing),
    "flush": (_handled(Op.FLUSH), _nothing),
    "setxattr": (_setxattr, _nothing),
    "getxattr": (_getxattr, bytes),
    "listxattr": (_listxattr, lambda names: b"".join(name + b"\0" for name in names)),
    "removexattr": (_named(Op.REMOVEXATTR), _nothing),
    "opendir": (_opendir, lambda handle: wire.OPEN_OUT.pack(handle, 0)),
    "readdir": (_readdir, _nothing),
    "releasedir": (_handled(Op.RELEASEDIR), _nothing),
    "fsyncdir": (_synced(Op.FSYNCDIR), _nothing),
    "forget": (_forget, _nothing),
}


class StockObserved:
    """Shows its ``observers``, while there are any, what pyfuse3 calls of ``operations``."""

    def __init__(self, operations: Any) -> None:
        self._operations = operations
        self._number = 0
        self.observers = Observers(self._changed)

    def _changed(self) -> None:
        # pyfuse3 looks a handler up for each request; what an instance has comes before what its
        # class has.
        own = vars(self._operations)
        for name in _CALLS:
            if self.observers.all and name not in own:
                own[name] = self._observed(name, getattr(self._operations, name))
            elif not self.observers.all:
                own.pop(name, None)

    def _observed(
        self, name: str, handler: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        to_call, to_reply = _CALLS[name]
        waiting = self._operations.edge.metrics.waiting

        async def observed(*arguments: Any) -> Any:
            began = time.perf_counter()
            self._number += 1
            number = self._number
            work = handler(*arguments)
            opcode, node, _, _ = to_call(*arguments)
            request = InProgress(number, opcode, node, began, self._operations.numbers, work)
            waiting.add(request)
            try:
                result = await work
            except pyfuse3.FUSEError as exc:
                self._tell(began, number, to_call, arguments, b"", exc.errno)
                raise
            finally:
                waiting.discard(request)
            self._tell(began, number, to_call, arguments, to_reply(result), 0)
            return result

        return observed

    def _tell(
        self,
        began: float,
        number: int,
        to_call: Callable[..., Call],
        arguments: tuple[Any, ...],
        reply: bytes,
        error: int,
    ) -> None:
        opcode, node, body, ctx = to_call(*arguments)
        length = wire.IN_HEADER.size + sum(map(len, body))
        uid, gid, pid = (0, 0, 0) if ctx is None else (ctx.uid, ctx.gid, ctx.pid)
        message = b"".join(
            (wire.IN_HEADER.pack(length, opcode, number, node, uid, gid, pid, 0, 0), *body)
        )
        answer: list[Piece] = []
        if opcode != Op.BATCH_FORGET:
            answer = [
                wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(reply), -error, number),
                reply,
            ]
        self.observers.tell(opcode, began, message, answer)
