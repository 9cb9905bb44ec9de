"""The lock on an image: one process at a time may have a volume open, unless several only read, and
know of one another.

``flock`` is used because it belongs to the open file, so it lasts exactly as long as the daemon
keeps the image open, whatever way the daemon ends.

Whoever opens a block device also locks what lies below it (``storage``), so that two ways to the
same bytes meet in one lock whichever is taken first: there ``flock`` is shared, for several may
have parts of it, and a lock on the range of bytes keeps them apart. Whoever opens the file or the
disk itself has it exclusively, all of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable
from enum import Enum

from snapfs.device.in_use import busy_message
from snapfs.device.storage import Below, below
from snapfs.errors import VolumeBusy


class Lock(Enum):
    """How an image is locked: not at all; for several processes that have an understanding about
    it; for one process alone.
    """

    NONE = 0
    SHARED = fcntl.LOCK_SH
    EXCLUSIVE = fcntl.LOCK_EX


#: An open part of what lies below a block device.
Part = tuple[int, Below]


def take_lock(descriptor: int, path: str, lock: Lock = Lock.EXCLUSIVE) -> None:
    """Take the lock without waiting; one that is held becomes another. Raises ``VolumeBusy`` that
    names the holder.
    """
    try:
        if lock is not Lock.NONE:
            fcntl.flock(descriptor, lock.value | fcntl.LOCK_NB)
    except BlockingIOError:
        raise VolumeBusy(busy_message(descriptor, path)) from None


def take_locks_below(descriptor: int, path: str, lock: Lock, *, read_only: bool) -> list[Part]:
    """Lock what lies below a block device as well, as far as this user can open it; until its parts
    are closed. Raises ``VolumeBusy``.

    What is below is the same whoever looks, so of two processes that come by different ways one is
    refused. What cannot be opened here (a file that was deleted, or is in another container) is
    left to the protection that stands on the volume.
    """
    parts: list[Part] = []
    try:
        if lock is not Lock.NONE:
            for found in below(descriptor):
                opened = _opened(found, read_only=read_only)
                if opened >= 0:
                    parts.append((opened, found))
                    _share(opened, path)
            if lock is Lock.EXCLUSIVE:
                lock_ranges(parts, path, read_only=read_only)
    except BaseException:
        close_parts(parts)
        raise
    return parts


def _opened(found: Below, *, read_only: bool) -> int:
    for only_read in dict.fromkeys((read_only, True)):
        with contextlib.suppress(OSError):
            return found.open(read_only=only_read)
    return -1


def _share(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise VolumeBusy(busy_message(descriptor, path)) from None


def lock_ranges(parts: Iterable[Part], path: str, *, read_only: bool) -> None:
    """Have the bytes for this process alone, or with others that read. Raises ``VolumeBusy``."""
    for descriptor, found in parts:
        if found.exact and not _lock_range(
            descriptor, found.start, found.length, read_only=read_only
        ):
            raise VolumeBusy(busy_message(descriptor, path, (found.start, found.length)))


def take_writer_lock(descriptor: int, path: str) -> None:
    """Be the only one that writes what several have locked together; until the descriptor is
    closed. Raises ``VolumeBusy``.
    """
    if not _lock_range(descriptor, 0, 1, read_only=False):
        raise VolumeBusy(busy_message(descriptor, path, (0, 1)))


def _lock_range(descriptor: int, start: int, length: int, *, read_only: bool) -> bool:
    """Lock a range without waiting; False when somebody else has some of it.

    It is a lock of the open file, as flock's, but of the other kind, which knows nothing of those
    (fcntl(2)).
    """
    kind = fcntl.F_RDLCK if read_only or not is_writable(descriptor) else fcntl.F_WRLCK
    wanted = struct.pack(
        "=hhxxxxqqixxxx", kind, os.SEEK_SET, start, length, 0
    )  # type, whence, start, length, pid
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and exc.errno in (
            errno.ENOLCK,
            errno.EOPNOTSUPP,
            errno.ENOSYS,
        ):
            return True  # the host's filesystem has no such locks
        raise
    return True


def is_writable(descriptor: int) -> bool:
    """Was it opened to write? Only then can bytes be locked for one process alone."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def close_parts(parts: Iterable[Part]) -> None:
    """Give the locks below back."""
    for descriptor, _ in parts:
        os.close(descriptor)
