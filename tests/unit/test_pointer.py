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
    are_born,
    checksums_of,
    decode_pointers,
    encode_pointers,
    first_words,
    pointer_runs,
    run_of,
    second_words,
)
from snapfs.errors import CorruptBlock

any_first_word = st.integers(0, BLOCK_MASK | WRITES_MAX << WRITES_SHIFT | FLAG_BUCKET)
pointers = st.lists(
    st.tuples(any_first_word, st.integers(0, (1 << 64) - 1)), min_size=1, max_size=32
)


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
    """B5: a run is consecutive blocks of one epoch, wherever the holes are; other epochs and gaps
    end it, write counters do not.
    """
    pointers = [(5, 1), (6, 1), (0, 0), (7, 1), (8, 2), (9 | 3 << WRITES_SHIFT, 2), (20, 2)]
    block = array("Q", [word for pointer in pointers for word in pointer])
    assert pointer_runs(block, 0, len(pointers), BLOCK_MASK) == [(5, 3, 1), (8, 2, 2), (20, 1, 2)]
    assert pointer_runs(block, 1, 2, BLOCK_MASK) == [(6, 1, 1)]
    assert pointer_runs(block, 2, 3, BLOCK_MASK) == []


@settings(deadline=None, database=None)
@given(
    places=st.lists(st.integers(1, BLOCK_MASK), min_size=1, max_size=20),
    writes=st.integers(0, WRITES_MAX),
    epoch=st.integers(1, EPOCH_MASK),
    data=st.data(),
)
def test_words_that_are_made_by_the_column_differ_from_those_made_one_by_one(
    places: list[int], writes: int, epoch: int, data: st.DataObject
) -> None:
    checksums = data.draw(
        st.lists(st.integers(0, EPOCH_MASK), min_size=len(places), max_size=len(places))
    )
    words = array("Q", bytes(16 * len(places)))
    words[::2], words[1::2] = first_words(places, writes), second_words(checksums, epoch)
    for index, (place, checksum) in enumerate(zip(places, checksums, strict=True)):
        assert words[2 * index] == place | writes << WRITES_SHIFT
        assert words[2 * index + 1] == checksum << CHECKSUM_SHIFT | epoch
    slot = data.draw(st.integers(0, len(places) - 1))
    assert checksums_of(words, slot, len(places) - slot) == checksums[slot:]
    assert are_born(words, slot, len(places) - slot, epoch)
    words[-1] ^= 1
    assert not are_born(words, slot, len(places) - slot, epoch)


@settings(deadline=None, database=None)
@given(
    start=st.integers(1, 1 << 33) | st.integers((1 << 32) - 10, 1 << 32),
    count=st.integers(1, 20),
    writes=st.integers(0, WRITES_MAX),
    data=st.data(),
)
def test_a_run_is_not_seen_or_something_else_is(
    start: int, count: int, writes: int, data: st.DataObject
) -> None:
    words = array("Q", bytes(16 * count))
    words[::2] = first_words(range(start, start + count), writes)
    assert run_of(words, 0, count) == start
    if count > 1:
        words[2 * data.draw(st.integers(0, count - 1))] += data.draw(
            st.sampled_from([1, 1 << WRITES_SHIFT])
        )
        assert not run_of(words, 0, count)
    assert not run_of(array("Q", bytes(16 * count)), 0, count)
