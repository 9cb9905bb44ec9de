"""Block maps: sparse, deep, cut in steps, and never a block too many or too few."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs.errors import CorruptBlock, FileTooBig
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import FILE_SIZE_MAX, ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from snapfs.store.trees import cutting
from snapfs.store.trees.block_store import check_pointer
from snapfs.store.trees.sealing import Sealing
from snapfs.store.trees.tree import BlockMap
from tests.harness.sparse import SparseDevice

FORMATTED = SparseDevice(2048 * 4096)
format_volume(FORMATTED)
FAN_OUT = 256
LAST = FILE_SIZE_MAX // 4096  # the last block of the largest file


def new_volume() -> Volume:
    return open_volume(FORMATTED.copy())


def new_map(volume: Volume) -> BlockMap:
    return BlockMap(volume, volume.system_owner, leaf_kind="blob")


def write_out(tree: BlockMap) -> None:
    """Seal one map, and have nothing of it in memory."""
    volume = tree.store
    drive(volume, volume.allocator.prepare, len(tree.dirty), urgency=2)
    sealing = Sealing(volume)
    tree.seal(sealing)
    for block, data in sealing.blocks.items():
        volume.device.write(block * 4096, data)
    volume.cache.clear()


def put(tree: BlockMap, index: int, value: int) -> None:
    tree.grow(index + 1)
    drive(tree.store, tree.writable, 0, index)[:4] = value.to_bytes(4, "little")


def get(tree: BlockMap, index: int) -> int | None:
    leaf = drive(tree.store, tree.node, 0, index)
    return None if leaf is None else int.from_bytes(leaf[:4], "little")


def cut(tree: BlockMap, keep: int, budget: int) -> int:
    """Cut in steps; how many it took."""
    for step in range(1, 1000):
        if drive(tree.store, cutting.cut, tree, keep, budget) == keep:
            return step
    raise AssertionError("a cut does not end")


def expected_blocks(indexes: Iterable[int], depth: int) -> int:
    indexes = set(indexes)
    return (
        sum(len({index >> 8 * level for index in indexes}) for level in range(depth + 1))
        if indexes
        else 0
    )


indexes = st.one_of(
    st.integers(0, 3),
    st.integers(250, 260),
    st.sampled_from([0, 65535, 65536, 70000, 1 << 24, LAST]),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remove", "cut", "write"]), indexes, st.integers(1, 3)
    ),
    max_size=40,
)


@settings(
    deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
@given(steps)
def test_a_block_map_differs_from_a_dict(todo: list[tuple[str, int, int]]) -> None:
    """B4: growing, holes, removal and cuts in steps; the count is that of the blocks, and nothing
    is left in the end.
    """
    volume = new_volume()
    free = volume.allocator.free
    tree, expected = new_map(volume), {}
    for number, (step, index, budget) in enumerate(todo):
        if step == "put":
            put(tree, index, number)
            expected[index] = number
        elif step == "remove":
            drive(volume, tree.remove, index)
            expected.pop(index, None)
        elif step == "cut":
            cut(tree, index, budget)
            expected = {at: value for at, value in expected.items() if at < index}
        else:
            write_out(tree)
            assert free - volume.allocator.free == tree.blocks
        assert tree.blocks == expected_blocks(expected, tree.depth)
        assert {at: get(tree, at) for at in expected} == expected
        assert get(tree, index) == expected.get(index)
    cut(tree, 0, 2)
    assert (tree.blocks, tree.depth, tree.root_words, tree.dirty) == (0, 0, (0, 0), {})
    assert volume.allocator.free == free


@pytest.mark.parametrize(
    "index", [0, 1, FAN_OUT - 1, FAN_OUT, FAN_OUT**2 - 1, FAN_OUT**2, LAST - 1, LAST]
)
def test_a_lonely_block_is_not_found(index: int) -> None:
    """A map is as deep as its last block needs, and all before it is a hole."""
    tree = new_map(new_volume())
    put(tree, index, 7)
    write_out(tree)
    assert tree.depth == tree.levels_for(index + 1)
    assert tree.blocks == tree.depth + 1
    assert get(tree, index) == 7
    assert get(tree, index // 2) is (None if index else 7) or index == 0
    assert get(tree, index + FAN_OUT**2) is None


def test_growing_moves_what_is_there() -> None:
    """B4: as the map gets deeper, block and index stay together."""
    tree = new_map(new_volume())
    for power in range(5):
        put(tree, FAN_OUT**power - 1, power)
        write_out(tree)
    assert [get(tree, FAN_OUT**power - 1) for power in range(5)] == [0, 1, 2, 3, 4]
    assert tree.depth == 4


def test_a_map_stays_deep_after_its_end_was_cut() -> None:
    """Levels that hold nothing but their first child are given up, down to the single block."""
    tree = new_map(new_volume())
    for index in (0, 5, FAN_OUT + 1, FAN_OUT**2 + 1, LAST):
        put(tree, index, index & 0xFFFF)
    write_out(tree)
    for keep, depth in ((FAN_OUT**3, 3), (FAN_OUT**2, 2), (FAN_OUT, 1), (1, 0)):
        cut(tree, keep, 1)
        write_out(tree)
        assert tree.depth == depth
        assert get(tree, 0) == 0
    assert tree.blocks == 1


@pytest.mark.parametrize("budget", [1, 2, 3, 1000])
def test_a_cut_exceeds_its_budget(budget: int) -> None:
    """A step drops at most so many pointer blocks of level 1, from the end, and says where it
    stands.
    """
    tree = new_map(new_volume())
    count = 6
    for number in range(count):
        for index in (0, 100, 255):
            put(tree, number * FAN_OUT + index, number + 1)
    write_out(tree)
    left = drive(tree.store, cutting.cut, tree, 50, budget)
    assert left == max(50, (count - budget) * FAN_OUT)
    for number in range(count):
        assert get(tree, number * FAN_OUT) == (number + 1 if number * FAN_OUT < left else None)
    assert cut(tree, 50, budget) <= -(-count // budget)
    assert tree.blocks == expected_blocks([0], tree.depth)


def test_spans_of_a_sparse_map_have_gaps() -> None:
    """The spans of a range cover it exactly, with None where there is no pointer block."""
    tree = new_map(new_volume())
    put(tree, 0, 1)
    assert [(index, words is None, count) for index, words, _, count in tree.spans(0, 1000)] == [
        (0, False, 1),
        (1, True, 999),
    ]
    put(tree, 3 * FAN_OUT, 2)
    write_out(tree)
    spans = [
        (index, words is None, slot, count)
        for index, words, slot, count in drive(tree.store, tree.spans, 10, 4 * FAN_OUT + 70000)
    ]
    assert [index for index, *_ in spans] == [
        10,
        *(index + count for index, _, _, count in spans[:-1]),
    ]
    assert sum(count for *_, count in spans) == 4 * FAN_OUT + 70000
    assert [index for index, hole, _, _ in spans if not hole] == [10, 3 * FAN_OUT]


def test_a_pointer_out_of_the_volume_is_followed() -> None:
    for first in (0, 2048, (1 << 48) - 1):
        with pytest.raises(CorruptBlock, match="outside the volume"):
            check_pointer(first, 2048)
    assert check_pointer(2047 | 5 << 48, 2048) == 2047


def test_the_last_byte_of_the_largest_file_is_lost() -> None:
    """8 EiB of hole, a byte at either end, and cuts across it."""
    fs = Filesystem(new_volume())
    free = fs.volume.allocator.free
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, FILE_SIZE_MAX - 1, b"z")
    drive(fs.volume, fs.write, fs.base, ino, 0, b"a")
    commit(fs.volume)
    fs = Filesystem(open_volume(fs.volume.device))
    inode = drive(fs.volume, fs.inode, fs.base, ino)
    assert (inode.size, inode.blocks) == (FILE_SIZE_MAX, 2 + 7 + 6)
    assert drive(fs.volume, fs.read, fs.base, ino, FILE_SIZE_MAX - 3, 100) == b"\0\0z"
    assert drive(fs.volume, fs.read, fs.base, ino, 0, 3) == b"a\0\0"
    assert drive(fs.volume, fs.read, fs.base, ino, 1 << 40, 5000) == bytes(5000)
    with pytest.raises(FileTooBig):
        drive(fs.volume, fs.write, fs.base, ino, FILE_SIZE_MAX, b"x")
    with pytest.raises(FileTooBig):
        drive(
            fs.volume,
            fs.set_attributes,
            fs.base,
            ino,
            Changes(size=FILE_SIZE_MAX + 1),
            privileged=True,
        )
    drive(fs.volume, fs.set_attributes, fs.base, ino, Changes(size=1), privileged=True)
    assert (inode.blocks, inode.map.depth) == (1, 0)
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    drive(fs.volume, fs.work)
    commit(fs.volume)
    assert fs.volume.allocator.free == free
