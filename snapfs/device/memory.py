"""A device in memory: for tests, and for volumes that need not outlive their process."""

from __future__ import annotations

from snapfs.device.base import Buffer, SoleUse
from snapfs.errors import DeviceError


class MemoryDevice(SoleUse):
    """``size`` bytes of zeros in an anonymous buffer."""

    def __init__(self, size: int, path: str = "mem:") -> None:
        self.path = path
        self.size = size
        self.read_only = False
        self.data = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        if offset < 0 or offset + length > self.size:
            raise DeviceError(
                f"{self.path}: read of {length} bytes at {offset} is outside the device"
            )
        return bytes(self.data[offset : offset + length])

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Memory never blocks."""
        return self.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``."""
        if offset < 0 or offset + len(data) > self.size:
            raise DeviceError(
                f"{self.path}: write of {len(data)} bytes at {offset} is outside the device"
            )
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing is more durable than the memory itself."""

    def discard(self, offset: int, length: int) -> None:
        """See ``Device.discard``. What is there then is not zeros, so that tests notice who counts
        on that.
        """
        self.write(offset, b"\xdb" * length)

    def close(self) -> None:
        """Keep the bytes: a test may open them again."""
