"""Stands where the kernel's connection is: gives the loop the requests of a trace, one by one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

import trio

from snapfs.fuse.kernel.flushing import ALIAS
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import KERNEL_ROOT
from snapfs.fuse.protocol.wire import Op, Piece
from snapfs.fuse.replaying.correspondence import Correspondence
from snapfs.fuse.tracing.reading import Gap
from snapfs.fuse.tracing.record import Record

#: Seconds without an answer after which a replay ends.
LIMIT: Final = 60.0

#: What INIT is asked with: a kernel that offers all.
_INIT: Final = wire.INIT_IN.pack(wire.MAJOR, wire.MINOR, 1 << 17, 0xFFFF_FFFF)

#: Requests of the kernel about the mount, which has no part in a replay.
_OF_THE_MOUNT: Final = frozenset({Op.INIT, Op.DESTROY})

_UNANSWERED: Final = wire.UNANSWERED | {Op.INTERRUPT}

#: The number of INIT; those of records come after it.
_FIRST: Final = 1


class Playback:
    """See ``loop.Transport``. ``before`` is called with each record before it is served."""

    def __init__(
        self,
        records: Iterable[Record | Gap],
        answers: Correspondence,
        before: Callable[[Record], None],
    ) -> None:
        self.buffer = bytearray(wire.HEAD_ROOM + wire.MAX_WRITE)
        self.arrived = 0.0
        self.served = 0
        #: Requests that cannot be served: cut, torn, or about what has no part in a replay.
        self.skipped = 0
        self._records = iter(records)
        self._answers = answers
        self._before = before
        self._current: Record | None = None
        # Set when the request that was given last has its answer, or needs none.
        self._answered = trio.Event()
        self._answered.set()
        self._has_begun = self._is_over = False

    async def receive(self, now: float) -> int:
        """The next request; 0 when there is none."""
        self.arrived = now
        with trio.move_on_after(LIMIT) as limit:
            await self._answered.wait()
        if limit.cancelled_caught and self._current is not None:
            self._answers.differ(self._current, "answer", "one", f"none within {LIMIT:g} s")
            self._is_over = True
        if self._is_over:
            return 0
        if not self._has_begun:
            self._has_begun = True
            return self._put(Op.INIT, _FIRST, 0, (0, 0, 0), _INIT)
        for record in self._records:
            if isinstance(record, Gap):
                self.skipped += record.records
            elif self._can_be_served(record):
                return self._give(record)
            else:
                self.skipped += 1
        return 0

    def _can_be_served(self, record: Record) -> bool:
        if record.is_cut or record.opcode in _OF_THE_MOUNT or record.length > wire.MAX_WRITE:
            return False
        # Not a name that the daemon looked up by itself: see ``flushing``.
        is_own = record.opcode == Op.LOOKUP and record.node == KERNEL_ROOT
        return not (is_own and record.body.startswith(ALIAS))

    def _give(self, record: Record) -> int:
        self._before(record)
        self._current = record
        self.served += 1
        opcode = record.opcode
        if opcode not in _UNANSWERED:
            self._answered = trio.Event()
        body = self._answers.body(opcode, record.body)
        if opcode == Op.WRITE and not record.has_data:
            self._answers.has_data = False
            body += _filling(record.checksum or 0, record.length)
        caller = (record.uid, record.gid, record.pid)
        return self._put(opcode, _number(record), self._answers.node(record.node), caller, body)

    def _put(
        self, opcode: int, unique: int, node: int, caller: tuple[int, int, int], body: bytes
    ) -> int:
        length = wire.IN_HEADER.size + len(body)
        wire.IN_HEADER.pack_into(self.buffer, 0, length, opcode, unique, node, *caller, 0, 0)
        self.buffer[wire.IN_HEADER.size : length] = body
        return length

    def send(self, pieces: list[Piece]) -> None:
        """A whole answer."""
        answer = b"".join(pieces)
        _, error, unique = wire.OUT_HEADER.unpack_from(answer)
        if self._current is not None and unique == _number(self._current):
            self._answers.compare(self._current, -error, answer[wire.OUT_HEADER.size :])
        self._answered.set()

    def interrupt(self) -> None:
        """End ``receive``."""
        self._is_over = True
        self._answered.set()

    def keep_buffer(self) -> None:
        """The request in ``buffer`` is not done with."""
        self.buffer = bytearray(len(self.buffer))

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks into it any more."""


def _number(record: Record) -> int:
    return _FIRST + 1 + record.number


def _filling(checksum: int, length: int) -> bytes:
    """So many bytes, which are the same whenever the checksum is."""
    word = struct.pack("<I", checksum)
    return (word * (length // len(word) + 1))[:length]
