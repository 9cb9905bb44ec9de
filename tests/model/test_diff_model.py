"""Comparisons of random states with what walking both trees finds (issue 4, point 5)."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest

from snapfs.errors import UsageError
from snapfs.snapshots.compare.diff import Diff
from snapfs.store.commit.volume import Volume
from tests.model.diff_reference import Tree, chosen, expected, rows, run, state, top_of, walk
from tests.model.world import World


def compare_all(world: World, rnd: random.Random) -> int:
    """Compare every two states of a world, both ways; how many differences there were."""
    world.commit()
    fs, volume = world.fs, world.volume
    views = [fs.base, *(world.view(name) for name in world.snaps)]
    trees: dict[int, Tree] = {view.id: walk(fs, view, world.call) for view in views}
    world.commit()
    found = 0
    for one, other in itertools.product(views, views):
        if rnd.random() < 0.5:
            volume.cache.clear()
        states = state(fs, one), state(fs, other)
        try:
            wanted = expected(
                *chosen(trees[one.id], trees[other.id], top_of(states[0]), top_of(states[1]))
            )
        except UsageError:
            with pytest.raises(UsageError, match="different directories"):
                run(volume, Diff(fs, *states))
            continue
        got = rows(run(volume, Diff(fs, *states)))
        assert len(got) == len(set(got)), "a difference was told twice"
        assert set(got) == wanted, f"views {one.id} and {other.id}"
        found += len(got)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_comparison_differs_from_walking_both_trees(seed: int) -> None:
    """Paths, types, content, modes, owners, attributes, targets, hard links, renames, numbers used
    again: as a walk finds them.
    """
    rnd = random.Random(seed)
    world = World(4096, 4096)
    world.parts = seed % 2 == 1
    found = 0
    for _ in range(6):
        for _ in range(60):
            world.step(rnd)
        found += compare_all(world, rnd)
    world.finish()
    assert found


@pytest.mark.parametrize("seed", range(6))
def test_a_comparison_shows_what_was_changed_after_it_began(seed: int) -> None:
    """Everything may be changed, deleted and sealed meanwhile: both states stay what they were
    (``store.space.readers``).
    """
    rnd = random.Random(seed)
    world = World(4096, 16384)
    world.parts = seed % 2 == 1
    for _ in range(250):
        world.step(rnd)
    for _ in range(8):
        world.commit()
        fs, volume = world.fs, world.volume
        views = [fs.base, *(world.view(name) for name in world.snaps)]
        one, other = rnd.choice(views), rnd.choice(views)
        states = state(fs, one), state(fs, other)
        trees = walk(fs, one, world.call), walk(fs, other, world.call)
        world.commit()
        with contextlib.suppress(UsageError):
            wanted = expected(*chosen(*trees, top_of(states[0]), top_of(states[1])))

        def between(volume: Volume = volume) -> None:
            if rnd.random() < 0.3:
                world.step(rnd)
                if (
                    world.volume is not volume
                ):  # another mount has begun: the reader knows nothing of it
                    raise Remounted

        with volume.allocator.readers.open() as reader:
            diff = Diff(fs, state(fs, one), state(fs, other))
            try:
                got = rows(run(volume, diff, between))
            except (Remounted, UsageError):
                continue
            assert not reader.lost
            assert set(got) == wanted
    world.finish()


class Remounted(Exception):
    """The world has opened its volume again."""
