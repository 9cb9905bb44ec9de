"""The parts of an instance: bounded, and whatever a volume says of them, a tree or refused."""

from __future__ import annotations

import itertools
import random

import pytest

from snapfs.errors import CorruptBlock, UsageError
from snapfs.ids import FIRST_INO, INO_LIMIT, ROOT_INO
from snapfs.store.tables.parts import (
    EVERYTHING,
    Part,
    above,
    check_bounds,
    decode_kept,
    decode_parts,
    distinct,
    kept_by,
)

FILE = Part(30, (20, 30), (b"d", b"f"))
ABSENT = Part(0, (20,), (b"d", b"no", b"where"))
DIRECTORY = Part(21, (20, 21), (b"d", b"e"))


def test_parts_are_not_what_they_were_when_they_are_read() -> None:
    parts = (FILE, ABSENT, DIRECTORY)
    assert decode_parts([part.encode() for part in parts], "x") == parts
    assert above(parts) == {ROOT_INO: {b"d": 20}, 20: {b"f": 30, b"e": 21}}
    assert kept_by(parts) == ((30, 0, 21), (ROOT_INO, 20))
    assert decode_kept(None, parts, "x") == kept_by(parts)
    assert decode_kept([[], []], parts, "x") == EVERYTHING == kept_by(())


@pytest.mark.parametrize(
    "value",
    [
        None, {}, [0], [[]], [[[20]]], [[[20], [b"d"], []]], [[20, [b"d"]]], [[[20], b"d"]],
        [[[], []]],  # the root
        [[[20, 21], [b"d"]]],  # a chain that is longer than its way
        [[[ROOT_INO], [b"d"]]], [[[FIRST_INO - 1], [b"d"]]], [[[INO_LIMIT + 1], [b"d"]]], [[[True],
        [b"d"]]],
        [[[20], ["d"]]], [[[20], [b""]]], [[[20], [b"a/b"]]], [[[20], [b"a\0"]]], [[[20],
        [b".."]]], [[[20], [b"n" * 256]]],
        [[[20], [b"d"]], [[21], [b"d"]]],  # one name, two inodes
        [[[20, 22], [b"d", b"f"]], [[21, 20, 23], [b"c", b"d", b"f"]]],  # a directory at two places
        # a cycle
        [[[20, 21, 20], [b"a", b"b", b"c"]]], [[[20, 21, 20, 22], [b"a", b"b", b"c", b"d"]]],
        [[[20], [b"d"]], [[20, 21], [b"d", b"e"]]],  # a part within a part
        [[[20], [b"d"]], [[20], [b"d", b"e"]]],
        [[[20], [b"d"]], [[], [b"d"]]],  # it is there and is not
    ],
)  # fmt: skip
def test_hostile_parts_are_believed(value: object) -> None:
    """Whoever made the volume: names that are names, and no way that leads in a circle."""
    with pytest.raises(CorruptBlock):
        decode_parts(value, "x")


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [[], 0],
        [[20], []],
        [[], [20]],
        [[ROOT_INO], [ROOT_INO]],
        [[-1], [1]],
        [[INO_LIMIT + 1], [1]],
        [["20"], [1]],
    ],
)
def test_what_an_instance_preserves_is_believed(value: object) -> None:
    with pytest.raises(CorruptBlock):
        decode_kept(value, [FILE], "x")
    with pytest.raises(CorruptBlock):
        decode_kept([[20], [ROOT_INO]], [], "x")


def test_parts_within_parts_are_kept_apart() -> None:
    """Whatever their order; of two that are equal one is left, and of places in a directory that
    was not there the highest.
    """
    top, below, lower = (
        Part(20, (20,), (b"d",)),
        FILE,
        Part(0, (20,), (b"d", b"no", b"where", b"at", b"all")),
    )
    for order in itertools.permutations([top, below, ABSENT, top]):
        assert distinct(order) == (top,)
    for order in itertools.permutations([DIRECTORY, below, ABSENT, lower]):
        assert set(distinct(order)) == {DIRECTORY, below, ABSENT}
    assert distinct([FILE, Part(30, (30,), (b"link",))]) == (FILE, Part(30, (30,), (b"link",)))


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([Part(20 + n, (20 + n,), (b"%d" % n,)) for n in range(129)], None),
        ([Part(30, tuple(range(20, 213)), (b"n",) * 193)], None),
        ([Part(0, (), (b"n",) * 193)], None),
        ([Part(20, (20,), (b"n" * 255,) * 4)], None),
        ([FILE], (tuple(range(20, 120)), tuple(range(200, 300)))),
    ],
)
def test_parts_are_too_many_for_a_block(
    parts: list[Part], kept: tuple[tuple[int, ...], tuple[int, ...]] | None
) -> None:
    with pytest.raises(UsageError):
        check_bounds(parts, kept or kept_by(parts))


def test_random_parts_make_a_view_that_is_no_tree() -> None:
    """What is accepted leads from the root to everything in it once, but for files with several
    names.
    """
    rnd = random.Random(1)
    accepted = 0
    for _ in range(5000):
        value = []
        for _ in range(rnd.randint(1, 4)):
            chain = [rnd.choice([20, 21, 22, 23]) for _ in range(rnd.randint(0, 3))]
            value.append(
                [
                    chain,
                    [rnd.choice([b"a", b"b"]) for _ in range(len(chain) + rnd.choice([0, 0, 1]))],
                ]
            )
        try:
            parts = decode_parts(value, "x")
        except CorruptBlock:
            continue
        accepted += 1
        shown, tops = above(parts), {part.ino for part in parts}
        work, seen = [ROOT_INO], []
        while work:
            directory = work.pop()
            assert directory not in seen
            seen.append(directory)
            work += [ino for ino in shown.get(directory, {}).values() if ino not in tops]
        assert set(seen) == set(shown)
    assert accepted > 100
