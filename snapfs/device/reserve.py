"""Space on the host that is kept for commits: below a sparse image the host may fill up, and a commit must not be what it fails first.

It is allocated behind the end of the image, where it changes neither its size nor its bytes, and given back to the host for the moment in
which a commit finds no space. So what users delete on a full host is deleted durably, and its space can be written again. Of a volume in
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

#: Less than this is of no use.
LEAST_BYTES: Final = 64 << 10

#: fallocate(2)
_KEEP_SIZE: Final = 1


class HostReserve:
    """The reserve of one device. Does nothing for what is neither a sparse file nor memory, and where the host does not know how."""

    def __init__(self, device: Device) -> None:
        self._device: ImageDevice | None = None
        self._is_kept = False
        if isinstance(device, ImageDevice) and not device.read_only:
            status = os.fstat(device._descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size:
                self._device = device

    def keep(self) -> None:
        """Allocate it, or what there is room for, if it is not. Whether that worked is nobody's concern before it is needed."""
        if self._is_kept or self._device is None:
            return
        if isinstance(self._device, RamDevice):
            self._is_kept = True
            return
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = self._device._descriptor
        end = os.fstat(descriptor).st_size
        size = RESERVE_BYTES
        while size >= LEAST_BYTES and not self._is_kept:
            self._is_kept = libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_long(end), ctypes.c_long(size)) == 0
            size //= 2

    def spend(self) -> bool:
        """Give it back to the host; False when there was none."""
        if not self._is_kept or self._device is None:
            return False
        self._is_kept = False
        if isinstance(self._device, RamDevice):
            self._device.allow(RESERVE_BYTES)
            return True
        descriptor = self._device._descriptor
        with contextlib.suppress(OSError):
            # What lies behind the end goes, even where the size stays the same.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size)
        return True
