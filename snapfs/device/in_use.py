"""Who has an image in use, in words: the process, its command, and the way by which it came. Read
from /proc, as far as this user may.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from snapfs.device.storage import Storage, above, below, node


def busy_message(descriptor: int, path: str, span: tuple[int, int] | None = None) -> str:
    """Say by which process the image at ``path`` is in use, and by which way, as far as this user
    may know.

    ``descriptor`` is what cannot be had: the image, or what lies below it; ``span`` is the part
    that is locked by somebody else, as (start, length), 0: all that follows. Without it, it is the
    whole.
    """
    status = os.fstat(descriptor)
    pid = lock_holder(descriptor) if span is None else _range_holder(status, *span)
    return busy_line(path, pid, None if pid is None else _way(pid, Storage.of(status), path))


def busy_line(path: str, pid: int | None, way: str | None = None) -> str:
    """The line itself; ``way``: by which other name the process came."""
    if pid is None:
        return f"{path}: in use by another process"
    command = command_of(pid)
    through = f" through {way}" if way else ""
    return f"{path}: in use by process {pid}{through}" + (f" ({command})" if command else "")


def command_of(pid: int) -> str:
    """The command line of a process; empty when it cannot be known."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace")


def device_message(path: str, way: str) -> str:
    """Who has opened a block device that the kernel does not give: one of us, by whatever way, or
    whoever it is. ``way`` leads to it.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(way, os.O_RDONLY | os.O_CLOEXEC)
        try:
            number = os.fstat(descriptor).st_rdev
            if lock_holder(descriptor) is not None:
                return busy_message(descriptor, path)
            places = [(found.path, found.storage) for found in below(descriptor)]
        finally:
            os.close(descriptor)
        places += [(node(one), Storage(0, one)) for one in above(number)]
        for place, storage in places:
            pid = _holder_of(place, storage)
            if pid is not None:
                return busy_line(path, pid, place)
    return f"{path}: in use by the kernel or another program"


def _holder_of(path: str, storage: Storage) -> int | None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return lock_holder(descriptor) if Storage.of(os.fstat(descriptor)) == storage else None
        finally:
            os.close(descriptor)
    return None


def lock_holder(descriptor: int) -> int | None:
    """The process id that holds a ``flock`` on the same file, or None when it cannot be known."""
    name = _name(os.fstat(descriptor))
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


def _range_holder(status: os.stat_result, start: int, length: int) -> int | None:
    """The process that has locked some of a range of this file by an open file: ``/proc/locks``
    does not say which.
    """
    name = _name(status)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fdinfo"):
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
                    if any(
                        _overlaps(low, high, start, length) for low, high in _ranges(text, name)
                    ):
                        return int(pid)
    return None


def _ranges(text: str, name: str) -> Iterator[tuple[int, int | None]]:
    """The ranges of the file ``name`` that an open file has locked, from its lines in fdinfo
    (proc(5)): first and last byte, None: all.
    """
    for line in text.splitlines():
        words = line.split()
        if len(words) == 9 and words[2] == "OFDLCK" and words[6] == name:
            yield int(words[7]), None if words[8] == "EOF" else int(words[8])


def _overlaps(low: int, high: int | None, start: int, length: int) -> bool:
    return (not length or low < start + length) and (high is None or start <= high)


def _name(status: os.stat_result) -> str:
    # The kernel prints the device of the file's filesystem in hexadecimal and the inode in decimal.
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def _way(pid: int, storage: Storage, path: str) -> str | None:
    """By which other name than ``path`` a process has this storage open, a device that stands on it
    before itself; None: not known.
    """
    own = os.path.realpath(path)
    found = None
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            place = f"/proc/{pid}/fd/{number}"
            with contextlib.suppress(OSError):
                name, status = os.readlink(place), os.stat(place)
                if name == own:
                    continue
                if Storage.of(status) == storage:
                    found = found or name
                elif stat.S_ISBLK(status.st_mode) and _stands_on(place, storage):
                    return name
    return found


def _stands_on(place: str, storage: Storage) -> bool:
    descriptor = os.open(
        place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # it may be another file by now, which would be waited for
    try:
        return any(one.storage == storage for one in below(descriptor))
    finally:
        os.close(descriptor)
