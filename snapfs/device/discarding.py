"""Telling the host that bytes are of no use any more: holes are punched into files, discards sent
to block devices.

What a discard of a device leaves aside, because it works in larger pieces, keeps its bytes; nobody
may rely on either.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

#: fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PUNCH_HOLE = 0x01 | 0x02

#: ioctl that discards a range of a block device, given as two 64-bit numbers (linux/fs.h).
BLKDISCARD = 0x1277


class Discarder:
    """Discards ranges of one open file or block device. Raises ``OSError``,
    EOPNOTSUPP among them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._is_block_device = stat.S_ISBLK(status.st_mode)
        self._granularity, self._alignment = (
            _discard_limits(status.st_rdev) if self._is_block_device else (1, 0)
        )

    def discard(self, offset: int, length: int) -> None:
        """Of a block device only the pieces that it can discard as a whole."""
        if not self._is_block_device:
            self._punch(offset, length)
            return
        if not self._granularity:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        low, high = inwards(offset, length, self._granularity, self._alignment)
        if low < high:
            fcntl.ioctl(self._descriptor, BLKDISCARD, struct.pack("=QQ", low, high - low))

    def _punch(self, offset: int, length: int) -> None:
        while self._libc.fallocate(
            self._descriptor, _PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(length)
        ):
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))


def inwards(offset: int, length: int, granularity: int, alignment: int) -> tuple[int, int]:
    """The beginning and end of the whole pieces in a range. Pieces begin at ``alignment``, and
    every ``granularity`` bytes from there.
    """
    low = -(-(offset - alignment) // granularity) * granularity + alignment
    high = (offset + length - alignment) // granularity * granularity + alignment
    return low, high


def _discard_limits(device: int) -> tuple[int, int]:
    """Granularity (0: it discards nothing) and alignment of a block device, from sysfs. A partition
    has the queue of its disk.
    """
    place = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    granularity = _number(f"{place}/queue/discard_granularity")
    if granularity is None:
        granularity = _number(f"{place}/../queue/discard_granularity") or 0
    return granularity, (_number(f"{place}/discard_alignment") or 0) % max(1, granularity)


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
