"""Asks a daemon: blocking, standard library only, so that a short command starts quickly."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

from snapfs.control import registry
from snapfs.control.mounts import Mount
from snapfs.control.protocol import ANSWER_LIMIT, ControlError, Event, Result, decode_reply, encode_request
from snapfs.errors import AccessDenied

#: struct ucred of SO_PEERCRED (unix(7)): pid, uid, gid.
UCRED: Final = struct.Struct("3i")

#: struct timeval of SO_SNDTIMEO (socket(7)): seconds, microseconds.
TIMEVAL: Final = struct.Struct("ll")

#: How long a daemon may take to accept a connection, and each piece of a request. Its answer may take as long as the work does.
CONNECT_SECONDS: Final = 10


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process id and uid of the other side, from the kernel."""
    pid, uid, _ = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return pid, uid


class Client:
    """A connection to one daemon. ``pid`` is the daemon's process."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._lines = connection.makefile("rb")

    def call(self, command: str, /, told: Callable[[Result], None] | None = None, **arguments: Any) -> Result:
        """Send one request, wait for its answer; ``told`` is called with each event before it.

        Raises what the handler raised, ``ControlError`` when the daemon is gone.
        """
        line = self._exchange(encode_request(command, arguments))
        while isinstance(reply := decode_reply(line), Event):
            if told is not None:
                told(reply.content)  # what it raises is not the daemon's doing
            line = self._exchange(b"")
        return reply

    def _exchange(self, request: bytes) -> bytes:
        """Send, and receive a line. Raises ``ControlError``."""
        try:
            self._connection.sendall(request)
            line = self._lines.readline(ANSWER_LIMIT + 1)
        except OSError as exc:
            raise ControlError(f"the daemon (process {self.pid}) does not answer: {exc.strerror}") from exc
        if not line.endswith(b"\n"):
            raise ControlError(f"the daemon (process {self.pid}) ended before it answered")
        return line

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def of_mount(mount: Mount) -> Client:
    """The daemon of a mount. Raises ``AccessDenied`` when it is another user's, ``ControlError`` when none answers."""
    if os.geteuid() not in (0, mount.owner):
        raise AccessDenied(f"{mount.path}: mounted by uid {mount.owner}: only that user and root may ask")
    client = _first((place, mount.owner) for place in registry.sockets_of_mount(mount))
    if client is None:
        raise ControlError(f"{mount.path}: its daemon does not answer: run 'snapfs umount --lazy {mount.path}' and mount it again")
    return client


def of_image(path: str) -> Client | None:
    """The daemon that has this image mounted, or None."""
    return _first(registry.sockets_of_image(path))


def _first(places: Iterable[tuple[str, int]]) -> Client | None:
    for place, uid in places:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Not settimeout: a non-blocking connect to a busy daemon fails at once, where this one waits (unix(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(CONNECT_SECONDS, 0))
            connection.connect(place)
            pid, other = peer(connection)
            if other != uid:
                raise PermissionError
        except OSError:
            connection.close()
            continue
        return Client(connection, pid)
    return None
