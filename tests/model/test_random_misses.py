"""The core with a memory that forgets at random: plan, fetch and apply must change nothing before
they raise.

A block that is in the cache is missed with some probability, once per call at most, so that every
call ends; groups and inodes are forgotten between calls; and between a miss and the repetition of
the call a commit may come, or the call is never repeated, as on a mount.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from snapfs.interrupts import CommitNeeded, NotCached
from snapfs.store.commit.driver import commit, drive
from snapfs.store.trees.cache import BlockCache
from tests.model import brute_force
from tests.model.world import World


class ForgetfulCache(BlockCache):
    """Does not find what it has, with probability ``forgets``; the same block once per call."""

    def __init__(self, capacity: int, rnd: random.Random) -> None:
        super().__init__(capacity)
        self.rnd = rnd
        self.forgets = 0.0
        self.missed: set[int] = set()

    def get(self, kind: str, block: int, checksum: int) -> Any:
        if self.forgets and block not in self.missed and self.rnd.random() < self.forgets:
            self.missed.add(block)
            self.misses += 1
            return None
        return super().get(kind, block, checksum)


class ForgetfulWorld(World):
    """A world whose core forgets."""

    def __init__(
        self,
        block_size: int,
        blocks: int,
        rnd: random.Random,
        *,
        commits: float = 0.0,
        gives_up: float = 0.0,
    ) -> None:
        self.rnd = rnd
        self.commits = commits
        self.gives_up = gives_up
        self.interrupted = 0
        self.unrepeated = 0
        super().__init__(block_size, blocks)

    def open(self) -> None:
        super().open()
        self.cache = self.volume.cache = ForgetfulCache(self.volume.cache.capacity, self.rnd)

    def drive(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.forget_some()
        self.cache.forgets = self.rnd.choice([0, 0.02, 0.1, 0.5])
        self.cache.missed.clear()
        while True:
            try:
                return function(*args, **kwargs)
            except NotCached as exc:
                self.interrupted += 1
                if self.rnd.random() < self.gives_up:
                    self.give_up()
                    continue  # what was wanted may have moved meanwhile
                self.volume.admit(self.volume.read_wants(exc.wants))
                if self.rnd.random() < self.commits:
                    commit(self.volume)
            except CommitNeeded:
                return drive(self.volume, function, *args, **kwargs)

    def give_up(self) -> None:
        """Whoever asked went away: what was begun must not be seen. Then somebody asks again, with
        a memory that forgets nothing.
        """
        self.unrepeated += 1
        self.cache.forgets = 0
        gives_up, self.gives_up = self.gives_up, 0
        if self.rnd.random() < 0.5:
            commit(self.volume)
            brute_force.verify(self.fs)
        self.compare()
        self.gives_up = gives_up

    def commit(self) -> None:
        self.cache.missed.clear()
        super().commit()

    def forget_some(self) -> None:
        """What a long life with little memory forgets: clean groups, decoded inodes, blocks."""
        if self.rnd.random() < 0.3:
            allocator = self.volume.allocator
            for number, group in list(allocator.groups.items()):
                if not (
                    group.dirty or group.pinned or group.fresh_count or number in allocator.window
                ):
                    del allocator.groups[number]
        if self.rnd.random() < 0.3:
            for view in list(self.fs.views.values()):
                self.fs._cache.forget_view(view.id)
        if self.rnd.random() < 0.1:
            self.volume.cache.clear()


@pytest.mark.parametrize(("block_size", "blocks"), [(4096, 3000), (4096, 600), (16384, 600)])
@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_call_leaves_something_behind(
    block_size: int, blocks: int, seed: int
) -> None:
    """I6: with a cache that misses at random, and commits in between, every view is what it would
    be without.
    """
    rnd = random.Random(f"{block_size}/{blocks}/{seed}")
    world = ForgetfulWorld(block_size, blocks, rnd, commits=0.1)
    world.parts = world.several = world.policies = seed % 2 == 1
    for step in range(150):
        world.step(rnd)
        if step % 50 == 49:
            world.prove()
    world.finish()
    assert world.interrupted > 50


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_given_up_was_half_done(seed: int) -> None:
    """I1, I6: a call that raised ``NotCached`` and is not repeated has changed nothing, now and
    after a commit.
    """
    rnd = random.Random(seed)
    world = ForgetfulWorld(4096, 3000, rnd, gives_up=0.2)
    world.parts = world.policies = seed % 2 == 1
    for step in range(150):
        world.step(rnd)
        if step % 50 == 49:
            world.prove()
    world.gives_up = 0  # the end deletes without telling the model
    world.finish()
    assert world.unrepeated > 5
