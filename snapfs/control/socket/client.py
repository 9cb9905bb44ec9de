"""Asks a daemon: blocking, standard library only, so that a short command starts quickly."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from snapfs.control.socket import registry
from snapfs.control.socket.mounts import Mount
from snapfs.control.socket.protocol import (
    ANSWER_LIMIT,
    ControlError,
    Event,
    Result,
    decode_reply,
    encode_request,
)
from snapfs.errors import AccessDenied
from snapfs.printable import quoted

#: struct ucred of SO_PEERCRED (unix(7)): pid, uid, gid.
UCRED: Final = struct.Struct("3i")

#: How long a daemon may take to accept a connection, in seconds, and what is between two attempts.
CONNECT_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 0.02

#: After so many seconds without a word whoever waits is told so: sooner when the daemon is known to
#: be stopped.
STOPPED_SECONDS: Final = 3.0
SILENT_SECONDS: Final = 10.0

#: How often it is looked whether that is so, in seconds.
LOOK_SECONDS: Final = 0.25

#: Bytes that are received at once.
PIECE: Final = 1 << 20


class Options(Protocol):
    """A connection, of whatever kind of socket."""

    def getsockopt(self, level: int, option: int, buffer_size: int, /) -> bytes:
        """The value of an option, as bytes: see socket(7)."""


def peer(connection: Options) -> tuple[int, int]:
    """Process id and uid of the other side, from the kernel. Raises ``OSError``."""
    pid, uid, _ = UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    )
    return pid, uid


@dataclass(frozen=True)
class Patience:
    """How long a daemon is waited for: ``timeout`` seconds without a word (None: for ever). ``say``
    is told what is waited for.

    ``hurried``: one that is stopped is not waited for at all.
    """

    timeout: float | None = None
    say: Callable[[str], None] = lambda _line: None
    hurried: bool = False


class Client:
    """A connection to one daemon. ``pid`` is the daemon's process."""

    def __init__(
        self, connection: socket.socket, pid: int, patience: Patience | None = None
    ) -> None:
        self.pid = pid
        self._connection = connection
        self._patience = patience or Patience()
        self._buffer = bytearray()
        self._has_said = False

    def call(
        self, command: str, /, told: Callable[[Result], None] | None = None, **arguments: Any
    ) -> Result:
        """Send one request, wait for its answer; ``told`` is called with each event before it.

        Raises what the handler raised, ``ControlError`` when the daemon is gone or has said nothing
        for as long as one is patient.
        """
        line = self._exchange(encode_request(command, arguments), command)
        while isinstance(reply := decode_reply(line), Event):
            if told is not None:
                told(reply.content)  # what it raises is not the daemon's doing
            line = self._exchange(b"", command)
        return reply

    def _exchange(self, request: bytes, command: str) -> bytes:
        """Send, and receive a line. Raises ``ControlError``."""
        try:
            unsent = memoryview(request)
            while unsent:
                self._wait(select.POLLOUT, command)
                unsent = unsent[self._connection.send(unsent, socket.MSG_DONTWAIT) :]
            searched = 0
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                if searched > ANSWER_LIMIT:
                    raise ControlError(
                        f"the daemon (process {self.pid}) answers with more than "
                        f"{ANSWER_LIMIT} bytes"
                    )
                self._wait(select.POLLIN, command)
                if not (piece := self._connection.recv(PIECE)):
                    raise ControlError(f"the daemon (process {self.pid}) ended before it answered")
                self._buffer += piece
        except OSError as exc:
            raise ControlError(
                f"the daemon (process {self.pid}) does not answer: {exc.strerror}"
            ) from exc
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _wait(self, event: int, command: str) -> None:
        """Return when the connection is ready. Raises ``ControlError`` when that takes too long."""
        poll = select.poll()
        poll.register(self._connection, event)
        since = time.monotonic()
        limit = self._patience.timeout
        while not poll.poll(1000 * min(LOOK_SECONDS, _left(since, limit))):
            waited = time.monotonic() - since
            if self._patience.hurried and (state := self._state()):
                raise ControlError(f"the daemon (process {self.pid}{state}) does not answer")
            if limit is not None and waited >= limit:
                raise ControlError(
                    f"the daemon (process {self.pid}{self._state()}) has said nothing "
                    f"about '{command}' for {limit:g} seconds, "
                    "as --timeout allows; what it was asked for may be done all the same"
                )
            if not self._has_said and (
                waited >= SILENT_SECONDS or (waited >= STOPPED_SECONDS and self._state())
            ):
                self._has_said = True
                self._patience.say(
                    f"waiting for the daemon (process {self.pid}{self._state()}) to "
                    f"answer '{command}'; Ctrl-C ends the waiting"
                )

    def _state(self) -> str:
        """A process that is stopped answers nobody; ps(1) shows the state that the kernel says here
        (proc(5)).
        """
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b") ")[2][:1]
        except OSError:
            return ""
        return (
            f", which is stopped: 'kill -CONT {self.pid}' lets it go on"
            if state in {b"T", b"t"}
            else ""
        )

    def hand_over(self, descriptor: int, command: str) -> None:
        """Give the daemon an open file, which it has asked for. Raises ``ControlError``."""
        self._wait(select.POLLOUT, command)
        try:
            socket.send_fds(self._connection, [b"\0"], [descriptor])
        except OSError as exc:
            raise ControlError(
                f"the daemon (process {self.pid}) does not answer: {exc.strerror}"
            ) from exc

    def owner(self) -> tuple[int, int]:
        """Whose process the daemon is: uid and gid. Raises ``OSError``."""
        _, uid, gid = UCRED.unpack(
            self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
        )
        return uid, gid

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _left(since: float, limit: float | None) -> float:
    return LOOK_SECONDS if limit is None else max(0.0, since + limit - time.monotonic())


