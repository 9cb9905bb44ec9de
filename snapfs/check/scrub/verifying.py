"""Reading blocks and holding them against their checksums. May block, so it is for worker threads;
one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from snapfs.blocks.checksum import crc32c
from snapfs.device import DirectReader
from snapfs.errors import DeviceError

if TYPE_CHECKING:
    from snapfs.device import Device
    from snapfs.device.base import Buffer
    from snapfs.store.commit.volume import Volume

#: Bytes that are read at a time, at most; no one wants more.
READ_BYTES: Final = 1 << 20

#: What is said of a block whose checksum is wrong.
MISMATCH: Final = "fails its checksum"


class WantedBlocks(NamedTuple):
    """Blocks side by side with their checksums (None: no checksum covers it). Their content is
    given back when they are to be ``kept``.
    """

    start: int
    checksums: Sequence[int | None]
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read: the content, if it was to be kept, and what is wrong with which of the blocks,
    by their position.
    """

    content: bytes
    problems: dict[int, str]


class Verifier:
    """Reads a volume's blocks from its medium; those of a generation that is on its way there from
    memory. Counts what it reads.
    """

    def __init__(self, volume: Volume) -> None:
        self.blocks = 0
        self.bytes = 0
        self._volume = volume
        self._device: Device = volume.device
        self._block_size = volume.geometry.block_size
        self._direct = DirectReader(volume.device, max(READ_BYTES, self._block_size))

    def read(self, wanted: Sequence[WantedBlocks]) -> list[Verified]:
        """Read and verify. Blocks that lie side by side are read together, whoever wants them."""
        flying = (
            self._volume.in_flight
        )  # before anything is read: what is no longer in flight by then is on the device
        on_the_way = flying.blocks if flying else {}
        out = [Verified(b"", {})] * len(wanted)
        order = sorted(range(len(wanted)), key=lambda index: wanted[index].start)
        most = self._direct.limit // self._block_size
        first = 0
        while first < len(order):
            start = wanted[order[first]].start
            end, last = start + len(wanted[order[first]].checksums), first + 1
            while (
                last < len(order)
                and (one := wanted[order[last]]).start == end
                and end + len(one.checksums) - start <= most
            ):
                end, last = end + len(one.checksums), last + 1
            content, problems = self._content(start, end - start)
            for index in order[first:last]:
                out[index] = self._verify(wanted[index], on_the_way, start, content, problems)
            first = last
        return out

    def _content(self, start: int, count: int) -> tuple[memoryview, dict[int, str]]:
        """What is in these blocks, zeros where it cannot be read, and why not, by block number. It
        lasts until the next read.
        """
        try:
            return memoryview(self._read(start, count)), {}
        except DeviceError as exc:
            if count == 1:
                return memoryview(bytes(self._block_size)), {start: f"cannot be read ({exc})"}
        whole = bytearray()  # which of them?
        problems: dict[int, str] = {}
        for block in range(start, start + count):
            content, problem = self._content(block, 1)
            whole += content
            problems |= problem
        return memoryview(whole), problems

    def _verify(
        self,
        one: WantedBlocks,
        on_the_way: dict[int, bytes],
        start: int,
        content: memoryview,
        failed: dict[int, str],
    ) -> Verified:
        block_size = self._block_size
        kept: list[bytes] = []
        problems: dict[int, str] = {}
        for at, checksum in enumerate(one.checksums):
            block = one.start + at
            data: Buffer | None = on_the_way.get(block)
            if data is None:
                data = content[(block - start) * block_size : (block - start + 1) * block_size]
                if block in failed:
                    problems[at] = failed[block]
            if at not in problems and checksum is not None and crc32c(data) != checksum:
                problems[at] = MISMATCH
            if one.kept:
                kept.append(bytes(data))
        return Verified(b"".join(kept), problems)

    def _read(self, block: int, count: int) -> Buffer:
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
