"""Full copies against the model: random lives of a volume that is copied at random pace, and
readers of the copy at random moments.

What a copy shows is compared with the model of the moment at which it began, and with its bytes,
until the copy is whole and read alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snapfs.blocks.map_sector import SECTOR_BYTES, map_sectors
from snapfs.copying import attach, copy, detach, unregister
from snapfs.copying.as_it_was import AsItWas
from snapfs.copying.job import CANCELLED, COMPLETE, FAILED_STATE, CopyJob, Wishes
from snapfs.copying.opening import open_unfinished, read_mark
from snapfs.copying.target import CopyTarget
from snapfs.device.base import Buffer
from snapfs.errors import (
    DeviceError,
    NoSpace,
    SnapfsError,
)
from snapfs.filesystem import Filesystem
from snapfs.interrupts import NotReady
from snapfs.store.commit.recovery import open_volume
from tests.crash.copy_stage import AHEAD_BLOCKS, MAPS, SOURCE, TARGET, Expected, standing
from tests.crash.copy_states import is_whole, shows
from tests.harness.effort import Effort
from tests.harness.sparse import SparseDevice
from tests.model.test_random_misses import ForgetfulWorld
from tests.model.tree_model import Tree
from tests.model.world import World


class BreakableDevice(SparseDevice):
    is_broken = False

    def write(self, offset: int, data: Buffer) -> None:
        if self.is_broken:
            raise DeviceError("planted")
        super().write(offset, data)


class CopiedWorld(World):
    """A world that is copied: see ``World.copy``, which only says that it is."""

    rnd: random.Random
    job: CopyJob | None = None
    target: BreakableDevice | None = None

    def __init__(self, block_size: int, blocks: int, rnd: random.Random, **how: Any) -> None:
        self.rnd = rnd
        self.counts: Counter[str] = Counter()
        super().__init__(block_size, blocks, **how)
        self._stand(block_size, blocks)

    def _stand(self, block_size: int, blocks: int) -> None:
        """Give the devices their paths."""
        self.device.path = SOURCE
        self.target = BreakableDevice(blocks * block_size, TARGET)
        self.map_device = SparseDevice(map_sectors(blocks) * SECTOR_BYTES, MAPS[0])
        self.devices = {
            device.path: device for device in (self.device, self.target, self.map_device)
        }

    def open(self) -> None:
        super().open()
        if self.target is None:
            return
        before, self.job = self.job, None
        if before is not None:
            self.volume.allocator.prefer_used()
            self.job = attach(self.volume)
            assert (self.job is None) == (
                before.before.failed is not None or not before._is_set_up
            ), "it is not what it was"
            self.counts["resumed"] += self.job is not None
            self._watch()

    def drive(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return super().drive(function, *args, **kwargs)
            except NotReady as exc:  # where the driver leaves it to us
                self.not_ready(exc)
                self.volume.device.make_ready(exc.runs)

    def not_ready(self, exc: NotReady) -> None:
        """Something may happen before it is made ready."""

    def _watch(self) -> None:
        """Count what must wait, and what is copied before it is overwritten."""
        job = self.job
        if job is None:
            return
        must_wait, ensure = job.before.must_wait, job.copy.ensure

        def counted(runs: Any) -> bool:
            found = must_wait(runs)
            self.counts["waited"] += found
            return found

        def ensured(runs: Any) -> None:
            before = job.copy.blocks_copied
            ensure(runs)
            self.counts["copied before"] += job.copy.blocks_copied - before

        job.before.must_wait = counted  # type: ignore[method-assign]
        job.copy.ensure = ensured  # type: ignore[method-assign]

    # One more kind of step

    def copy(self, which: int, blocks: int) -> None:
        """A copy begins, goes on, is read, or ends in some way."""
        job = self.job
        if job is None:
            self._begin()
        elif job.before.failed is not None:
            self.counts["failed"] += 1
            self._release(FAILED_STATE)
        else:
            kind = 99 if blocks == 0 else self.rnd.randrange(22)
            if kind < 10:
                job.step(self.rnd.choice([1, 3, 20]) * self.block_size)
            elif kind < 13:
                job.settle()
            elif kind < 18:
                self.read()
            elif kind == 18:
                assert self.target is not None
                self.target.is_broken = self.rnd.random() < 0.3
            elif kind == 19 and self.rnd.random() < 0.3:
                job.fail("it was cancelled")
                self._release(CANCELLED)
            elif kind in {20, 99} and (kind == 99 or self.rnd.random() < 0.3):
                self._end()

    def _begin(self) -> None:
        assert self.target is not None
        self.target.is_broken = False
        self.commit()
        volume = self.volume
        volume.allocator.prefer_used()  # what is freed is used again at once
        self.map_device.pages.clear()
        target = CopyTarget(self.target, TARGET, False, sparse=False)  # type: ignore[arg-type]
        job = self.job = CopyJob.begin(
            volume, target, Wishes(), registered=True, source_path=SOURCE, owner=0
        )
        self.then: tuple[Tree, dict[str, Tree]] = (
            self.durable[0].copy(),
            {name: tree.copy() for name, tree in self.durable[1].items()},
        )
        image = self.device.image()
        self._watch()
        job.copy_initial_part([])
        self.expected = Expected(volume.generation, image, self.needed(), b"")
        if self.rnd.random() < 0.3:
            job.map_file = self.map_device  # type: ignore[assignment]
        try:
            job.record = self.call(job.register, volume)
        except NoSpace:
            job.fail("no space")
            self._release(FAILED_STATE)
            return
        self.running = job.record
        self.commit()
        job.put_map()
        job.set_up()
        self.counts["begun"] += 1

    def needed(self) -> tuple[tuple[int, int], ...]:
        """Where the volume has something, in bytes."""
        geometry, size = self.volume.geometry, self.block_size
        self.drive(self.volume.allocator.need_groups, range(geometry.groups))
        return tuple(
            ((group.start + at) * size, (group.start + at + 1) * size)
            for group in self.volume.allocator.groups.values()
            for at in range(geometry.group_length(group.number))
            if group.blocks[at]
        )

    def read(self) -> None:
        """Somebody reads the copy, all of it, or in this process what it was."""
        job, target = self.job, self.target
        assert job is not None and target is not None
        self.counts["read"] += 1
        mark = read_mark(target)
        if self.rnd.random() < 0.5:
            shows(self.expected, target)
        elif self.rnd.random() < 0.5 and mark is not None:
            self.show(open_unfinished(target, mark))
        else:
            try:
                self.show(AsItWas(job.copy))
            except SnapfsError:
                assert target.is_broken

    def show(self, device: Any) -> None:
        """All views on a device are what the model was when the copy began."""
        reader = World.__new__(World)
        reader.block_size, reader.device = self.block_size, device
        reader.volume = open_volume(device, read_only=True)
        reader.fs = Filesystem(reader.volume)
        reader.base, reader.snaps = self.then
        reader.held, reader.running, reader.map, reader.made = set(), None, {}, 0
        reader.compare()

    def _end(self) -> None:
        job, target = self.job, self.target
        assert job is not None and target is not None
        target.is_broken = False
        while not job.copy.complete and job.before.failed is None:
            if not job.step(7 * self.block_size):
                job.settle()
        if job.before.failed is None:
            job.finish()
            is_whole(self.expected, target)
            self.show(target)
            self.counts["whole"] += 1
        self._release(COMPLETE)

    def _release(self, ended: str) -> None:
        assert self.job is not None
        job, self.job = self.job, None
        self.call(unregister, self.volume)
        self.running = None
        self.commit()
        detach(self.volume)
        job.close(ended)

    def crash(self) -> None:
        super().crash()
        if self.volume.copies.current is None:
            self.running = None
            self.keep_durable()


class ForgetfulCopiedWorld(CopiedWorld, ForgetfulWorld):
    """Its core forgets, besides."""

    def __init__(self, block_size: int, blocks: int, rnd: random.Random) -> None:
        self.counts = Counter()
        ForgetfulWorld.__init__(self, block_size, blocks, rnd, commits=0.1)
        self._stand(block_size, blocks)

    def not_ready(self, exc: NotReady) -> None:
        assert exc.runs
        if self.rnd.random() < 0.5:
            self.give_up()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is copied ahead would be all of volumes as small as these."""
    monkeypatch.setattr(copy, "AHEAD_BYTES", AHEAD_BLOCKS * 4096)
    yield