def of_mount(mount: Mount, patience: Patience | None = None) -> Client:
    """The daemon of a mount. Raises ``AccessDenied`` when it is another user's, ``ControlError``
    when none answers.
    """
    if os.geteuid() not in (0, mount.owner):
        raise AccessDenied(
            f"{mount.path}: mounted by uid {mount.owner}: only that user and root may ask"
        )
    client = None
    for found in (registry.sockets_of_mount, registry.names_of_mount):
        client = client or _first(((place, mount.owner) for place in found(mount)), patience)
    if client is None:
        raise ControlError(
            f"{mount.path}: its daemon does not answer: run 'snapfs umount --lazy "
            f"{quoted(mount.path)}' and mount it again"
        )
    return client


def of_image(path: str, patience: Patience | None = None) -> Client | None:
    """The daemon that has this image mounted, or None."""
    return _first(registry.sockets_of_image(path), patience) or _first(
        registry.names_of_image(path), patience
    )


def _first(places: Iterable[tuple[str, int]], patience: Patience | None = None) -> Client | None:
    """The first that is of the right user. One that is busy is asked again; the names of strangers,
    which may be many, delay nobody.
    """
    waiting = list(places)
    end = time.monotonic() + CONNECT_SECONDS
    while waiting:
        busy: list[tuple[str, int]] = []
        for place, uid in waiting:
            found = _connected(place, uid)
            if isinstance(found, tuple):
                return Client(*found, patience)
            if found:
                busy.append((place, uid))
        if not busy or time.monotonic() > end:
            break
        waiting = busy
        time.sleep(AGAIN_SECONDS)
    return None


def _connected(place: str, uid: int) -> tuple[socket.socket, int] | bool:
    """A connection to a daemon of this user, with its process; else whether it is worth asking
    again.
    """
    connection = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        connection.connect(place)
        pid, other = peer(connection)
        if other != uid:
            raise PermissionError
        connection.setblocking(True)
    except BlockingIOError:  # its queue is full
        connection.close()
        return True
    except OSError:
        connection.close()
        return False
    except BaseException:
        connection.close()
        raise
    return connection, pid
