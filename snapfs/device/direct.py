"""Reading past the host's page cache: what the medium has, not what memory remembers of it.

For whoever reads everything once: neither the host's cache nor its users notice. Where the host
cannot do that, and for devices that have no file behind them, reads are those of the device.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress

from snapfs.device.base import Buffer, Device
from snapfs.device.image import ImageDevice
from snapfs.errors import DeviceError

#: What the host answers when it cannot read this file, or these places of it, without its cache.
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class DirectReader:
    """Reads up to ``limit`` bytes at a time, at multiples of 4096. One
    thread at a time may use it.
    """

    def __init__(self, device: Device, limit: int) -> None:
        self.limit = limit
        self._device = device
        self._buffer = mmap.mmap(-1, limit)  # O_DIRECT wants memory that begins on a page
        self._descriptor = -1
        if isinstance(device, ImageDevice):
            # The file that is open, whatever its path leads to by now. Closing this does not
            # release the lock of the other.
            with suppress(OSError):
                self._descriptor = os.open(
                    f"/proc/self/fd/{device._descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
                )

    def read(self, offset: int, length: int) -> Buffer:
        """``length`` bytes at ``offset``; they last until the next read. Raises ``DeviceError``."""
        if self._descriptor < 0:
            return self._device.read(offset, length)
        count = 0
        try:
            with memoryview(self._buffer) as view:
                while count < length:
                    more = os.preadv(self._descriptor, [view[count:length]], offset + count)
                    if not more:
                        raise DeviceError(
                            f"{self._device.path}: the image ends at {offset + count}, "
                            f"{length - count} bytes are missing"
                        )
                    count += more
        except OSError as exc:
            if exc.errno in _UNSUPPORTED:
                self._forget()
                return self._device.read(offset, length)
            raise DeviceError(
                f"{self._device.path}: read at {offset} failed: {exc.strerror}"
            ) from exc
        return memoryview(self._buffer)[:length]

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Further calls do nothing."""
        self._forget()
