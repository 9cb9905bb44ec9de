"""fsync at the edge: a record of the log where one is enough, shared by all who wait; a commit
where not; and nobody is deceived.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from snapfs import probes
from snapfs.blocks.superblock import CLAIM
from snapfs.check import check_volume
from snapfs.errors import DeviceError, DeviceFull, ReadOnly
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.pace import Pace
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice


class Slow(SparseDevice):
    """Counts; flushes wait for ``go``; the next write, or flush, fails with ``write_failure``,
    ``flush_failure``.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.writes = self.flushes = 0
        self.write_failure: Exception | None = None
        self.flush_failure: Exception | None = None
        self.fails_from = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.write_failure is not None and offset >= self.fails_from:
            failure, self.write_failure = self.write_failure, None
            raise failure
        self.writes += 1
        super().write(offset, data)

    def flush(self) -> None:
        self.began.set()
        assert self.go.wait(20)
        self.flushes += 1
        if self.flush_failure is not None:
            raise self.flush_failure


class Quick(Pace):
    @property
    def is_quick(self) -> bool:
        return True


@pytest.fixture
def device() -> Slow:
    made = Slow(32 << 20)
    format_volume(made)
    return made


@pytest.fixture(params=["in the loop", "in a thread"])
async def edge(
    request: pytest.FixtureRequest, device: Slow, nursery: trio.Nursery
) -> AsyncIterator[Edge]:
    made = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
    if request.param == "in the loop":
        made.commits._pace = made.commits._log_pace = Quick()
    made.in_progress = 1
    nursery.start_soon(made.run)
    await trio.testing.wait_all_tasks_blocked()
    inode = await made.change(made.fs.make, made.fs.base, ROOT_INO, b"f", 0o100644, 0, 0)
    assert inode.ino == 16
    await write(made, b"first")
    await made.commit()
    await write(made, b"asks for a log")
    await made.sync()
    assert made.volume.sync_log.region is not None
    await made._work_done.wait()
    yield made
    device.go.set()
    nursery.cancel_scope.cancel()


async def write(edge: Edge, data: bytes, offset: int = 0) -> None:
    await edge.change(edge.fs.write, edge.fs.base, 16, offset, data)


def durable(device: Slow) -> bytes:
    fs = Filesystem(open_volume(device, read_only=True))
    return drive(fs.volume, fs.read, fs.base, 16, 0, 100)


async def test_fsync_takes_more_than_one_write_and_one_flush(edge: Edge, device: Slow) -> None:
    generation = edge.volume.generation
    for number in range(30):
        await write(edge, b"%014d" % number)
        device.writes = device.flushes = 0
        await edge.sync()
        assert (device.writes, device.flushes) == (1, 1)
        assert durable(device) == b"%014d" % number
        await edge.sync()
        assert (device.writes, device.flushes) == (1, 1)
    assert edge.volume.generation == generation
    assert edge.volume.statistics()["log_records"] == 30
    # A commit, by the timer or by whoever needs one, is still one.
    await edge.commit()
    assert edge.volume.generation == generation + 1
    await edge.commit()
    assert edge.volume.generation == generation + 1


async def test_those_who_wait_do_not_share_a_record(edge: Edge, device: Slow) -> None:
    edge.in_progress = 5
    edge.commits._log_pace = Pace()
    device.go.clear()
    device.began.clear()
    records = edge.volume.sync_log.records
    async with trio.open_nursery() as nursery:
        await write(edge, b"one")
        nursery.start_soon(edge.sync)
        while not device.began.is_set():
            await trio.sleep(0.001)
        for number in range(10):
            await write(edge, b"%d" % number, 20 + number)
            nursery.start_soon(edge.sync)
        await trio.testing.wait_all_tasks_blocked()
        device.go.set()
    assert edge.volume.sync_log.records == records + 2
    assert durable(device)[20:30] == b"0123456789"


