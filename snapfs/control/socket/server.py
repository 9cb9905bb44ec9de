"""The daemon's side of the socket.

Only root and the daemon's own user are answered. A request that fails is answered with its error,
one that breaks inside is logged, and a connection that breaks ends alone: none of them ends the
daemon. Requests run concurrently; what must not interleave is the engine's business.

Nobody keeps others from being answered by what is bounded here: a connection that asks nothing, or
does not take what it is told, has no part in the number of requests that are worked on, and of
connections that ask nothing the oldest goes when there are too many.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar

import trio

from snapfs.control.socket import listening
from snapfs.control.socket.caller import Remote
from snapfs.control.socket.client import peer
from snapfs.control.socket.protocol import (
    REQUEST_LIMIT,
    ControlError,
    Request,
    Result,
    decode_request,
    encode_error,
    encode_event,
    encode_result,
)
from snapfs.errors import AccessDenied, SnapfsError
from snapfs.fuse.driving.threads import Pool, in_thread

log = logging.getLogger("snapfs.control")

P = ParamSpec("P")
T = TypeVar("T")

#: Requests that are worked on at once; more wait.
CONNECTIONS: Final = 16

#: Connections that are open at once, each with up to ``REQUEST_LIMIT`` bytes of a request. One more
#: takes the place of an idle one.
OPEN: Final = 64

#: Connections whose user is not known yet, or who are told that they may not ask: strangers can
#: have no more at once.
UNKNOWN: Final = 64

#: A connection that asks nothing for so long is closed.
IDLE_SECONDS: Final = 60.0

#: How long somebody is waited for who need not be answered.
STRANGER_SECONDS: Final = 1.0

#: How often it is looked whether the socket is still where commands look for it; a pause after what
#: keeps the kernel from accepting.
LOOK_SECONDS: Final = 5.0
TRY_SECONDS: Final = 0.5


#: A descriptor in a control message.
_INT: Final = struct.Struct("i")


class Answers(Protocol):
    """What knows the answers: ``handlers.Handlers``."""

    async def handle(self, request: Request, uid: int, caller: Remote) -> Result:
        """The result for the user ``uid``, or an exception."""


class Turn:
    """One of the requests that are worked on at once, of which there are only so many."""

    def __init__(self, limit: trio.CapacityLimiter) -> None:
        self._limit = limit
        self._has = False

    async def begin(self) -> None:
        """Wait for it."""
        await self._limit.acquire_on_behalf_of(self)
        self._has = True

    def end(self) -> None:
        """Let others have it. Does nothing when it has ended."""
        if self._has:
            self._has = False
            self._limit.release_on_behalf_of(self)


class Connected:
    """A caller on the other side of a connection. See ``Remote``. ``turn``: its share of the
    requests that are worked on.
    """

    def __init__(self, stream: trio.SocketStream, turn: Turn) -> None:
        self._stream = stream
        self._turn = turn

    async def tell(self, event: Result) -> None:
        """Send it. Raises ``trio.BrokenResourceError`` when the caller has hung up."""
        # a caller who does not read, as one that shows it page by page, is waited for at nobody's
        # cost
        self._turn.end()
        await self._stream.send_all(encode_event(event))
        await self._turn.begin()

    async def in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """In a worker thread, which is waited for whatever happens."""
        return await in_thread(Pool.COMMANDS, lambda: function(*args, **kwargs))

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await trio.sleep(seconds)

    async def descriptor(self) -> int:
        """See ``Remote``."""
        self._turn.end()  # as for ``tell``: the caller may take long
        _, found, _, _ = await self._stream.socket.recvmsg(
            1, socket.CMSG_SPACE(_INT.size), socket.MSG_CMSG_CLOEXEC
        )
        numbers: list[int] = [
            number
            for level, kind, data in found
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for (number,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])
        ]
        try:
            await self._turn.begin()
            if len(numbers) != 1:
                raise ControlError("the command ended, or has handed nothing over")
        except BaseException:
            for number in numbers:
                os.close(number)
            raise
        return numbers[0]


class ControlServer:
    """Listens from the moment it is made; ``run`` answers until it is cancelled; ``close`` removes
    the socket.

    ``path`` comes from ``registry.new_socket_path``, so a socket that is already there belongs to a
    dead daemon; ``anew`` gives one for when that is gone, and may raise ``ControlError``. ``key``:
    what an abstract name is found by (``registry.socket_key``).
    """

    def __init__(
        self,
        handlers: Answers,
        path: str | None,
        *,
        anew: Callable[[], str] | None = None,
        key: str | None = None,
    ) -> None:
        self.handlers = handlers
        self.path = path
        self._anew = anew
        self._limit = trio.CapacityLimiter(CONNECTIONS)
        self._open = 0
        self._unknown = 0
        #: Connections that ask nothing, the oldest first.
        self._idle: dict[trio.SocketStream, trio.CancelScope] = {}
        self._listener: trio.SocketListener | None = None
        self._identity: listening.Identity | None = None
        # Listeners' sockets are closed when the loop has ended, which trio's would need.
        self._sockets: list[socket.socket] = []
        self._abstract = None if key is None else self._listener_of(listening.by_name(key))
        try:
            if path is not None:
                self._listen(path, listening.at_path(path))
        except ControlError:
            self._close_sockets()
            raise

    def _listen(self, path: str, made: socket.socket) -> trio.SocketListener:
        listener = self._listener_of(made)
        self.path, self._listener, self._identity = path, listener, listening.identity(path)
        return listener

    async def run(self) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in filter(None, (self._listener, self._abstract)):
                nursery.start_soon(self._accept, listener, nursery)
            said = None
            while self._anew is not None:
                await trio.sleep(LOOK_SECONDS)
                if self.path is not None and listening.identity(self.path) == self._identity:
                    continue
                try:
                    before, path = self._listener, self._anew()
                    # In a thread: another daemon may keep the directory for a while.
                    made = await in_thread(Pool.COMMANDS, listening.at_path, path)
                except ControlError as exc:
                    if str(exc) != said:
                        log.warning("%s", said := str(exc))
                    continue
                nursery.start_soon(self._accept, self._listen(path, made), nursery)
                if before is not None:
                    self._take_waiting(before, nursery)
                    before.socket.close()
                log.info(
                    "the control socket was gone: commands find the daemon at %s now", self.path
                )

    def close(self) -> None:
        """Stop listening and remove the socket. The loop has ended, or has not begun."""
        self._close_sockets()
        if self.path is not None:
            listening.remove(self.path, self._identity)

    def _listener_of(self, made: socket.socket) -> trio.SocketListener:
        self._sockets = [*(each for each in self._sockets if each.fileno() != -1), made]
        return trio.SocketListener(trio.socket.from_stdlib_socket(made))

    def _close_sockets(self) -> None:
        for made in self._sockets:
            made.close()

    def _take_waiting(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Serve those who have reached a socket that is about to be closed, and were not accepted
        yet: closing it would reset them. Nobody reaches it any more, its path is gone.
        """
        number = listener.socket.fileno()
        old = next(one for one in self._sockets if one.fileno() == number)
        with contextlib.suppress(OSError):  # there are no more, or no more can be had
            while True:
                found = trio.socket.from_stdlib_socket(old.accept()[0])
                self._unknown += 1
                nursery.start_soon(self._serve, trio.SocketStream(found))

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except (
                OSError
            ) as exc:  # too many open files, no memory: of the daemon's, or of the system's
                log.warning("no command can be answered: %s", exc.strerror or exc)
                await trio.sleep(TRY_SECONDS)
                continue
            if (
                listener is self._abstract and self._unknown >= UNKNOWN
            ):  # to the other strangers do not come
                await trio.aclose_forcefully(stream)
                continue
            self._unknown += 1
            nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its end. The peer may hang up whenever it likes,
        and what breaks breaks this one alone.
        """
        try:
            async with stream:
                uid = await self._welcome(stream)
                if uid is not None:
                    try:
                        await self._converse(stream, uid)
                    finally:
                        self._open -= 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            log.exception("a control connection failed")

    async def _welcome(self, stream: trio.SocketStream) -> int | None:
        """The peer's uid, if it is answered: then the connection counts as open."""
        try:
            _, uid = peer(stream)
            refusal: SnapfsError
            if uid not in (0, os.geteuid()):
                refusal = AccessDenied(
                    "only root and the user who mounted the volume may ask its daemon"
                )
            elif self._open >= OPEN and not self._idle:
                refusal = ControlError(
                    f"{OPEN} commands are talking to the daemon already: try again later"
                )
            else:
                if self._open >= OPEN:
                    self._idle.pop(next(iter(self._idle))).cancel()
                self._open += 1
                return uid
            with trio.move_on_after(STRANGER_SECONDS):
                await stream.send_all(encode_error(refusal))
        except OSError as exc:
            log.warning(
                "a command that cannot be told from a stranger's is not answered: %s",
                exc.strerror or exc,
            )
        finally:
            self._unknown -= 1
        return None

    async def _converse(self, stream: trio.SocketStream, uid: int) -> None:
        buffer = bytearray()
        while line := await self._line(stream, buffer):
            await stream.send_all(await self._answer(line, uid, stream))

    async def _answer(self, line: bytes, uid: int, stream: trio.SocketStream) -> bytes:
        turn = Turn(self._limit)
        try:
            await turn.begin()
            request = decode_request(line)
            return encode_result(await self.handlers.handle(request, uid, Connected(stream, turn)))
        except SnapfsError as exc:
            return encode_error(exc)
        except trio.BrokenResourceError:
            raise  # nobody is there to be answered
        except Exception as exc:
            log.exception("a control request failed")
            return encode_error(exc)
        finally:
            turn.end()

    async def _line(self, stream: trio.SocketStream, buffer: bytearray) -> bytes:
        """The next line; empty when the peer hangs up, falls silent, or sends one that is too long
        (which is told).
        """
        with trio.move_on_after(IDLE_SECONDS) as scope:
            self._idle[stream] = scope
            try:
                return await _line(stream, buffer)
            finally:
                self._idle.pop(stream, None)
        return b""


async def _line(stream: trio.SocketStream, buffer: bytearray) -> bytes:
    searched = 0
    while (end := buffer.find(b"\n", searched)) < 0:
        if len(buffer) > REQUEST_LIMIT:
            await stream.send_all(
                encode_error(ControlError(f"requests have at most {REQUEST_LIMIT} bytes"))
            )
            return b""
        searched = len(buffer)
        chunk = await stream.receive_some(REQUEST_LIMIT)
        if not chunk:
            return b""
        buffer += chunk
    line = bytes(buffer[: end + 1])
    del buffer[: end + 1]
    return line
