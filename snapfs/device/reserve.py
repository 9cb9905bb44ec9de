"""Space on the host that is kept for commits: below a sparse image the host may fill up, and a
commit must not be what it fails first.

It is allocated behind the end of the image, where it changes neither its size nor its bytes, and
given back to the host piece by piece, as a commit finds no space: what is given back at once and
not needed is lost, because the data of files is written at the same time, and takes it. So what
users delete on a full host is deleted durably, and its space can be written again. Of a volume in
memory it is a part of what is always left to the host (``device.ram``).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from snapfs.device.base import Device
from snapfs.device.image import ImageDevice
from snapfs.device.ram import RamDevice

#: Bytes that are kept: many times what the commit of a deletion writes.
RESERVE_BYTES: Final = 1 << 20

#: Bytes that are given back at a time; less than this is of no use.
PIECE_BYTES: Final = 64 << 10

#: fallocate(2)
_KEEP_SIZE: Final = 1


class HostReserve:
    """The reserve of one device. Does nothing for what is neither a sparse file nor memory, and
    where the host does not know how.
    """

    def __init__(self, device: Device) -> None:
        self._device: ImageDevice | None = None
        self._kept = 0
        if isinstance(device, ImageDevice) and not device.read_only:
            status = os.fstat(device._descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size:
                self._device = device

    def keep(self) -> None:
        """Allocate what is missing of it, or what there is room for. Whether that worked is
        nobody's concern before it is needed.
        """
        if self._kept == RESERVE_BYTES or self._device is None:
            return
        if isinstance(self._device, RamDevice):
            self._kept = RESERVE_BYTES
            return
        self._allocate(self._device, RESERVE_BYTES)

    def _allocate(self, device: ImageDevice, most: int) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        end = os.fstat(device._descriptor).st_size
        for size in range(most, self._kept, -PIECE_BYTES):
            if (
                libc.fallocate(
                    device._descriptor, _KEEP_SIZE, ctypes.c_long(end), ctypes.c_long(size)
                )
                == 0
            ):
                self._kept = size
                return

    def spend(self) -> bool:
        """Give a piece of it back to the host; False when there is none left."""
        if not self._kept or self._device is None:
            return False
        left = self._kept - PIECE_BYTES
        self.release()
        if left and not isinstance(self._device, RamDevice):
            self._allocate(self._device, left)
        return True

    def release(self) -> None:
        """Give all of it back."""
        if not self._kept or self._device is None:
            return
        self._kept = 0
        if isinstance(self._device, RamDevice):
            self._device.allow(RESERVE_BYTES)
            return
        with contextlib.suppress(OSError):
            # What lies behind the end goes, even where the size stays the same.
            os.ftruncate(self._device._descriptor, os.fstat(self._device._descriptor).st_size)
