"""A recorded volume of which a copy is being made, and what must be there after a crash, as the
copy goes on (D1 to D5).

The devices are in memory and stand under paths, so that what opens a copy by its paths does so here
as well.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from snapfs import snapshots
from snapfs.blocks.map_sector import SECTOR_BYTES, map_sectors
from snapfs.copying import attach, copy, detach, unregister
from snapfs.copying.job import CANCELLED, COMPLETE, FAILED_STATE, CopyJob, Wishes
from snapfs.copying.target import CopyTarget
from snapfs.errors import (
    DeviceError,
    FsError,
    NoSpace,
    SnapshotError,
)
from snapfs.filesystem import Filesystem
from snapfs.interrupts import (
    CommitNeeded,
    NotCached,
    NotReady,
)
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.crash.oracle import COPY, Oracle
from tests.crash.scenarios import DIRECTORY, Stage
from tests.crash.timeline import State, TimedDevice, Timeline
from tests.harness.sparse import SparseDevice

BLOCK = 4096

#: Where nothing is: whatever opens a path for itself finds nothing there.
SOURCE, TARGET, MAPS = (
    "/nowhere/source",
    "/nowhere/target",
    tuple(f"/nowhere/map{number}" for number in range(3)),
)

#: So long that the mark of a copy takes several sectors.
LONG = "/" + "long" * 200

#: What is copied ahead of whoever waits, for volumes as small as these.
AHEAD_BLOCKS = 2

# What becomes of a copy
BEGUN, MARKED, ACKNOWLEDGED, FINISHING, COMPLETED, FAILING, FAILED = (
    "begun", "marked", "acknowledged", "finishing", "completed", "failing", "failed",
)  # fmt: skip


@contextlib.contextmanager
def standing(devices: Mapping[str, SparseDevice]) -> Iterator[None]:
    """What stands under paths, instead of what the host has there."""

    def open_device(path: str, **_how: Any) -> SparseDevice:
        if path not in devices:
            raise DeviceError(f"{path}: cannot be opened: nothing is there")
        return devices[path]

    def open_map(path: bytes, _owners: object) -> SparseDevice:
        return open_device(path.decode())

    def reopen(path: str, **_how: Any) -> Any:
        return CopyTarget(open_device(path), path, made=False, sparse=False)  # type: ignore[arg-type]

    with (
        mock.patch("snapfs.copying.opening.open_device", open_device),
        mock.patch("snapfs.copying.opening.open_named", open_device),
        mock.patch("snapfs.copying.resuming.open_map", open_map),
        mock.patch("snapfs.copying.resuming.reopen", reopen),
        mock.patch("snapfs.copying.job.share", lambda _target: None),
        mock.patch.object(copy, "AHEAD_BYTES", AHEAD_BLOCKS * BLOCK),
    ):
        yield


@dataclass(frozen=True)
class Expected:
    """What a copy is of: the bytes of its source then, the ranges of them that its generation
    needs; what the target had ``before``.
    """

    generation: int
    image: bytes
    needed: tuple[tuple[int, int], ...]
    before: bytes


def needed_ranges(volume: Volume) -> tuple[tuple[int, int], ...]:
    """Bytes (start, end) that the generation of a volume at rest has in use, found by its bitmaps
    in memory.
    """
    volume.allocator.need_groups(range(volume.geometry.groups))
    out: list[tuple[int, int]] = []
    for number in range(volume.geometry.groups):
        group = volume.allocator.groups[number]
        for offset in range(volume.geometry.group_length(number)):
            if group.blocks[offset]:
                start = (group.start + offset) * BLOCK
                if out and out[-1][1] == start:
                    out[-1] = out[-1][0], start + BLOCK
                else:
                    out.append((start, start + BLOCK))
    return tuple(out)


class CopyStage(Stage):
    """A stage whose volume is copied, step by step, between whatever its story does and in the
    middle of its commits.
    """

    def __init__(self, blocks: int, seed: int, *, outside: bool) -> None:
        self.timeline = Timeline()
        self.outside = outside
        self.source_path = SOURCE + (LONG if seed % 3 == 0 else "")
        source = self.timeline.device(self.source_path, blocks * BLOCK)
        self.target = self.timeline.device(TARGET, blocks * BLOCK)
        for path in MAPS:
            self.timeline.device(path, map_sectors(blocks) * SECTOR_BYTES)
        super().__init__(blocks, BLOCK, 2 * seed + outside, device=source)
        self.devices = {device.path: device for device in self.timeline.devices}
        self.eras: list[tuple[int, Oracle]] = [(-1, self.oracle)]
        self.expected: list[Expected] = []
        self.phase: str | None = None
        self.job: CopyJob | None = None
        #: How likely a piece is copied behind when there is an opportunity; and its dice.
        self.pace = 0.03
        self.dice = random.Random(f"{seed} {outside}")
        #: Are freed blocks discarded? Always at once: then nothing is left of them.
        self.discards = seed % 2 == 1
        self.volume.allocator.discards.wanted = self.discards
        self._is_pumping = False
        #: Blocks that were copied because somebody was about to overwrite them, and calls of the
        #: core that waited for that.
        self.copied_before = 0
        self.waited = 0
        self._watch(source)

    def _watch(self, source: TimedDevice) -> None:
        """Copy behind whenever the source is written: in the middle of commits, too."""
        write = source.write

        def watched(offset: int, data: Any) -> None:
            write(offset, data)
            self.pump()

        source.write = watched  # type: ignore[method-assign]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        while True:
            self.pump()
            try:
                return function(*args, **kwargs)
            except NotCached as exc:
                self.volume.admit(self.volume.read_wants(exc.wants))
            except NotReady as exc:
                self.waited += 1
                self.volume.device.make_ready(exc.runs)
            except CommitNeeded:
                self._reclaim()

    def _reclaim(self) -> None:
        """As ``driver.drive`` does it."""
        generation = self.volume.generation
        has_worked = False
        while self.volume.allocator.more_to_come():
            try:
                more = self.volume.allocator.reclaim()
            except NotCached as exc:
                self.volume.admit(self.volume.read_wants(exc.wants))
            except CommitNeeded:
                before = self.volume.generation
                self.commit()
                if self.volume.generation == before:
                    break
            else:
                has_worked = True
                if not more:
                    break
        self.commit()
        if self.volume.generation == generation and not has_worked:
            raise NoSpace("no space left on the volume")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.timeline.note("phase", (phase, len(self.expected) - 1))

    # The copy

    def begin(self, *, first: str = "", wishes: Wishes | None = None) -> None:
        """All that a command does until it returns; users go on meanwhile."""
        self._make_room()
        while self.volume.unsaved:
            self.commit()
        self.call(self.volume.allocator.need_groups, range(self.volume.geometry.groups))
        target = CopyTarget(self.target, TARGET, False, sparse=False)  # type: ignore[arg-type]
        with mock.patch("os.urandom", self.rng.randbytes):
            job = CopyJob.begin(
                self.volume,
                target,
                wishes or Wishes(),
                registered=True,
                source_path=self.source_path,
                owner=0,
            )
        # Blocks that are freed are used again at once, as where the host is full.
        self.volume.allocator.prefer_used()
        image = self.device.image()
        self.expected.append(
            Expected(self.volume.generation, image, needed_ranges(self.volume), self.target.image())
        )
        self._enter(BEGUN)
        self._follow(job)
        job.copy_initial_part([first.encode()] if first else [])
        self._enter(MARKED)
        self.churn(2)
        if self.outside:
            job.map_file = self.devices[MAPS[len(self.expected) - 1]]  # type: ignore[assignment]
        self.register(job)
        self.churn(2)
        job.put_map()
        self.churn(1)
        job.set_up()
        self._enter(ACKNOWLEDGED)

    def register(self, job: CopyJob) -> None:
        """From here on whoever opens the volume looks for the copy."""
        job.record = self.call(job.register, self.volume)
        self.commit()

    def _follow(self, job: CopyJob) -> None:
        self.job = job
        ensure, failing = job.copy.ensure, job.before._failing

        def counted(runs: Any) -> None:
            before = job.copy.blocks_copied
            ensure(runs)
            self.copied_before += job.copy.blocks_copied - before

        def noted(reason: str) -> None:
            self._enter(FAILING)
            failing(reason)
            self._enter(FAILED)

        job.copy.ensure = counted  # type: ignore[method-assign]
        job.before._failing = noted

    def pump(self) -> None:
        """Perhaps copy something behind."""
        job = self.job
        if (
            job is None
            or self._is_pumping
            or self.phase != ACKNOWLEDGED
            or job.copy.lock.locked()
            or job.wishes.paused
        ):
            return
        self._is_pumping = True
        try:
            if self.dice.random() < self.pace:
                if self.dice.random() < 0.6:
                    job.step(self.dice.choice([1, 2, 8]) * BLOCK)
                else:
                    job.settle()
        finally:
            self._is_pumping = False

    def remember(self, **wishes: Any) -> None:
        """Pause, resume, at another rate."""
        assert self.job is not None and self.job.record is not None
        self.job.wishes = replace(self.job.wishes, **wishes)
        self.job.record = replace(
            self.job.record, paused=self.job.wishes.paused, rate=self.job.wishes.rate
        )
        self.call(self.volume.copies.put, self.job.record)
        self.commit()

    def finish(self) -> None:
        """Copy all the rest, and end."""
        job = self.job
        assert job is not None
        while not job.copy.complete:
            if not job.step(8 * BLOCK) or self.dice.random() < 0.3:
                job.settle()
            self.churn(self.dice.choice([0, 0, 0, 1]))
        self._enter(FINISHING)
        job.finish()
        self._enter(COMPLETED)
        self.release(COMPLETE)

    def cancel(self) -> None:
        assert self.job is not None
        self.job.fail("it was cancelled")
        self.churn(2)
        self.release(CANCELLED)

    def fail(self) -> None:
        """The target breaks, and is there again when nobody cares any more."""
        assert self.job is not None
        self.target.broken = True
        number = 0
        while self.job.before.failed is None:
            self.churn(1)
            number += 1
            assert number < 300, "nobody has met the broken target"
        self.churn(6)
        self.target.broken = False
        self.release(FAILED_STATE)

    def release(self, ended: str) -> None:
        assert self.job is not None
        self.call(unregister, self.volume)
        self.commit()
        detach(self.volume)
        self.job.close(ended)
        self.job = None

    # The rest of the world

    def churn(self, steps: int) -> None:
        """Users at work, on a volume that is full more often than not."""
        for _ in range(steps):
            with contextlib.suppress(FsError, SnapshotError):
                self._one()
            self.pump()

    def contend(self, blocks: int) -> None:
        """The same until so many blocks more were copied because somebody was about to overwrite
        them; little goes on behind meanwhile.
        """
        goal, pace, self.pace = self.copied_before + blocks, self.pace, 0.01
        steps = 0
        while self.copied_before < goal and steps < 120:
            self.churn(1)
            steps += 1
        self.pace = pace

    def _one(self) -> None:
        rng = self.rng
        name = b"f%d" % rng.randrange(10)
        allocator = self.volume.allocator
        is_full = allocator.available < allocator.reserve + 12
        kind = rng.choices(
            range(9), [4, 2, 10, 2, 0, 1, 10, 8, 4] if is_full else [14, 6, 2, 2, 2, 1, 1, 8, 1]
        )[0]
        if kind == 0:
            self.write(
                name, rng.randrange(8) * BLOCK, rng.randbytes(rng.choice([100, BLOCK, 4 * BLOCK]))
            )
        elif kind == 1:
            self.fill(name, rng.randrange(1, 50_000))
        elif kind == 2:
            self.unlink(name)
        elif kind == 3:
            self.truncate(name, rng.randrange(30_000))
        elif kind == 4:
            taken = {one.name for one in snapshots.all(self.fs)}
            if len(taken) < 3:
                self.snapshot(min({"a", "b", "c", "d"} - taken))
        elif kind == 5:
            self.restore(rng.choice("abcd"))
        elif kind == 6:
            self.delete(rng.choice("abcd"))
        elif kind == 7:
            self.commit()
            self.discard()
        else:
            self.work(3)

    def furnish(self, free: int = 70) -> None:
        """Fill the volume until so many blocks are left."""
        self.make(b"d", DIRECTORY)
        self.fill(b"d/first", 9_000)
        number = 0
        with contextlib.suppress(NoSpace):
            while self.volume.allocator.available > free + self.volume.allocator.reserve:
                self.fill(b"f%d" % number, self.rng.randrange(10_000, 50_000))
                number += 1
                if number == 2:
                    self.snapshot("a")
                    self.write(b"f0", 0, self.rng.randbytes(9_000))

    def _make_room(self) -> None:
        """Delete until there is room for a map, whatever else is written before it is allocated."""
        for number in range(10):
            if self.volume.allocator.available > self.volume.allocator.reserve + 50:
                return
            for snapshot in snapshots.all(self.fs)[:1]:
                self.delete(snapshot.name)
            with contextlib.suppress(FsError):
                self.unlink(b"f%d" % number)
            self.work()
            self.commit()

    # A crash within a story

    def crash(self) -> State:
        """The power fails, and everything that was going on with it; then the volume is opened
        again.
        """
        state = self.timeline.crash(self.dice)
        self.eras.append((len(self.timeline.events) - 1, Oracle()))
        self.job = None
        self.volume = open_volume(self.device)
        self.device.promise(self.volume.generation)
        known = self.oracle.generations[self.volume.generation]
        self.oracle = self.eras[-1][1]
        self.oracle.generations[self.volume.generation] = known
        # What attaching commits, when the copy is forgotten.
        self.oracle.generations[self.volume.generation + 1] = {
            **known,
            "": {**known[""], COPY: (None,)},
        }
        self.volume.allocator.prefer_used()
        self.volume.allocator.discards.wanted = self.discards
        job = attach(self.volume)
        self.fs = Filesystem(self.volume)
        self.fs.now = self.volume.now = lambda: self.clock
        if job is not None:
            assert self.phase not in {COMPLETED, FAILED}, self.phase
            self._enter(ACKNOWLEDGED)
            self._follow(job)
        else:
            assert self.phase != ACKNOWLEDGED
            if self.phase == FINISHING:
                self._enter(COMPLETED)
        return state
