"""The trace of one daemon: on or off, and what of each request is written.

Requests are observed where they are answered (``observing``), so that a trace that is off costs
nothing. One whose file cannot be written ends, with a line in the log: users of the mount must not
suffer from it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Final

import trio
from crc32c import crc32c

from snapfs.device.pinned import Pinned
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.observing import Observers
from snapfs.fuse.protocol.wire import Op, Piece
from snapfs.fuse.tracing.file import make_ring
from snapfs.fuse.tracing.record import HAS_CHECKSUM, HAS_DATA, Header, check_size
from snapfs.fuse.tracing.ring import Ring

log = logging.getLogger("snapfs.fuse")

#: Where the data of a WRITE begin in the request.
_WRITE_DATA: Final = wire.IN_HEADER.size + wire.WRITE_IN.size

#: Bytes of a reply that are recorded; only values of extended attributes can be longer.
_REPLY_KEPT: Final = 4096

_HEADER: Final = wire.IN_HEADER.size
_REPLY_HEADER: Final = wire.OUT_HEADER.size

# As plain numbers: an ``IntEnum`` is looked up and compared in several times as long.
_WRITE: Final = int(Op.WRITE)
_READ: Final = int(Op.READ)
_GETATTR: Final = int(Op.GETATTR)

#: Requests whose reply is not recorded.
_WITH_DATA: Final = frozenset({_READ, int(Op.READDIRPLUS)})


@dataclass(frozen=True)
class Status:
    """What ``snapfs trace status`` says. ``since_ns``: nanoseconds since 1970. ``failure``: why it
    has ended by itself.
    """

    path: str | None = None
    size: int = 0
    has_data: bool = False
    since_ns: int = 0
    requests: int = 0
    failure: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A trace that could begin."""

    ring: Ring
    status: Status


class _Sleep(trio.abc.Instrument):
    """Calls ``before`` whenever the loop is about to wait."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - however long
        """See ``trio.abc.Instrument``."""
        self._before()


class Tracer:
    """``facts`` tells what is known of the mount, for the header of a trace."""

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts
        self._observers: Observers | None = None
        self._ring: Ring | None = None
        self._status = Status()
        self._has_data = False
        self._sleep = _Sleep(self._flush)

    def watch(self, observers: Observers) -> None:
        """There is somebody now who answers requests."""
        self._observers = observers
        if self._ring is not None:
            self._listen(observers)

    def prepare(
        self, path: str, size: int, check: Callable[[Pinned], None], *, has_data: bool
    ) -> Prepared:
        """Make the file of a trace; see ``file.make_ring``. May block. Raises ``UsageError``."""
        check_size(size)
        now = time.time_ns()
        salt = int.from_bytes(os.urandom(4), "little")
        facts = {**self._facts(), "path": path, "has_data": has_data}
        ring = make_ring(path, Header(size, salt, now, perf_counter(), facts), check)
        return Prepared(ring, Status(path, size, has_data, now))

    def begin(self, prepared: Prepared) -> None:
        """Record into it from now on. Ends a trace that is on."""
        self.end()
        self._ring = prepared.ring
        self._status = prepared.status
        self._has_data = prepared.status.has_data
        if self._observers is not None:
            self._listen(self._observers)
        log.info("trace: requests are recorded in %s", prepared.status.path)

    def end(self, failure: str | None = None) -> None:
        """Record no more. Does nothing when nothing is recorded."""
        if self._ring is None:
            return
        self._status = Status(failure=failure)
        ring, self._ring = self._ring, None
        if self._observers is not None:
            self._observers.remove(self.answered)
            with contextlib.suppress(RuntimeError, KeyError):  # the loop has ended, or dropped it
                trio.lowlevel.remove_instrument(self._sleep)
        if failure is None:
            with contextlib.suppress(OSError):
                ring.flush()
        ring.close()

    def _listen(self, observers: Observers) -> None:
        observers.add(self.answered)
        trio.lowlevel.add_instrument(self._sleep)

    def status(self) -> dict[str, Any]:
        """How it is now: the fields of ``Status``."""
        if self._ring is None:
            return asdict(self._status)
        return asdict(replace(self._status, requests=self._ring.number))

    def answered(self, opcode: int, began: float, message: Piece, reply: Sequence[Piece]) -> None:
        """An ``observing.Observer``."""
        took = perf_counter() - began
        ring = self._ring
        if ring is None or len(message) < _HEADER:
            return  # it was read before there was a trace
        total, flags, checksum, data_length = len(message), 0, 0, 0
        if opcode == _WRITE:
            checksum, data_length = crc32c(message[_WRITE_DATA:]), total - _WRITE_DATA
            flags = HAS_CHECKSUM
            if self._has_data and total <= ring.room:
                flags |= HAS_DATA
            else:
                message = message[:_WRITE_DATA]
        if len(reply) == 1 and opcode not in _WITH_DATA and len(reply[0]) <= _REPLY_KEPT:
            answer = reply[0]
            length = len(answer) - _REPLY_HEADER
            error = 0 if length else -wire.OUT_HEADER.unpack_from(answer)[1]
            answer = answer[_REPLY_HEADER:]
        elif reply:
            error = -wire.OUT_HEADER.unpack_from(reply[0])[1]
            pieces = [reply[0][_REPLY_HEADER:], *reply[1:]]
            length = sum(map(len, pieces))
            answer = b"" if opcode in _WITH_DATA else b"".join(pieces)[:_REPLY_KEPT]
            if opcode == _READ and not error:
                flags, data_length = HAS_CHECKSUM, length
                for piece in pieces:
                    checksum = crc32c(piece, checksum)
        elif opcode == _GETATTR:
            return  # a pause keeps it back: it is answered later
        else:
            error, length, answer = 0, 0, b""
        try:
            ring.append(
                began, took, error, message, total, answer, length, flags, checksum, data_length
            )
        except OSError as exc:
            self._fail(exc)

    def _flush(self) -> None:
        """Have all that is recorded in the file."""
        if self._ring is not None:
            try:
                self._ring.flush()
            except OSError as exc:
                self._fail(exc)

    def _fail(self, exc: OSError) -> None:
        reason = exc.strerror or errno.errorcode.get(exc.errno or 0, "?")
        log.warning("trace: %s: %s: no more requests are recorded", self._status.path, reason)
        self.end(reason)
