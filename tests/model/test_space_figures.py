"""Space figures are exact (E): what they say that deleting frees is what deleting frees, after any
history.

The figures come from counters alone; here the blocks are counted, by walking every view and by
deleting for real on a copy.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from snapfs import snapshots
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Instance, space
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.model import brute_force
from tests.model.world import World

HISTORIES = range(50)

#: Random sets of snapshots for each history.
SETS = 4


def history(seed: int) -> World:
    """A volume with a busy life: writable views, snapshots of snapshots, restores, deletions that
    are half done, orphans.
    """
    rnd = random.Random(seed)
    world = World(4096, rnd.choice([700, 4096]))
    for _ in range(rnd.randrange(40, 250)):
        world.step(rnd)
    return world


def copy(world: World) -> Filesystem:
    """The durable state, opened once more. Files that wait to be freed are: what that takes and
    gives is not the snapshots' doing.
    """
    fs = Filesystem(open_volume(world.device.copy()))
    while fs.orphans.pending:
        drive(fs.volume, fs.orphans.work)
    commit(fs.volume)
    return fs


def reached(fs: Filesystem, instances: Iterable[Instance] = (), *, base: bool = True) -> set[int]:
    """All blocks of some views, by walking them."""
    views = [fs.view(one.id) for one in instances] + ([fs.base] if base else [])
    return {block for view in views for block, _ in brute_force.view_blocks(fs, view)}


def taken(fs: Filesystem) -> int:
    """Blocks that are not free and not the volume's own."""
    return fs.volume.geometry.blocks - fs.volume.allocator.free - space.table_blocks(fs.volume)


@pytest.mark.parametrize("seed", HISTORIES)
def test_deleting_a_set_frees_something_else_than_was_said(seed: int) -> None:
    """E: for 200 random sets over 50 random histories; also what is being freed by deletions that
    are not through.
    """
    rnd = random.Random(seed)
    world = history(seed)
    world.commit()
    for _ in range(SETS):
        fs = copy(world)
        present = snapshots.all(fs)
        chosen = rnd.sample(present, rnd.randint(0, len(present)))
        left = [one for one in present if one not in chosen]
        said, leaving, before = space.frees(fs, chosen), space.usage(fs).leaving, taken(fs)
        assert said == len(reached(fs, present) - reached(fs, left))
        if len(chosen) == 1:
            assert said == space.only_here(fs)[chosen[0].id]
        for one in chosen:
            drive(fs.volume, snapshots.delete, fs, one.name)
        assert space.usage(fs).leaving == leaving + said
        commit(fs.volume)
        while drive(fs.volume, fs.work):
            pass
        commit(fs.volume)
        assert before - taken(fs) == leaving + said
        assert space.usage(fs).leaving == 0


@pytest.mark.parametrize("seed", HISTORIES)
def test_the_parts_do_not_add_up(seed: int) -> None:
    """E: every block is in one part, and in the right one; ``statfs`` says the same, amid
    everything and when all is durable.
    """
    world = history(seed)
    assert_adds_up(world.fs)
    world.commit()
    assert_adds_up(world.fs)
    fs = copy(world)
    present = snapshots.all(fs)
    base, everything = reached(fs), reached(fs, present)
    usage = space.usage(fs)
    assert (usage.present, usage.snapshots, usage.due) == (len(base), len(everything - base), 0)
    assert taken(fs) == fixed(fs) + usage.present + usage.snapshots + usage.leaving
    alone = space.only_here(fs)
    for one in present:
        view = reached(fs, [one], base=False)
        assert space.refers(one) == (len(view) if not one.parts else None)
        assert alone[one.id] == len(
            view - reached(fs, [other for other in present if other is not one])
        )


def fixed(fs: Filesystem) -> int:
    return fs.volume.geometry.blocks - fs.statfs().blocks


def assert_adds_up(fs: Filesystem) -> None:
    usage, statfs = space.usage(fs), fs.statfs()
    parts = (
        usage.present,
        usage.snapshots,
        usage.leaving,
        usage.tables,
        usage.due,
        usage.reserved,
        usage.available,
    )
    assert min(parts) >= 0, usage
    assert sum(parts) == usage.size == statfs.blocks
    assert usage.available == statfs.available
    assert usage.reserved + usage.available == statfs.free


def test_a_figure_reads_the_device() -> None:
    """E, I9: with nothing in the cache and any number of snapshots, no block is read for any of
    them.
    """
    world = history(7)
    world.commit()
    volume = open_volume(world.device)
    fs = Filesystem(volume)
    volume.cache.clear()
    before = volume.blocks_read
    present = snapshots.all(fs)
    assert present
    space.usage(fs)
    space.frees(fs, present)
    assert len(space.only_here(fs)) == len(present)
    assert volume.blocks_read == before
    assert len(volume.allocator.groups) == 0


def test_a_snapshot_that_is_being_made_is_counted_in() -> None:
    """E: until it is sealed it has nothing of its own, and nothing of others is counted to it."""
    world = history(3)
    world.commit()
    before = space.usage(world.fs), space.only_here(world.fs)
    drive(world.volume, snapshots.create, world.fs, "new")
    assert (space.usage(world.fs).snapshots, space.only_here(world.fs)) == (
        before[0].snapshots,
        before[1],
    )
    commit(world.volume)
    assert space.only_here(world.fs)[snapshots.get(world.fs, "new").id] == 0
