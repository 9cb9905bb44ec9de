"""The loop that serves requests: pyfuse3's, with fewer steps for each.

pyfuse3 mounts, unmounts and names what handlers get and return. Its own loop makes every request
change the task, and copies what is written twice; so this one reads the same descriptor. Where it
cannot (``usable``), pyfuse3's serves, with all that handlers do.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol

import pyfuse3
import trio

from snapfs.fuse.driving.metrics import InProgress
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.observing import Observers
from snapfs.fuse.protocol.wire import Op, Piece, RequestCaller
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving.exchange import Answer, Exchange
from snapfs.fuse.serving.quick import Quick
from snapfs.latency import SHORT, UNITS

log = logging.getLogger("snapfs.fuse")


def usable() -> bool:
    """Whether the kernel is one whose layouts are known here."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= wire.MIN_KERNEL


def descriptors() -> set[int]:
    """Open descriptors that lead to the kernel's FUSE device: with one more after ``pyfuse3.init``,
    that is the mount's.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
        except OSError:  # the listing's own
            continue
    return found


#: Requests of so many bytes are copied before they may have to wait: with the buffer that they came
#: in, two hundred that wait would keep 225 MB for 80 bytes each. Longer ones are writes, of which
#: each keeps what it writes, and attributes.
_SMALL: Final = 16 << 10

#: Seconds after which a request is worth a line in the log, where everything is logged.
SLOW: Final = 1.0

#: Workers that are kept for the next request that has to wait.
_IDLE: Final = 4


class Transport(Protocol):
    """Where requests come from and answers go to: ``connection.Connection``, whose methods these
    are, or a trace (``replaying.playback``).
    """

    buffer: bytearray
    #: When the request in ``buffer`` was seen, by ``time.perf_counter``.
    arrived: float

    async def receive(self, now: float) -> int:
        """The next request is in ``buffer``: its length; 0 when there will be no more.

        ``now``: the time, at which the caller has just looked.
        """

    def keep_buffer(self) -> None:
        """The request in ``buffer`` is not done with."""

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks into it any more."""

    def send(self, pieces: list[Piece]) -> None:
        """A whole reply, its header first."""

    def interrupt(self) -> None:
        """End ``receive``."""


