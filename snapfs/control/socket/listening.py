"""Sockets of a daemon: made so that nobody takes one for dead while it is made, and made anew when
somebody has removed it.

A daemon listens twice. At a path (``registry``), where commands look first; and by an abstract name
(unix(7)), which no end of a session, no cleaning of directories and no stranger who was there first
can take away. An abstract name can be had by anybody, so it says nothing about who listens: both
sides compare the other's uid, and a random end keeps others from having it first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

from snapfs.control.socket import registry
from snapfs.control.socket.protocol import ControlError

#: Connections that the kernel keeps waiting before it refuses more.
BACKLOG: Final = 128

#: How long another process may take to make its socket, in seconds; it needs a moment, unless it is
#: stopped in it.
ALONE_SECONDS: Final = 1.0

#: Seconds between two tries to get it. Others have it for some system calls.
_LOCK_PAUSE: Final = 0.005

Identity = tuple[int, int, int]


def at_path(path: str) -> socket.socket:
    """A socket that listens at a path, in place of whatever was there. Raises ``ControlError``.

    It has the path only when it listens: one that is bound and does not listen looks like that of a
    daemon that is gone.
    """
    directory, name = os.path.split(path)
    beginning = os.path.join(
        directory, f".{os.getpid()}"
    )  # not longer than any name, see ``registry.ADDRESS_LIMIT``
    listener = _made()
    try:
        with alone(directory) as is_alone:
            if is_alone:
                registry.remove_stale(directory)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beginning)
            listener.bind(beginning)
            os.chmod(beginning, 0o600)
            listener.listen(BACKLOG)
            os.rename(beginning, os.path.join(directory, name))
    except OSError as exc:
        listener.close()
        raise ControlError(f"{path}: no control socket: {exc.strerror or exc}") from exc
    return listener


def by_name(key: str) -> socket.socket:
    """A socket that listens by an abstract name, which ``registry`` finds by the key. Raises
    ``ControlError``.
    """
    listener = _made()
    try:
        listener.bind(f"{registry.abstract_prefix(os.geteuid())}{key}/{os.urandom(8).hex()}")
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise ControlError(f"no abstract control socket: {exc.strerror or exc}") from exc
    return listener


def _made() -> socket.socket:
    """Raises ``ControlError``, also for a daemon that has too many open files: it tries again
    later.
    """
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as exc:
        raise ControlError(f"no control socket: {exc.strerror or exc}") from exc


def identity(path: str) -> Identity | None:
    """Which file a path leads to; None when there is none. Numbers are used again, so the time of
    its last renaming tells, too.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def remove(path: str, mine: Identity | None) -> None:
    """Remove a socket if the path still leads to the one that ``identity`` saw: a daemon that came
    later may have its own there.
    """
    with contextlib.suppress(OSError), alone(os.path.dirname(path)):
        if mine is not None and identity(path) == mine:
            os.unlink(path)


@contextlib.contextmanager
def alone(directory: str) -> Iterator[bool]:
    """No other daemon makes or removes sockets in a directory meanwhile; False when one has kept it
    for too long. Raises ``OSError``.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    end = time.monotonic() + ALONE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(_LOCK_PAUSE)  # flock(2) waits without a limit, or not at all
        else:
            return True
