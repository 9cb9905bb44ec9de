"""Where the tracebacks go of a daemon that is ended by a fault, such as a segmentation violation.

Python writes them itself in that moment, to a descriptor, with nothing that logging could do any
more. In front that is standard error. Behind it is a stream to the journal, which takes lines from
a descriptor; the datagrams of syslog would be a message for each word. Where there is no journal it
is a file beside the control socket, which whoever mounts the image next puts into the log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from typing import Final

from snapfs.control.socket import registry
from snapfs.control.socket.protocol import ControlError

log = logging.getLogger("snapfs")

#: Where the journal takes lines; see systemd-cat(1).
JOURNAL: Final = "/run/systemd/journal/stdout"

#: What comes before them: name, unit, priority (critical), and what else shall be done with them.
_HEADER: Final = b"snapfs\n\n2\n0\n0\n0\n0\n"

#: What the names of such files end with.
_SUFFIX: Final = ".fault"

#: Bytes of what an earlier daemon has left that are told: its threads are at most some hundreds.
_MOST: Final = 256 << 10


def to_journal(address: str = JOURNAL) -> bool:
    """Have tracebacks written to the journal from now on; False where there is none."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stream.connect(address)
        stream.sendall(_HEADER)
    except OSError:
        stream.close()
        return False
    faulthandler.enable(stream.detach())  # open until the process ends
    return True


@contextlib.contextmanager
def noticed(image: os.stat_result) -> Iterator[None]:
    """While this lasts a fault leaves its tracebacks somewhere; what one has left before is told.

    ``image``: the status of what is mounted.
    """
    name = registry.image_key(image) + _SUFFIX
    try:
        path = os.path.join(registry.own_directory(name), name)
    except ControlError:  # of that somebody else warns
        yield
        return
    tell_earlier(path)
    with contextlib.nullcontext() if faulthandler.is_enabled() else to_file(path):
        yield


@contextlib.contextmanager
def to_file(path: str) -> Iterator[None]:
    """Have tracebacks written to this file meanwhile; it is gone afterwards."""
    _clean(os.path.dirname(path))
    try:
        descriptor = _made(path)
    except OSError as exc:
        log.warning("a fault of this daemon would leave no traceback: %s: %s", path, exc.strerror)
        yield
        return
    faulthandler.enable(descriptor)
    try:
        yield
    finally:
        faulthandler.disable()
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _made(path: str) -> int:
    """The file, which is locked as long as its daemon lives."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # several may have one image mounted to read it
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        os.close(descriptor)  # somebody has just removed it


def _clean(directory: str) -> None:
    """Remove what daemons have left that were killed: files with nothing in them."""
    for name in os.listdir(directory):
        if not name.endswith(_SUFFIX):
            continue
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(descriptor).st_size:
                    os.unlink(path)
            finally:
                os.close(descriptor)


def tell_earlier(path: str) -> None:
    """Put into the log what a daemon has left there that was ended by a fault, and forget it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        lines = file.read(_MOST).splitlines()
    if lines:
        log.critical("the daemon that had this image mounted before was ended by a fault:")
        for line in lines:
            log.critical("  %s", line)
        with contextlib.suppress(OSError):
            os.unlink(path)
