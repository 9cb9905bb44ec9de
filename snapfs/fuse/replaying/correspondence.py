"""What was answered then, and what is answered now: which numbers correspond, and what differs."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field
from typing import Final

from crc32c import crc32c

from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import WRITER_BIT
from snapfs.fuse.protocol.wire import Op
from snapfs.fuse.requests import facts
from snapfs.fuse.tracing.describing import result_of
from snapfs.fuse.tracing.record import Record

#: Fields of results that are not compared: they depend on when commits happen, or what time it is.
_VOLATILE: Final = frozenset({"atime", "mtime", "ctime", "blocks", "generation"})

#: Requests whose answers depend on these altogether, or on the kernel.
_UNCOMPARED: Final = frozenset({Op.STATFS, Op.INIT, Op.DESTROY})

#: Requests that are answered by what the kernel has known before, and not by something new.
_KNOWN: Final = frozenset({
    Op.LOOKUP, Op.LINK, Op.GETATTR, Op.SETATTR, Op.OPEN, Op.OPENDIR,
})  # fmt: skip

#: Where the body of a request has the number of an inode, or a handle.
_AT_FIRST: Final = frozenset({
    Op.READ, Op.WRITE, Op.RELEASE, Op.FLUSH, Op.FSYNC, Op.READDIRPLUS, Op.RELEASEDIR, Op.FSYNCDIR,
    Op.RENAME, Op.RENAME2, Op.LINK,
})  # fmt: skip
_AT_EIGHT: Final = frozenset({Op.GETATTR, Op.SETATTR})

_NUMBER: Final = struct.Struct("<Q")


@dataclass(frozen=True)
class Mismatch:
    """An answer that was another one then. ``number``: of the record."""

    number: int
    operation: str
    what: str
    recorded: str
    replayed: str


@dataclass
class Correspondence:
    """Of one replay. ``has_data``: what was written then is written now, so reading can be
    compared.
    """

    has_data: bool
    mismatches: list[Mismatch] = field(default_factory=list)
    _nodes: dict[int, int] = field(default_factory=dict)

    def node(self, then: int) -> int:
        """The number now of an inode, or of a handle, that had this number then."""
        found = self._nodes.get(then)
        if found is None and then & WRITER_BIT:
            inode = then & ~WRITER_BIT
            found = self._nodes.get(inode, inode) | WRITER_BIT
        return then if found is None else found

    def body(self, opcode: int, body: bytes) -> bytes:
        """What follows a request's header, with the numbers of now."""
        places: list[int] = []
        if opcode in _AT_FIRST:
            places = [0]
        elif opcode in _AT_EIGHT:
            places = [_NUMBER.size]
        elif opcode == Op.BATCH_FORGET:
            start, size = wire.BATCH_FORGET_IN.size, wire.FORGET_ONE.size
            places = list(range(start, len(body) - size + 1, size))
        changed = bytearray(body)
        for place in places:
            if len(changed) >= place + _NUMBER.size:
                (node,) = _NUMBER.unpack_from(changed, place)
                _NUMBER.pack_into(changed, place, self.node(node))
        return bytes(changed)

    def compare(self, record: Record, error: int, reply: bytes) -> None:
        """Hold an answer against the recorded one. ``reply`` has no header."""
        opcode = record.opcode
        if error != record.error:
            self.differ(record, "result", _errno(record.error), _errno(error))
            return
        if error or opcode in _UNCOMPARED:
            return
        if opcode == Op.READ:
            self._differ_unless(record, "length", record.length, len(reply))
            if self.has_data:
                self._differ_unless(record, "checksum", record.checksum, crc32c(reply))
        elif opcode == Op.READDIRPLUS:
            if record.reply_length:  # which pyfuse3 does not tell
                self._differ_unless(record, "length", record.reply_length, len(reply))
        elif opcode == Op.GETXATTR:
            name = record.body[wire.GETXATTR_IN.size :].rstrip(b"\0")
            if not facts.is_answered(name):  # they are about times
                self._differ_unless(record, "value", record.reply, reply[: len(record.reply)])
        else:
            self._compare_fields(record, reply)

    def _compare_fields(self, record: Record, reply: bytes) -> None:
        then = result_of(record.opcode, record.request, record.reply)
        now = result_of(record.opcode, record.request, reply)
        for name in ("node", "handle"):
            if name in then and name in now:
                self._learn(record, name, then.pop(name), now.pop(name))
        for name in sorted((then.keys() | now.keys()) - _VOLATILE):
            self._differ_unless(record, name, then.get(name), now.get(name))

    def _learn(self, record: Record, name: str, then: int, now: int) -> None:
        if not then or not now:
            self._differ_unless(record, name, then, now)
        elif record.opcode in _KNOWN:
            self._differ_unless(record, name, self._nodes.setdefault(then, now), now)
        else:  # a number may be another file's by now
            self._nodes[then] = now

    def _differ_unless(self, record: Record, what: str, recorded: object, replayed: object) -> None:
        if recorded != replayed:
            self.differ(record, what, str(recorded), str(replayed))

    def differ(self, record: Record, what: str, recorded: str, replayed: str) -> None:
        """Something is otherwise than it was."""
        operation = wire.name_of(record.opcode)
        self.mismatches.append(Mismatch(record.number, operation, what, recorded, replayed))


def _errno(error: int) -> str:
    return errno.errorcode.get(error, str(error)) if error else "done"
