"""What lies below a block device: the file behind a loop device, the disk of a partition, the
slaves of a mapped device.

Two paths may lead to the same bytes. The kernel says by which way; nothing here locks or changes
anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: ioctl that tells what a loop device is over, and the answer's first fields (linux/loop.h): device
#: and inode of the file, number of the block device if it is one, offset and limit of size in
#: bytes.
LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_INFO: Final = struct.Struct("=QQQQQ")
_LOOP_INFO_BYTES: Final = 232

_LOOP_MAJOR: Final = 7
_SECTOR: Final = 512

#: Devices may stand on devices; nobody has more of them on top of one another.
_DEPTH: Final = 16


@dataclass(frozen=True)
class Storage:
    """A file, or a block device, by what the kernel knows it as: (device, inode) of a file, (0,
    number) of a block device.
    """

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Storage:
        """That of an open file."""
        return (
            cls(0, status.st_rdev)
            if stat.S_ISBLK(status.st_mode)
            else cls(status.st_dev, status.st_ino)
        )


@dataclass(frozen=True)
class Below:
    """A part of a storage: ``length`` bytes from ``start`` on, 0: all that follows. ``path``: where
    it can be opened, if it still can.

    ``exact``: the bytes of what stands on it are these very bytes. Else it uses some of them in a
    way of its own.
    """

    storage: Storage
    path: str
    start: int
    length: int
    exact: bool = True

    def open(self, *, read_only: bool) -> int:
        """A descriptor of it, whatever its path leads to. Raises ``OSError``, ENOENT when that is
        something else.
        """
        place = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        try:
            if Storage.of(os.fstat(place)) != self.storage:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
            return os.open(
                f"/proc/self/fd/{place}", (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
            )
        finally:
            os.close(place)


def below(descriptor: int) -> Iterator[Below]:
    """Everything that lies below an open block device, from the top down; nothing below a file."""
    status = os.fstat(descriptor)
    if not stat.S_ISBLK(status.st_mode):
        return
    waiting = [(status.st_rdev, descriptor, 0, 0, True)]
    seen = {status.st_rdev}
    while waiting and len(seen) <= _DEPTH:
        number, opened, start, length, exact = waiting.pop()
        for found in _directly_below(number, opened):
            part = _narrowed(found, start, length, exact=exact)
            yield part
            if part.storage.device == 0 and part.storage.inode not in seen:
                seen.add(part.storage.inode)
                waiting.append((part.storage.inode, -1, part.start, part.length, part.exact))


def _narrowed(found: Below, start: int, length: int, *, exact: bool) -> Below:
    """The part of ``found`` that ``length`` bytes from ``start`` of what stands on it take."""
    if not (exact and found.exact):
        return Below(found.storage, found.path, 0, 0, exact=False)
    if length and found.length:
        length = min(length, found.length - start)
    elif found.length:
        length = found.length - start
    return Below(found.storage, found.path, found.start + start, max(0, length))


def _directly_below(number: int, descriptor: int) -> list[Below]:
    """What a block device stands on. ``descriptor``: it, if it is open."""
    place = sysfs(number)
    with contextlib.suppress(OSError):
        if os.path.exists(f"{place}/partition"):
            start, length = (int(_text(f"{place}/{name}")) * _SECTOR for name in ("start", "size"))
            return [_block_device(_number(f"{place}/../dev"), start, length)]
        if os.major(number) == _LOOP_MAJOR:
            return _behind_loop(number, descriptor)
        names = os.listdir(f"{place}/slaves")
        return [
            _block_device(_number(f"{place}/slaves/{name}/dev"), 0, 0, exact=False)
            for name in names
        ]
    return []


def _behind_loop(number: int, descriptor: int) -> list[Below]:
    own = -1
    if descriptor < 0:
        own = descriptor = os.open(node(number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES))
    finally:
        if own >= 0:
            os.close(own)
    device, inode, block_device, offset, limit = _LOOP_INFO.unpack_from(answer)
    if block_device:
        return [_block_device(block_device, offset, limit)]
    path = os.fsdecode(_bytes(f"{sysfs(number)}/loop/backing_file"))
    return [Below(Storage(device, inode), path, offset, limit)]


def above(number: int) -> list[int]:
    """The numbers of the partitions of a block device, and of the devices that stand on it or on
    these.
    """
    out: list[int] = []
    for place in (sysfs(number), *_partitions(sysfs(number))):
        with contextlib.suppress(OSError):
            out += [
                _number(f"{place}/holders/{name}/dev") for name in os.listdir(f"{place}/holders")
            ]
        with contextlib.suppress(OSError):
            out.append(_number(f"{place}/dev"))
    return [found for found in dict.fromkeys(out) if found != number]


def _partitions(place: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [
            f"{place}/{name}"
            for name in os.listdir(place)
            if os.path.exists(f"{place}/{name}/partition")
        ]
    return []


def _block_device(number: int, start: int, length: int, *, exact: bool = True) -> Below:
    return Below(Storage(0, number), node(number), start, length, exact)


def sysfs(number: int) -> str:
    """The directory in which the kernel tells about a block device."""
    return f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"


def node(number: int) -> str:
    """The path of a block device, as the kernel names it. Raises ``OSError``."""
    for line in _text(f"{sysfs(number)}/uevent").splitlines():
        if line.startswith("DEVNAME="):
            return f"/dev/{line.removeprefix('DEVNAME=')}"
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), sysfs(number))


def _number(path: str) -> int:
    major, minor = _text(path).split(":")
    return os.makedev(int(major), int(minor))


def _text(path: str) -> str:
    return os.fsdecode(_bytes(path))


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read().removesuffix(b"\n")
