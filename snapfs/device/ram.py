"""Devices in memory: files without a name (memfd_create(2)) that this process has open. They end
with it.

Only what was written takes memory, and what is discarded gives it back. Memory that runs out must
not end the process, and with it the volume: some is always left, and what would take it fails as on
a full disk.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from snapfs.device import headroom
from snapfs.device.base import Device
from snapfs.device.image import ImageDevice
from snapfs.device.locking import take_lock
from snapfs.errors import DeviceFull

#: Bytes that may be written before the host is asked again how much is left.
STEP_BYTES: Final = 16 << 20

#: Most that is left to the host; less where 1/16 of its memory is less.
LEFT_BYTES: Final = 256 << 20

#: A copy from an image reads so much at once, and leaves it out when it is zeros.
CHUNK_BYTES: Final = 128 << 10


class RamDevice(ImageDevice):
    """``size`` bytes of zeros. ``path`` is what users see."""

    def __init__(self, path: str, size: int, *, read_only: bool = False) -> None:
        descriptor = os.memfd_create(path, os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            take_lock(
                descriptor, path
            )  # whoever reaches it through /proc finds it in use, like an image
        except BaseException:
            os.close(descriptor)
            raise
        super().__init__(descriptor, path, size, read_only)
        self._left = min(LEFT_BYTES, headroom.total() // 16)
        self._allowance = 0

    @property
    def place(self) -> str:
        """A path that leads other processes there, as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def unlock(self) -> None:
        """Keep the memory, and let anybody use it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Memory has no medium to wait for. (The kernel has no non-blocking reads of it either.)"""
        return self.read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See ``Device.write``. Raises ``DeviceFull`` for what would take the memory that is left
        to the host.
        """
        length = len(data)
        if self._allowance < length:
            self._ask(offset, length)
        super().write(offset, data)
        self._allowance = max(0, self._allowance - length)

    def allow(self, length: int) -> None:
        """The next ``length`` bytes may take of what is left to the host: a commit must not be what
        fails first.
        """
        self._allowance = max(self._allowance, length)

    def _ask(self, offset: int, length: int) -> None:
        room = headroom.available() - self._left
        if room >= length:
            self._allowance = max(length, min(STEP_BYTES, room // 2))
        elif os.lseek(self._descriptor, offset, os.SEEK_HOLE) < offset + length:
            raise DeviceFull(
                f"{self.path}: write at {offset} failed: the host has no memory left for it"
            )

    def fill_from(self, source: Device) -> None:
        """Take over the bytes of an image, but for holes and zeros. Raises ``DeviceError``,
        ``DeviceFull``.
        """
        end = min(self.size, source.size)
        for start, stop in (
            source.data_spans(end) if isinstance(source, ImageDevice) else [(0, end)]
        ):
            for place in range(start, stop, CHUNK_BYTES):
                data = source.read(place, min(CHUNK_BYTES, stop - place))
                if data.count(0) != len(data):
                    self.write(place, data)


def page_size() -> int:
    """The host's page: a volume in memory has blocks of that size."""
    return os.sysconf("SC_PAGE_SIZE")
