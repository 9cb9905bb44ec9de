"""The daemon's side of the socket.

Only root and the daemon's own user are answered. A request that fails is answered with its error, one that breaks inside is logged: neither
ends the daemon. Requests run concurrently; what must not interleave is the engine's business.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar

import trio

from snapfs.control import registry
from snapfs.control.caller import Caller
from snapfs.control.client import peer
from snapfs.control.protocol import (
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

log = logging.getLogger("snapfs.control")

P = ParamSpec("P")
T = TypeVar("T")

#: Connections that are served at once; more wait.
CONNECTIONS: Final = 16

#: Connections that the kernel keeps waiting before it refuses more.
BACKLOG: Final = 128

#: A connection that asks nothing for so long is closed.
IDLE_SECONDS: Final = 60.0


class Answers(Protocol):
    """What knows the answers: ``handlers.Handlers``."""

    async def handle(self, request: Request, uid: int, caller: Caller) -> Result:
        """The result for the user ``uid``, or an exception."""


class Connected:
    """A caller on the other side of a connection. See ``Caller``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def tell(self, event: Result) -> None:
        """Send it. Raises ``trio.BrokenResourceError`` when the caller has hung up."""
        await self._stream.send_all(encode_event(event))

    async def in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """In a worker thread, which is waited for whatever happens."""
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs))

    async def pause(self, seconds: float) -> None:
        """Sleep."""
        await trio.sleep(seconds)


class ControlServer:
    """Listens from the moment it is made; ``run`` answers until it is cancelled; ``close`` removes the socket.

    ``path`` comes from ``registry.new_socket_path``, so a socket that is already there belongs to a dead daemon.
    """

    def __init__(self, handlers: Answers, path: str) -> None:
        self.handlers = handlers
        self.path = path
        self._limit = trio.CapacityLimiter(CONNECTIONS)
        registry.remove_stale(os.path.dirname(path))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(BACKLOG)
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        except OSError as exc:
            listener.close()
            raise ControlError(f"{path}: no control socket: {exc.strerror}") from exc

    async def run(self) -> None:
        """Answer until cancelled."""
        await trio.serve_listeners(self._serve, [self._listener])

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._listener.socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    async def _serve(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        # The peer may hang up whenever it likes.
        async with self._limit, stream:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                _, uid = _peer(stream.socket)
                if uid not in (0, os.geteuid()):
                    await stream.send_all(encode_error(AccessDenied("only root and the user who mounted the volume may ask its daemon")))
                    return
                while line := await _line(stream, buffer):
                    await stream.send_all(await self._answer(line, uid, Connected(stream)))

    async def _answer(self, line: bytes, uid: int, caller: Caller) -> bytes:
        try:
            request = decode_request(line)
            return encode_result(await self.handlers.handle(request, uid, caller))
        except SnapfsError as exc:
            return encode_error(exc)
        except trio.BrokenResourceError:
            raise  # nobody is there to be answered
        except Exception as exc:
            log.exception("a control request failed")
            return encode_error(exc)


def _peer(connection: trio.socket.SocketType) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        return peer(same)


async def _line(stream: trio.SocketStream, buffer: bytearray) -> bytes:
    """The next line; empty when the peer hangs up, falls silent, or sends one that is too long (which is told)."""
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > REQUEST_LIMIT:
            await stream.send_all(encode_error(ControlError(f"requests have at most {REQUEST_LIMIT} bytes")))
            return b""
        chunk = b""
        with trio.move_on_after(IDLE_SECONDS):
            chunk = await stream.receive_some(REQUEST_LIMIT)
        if not chunk:
            return b""
        buffer += chunk
    line = bytes(buffer[: end + 1])
    del buffer[: end + 1]
    return line
