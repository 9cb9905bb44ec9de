"""What the kernel says about mounts: ``/proc/PID/mountinfo``, read without asking any filesystem.

A path in a mount whose daemon hangs or has died can be placed by this, where ``stat`` would hang or
fail. Only ``reached`` walks a path, and it asks nothing of what the path leads to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: The type that the kernel shows for our mounts.
FSTYPE: Final = "fuse.snapfs"

_ESCAPE = re.compile(rb"\\([0-7]{3})")

#: Bits of a device number's minor in the kernel's own coding, which ``fdinfo`` of ``/dev/fuse``
#: shows (linux/kdev_t.h).
_MINOR_BITS: Final = 20


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``device`` is the ``st_dev`` of everything in it; ``owner`` the uid
    that mounted it.

    ``id`` and ``parent`` are the kernel's numbers of this mount and of the one that it is mounted
    on; ``root`` is the directory of the filesystem that is mounted, ``/`` except for bind mounts.
    """

    id: int
    parent: int
    device: int
    root: str
    path: str
    fstype: str
    source: str
    options: frozenset[str]
    owner: int

    @property
    def is_ours(self) -> bool:
        """A snapfs mount, alive or dead."""
        return self.fstype == FSTYPE


def mounts(process: int | str = "self") -> list[Mount]:
    """All mounts that a process sees (this one, unless another is named), oldest first. Raises
    ``OSError``.
    """
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return [parse_line(line) for line in file]


def parse_line(line: bytes) -> Mount:
    """Read one line (proc(5)): ``ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE
    OPTIONS``.
    """
    before, _, after = line.rstrip(b"\n").partition(b" - ")
    words, (fstype, source, more) = before.split(b" "), after.split(b" ", 2)
    major, minor = words[2].split(b":")
    options = frozenset(_text(words[5]).split(",")) | frozenset(_text(more).split(","))
    owner = next((int(option[8:]) for option in options if option.startswith("user_id=")), 0)
    device = os.makedev(int(major), int(minor))
    return Mount(
        int(words[0]),
        int(words[1]),
        device,
        _text(words[3]),
        _text(words[4]),
        _text(fstype),
        _text(source),
        options,
        owner,
    )


def mounts_of(device: int) -> list[Mount]:
    """The mounts of the filesystem with this ``st_dev`` that this process sees, oldest first: one,
    more with bind mounts, or none.
    """
    return [mount for mount in mounts() if mount.device == device]


def reached(path: str) -> Mount | None:
    """The mount that ``path`` leads to now, in which what it names lies; None when there is no such
    path.

    Nothing is asked of the filesystem that the path ends in, be it hanging or dead. Waits for the
    filesystems on the way there.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        number = mount_number(place)
    finally:
        os.close(place)  # before anybody unmounts: it counts as a user of the mount
    return next((mount for mount in mounts() if mount.id == number), None)


def mount_number(descriptor: int, process: int | str = "self") -> int:
    """The kernel's number of the mount that a descriptor of a process leads
    to. Raises ``OSError``.
    """
    return _number_in_fdinfo(descriptor, b"mnt_id", process) or 0


def fuse_device(descriptor: int | None, before: Iterable[Mount], path: str) -> int | None:
    """The ``st_dev`` of the filesystem that is served through a descriptor of ``/dev/fuse``; None
    when it cannot be told.

    Kernels before 6.14 do not say which one that is. There it is the snapfs mount on ``path``
    (absolute, without links) that has come since ``before``, the mounts that there were before it
    was made.
    """
    number = (
        None if descriptor is None else _number_in_fdinfo(descriptor, b"fuse_connection", "self")
    )
    if number is not None:
        return os.makedev(number >> _MINOR_BITS, number & ((1 << _MINOR_BITS) - 1))
    known = {mount.id for mount in before}
    return next(
        (
            mount.device
            for mount in reversed(mounts())
            if mount.is_ours and mount.path == path and mount.id not in known
        ),
        None,
    )


def _number_in_fdinfo(descriptor: int, name: bytes, process: int | str) -> int | None:
    with open(f"/proc/{process}/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            key, _, value = line.partition(b":")
            if key == name:
                return int(value)
    return None


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