def live(world: CopiedWorld, rnd: random.Random, steps: int) -> None:
    with standing(world.devices):
        for step in range(steps):
            world.step(rnd)
            if rnd.random() < 0.6:
                world.copy(1, 1)
            if step % 60 == 59:
                world.prove()
        world.finish()


@pytest.mark.slow
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("blocks", [3000, 420])
def test_a_copy_differs_from_the_moment_it_began(blocks: int, effort: Effort) -> None:
    """D1, D3 to D5, D7, I6, I10: whatever is done to the volume meanwhile, every view of the copy
    is what it was; so is the volume.
    """
    counts: Counter[str] = Counter()
    for seed in effort.seeds(12):
        with effort.sample(seed):
            rnd = random.Random(f"{blocks}/{seed}")
            world = CopiedWorld(4096, blocks, rnd)
            world.parts = world.several = world.policies = seed % 2 == 1
            live(world, rnd, 240)
        counts += world.counts
    print(blocks, dict(counts))
    assert all(
        counts[what] > 5
        for what in ("begun", "resumed", "read", "whole", "waited", "copied before")
    ), counts
    assert counts["failed"]


@pytest.mark.slow
@pytest.mark.usefixtures("small_steps")
def test_a_write_that_must_wait_is_half_done(effort: Effort) -> None:
    """D3, I1, I6: with a memory that forgets, what waits for the copy has changed nothing before,
    and commits come in between.
    """
    counts: Counter[str] = Counter()
    for seed in effort.seeds(8):
        with effort.sample(seed):
            rnd = random.Random(f"misses/{seed}")
            world = ForgetfulCopiedWorld(4096, 600, rnd)
            world.parts = seed % 2 == 1
            live(world, rnd, 150)
            assert world.interrupted > 50
        counts += world.counts
    print(dict(counts))
    assert counts["waited"] > 20 and counts["whole"] and counts["read"]
