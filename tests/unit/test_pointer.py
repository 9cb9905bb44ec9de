"""Pointers: fields that do not touch each other, and bytes that are the same on every machine."""

from __future__ import annotations

from array import array

import pytest
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
from snapfs.errors import CorruptBlock
from snapfs.store.allocator import pointer_runs

first_words = st.integers(0, BLOCK_MASK | WRITES_MAX << WRITES_SHIFT | FLAG_BUCKET)
pointers = st.lists(st.tuples(first_words, st.integers(0, (1 << 64) - 1)), min_size=1, max_size=32)


@settings(deadline=None, database=None)
@given(pointers)
def test_a_pointer_block_changes_on_its_way(found: list[tuple[int, int]]) -> None:
    values = [word for pointer in found for word in pointer]
    data = encode_pointers(array("Q", values))
    assert list(decode_pointers(data)) == values
    assert data == b"".join(value.to_bytes(8, "little") for value in values)


@pytest.mark.parametrize("bit", range(57, 64))
def test_flags_that_only_memory_knows_are_read_from_a_volume(bit: int) -> None:
    """A hostile pointer must not pass for a dirty one."""
    with pytest.raises(CorruptBlock):
        decode_pointers(encode_pointers(array("Q", [0, 0, 1 << bit, 0])))


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