class Loop:
    """Serves one mount. One worker looks for the next request; one whose request has to wait leaves
    that to another.

    At most ``limit`` requests are worked on at once.
    """

    def __init__(self, connection: Transport, operations: Operations, limit: int) -> None:
        self._connection = connection
        #: Who is told of each request when it has been answered.
        self.observers = Observers()
        self._operations = operations
        self._work = Exchange(operations).work
        self._quick = Quick(operations).work
        self._metrics = operations.edge.metrics
        self._numbers = operations.numbers
        self._limit = limit
        self._nursery: trio.Nursery | None = None
        self._workers = 0
        self._has_reader = False
        self._is_over = False
        self._idle = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Serve until the mount has ended, or ``stop``, and what is being
        worked on then is done.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._operations.kernel.pause.answer = self._answer_late
            self._operations.kernel.shortage.answer = self._answer_late
            self._pass_on()

    def stop(self) -> None:
        """Take no more requests."""
        self._is_over = True
        self._connection.interrupt()

    def _pass_on(self) -> None:
        """Let somebody else look for the next request."""
        assert self._nursery is not None  # noqa: S101 - ``run`` has begun
        self._has_reader = bool(self._idle) or self._workers < self._limit
        if self._idle:
            self._idle.unpark()
        elif self._has_reader:
            self._workers += 1
            self._nursery.start_soon(self._serve)

    async def _serve(self) -> None:
        """A worker: begins as the reader."""
        while await self._read():
            if self._has_reader:
                if self._is_over or len(self._idle) >= _IDLE:
                    break
                # Anything may happen; whoever wakes this one up has made it the reader, or there is
                # nothing more to read.
                await self._idle.park()
            self._has_reader = True
        self._workers -= 1

    async def _read(self) -> bool:
        """Read and answer until one request has had to wait, when somebody else reads already;
        False when there will be no more.
        """
        connection, observers = self._connection, self.observers
        clock, took, short, units = time.perf_counter, self._metrics.quick, SHORT, UNITS
        now = clock()
        while True:
            length = 0 if self._is_over else await connection.receive(now)
            if not length:
                self._is_over = True
                self._idle.unpark_all()
                return False
            began = connection.arrived
            buffer = connection.buffer
            _, opcode, unique, node, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(buffer)
            body = memoryview(buffer)[wire.IN_HEADER.size : length]
            at_once = self._quick.get(opcode)
            try:
                reply = at_once(unique, node, body, uid, gid) if at_once is not None else None
            except Exception as exc:  # noqa: BLE001 - the kernel is told of it, whatever it is
                work: Coroutine[Any, Any, Answer | None] = self._operations.fail(
                    wire.name_of(opcode), node, exc
                )
            else:
                if reply is not None:
                    if reply:
                        connection.send(reply)
                        now = clock()
                        try:  # as ``Metrics.answered``, without a call
                            took[opcode][short[int((now - began) * units)]] += 1
                        except IndexError:
                            self._metrics.answered(opcode, now - began)
                    else:
                        now = clock()
                    if observers.all:
                        observers.tell(opcode, began, memoryview(buffer)[:length], reply)
                    continue
                handler = self._work.get(opcode)
                if handler is None:
                    # An interrupt comes for a request that is answered when it is done.
                    reply = [] if opcode == Op.INTERRUPT else wire.refusal(unique, errno.ENOSYS)
                    if reply:
                        connection.send(reply)
                    now = clock()
                    if observers.all:
                        observers.tell(opcode, began, memoryview(buffer)[:length], reply)
                    continue
                if length <= _SMALL:
                    body = memoryview(bytes(body))
                work = handler(node, body, RequestCaller(uid, gid, pid, unique=unique))
            is_small = length <= _SMALL
            message = memoryview(buffer)[:length] if observers.all else b""
            if is_small:
                message = bytes(message)
            request = InProgress(unique, opcode, node, began, self._numbers, work)
            has_waited = await _attended(
                self._answer(opcode, unique, work, began, message),
                functools.partial(self._waits, request, is_small),
            )
            now = clock()
            if has_waited:
                self._metrics.waiting.discard(request)
                if now - began > SLOW:
                    log.debug(
                        "%s of inode %d, request %d, took %.3f s",
                        wire.name_of(opcode),
                        node,
                        unique,
                        now - began,
                    )
                if not is_small:
                    connection.give_back(buffer)
                return True

    def _waits(self, request: InProgress, is_small: bool) -> None:
        """The request that was read last, and that is in the buffer unless it is small, has to
        wait: for the device, for a commit, for others.
        """
        self._metrics.waiting.add(request)
        if not is_small:
            self._connection.keep_buffer()
        self._pass_on()

    def _answer_late(self, began: float, unique: int, node: int) -> None:
        """Answer a GETATTR that was kept back since ``began``, in seconds: by a pause, or until
        the kernel knew a size.
        """
        if self._nursery is not None and not self._is_over:
            work = self._work[Op.GETATTR](node, memoryview(b""), RequestCaller(0, 0, 0))
            message = wire.IN_HEADER.pack(
                wire.IN_HEADER.size, Op.GETATTR, unique, node, 0, 0, 0, 0, 0
            )
            self._nursery.start_soon(self._answer, Op.GETATTR, unique, work, began, message)

    async def _answer(
        self,
        opcode: int,
        unique: int,
        work: Coroutine[Any, Any, Answer | None],
        began: float,
        message: bytes | memoryview,
    ) -> None:
        """Answer a request by what ``work`` returns. ``message``: empty when nobody observes it."""
        reply: list[Piece] = []
        try:
            answer = await work
            if answer is not None:
                reply = wire.reply(unique, *answer)
        except pyfuse3.FUSEError as exc:
            reply = wire.refusal(unique, exc.errno)
        except Exception:
            log.exception("%s: internal error", wire.name_of(opcode))
            reply = wire.refusal(unique, errno.EIO)
        if opcode in wire.UNANSWERED:
            reply = []  # the log has said what went wrong; the kernel waits for no answer
        if reply:
            self._connection.send(reply)
            self._metrics.answered(opcode, time.perf_counter() - began)
        if message:
            self.observers.tell(opcode, began, message, reply)


@types.coroutine
def _attended(
    coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]
) -> Generator[Any, Any, bool]:
    """Run a coroutine; whether it had to wait. ``waits`` is called when it
    has to, the first time.
    """
    try:
        message = coroutine.send(None)
    except StopIteration:
        return False
    waits()
    while True:
        try:
            value = yield message
        except BaseException as exc:  # noqa: BLE001 - it is the coroutine's business
            step = functools.partial(coroutine.throw, exc)
        else:
            step = functools.partial(coroutine.send, value)
        try:
            message = step()
        except StopIteration:
            return True
