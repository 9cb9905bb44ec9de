"""What hostile images are made and met with: checksums that always fit, a device with a fence,
limits on time and memory.

Whoever makes a hostile image makes its checksums right: CRC32C is no signature, and any four bytes
of a block can be chosen so that it fits. So here every checksum is the same, for whoever writes it
and whoever verifies it; then any byte may be changed, and a block may even name itself.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from snapfs.device.base import Buffer, SoleUse
from snapfs.errors import DeviceError

#: What every block's checksum is.
CHECKSUM = 0x5AFE5AFE

#: What a device has behind its volume: writing there is the worst that a hostile image can reach.
SLACK = 1 << 20


class Hang(BaseException):
    """It did not end within its time. Not an ``Exception``: nothing of ours may catch it."""


class OutsideTheVolume(BaseException):
    """A write went where the volume is not."""


@contextlib.contextmanager
def forged() -> Iterator[None]:
    """Every checksum fits meanwhile."""
    modules = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith("snapfs.") and hasattr(module, "crc32c")
    ]
    kept = [(module, module.crc32c) for module in modules]
    for module in modules:
        module.crc32c = lambda _data: CHECKSUM  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, function in kept:
            module.crc32c = function  # type: ignore[attr-defined]


@contextlib.contextmanager
def limits(seconds: float, memory: int) -> Iterator[None]:
    """Raise ``Hang`` after some seconds, ``MemoryError`` when so many bytes more are asked for than
    there are now. In the main thread.
    """

    def too_late(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"it goes on after {seconds:g} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
    handler = signal.signal(signal.SIGALRM, too_late)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


class Image(SoleUse):
    """A device whose blocks are shared with the image that it was copied from until they are
    written; what is not there is zeros.

    ``fence`` is where writing has to stop: the end of the volume.
    """

    def __init__(self, size: int, block_size: int, blocks: dict[int, bytes]) -> None:
        self.path = "hostile.img"
        self.size = size
        self.fence = size
        self.read_only = False
        self.block_size = block_size
        self._blocks = dict(blocks)
        self._zeros = bytes(block_size)

    @classmethod
    def of(cls, data: bytes | bytearray, block_size: int) -> Image:
        """An image of these bytes, with more device behind."""
        blocks = {}
        with memoryview(data) as view:
            for number in range(len(data) // block_size):
                piece = view[number * block_size : (number + 1) * block_size]
                if any(memoryview(piece).cast("Q")):
                    blocks[number] = bytes(piece)
        return cls(len(data) + SLACK, block_size, blocks)

    def copy(self) -> Image:
        return Image(self.size, self.block_size, self._blocks)

    def bytes(self) -> bytes:
        """All of it, for a file."""
        data = bytearray(self.size)
        for number, block in self._blocks.items():
            data[number * self.block_size : (number + 1) * self.block_size] = block
        return bytes(data)

    def block(self, number: int) -> bytes:
        return self._blocks.get(number, self._zeros)

    def put(self, number: int, content: Buffer) -> None:
        """Replace a block; shorter content is filled up with zeros."""
        assert len(content) <= self.block_size
        self._blocks[number] = bytes(content).ljust(self.block_size, b"\0")

    def patch(self, number: int, offset: int, content: bytes) -> None:
        """Change some bytes of a block; what would lie behind its end is left out."""
        old = self.block(number)
        content = content[: self.block_size - offset]
        self._blocks[number] = old[:offset] + content + old[offset + len(content) :]

    # ``snapfs.device.Device``

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DeviceError(
                f"{self.path}: read of {length} bytes at {offset} is outside the device"
            )
        first, last = offset // self.block_size, -(-(offset + length) // self.block_size)
        return b"".join(map(self.block, range(first, last)))[offset - first * self.block_size :][
            :length
        ]

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        return self.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        data = bytes(data)
        if offset < 0 or offset + len(data) > self.fence:
            raise OutsideTheVolume(f"{len(data)} bytes at {offset} of a volume of {self.fence}")
        while data:
            number, at = divmod(offset, self.block_size)
            piece = data[: self.block_size - at]
            self.patch(number, at, piece)
            offset, data = offset + len(piece), data[len(piece) :]

    def flush(self) -> None:
        """Memory is as durable as it gets."""

    def close(self) -> None:
        """The bytes stay."""
