"""The copy map: one bit for each block of the volume, set when the block's copy is durable (D5).

It is known in memory as far as it was used, and stands either in blocks of the first storage, which
are written in place and whose own setting therefore sets no further bit, or in a file outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from bitarray import bitarray

from snapfs.blocks.map_sector import (
    SECTOR_BITS,
    SECTOR_BYTES,
    decode_bits,
    decode_first,
    encode_bits,
    encode_first,
    map_sectors,
)
from snapfs.device.base import Buffer
from snapfs.errors import CorruptBlock

#: Bytes that are read at once when the whole map is.
_CHUNK: Final = 1 << 20


class Writable(Protocol):
    """What a map needs of a device."""

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``."""

    def flush(self) -> None:
        """See ``Device.flush``."""

    def close(self) -> None:
        """See ``Device.close``."""


class MapPlace:
    """Where a map is: extents (offset, length) of a device, one behind the other."""

    def __init__(self, device: Writable, extents: Sequence[tuple[int, int]]) -> None:
        self.device = device
        self.extents = tuple(extents)
        self.size = sum(length for _, length in self.extents)

    def _pieces(self, offset: int, length: int) -> Iterable[tuple[int, int]]:
        for start, size in self.extents:
            if offset < size:
                count = min(length, size - offset)
                yield start + offset, count
                offset, length = 0, length - count
                if not length:
                    return
            else:
                offset -= size
        raise CorruptBlock("copy map: it is shorter than its volume needs")

    def read(self, offset: int, length: int) -> bytes:
        """Raises ``DeviceError``, ``CorruptBlock``."""
        return b"".join(
            self.device.read(start, count) for start, count in self._pieces(offset, length)
        )

    def write(self, offset: int, data: bytes) -> None:
        """Raises ``DeviceError``."""
        done = 0
        for start, count in self._pieces(offset, len(data)):
            self.device.write(start, data[done : done + count])
            done += count

    def begin(self, copy_id: bytes, generation: int, *, failed: bool) -> None:
        """Say durably whose map it is, and whether the copy has failed. Raises ``DeviceError``."""
        self.write(0, encode_first(copy_id, generation, failed=failed))
        self.flush()

    def flush(self) -> None:
        """Raises ``DeviceError``."""
        self.device.flush()


class CopyMap:
    """The map of one copy. Until ``put`` says where, it is in memory alone. One thread at a time
    may use it.
    """

    def __init__(
        self, copy_id: bytes, generation: int, blocks: int, place: MapPlace | None = None
    ) -> None:
        self.id = copy_id
        self.generation = generation
        self.blocks = blocks
        self.size = map_sectors(blocks) * SECTOR_BYTES
        self.place = place
        self._sectors: dict[int, bitarray] = {}

    # What is known

    def get(self, start: int, length: int) -> bitarray:
        """The bits of a run of blocks. Raises ``CorruptBlock``, ``DeviceError``."""
        out = bitarray(endian="little")
        for number, low, high in _parts(start, length):
            out += self._sector(number)[low:high]
        return out

    def _sector(self, number: int) -> bitarray:
        found = self._sectors.get(number)
        if found is None:
            found = self.read_sector(number)
            self._sectors[number] = found
        return found

    def read_sector(self, number: int) -> bitarray:
        """What the place has now, for whoever reads while others set bits."""
        if self.place is None:
            bits = bitarray(SECTOR_BITS, endian="little")
            bits.setall(0)
            return bits
        return decode_bits(self.id, self.place.read((number + 1) * SECTOR_BYTES, SECTOR_BYTES))

    def now(self, start: int, length: int) -> bitarray:
        """The bits of a run at this moment, whoever sets them."""
        out = bitarray(endian="little")
        for number, low, high in _parts(start, length):
            known = self._sectors.get(number)
            if known is None or not known[low:high].all():
                known = self._sectors[number] = self.read_sector(number)
            out += known[low:high]
        return out

    def count(self) -> int:
        """How many bits are set. Raises ``CorruptBlock``, ``DeviceError``."""
        if self.place is None:
            return sum(bits.count(1) for bits in self._sectors.values())
        total = 0
        for offset in range(SECTOR_BYTES, self.size, _CHUNK):
            data = self.place.read(offset, min(_CHUNK, self.size - offset))
            total += sum(
                decode_bits(self.id, data[at : at + SECTOR_BYTES]).count(1)
                for at in range(0, len(data), SECTOR_BYTES)
            )
        return total

    # Changing

    def set(self, runs: Iterable[tuple[int, int]]) -> None:
        """Set the bits of these runs, whose copies are durable; ``flush`` makes that durable."""
        changed = set()
        for start, length in runs:
            for number, low, high in _parts(start, length):
                self._sector(number)[low:high] = 1
                changed.add(number)
        for number in sorted(changed):
            self._write(number)

    def _write(self, number: int) -> None:
        if self.place is not None:
            self.place.write(
                (number + 1) * SECTOR_BYTES, encode_bits(self.id, self._sectors[number])
            )

    def flush(self) -> None:
        """Raises ``DeviceError``."""
        if self.place is not None:
            self.place.flush()

    # Its life

    def put(self, place: MapPlace) -> None:
        """Put it there, where there are only zeros, with all bits that are set, and flush. Raises
        ``DeviceError``.
        """
        self.place = place
        for number in self._sectors:
            self._write(number)
        place.write(0, encode_first(self.id, self.generation, failed=False))
        place.flush()

    @property
    def failed(self) -> bool:
        """Does it say that the copy has failed? Raises ``CorruptBlock`` when it is the map of
        something else, ``DeviceError``.
        """
        if self.place is None:
            return False
        copy_id, generation, failed = decode_first(self.place.read(0, SECTOR_BYTES))
        if (copy_id, generation) != (self.id, self.generation):
            raise CorruptBlock("copy map: it is of another copy")
        return failed


def _parts(start: int, length: int) -> Iterable[tuple[int, int, int]]:
    """A run of blocks by sectors: (sector, first bit, end)."""
    end = start + length
    while start < end:
        number, low = divmod(start, SECTOR_BITS)
        high = min(SECTOR_BITS, low + end - start)
        yield number, low, high
        start += high - low
