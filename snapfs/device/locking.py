"""The lock on an image: one process at a time may have a volume open, unless several only read, and know of one another.

``flock`` is used because it belongs to the open file, so it lasts exactly as long as the daemon keeps the image open,
whatever way the daemon ends. ``/proc/locks`` tells who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import Enum
from pathlib import Path

from snapfs.errors import VolumeBusy


class Lock(Enum):
    """How an image is locked: not at all; for several processes that have an understanding about it; for one process alone."""

    NONE = 0
    SHARED = fcntl.LOCK_SH
    EXCLUSIVE = fcntl.LOCK_EX


def take_lock(descriptor: int, path: str, lock: Lock = Lock.EXCLUSIVE) -> None:
    """Take the lock without waiting; one that is held becomes another. Raises ``VolumeBusy`` that names the holder."""
    try:
        if lock is not Lock.NONE:
            fcntl.flock(descriptor, lock.value | fcntl.LOCK_NB)
    except BlockingIOError:
        raise VolumeBusy(busy_message(descriptor, path)) from None


def take_writer_lock(descriptor: int, path: str) -> None:
    """Be the only one that writes what several have locked together; until the descriptor is closed. Raises ``VolumeBusy``."""
    # A lock of the open file, as flock's, but of the other kind, which knows nothing of those (fcntl(2)): type, whence, start, length, pid.
    wanted = struct.pack("=hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            raise VolumeBusy(busy_message(descriptor, path)) from None
        raise


def busy_message(descriptor: int, path: str) -> str:
    """Say by which process the image is in use, as far as this user may know."""
    pid = lock_holder(descriptor)
    if pid is None:
        return f"{path}: in use by another process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        command = b" ".join(words).decode(errors="replace")
    except OSError:
        command = ""
    return f"{path}: in use by process {pid}" + (f" ({command})" if command else "")


def lock_holder(descriptor: int) -> int | None:
    """The process id that holds a ``flock`` on the same file, or None when it cannot be known."""
    status = os.fstat(descriptor)
    # The kernel prints the device of the file's filesystem in hexadecimal and the inode in decimal.
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == name:
            pid = int(words[4])
            return pid if pid > 0 else None
    return None
