"""Pointers: fields that do not touch each other, and bytes that are the same on every machine."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    FLAG_DIRTY,
    WRITES_MAX,
    WRITES_SHIFT,
    decode_pointers,
    encode_pointers,
)
from snapfs.store.allocator import pointer_runs

words = st.lists(st.integers(0, (1 << 64) - 1), max_size=64)


@settings(deadline=None, database=None)
@given(words)
def test_a_pointer_block_changes_on_its_way(values: list[int]) -> None:
    data = encode_pointers(array("Q", values))
    assert list(decode_pointers(data)) == values
    assert data == b"".join(value.to_bytes(8, "little") for value in values)


def test_fields_of_a_pointer_overlap() -> None:
    first = [BLOCK_MASK, WRITES_MAX << WRITES_SHIFT, FLAG_BUCKET, FLAG_DIRTY]
    assert sum(first) == first[0] | first[1] | first[2] | first[3]
    assert EPOCH_MASK & 0xFFFF_FFFF << CHECKSUM_SHIFT == 0
    assert EPOCH_MASK | 0xFFFF_FFFF << CHECKSUM_SHIFT == (1 << 64) - 1


def test_runs_of_pointers_join_what_differs() -> None:
    """B5: a run is consecutive blocks of one epoch, wherever the holes are; other epochs and gaps end it, write counters do not."""
    pointers = [(5, 1), (6, 1), (0, 0), (7, 1), (8, 2), (9 | 3 << WRITES_SHIFT, 2), (20, 2)]
    block = array("Q", [word for pointer in pointers for word in pointer])
    assert pointer_runs(block, 0, len(pointers), BLOCK_MASK) == [(5, 3, 1), (8, 2, 2), (20, 1, 2)]
    assert pointer_runs(block, 1, 2, BLOCK_MASK) == [(6, 1, 1)]
    assert pointer_runs(block, 2, 3, BLOCK_MASK) == []
