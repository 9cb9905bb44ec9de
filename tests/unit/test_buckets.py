"""Bucket trees: what is put can be got, listed in stable order, and leaves nothing behind when it
is removed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs.errors import CorruptBlock, NoSpace
from snapfs.filesystem.format import format_volume
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume, number_hash
from snapfs.store.trees.bucket import Bucket
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.sealing import Sealing
from tests.harness.sparse import SparseDevice

#: How keys are spread: evenly, into the top bits, the bottom bits, few values, all into one.
HASHES: dict[str, Callable[[int], int]] = {
    "even": number_hash,
    "top": lambda key: key << 56 & (1 << 64) - 1,
    "bottom": lambda key: key,
    "few": lambda key: (key % 7) << 61 | key % 3,
    "one": lambda _: 12345,
}

FORMATTED = SparseDevice(2048 * 4096)
format_volume(FORMATTED)


def new_volume() -> Volume:
    return open_volume(FORMATTED.copy())


def new_tree(hash_of: Callable[[int], int]) -> BucketTree:
    volume = new_volume()
    return BucketTree(volume, volume.system_owner, "table", hash_of)


def write_out(tree: BucketTree) -> None:
    """Seal one tree, and have nothing of it in memory."""
    volume = tree.store
    drive(volume, volume.allocator.prepare, len(tree.dirty), urgency=2)
    sealing = Sealing(volume)
    tree.seal(sealing)
    for block, data in sealing.blocks.items():
        volume.device.write(block * 4096, data)
    volume.cache.clear()


def put(tree: BucketTree, key: int, value: bytes) -> None:
    drive(tree.store, tree.touch, key)
    tree.put(key, value)


def pop(tree: BucketTree, key: int) -> bytes | None:
    drive(tree.store, tree.touch, key)
    value: bytes | None = tree.pop(key)
    return value


def everything(tree: BucketTree) -> list[tuple[int, int, bytes]]:
    return drive(tree.store, tree.scan, 0, 1 << 30)


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "pop", "write"]),
        st.integers(0, 60),
        st.integers(0, 900),
    ),
    min_size=20,
    max_size=200,
)


@pytest.mark.parametrize("hashing", ["even", "top", "bottom", "few"])
@settings(
    deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
@given(steps)
def test_a_bucket_tree_differs_from_a_dict(hashing: str, todo: list[tuple[str, int, int]]) -> None:
    """Whatever is put, replaced, removed and written out in between; and an empty map has no block
    (I10).
    """
    hash_of = HASHES[hashing]
    volume = new_volume()
    free = volume.allocator.free
    tree, expected = BucketTree(volume, volume.system_owner, "table", hash_of), {}
    for step, key, size in todo:
        if step == "put":
            if (
                hashing == "few"
                and key not in expected
                and sum(hash_of(other) == hash_of(key) for other in expected) >= 3
            ):
                continue  # no more than fit a bucket may have one hash
            put(tree, key, bytes([key]) * size)
            expected[key] = bytes([key]) * size
        elif step == "pop":
            assert pop(tree, key) == expected.pop(key, None)
        else:
            write_out(tree)
        assert drive(volume, tree.get, key) == expected.get(key)
    assert everything(tree) == sorted((hash_of(key), key, value) for key, value in expected.items())
    for key in list(expected):
        assert pop(tree, key) == expected[key]
    assert tree.is_empty()
    assert tree.root_words == (0, 0)
    assert tree.blocks == 0
    assert not tree.dirty
    assert volume.allocator.free == free


@pytest.mark.parametrize("hashing", ["even", "top", "bottom"])
def test_a_listing_in_parts_loses_or_repeats_names(hashing: str) -> None:
    """A scan goes on behind the hash where it stopped, even when what was there has gone and other
    things have come.
    """
    hash_of = HASHES[hashing]
    tree = new_tree(hash_of)
    for key in range(200):
        put(tree, key, bytes(200))
    write_out(tree)
    assert tree.blocks > 10
    found: list[int] = []
    start = 0
    while items := drive(tree.store, tree.scan, start, 7):
        assert len(items) >= 7 or items[-1][0] == max(map(hash_of, range(200)))
        found += [key for _, key, _ in items]
        start = items[-1][0] + 1
        pop(tree, items[0][1])
        put(tree, 1000 + len(found), bytes(900)) if hashing == "even" else None
    assert sorted(key for key in found if key < 1000) == list(range(200))
    assert len(found) == len(set(found))


@pytest.mark.parametrize("count", [30, 300, 3000])
def test_touched_keys_are_missing_when_it_counts(count: int) -> None:
    """Plan and apply: once all keys are touched, neither puts nor, after them, pops need anything
    from the device.
    """
    tree = new_tree(number_hash)
    for key in range(count):
        put(tree, key, bytes(100))
    write_out(tree)
    # Whole buckets go; and some that were never there, as a holder set that was made and forgotten
    # since the last commit.
    low, high = 1 << 62, 3 << 62
    gone = [
        key for key in (*range(count), *range(5000, 5000 + count)) if low < number_hash(key) < high
    ]
    new = [
        *range(10_000, 10_000 + count // 30),
        *(key for key in range(0, count, 9) if key not in gone),
    ]
    for key in new + gone:
        drive(tree.store, tree.touch, key)
    tree.store.cache.clear()
    for key in new:
        tree.put(key, bytes(150))
    tree.pop_all(gone)
    assert {key for _, key, _ in everything(tree)} == {*range(count), *new} - {*gone}


def test_a_bucket_that_a_pop_emptied_needs_its_neighbour() -> None:
    """Plan and apply: of touched keys, one may be the last of its bucket, and the next one never
    have been there.
    """
    tree = new_tree(number_hash)
    for key in range(300):
        put(tree, key, bytes(100))
    write_out(tree)
    buckets: dict[int, list[int]] = {}
    for key in range(10_000):
        buckets.setdefault(drive(tree.store, tree._find, number_hash(key))[2], []).append(key)
    gone = buckets[sorted(buckets)[len(buckets) // 2]]
    for key in gone:
        drive(tree.store, tree.touch, key)
    tree.store.cache.clear()
    tree.pop_all(gone)
    assert {key for _, key, _ in everything(tree)} == set(range(300)) - set(gone)


def test_too_many_names_with_one_hash_damage_the_rest() -> None:
    """More than a bucket of equal hashes is refused; what was there stays, and can be removed."""
    tree = new_tree(HASHES["one"])
    for key in range(4):
        put(tree, key, bytes(900))
    with pytest.raises(NoSpace, match="one hash"):
        put(tree, 4, bytes(900))
    assert [key for _, key, _ in everything(tree)] == [0, 1, 2, 3]
    write_out(tree)
    with pytest.raises(NoSpace):
        put(tree, 4, bytes(900))
    for key in range(4):
        assert pop(tree, key) == bytes(900)
    assert tree.blocks == 0


def test_an_item_larger_than_a_block_is_lost() -> None:
    tree = new_tree(number_hash)
    with pytest.raises(NoSpace, match="does not fit"):
        put(tree, 1, bytes(4096))


def test_a_broken_bucket_is_believed() -> None:
    for data in (
        b"\xff" * 4096,
        (4093).to_bytes(4, "little") + bytes(4092),
        b"\1\0\0\0\x90" + bytes(4091),
        b"\2\0\0\0\x81\1" + bytes(4090),
    ):
        with pytest.raises(CorruptBlock):
            Bucket.decode_table(data)


def test_sealed_counts_differ_from_the_blocks() -> None:
    """``blocks`` is what the tree takes on the volume, splits and all."""
    volume = new_volume()
    tree = BucketTree(volume, volume.system_owner, "table", number_hash)
    free = volume.allocator.free
    for key in range(500):
        put(tree, key, bytes(100))
    write_out(tree)
    assert free - volume.allocator.free == tree.blocks


def test_a_pointer_block_without_pointers_takes_a_key() -> None:
    """Of a hostile image: whoever filled it would make a tree that nothing else reads as one."""
    tree = new_tree(number_hash)
    for key in range(400):
        put(tree, key, b"x" * 100)
    node = tree.dirty[0]
    node[:] = type(node)("Q", bytes(8 * len(node)))
    with pytest.raises(CorruptBlock, match="points nowhere"):
        put(tree, 1000, b"y")
