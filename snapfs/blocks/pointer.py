"""Pointers: two little-endian 64-bit words, and arrays of them as pointer blocks.

Word 0 holds the block number (bits 0 to 47), the writes since the latest snapshot (bits 48 to 55, saturating) and flags
(bits 56 to 63). Word 1 holds the epoch in which the block was born (bits 0 to 31) and the CRC32C of its content
(bits 32 to 63). A pointer whose word 0 is zero points nowhere: a hole.

Pointer blocks are ``array('Q')`` in memory, two words a pointer: measured, this reads and writes single pointers five times
faster than numpy's structured arrays, and slices as fast.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

from snapfs.errors import CorruptBlock

BLOCK_MASK: Final = (1 << 48) - 1
WRITES_SHIFT: Final = 48
WRITES_MAX: Final = 255

#: In directory-like trees: the block is a bucket, not a pointer block.
FLAG_BUCKET: Final = 1 << 56

#: In memory only: the child is dirty and has no block yet.
FLAG_DIRTY: Final = 1 << 63

EPOCH_MASK: Final = 0xFFFF_FFFF
CHECKSUM_SHIFT: Final = 32

_SWAP = sys.byteorder == "big"

Words = array  # of type code 'Q'


def decode_pointers(data: bytes) -> array[int]:
    """The words of a pointer block. Raises ``CorruptBlock`` for flags that no pointer has on a volume."""
    words = array("Q", data)
    if _SWAP:
        words.byteswap()
    if max(words[::2]) >= FLAG_BUCKET << 1:
        raise CorruptBlock("a pointer has flags that no pointer has on a volume")
    return words


def encode_pointers(words: array[int]) -> bytes:
    """The bytes of a pointer block."""
    if _SWAP:
        words = words[:]
        words.byteswap()
    return words.tobytes()