async def test_a_commit_that_waits_behind_a_record_is_none(edge: Edge, device: Slow) -> None:
    edge.in_progress = 5
    edge.commits._log_pace = Pace()
    device.go.clear()
    device.began.clear()
    generation = edge.volume.generation
    async with trio.open_nursery() as nursery:
        await write(edge, b"one")
        nursery.start_soon(edge.sync)
        while not device.began.is_set():
            await trio.sleep(0.001)
        nursery.start_soon(edge.sync)
        nursery.start_soon(edge.commit)
        await trio.testing.wait_all_tasks_blocked()
        device.go.set()
    assert edge.volume.generation == generation + 1


@pytest.mark.reaches(probes.COMMIT_GAVE_WAY)
async def test_a_commit_in_the_loop_waits_for_the_medium(edge: Edge, device: Slow) -> None:
    """What it needs is not in memory: it gives way to the task of commits, and happens there."""
    edge.commits._pace = Quick()
    await write(edge, b"cold")
    generation = edge.volume.generation
    edge.volume.cache.clear()
    await edge.commit()
    assert edge.volume.generation == generation + 1
    assert durable(device)[:4] == b"cold"


async def test_a_record_that_cannot_be_written_is_an_error(edge: Edge, device: Slow) -> None:
    """A commit says the same."""
    for failure in (DeviceError("planted"), DeviceFull("planted")):
        await write(edge, b"before the failure")
        generation = edge.volume.generation
        device.write_failure, device.fails_from = failure, edge.volume.sync_log.region[0] * 4096  # type: ignore[index]
        await edge.sync()
        assert edge.volume.generation == generation + 1
        assert durable(device).startswith(b"before the failure")
        await write(edge, b"and after")
        await edge.sync()
        assert edge.volume.generation == generation + 1


async def test_a_failed_flush_is_no_error(edge: Edge, device: Slow) -> None:
    await write(edge, b"lost")
    device.flush_failure = DeviceError("planted")
    with pytest.raises(DeviceError, match="planted"):
        await edge.sync()
    assert (
        edge.volume.read_only_reason is not None
        and "could not be flushed" in edge.volume.read_only_reason
    )
    device.flush_failure = None
    with pytest.raises(ReadOnly):
        await edge.sync()


async def test_a_clean_unmount_leaves_a_log(edge: Edge, device: Slow) -> None:
    await write(edge, b"x")
    await edge.sync()
    assert open_volume(device, read_only=True).superblock.log_blocks
    await edge.finish()
    found = open_volume(device)
    assert not found.superblock.log_blocks and found.superblock.read_only_compatible == CLAIM
    assert check_volume(device) == []


async def test_a_moment_for_a_copy_has_a_log(edge: Edge, device: Slow) -> None:
    """What is copied is a generation alone."""
    await write(edge, b"x")
    await edge.sync()
    seen = await edge.at_rest(lambda: (edge.volume.superblock.log_blocks, edge.volume.unsaved))
    assert seen == (0, False)
    assert durable(device).startswith(b"x")
    await write(edge, b"y")
    await edge.sync()
    await write(edge, b"z")
    await edge.sync()
    assert edge.volume.sync_log.region is not None


async def test_a_snapshot_lacks_what_was_logged(edge: Edge) -> None:
    await write(edge, b"in the log")
    await edge.sync()
    instance = await edge.create_snapshot("one")
    await write(edge, b"later, and")
    await edge.sync()
    view = edge.fs.view(instance.id)
    assert (await edge.call(edge.fs.read, view, 16, 0, 10)) == b"in the log"


async def test_a_full_volume_keeps_its_log(edge: Edge, device: Slow) -> None:
    """Before anybody hears that there is no space."""
    with contextlib.suppress(Exception):
        for number in range(10_000):
            await write(edge, b"x" * 65536, number << 16)
            await edge.sync()
    assert edge.volume.sync_log.region is None
    assert edge.volume.allocator.available < edge.volume.allocator.reserve + 32
    await edge.finish()
    assert check_volume(device) == []
