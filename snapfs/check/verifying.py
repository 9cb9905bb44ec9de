"""Reading blocks and holding them against their checksums. May block, so it is for worker threads; one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from snapfs.blocks.checksum import crc32c
from snapfs.device import DirectReader
from snapfs.errors import DeviceError

if TYPE_CHECKING:
    from snapfs.device import Device
    from snapfs.store.volume import Volume

#: Bytes that are read at a time, at most.
READ_BYTES: Final = 1 << 20

#: What is said of a block whose checksum is wrong.
MISMATCH: Final = "fails its checksum"


class Wanted(NamedTuple):
    """Blocks side by side with their checksums (None: no checksum covers it). Their content is given back when they are to be ``kept``."""

    start: int
    checksums: Sequence[int | None]
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """What was read: the content, if it was to be kept, and what is wrong with which of the blocks, by their position."""

    content: bytes
    problems: dict[int, str]


class Verifier:
    """Reads a volume's blocks from its medium; those of a generation that is on its way there from memory. Counts what it reads."""

    def __init__(self, volume: Volume) -> None:
        self.blocks = 0
        self.bytes = 0
        self._volume = volume
        self._device: Device = volume.device
        self._block_size = volume.geometry.block_size
        self._direct = DirectReader(volume.device, max(READ_BYTES, self._block_size))

    def read(self, wanted: Sequence[Wanted]) -> list[Found]:
        """Read and verify."""
        return [self._one(one) for one in wanted]

    def _one(self, one: Wanted) -> Found:
        problems: dict[int, str] = {}
        if one.kept:
            return Found(b"".join(self._kept(one, at, problems) for at in range(len(one.checksums))), problems)
        most = self._direct.limit // self._block_size
        for at in range(0, len(one.checksums), most):
            self._several(one, at, min(most, len(one.checksums) - at), problems)
        return Found(b"", problems)

    def _kept(self, one: Wanted, at: int, problems: dict[int, str]) -> bytes:
        """One block's content; zeros when it cannot be read."""
        flying = self._volume.in_flight
        data = flying.blocks.get(one.start + at) if flying else None
        try:
            if data is None:
                data = bytes(self._read(one.start + at, 1))
        except DeviceError as exc:
            problems[at] = f"cannot be read ({exc})"
            return bytes(self._block_size)
        if one.checksums[at] is not None and crc32c(data) != one.checksums[at]:
            problems[at] = MISMATCH
        return data

    def _several(self, one: Wanted, first: int, count: int, problems: dict[int, str]) -> None:
        block_size = self._block_size
        flying = self._volume.in_flight
        try:
            with memoryview(self._read(one.start + first, count)) as view:
                for at in range(count):
                    if flying and one.start + first + at in flying.blocks:
                        continue
                    if crc32c(view[at * block_size : (at + 1) * block_size]) != one.checksums[first + at]:
                        problems[first + at] = MISMATCH
        except DeviceError as exc:
            if count == 1:
                problems[first] = f"cannot be read ({exc})"
                return
            for at in range(first, first + count):  # which of them?
                self._several(one, at, 1, problems)

    def _read(self, block: int, count: int) -> bytes | bytearray | memoryview:
        self.blocks += count
        self.bytes += count * self._block_size
        return self._direct.read(block * self._block_size, count * self._block_size)

    def close(self) -> None:
        """Give back what reading takes."""
        self._direct.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
