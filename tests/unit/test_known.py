"""What the daemon remembers of the kernel's inodes: exact counts, exact
holds, and not much memory.
"""

from __future__ import annotations

import random
import stat
import tracemalloc
from collections import Counter

from snapfs.filesystem.number_set import NumberSet
from snapfs.fuse.kernel.known import DirectoryName, Known
from snapfs.fuse.protocol.numbers import Numbers


def test_a_hold_is_lost_or_taken_twice() -> None:
    """Random look-ups, forgets and releases, against plain dictionaries."""
    for seed in range(20):
        rng = random.Random(seed)
        holds: Counter[int] = Counter()
        numbers = Numbers()
        known = Known(
            numbers, lambda view_id, ino, holds=holds: holds.update([view_id << 48 | ino])
        )
        counts: dict[int, int] = {}
        held: set[int] = set()
        names: dict[int, set[DirectoryName]] = {}
        expected: Counter[int] = Counter()
        nodes = [view << 48 | ino for view in (0, 1, 7) for ino in rng.sample(range(16, 200), 20)]
        for _ in range(3000):
            node = rng.choice(nodes)
            match rng.randrange(5):
                case 0 | 1:
                    known.add(node)
                    if not counts.get(node) and node not in held:
                        expected[node] += 1
                    counts[node] = counts.get(node, 0) + 1
                    held.add(node)
                    if rng.random() < 0.5:
                        place = (rng.choice(nodes), b"name%d" % rng.randrange(3))
                        known.name(node, stat.S_IFREG, *place)
                        names.setdefault(node, set()).add(place)
                case 2 | 3:
                    count = rng.randint(1, 4)
                    left = counts.get(node, 0) - count
                    assert known.drop(node, count) == (left <= 0 and node in held)
                    counts[node] = max(0, left)
                    if left <= 0:
                        names.pop(node, None)
                case _:
                    if node in held and not counts.get(node):
                        known.released(node)
                        held.discard(node)
            assert (node in known) == (counts.get(node, 0) > 0)
            assert known.names(node) == names.get(node, set())
        assert holds == expected
        assert len(known) == sum(count > 0 for count in counts.values())
        for view in (0, 1, 7):
            assert sorted(known.nodes_of(view)) == sorted(
                node for node, count in counts.items() if count and node >> 48 == view
            )
        assert known.views_in_use() == {node >> 48 for node in held}


def test_what_the_kernel_has_forgotten_is_remembered_as_replaced() -> None:
    """Nobody would ever say of it again that it is not known any more."""
    known = Known(Numbers(), lambda _view, _ino: None)
    for node in range(100, 200):
        known.add(node)
        known.replace(node)
        assert known.replaced == {node: 1}
        known.drop(node, 1)
        known.replace(node)
        known.released(node)
        assert known.replaced == {}


def test_a_view_that_has_gone_is_held_for_ever() -> None:
    known = Known(Numbers(), lambda view_id, ino: None)
    known.add(3 << 48 | 20)
    known.released(3 << 48 | 20)
    assert known.views_in_use() == set()
    assert not known.drop(3 << 48 | 20, 1)
    known.add(3 << 48 | 20)
    assert known.views_in_use() == {3}
    assert known.drop(3 << 48 | 20, 1)


def test_a_mounted_view_has_the_numbers_of_another() -> None:
    """Those of the base, which has its; a third has its own."""
    known = Known(Numbers(root_view=5), lambda view_id, ino: None)
    for node in (1, 17, 5 << 48 | 17, 6 << 48 | 1):
        known.add(node)
    assert list(known.nodes_of(5)) == [1, 17]
    assert list(known.nodes_of(0)) == [5 << 48 | 17]
    assert list(known.nodes_of(6)) == [6 << 48 | 1]
    assert known.views_in_use() == {0, 5, 6}


def test_what_the_kernel_knows_takes_hundreds_of_bytes_each() -> None:
    """A million files in the kernel's caches are within what the daemon may use."""
    tracemalloc.start()
    try:
        inodes = NumberSet()
        known = Known(Numbers(), lambda _, ino: inodes.add(ino))
        for ino in range(16, 20_016):
            known.add(ino)
            known.name(ino, stat.S_IFREG, 1, b"file%06d" % ino)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 20_000 * 120


def test_a_set_of_numbers_is_no_set() -> None:
    rng = random.Random(1)
    found, expected = NumberSet(), set()
    for _ in range(5000):
        number = rng.choice((rng.randrange(300), rng.randrange(1 << 47)))
        if rng.random() < 0.6:
            found.add(number)
            expected.add(number)
        else:
            found.discard(number)
            expected.discard(number)
        assert (number in found) == (number in expected)
    assert all(number in found for number in expected)
