"""The copy map in bytes: sectors with one bit for each block of a volume, behind one that says
whose they are. ``doc/format.md`` section 12.

A sector is what a device writes whole or not at all, so a map can be changed in place: each sector
has its own checksum. One of zeros alone has no bit set, so that a map that is a file need not be
written to be empty.
"""

from __future__ import annotations

import struct
from typing import Final

from bitarray import bitarray

from snapfs.blocks.checksum import crc32c
from snapfs.errors import CorruptBlock

SECTOR_BYTES: Final = 512

#: checksum of the rest, the first bytes of the copy's id
HEAD: Final = struct.Struct("<I4s")

SECTOR_BITS: Final = (SECTOR_BYTES - HEAD.size) * 8

#: In sector 0, behind the head: magic, the copy's id, generation, whether the copy has failed
FIRST: Final = struct.Struct("<8s16sQB")
MAGIC: Final = b"snap map"

_EMPTY: Final = bytes(SECTOR_BYTES)


def map_sectors(blocks: int) -> int:
    """Sectors of the map of a volume."""
    return 1 + -(-blocks // SECTOR_BITS)


def encode_first(copy_id: bytes, generation: int, *, failed: bool) -> bytes:
    """Sector 0."""
    return _sector(copy_id, FIRST.pack(MAGIC, copy_id, generation, failed))


def decode_first(data: bytes) -> tuple[bytes, int, bool]:
    """The copy's id, its generation, whether it has failed. Raises ``CorruptBlock``."""
    checksum, short = HEAD.unpack_from(data)
    magic, copy_id, generation, failed = FIRST.unpack_from(data, HEAD.size)
    if crc32c(data[4:]) != checksum or magic != MAGIC or copy_id[:4] != short:
        raise CorruptBlock("copy map: its first sector is damaged")
    return copy_id, generation, bool(failed)


def encode_bits(copy_id: bytes, bits: bitarray) -> bytes:
    """A sector of ``SECTOR_BITS`` bits."""
    return _sector(copy_id, bits.tobytes())


def decode_bits(copy_id: bytes, data: bytes) -> bitarray:
    """The bits of a sector. Raises ``CorruptBlock`` when it is not one of this copy."""
    bits = bitarray(endian="little")
    bits.frombytes(data[HEAD.size :])
    if data != _EMPTY:
        checksum, short = HEAD.unpack_from(data)
        if crc32c(data[4:]) != checksum or short != copy_id[:4]:
            raise CorruptBlock("copy map: a sector is damaged, or of another copy")
    return bits


def _sector(copy_id: bytes, payload: bytes) -> bytes:
    rest = copy_id[:4] + payload.ljust(SECTOR_BYTES - HEAD.size, b"\0")
    return struct.pack("<I", crc32c(rest)) + rest
