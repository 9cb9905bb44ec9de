"""Random lives with fsync in them: after a crash everything is there that was synced, and nothing
of what came later.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from snapfs.errors import NoSpace
from snapfs.store.commit.driver import drive
from tests.model.world import NothingToDoItTo, World


def write_some(world: World, rnd: random.Random) -> None:
    """What a record can tell, mostly."""
    size = world.block_size
    offset = rnd.choice(
        [0, rnd.randrange(5 * size), rnd.randrange(20) * size, rnd.randrange(100, 600) * size]
    )
    with suppress(NothingToDoItTo):
        world.write(
            0, rnd.randrange(1000), offset, rnd.choice([1, 100, size, 2 * size, 7 * size + 3])
        )


@pytest.mark.parametrize(("block_size", "blocks"), [(4096, 1024), (4096, 420), (16384, 600)])
@pytest.mark.parametrize("seed", range(4))
def test_a_life_loses_what_it_synced(seed: int, block_size: int, blocks: int) -> None:
    rnd = random.Random(seed)
    world = World(block_size, blocks, discards=seed % 2 == 1)
    logged = 0
    for step in range(500):
        if rnd.random() < 0.4:
            world.step(rnd)
        else:
            write_some(world, rnd)
        if rnd.random() < 0.6:
            with suppress(NoSpace):
                logged += world.sync()
        if rnd.random() < 0.06:
            world.crash()
            world.compare()
        if step % 100 == 99:
            world.prove()
    assert logged > 20
    world.finish()


@pytest.mark.parametrize("seed", range(3))
def test_an_operation_is_not_counted(seed: int) -> None:
    """Each is synced alone, behind a record of the log, and a crash follows: what a record cannot
    tell must have been committed.
    """
    rnd = random.Random(seed)
    world = World(4096, 1024)
    world.volume.sync_log.wanted = True
    for _ in range(250):
        with suppress(NoSpace):
            write_some(world, rnd)
            world.sync()
            write_some(world, rnd)
            world.sync()
            world.step(rnd)
            world.sync()
        world.crash()
        world.compare()
    world.prove()
    world.finish()


def test_a_crash_after_a_crash_loses_what_was_synced() -> None:
    """What the log told is not committed yet, and is told again; what is done in between is gone,
    as ever.
    """
    rnd = random.Random(7)
    world = World(4096, 1024)
    for _ in range(20):
        write_some(world, rnd)
        world.step(rnd)
    world.commit()
    world.volume.sync_log.wanted = True
    while not world.volume.sync_log.number:
        write_some(world, rnd)
        world.sync()
    for _ in range(3):
        world.crash()
        assert world.volume.sync_log.repeated
        world.compare()
        write_some(world, rnd)
        while drive(world.volume, world.fs.work):
            pass
    world.sync()  # a commit: nothing is logged on what was only told
    assert not world.volume.sync_log.number
    world.crash()
    assert not world.volume.sync_log.repeated
    world.prove()
    world.finish()
