"""One page of a device, read and written past the host's page cache: what others who share the
medium have, and see.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from typing import Final

from snapfs.device.base import Device
from snapfs.device.image import ImageDevice
from snapfs.errors import DeviceError, DeviceFull

PAGE_BYTES: Final = 4096

#: What the host answers when it cannot read or write this file, or this place of it, without its
#: cache.
_UNSUPPORTED: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class Page:
    """The page at ``offset`` of a device. One thread at a time may use it.

    What is written is with the device when ``write`` returns, and not durable; what has no file
    behind it is read and written as ever.
    """

    def __init__(self, device: Device, offset: int) -> None:
        self._device = device
        self._offset = offset
        self._buffer = mmap.mmap(-1, PAGE_BYTES)  # O_DIRECT wants memory that begins on a page
        self._descriptor = -1
        self._is_direct = False
        if isinstance(device, ImageDevice):
            self._open(device._descriptor, os.O_DIRECT)

    def _open(self, descriptor: int, more: int) -> None:
        """Open the file once more, whatever its path leads to by now. Closing this does not release
        the lock of the other.
        """
        for flag in (more, 0):
            with contextlib.suppress(OSError):
                self._descriptor = os.open(
                    f"/proc/self/fd/{descriptor}", os.O_RDWR | flag | os.O_CLOEXEC
                )
                self._is_direct = bool(flag)
                return

    def read(self) -> bytes:
        """What is there; behind the end of the device there are zeros. Raises ``DeviceError``."""
        if self._descriptor < 0:
            return self._device.read(self._offset, PAGE_BYTES)
        try:
            count = self._tried(lambda: os.preadv(self._descriptor, [self._buffer], self._offset))
        except OSError as exc:
            raise DeviceError(
                f"{self._device.path}: read at {self._offset} failed: {exc.strerror}"
            ) from exc
        return self._buffer[:count].ljust(PAGE_BYTES, b"\0")

    def write(self, data: bytes) -> None:
        """Put ``data`` there, a page. Raises ``DeviceError``, ``DeviceFull``."""
        if self._descriptor < 0:
            self._device.write(self._offset, data)
            self._device.flush()
            return
        self._buffer[:] = data
        try:
            count = self._tried(lambda: os.pwritev(self._descriptor, [self._buffer], self._offset))
            if not self._is_direct:
                os.fdatasync(self._descriptor)
        except OSError as exc:
            kind = DeviceFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DeviceError
            raise kind(
                f"{self._device.path}: write at {self._offset} failed: {exc.strerror}"
            ) from exc
        if count != PAGE_BYTES:
            raise DeviceError(
                f"{self._device.path}: write at {self._offset} ended after {count} of "
                f"{PAGE_BYTES} bytes"
            )

    def _tried(self, transfer: Callable[[], int]) -> int:
        """Do it, through the host's cache where there is no other way."""
        try:
            return transfer()
        except OSError as exc:
            if not self._is_direct or exc.errno not in _UNSUPPORTED:
                raise
        direct, self._descriptor = self._descriptor, -1
        self._open(direct, 0)
        os.close(direct)
        return transfer()

    def close(self) -> None:
        """Further calls do nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
