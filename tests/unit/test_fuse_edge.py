"""The edge between the loop and the core, on a volume in memory: nothing is lost, nobody waits for
ever, failures are told.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from snapfs import snapshots
from snapfs.errors import (
    CorruptBlock,
    DeviceError,
    NoSpace,
    NotFound,
    ReadOnly,
    SnapshotBusy,
)
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving import commits
from snapfs.fuse.driving.edge import WAITING_LIMIT, Edge
from snapfs.fuse.driving.threads import (
    THREADS,
    Pool,
    in_thread,
)
from snapfs.fuse.protocol.errno import errno_of
from snapfs.ids import ROOT_INO
from snapfs.interrupts import CommitNeeded
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.harness.sparse import SparseDevice

REGULAR = 0o100644


class SlowDevice(SparseDevice):
    """Never has anything at hand; flushes wait for ``go``; writes and flushes fail when told to."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.cold = False
        self.go = threading.Event()
        self.go.set()
        self.flushes = 0
        self.reads = 0
        self.failure: Exception | None = None
        self.main = threading.get_ident()

    def read(self, offset: int, length: int) -> bytes:
        if self.cold:
            self.reads += 1
            assert threading.get_ident() != self.main, "the loop waits for a device"
        return super().read(offset, length)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        return None if self.cold else super().read_nowait(offset, length)

    def flush(self) -> None:
        assert self.go.wait(20)
        self.flushes += 1
        if self.failure is not None:
            raise self.failure


def opened(device: SparseDevice) -> Filesystem:
    return Filesystem(open_volume(device))


@pytest.fixture
def device() -> SlowDevice:
    made = SlowDevice(32 << 20)
    format_volume(made)
    return made


@pytest.fixture
async def edge(device: SlowDevice, nursery: trio.Nursery) -> AsyncIterator[Edge]:
    made = Edge(opened(device), commit_seconds=3600.0)
    nursery.start_soon(made.run)
    await trio.testing.wait_all_tasks_blocked()
    yield made
    device.go.set()
    nursery.cancel_scope.cancel()


def make(edge: Edge, name: bytes) -> Any:
    return edge.change(edge.fs.make, edge.fs.base, ROOT_INO, name, REGULAR, 0, 0)


def names(fs: Filesystem) -> set[bytes]:
    return {entry.name for entry in drive(fs.volume, fs.entries, fs.base, ROOT_INO, 0, 10_000)}


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.001)


async def test_what_is_committed_is_on_the_device(edge: Edge, device: SlowDevice) -> None:
    await make(edge, b"file")
    await edge.commit()
    assert names(opened(device)) == {b"file"}
    generation = edge.volume.generation
    await edge.commit()
    assert edge.volume.generation == generation  # there was nothing to do


async def test_a_hundred_waiters_share_two_commits(edge: Edge, device: SlowDevice) -> None:
    device.go.clear()
    before = edge.volume.generation
    finished: list[int] = []

    async def one(number: int) -> None:
        await make(edge, b"%d" % number)
        await edge.commit()
        finished.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0)
        await until(lambda: edge.volume.generation > before)  # the first is sealed, its flush waits
        for number in range(1, 100):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert finished == []
        device.go.set()
    assert len(finished) == 100
    assert edge.volume.generation == before + 2
    assert names(opened(device)) == {b"%d" % number for number in range(100)}


async def test_a_commit_that_is_asked_for_while_one_is_written_is_not_answered_by_that(
    edge: Edge, device: SlowDevice
) -> None:
    device.go.clear()
    before = edge.volume.generation
    async with trio.open_nursery() as nursery:
        await make(edge, b"early")
        nursery.start_soon(edge.commit)
        await until(lambda: edge.volume.generation > before)
        await make(edge, b"late")
        nursery.start_soon(edge.commit)
        device.go.set()
    assert names(opened(device)) == {b"early", b"late"}


async def test_a_cold_device_is_read_by_threads_only(
    device: SlowDevice, nursery: trio.Nursery
) -> None:
    warm = Edge(opened(device), commit_seconds=3600.0)
    async with trio.open_nursery() as inner:
        inner.start_soon(warm.run)
        for number in range(500):
            inode = await make(warm, b"%d" % number)
            await warm.change(warm.fs.write, warm.fs.base, inode.ino, 0, b"%d" % number)
        await warm.commit()
        inner.cancel_scope.cancel()
    edge = Edge(opened(device), commit_seconds=3600.0)
    nursery.start_soon(edge.run)
    await trio.testing.wait_all_tasks_blocked(0.01)
    device.cold = True
    found: dict[bytes, int] = {}

    async def look(number: int) -> None:
        inode = await edge.call(edge.fs.lookup, edge.fs.base, ROOT_INO, b"%d" % number)
        found[b"%d" % number] = inode.ino

    async with trio.open_nursery() as inner:
        for number in range(500):
            inner.start_soon(look, number)
    assert len(set(found.values())) == 500
    assert 0 < device.reads < 2000
    with pytest.raises(NotFound):
        await edge.call(edge.fs.lookup, edge.fs.base, ROOT_INO, b"missing")
    await edge.change(edge.fs.unlink, edge.fs.base, ROOT_INO, b"7")
    device.cold = False
    await edge.commit()
    assert len(names(opened(device))) == 499


async def test_damage_is_told_once_it_is_certain(device: SlowDevice, nursery: trio.Nursery) -> None:
    """I7. A thread's reading may be out of date; the loop's own is not."""
    calls = 0

    class Doubtful:
        read_only = False
        read_only_reason = None

        def read_wants_nowait(self, wants: Any) -> None:
            return None

        def read_wants(self, wants: Any) -> Any:
            nonlocal calls
            calls += 1
            raise CorruptBlock("block 1 fails its checksum")

        def end_writing(self, reason: str) -> None:
            told.append(reason)

    told: list[str] = []
    edge = Edge(opened(device), commit_seconds=3600.0)
    edge.volume.cache.clear()
    doubtful: Any = Doubtful()
    doubtful.allocator = edge.volume.allocator
    edge.volume = doubtful

    def wants_something() -> None:
        from snapfs.interrupts import NotCached

        raise NotCached([])

    with pytest.raises(CorruptBlock):
        await edge.call(wants_something)
    assert calls == 2
    assert len(told) == 1


async def test_a_failed_commit_is_told_to_all_and_ends_writing(
    edge: Edge, device: SlowDevice
) -> None:
    await make(edge, b"durable")
    await edge.commit()
    device.failure = DeviceError("the medium is broken")
    outcomes: list[int] = []

    async def one() -> None:
        try:
            await edge.commit()
        except Exception as exc:
            outcomes.append(errno_of(exc, "fsync"))

    await make(edge, b"lost")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert outcomes == [errno.EIO] * 5
    with pytest.raises(ReadOnly, match="broken"):
        await edge.commit()
    with pytest.raises(ReadOnly):
        await make(edge, b"more")
    with pytest.raises(ReadOnly):
        await edge.create_snapshot("s")
    assert names(edge.fs) >= {b"durable"}
    await edge.finish()  # has nothing to add
    device.failure = None
    assert names(opened(device)) == {b"durable"}


async def test_a_defect_in_a_commit_is_told_and_the_loop_goes_on(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(edge, b"file")

    def broken(_: Volume) -> None:
        raise ZeroDivisionError("inside")

    with monkeypatch.context() as patch:
        patch.setattr(commits, "seal", broken)
        with pytest.raises(DeviceError, match="internal error"):
            await edge.commit()
    with pytest.raises(ReadOnly, match="a commit broke off: ZeroDivisionError: inside"):
        await edge.commit()
    assert names(edge.fs) == {b"file"}


async def test_a_full_volume_is_told_and_what_is_deleted_is_found_again(edge: Edge) -> None:
    inode = await make(edge, b"big")
    edge.fs.hold(edge.fs.base, inode.ino)
    chunk = b"x" * (1 << 20)
    written = 0
    with pytest.raises(NoSpace):
        while written < 64 << 20:
            written += await edge.change(edge.fs.write, edge.fs.base, inode.ino, written, chunk)
    assert written > 20 << 20
    await edge.change(edge.fs.unlink, edge.fs.base, ROOT_INO, b"big")
    await edge.change(edge.fs.forget, edge.fs.base, inode.ino)
    # Nobody waited for the background to free it: the next writer finds the space.
    again = await make(edge, b"again")
    for place in range(16):
        await edge.change(edge.fs.write, edge.fs.base, again.ino, place << 20, chunk)


async def test_a_call_that_always_wants_a_commit_ends(edge: Edge) -> None:
    def insatiable() -> None:
        raise CommitNeeded

    with trio.fail_after(20), pytest.raises(NoSpace):
        await edge.call(insatiable)
    with trio.fail_after(20), pytest.raises(NoSpace):
        await edge.change(insatiable)


async def test_changes_wait_at_the_gate_and_reads_do_not(edge: Edge) -> None:
    done: list[str] = []

    async def change() -> None:
        await make(edge, b"new")
        done.append("change")

    async with trio.open_nursery() as nursery, edge.gate.closed():
        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await edge.call(edge.fs.statfs)
        assert done == []
    assert done == ["change"]


async def test_a_snapshot_that_cannot_be_sealed_does_not_appear_later(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(volume: Volume) -> Any:
        if edge.volume.instances.pending:
            raise NoSpace("no space is left for a commit")
        return seal(volume)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "seal", full)
        with pytest.raises(NoSpace):
            await edge.create_snapshot("s")
    await make(edge, b"file")
    await edge.commit()
    assert snapshots.all(edge.fs) == []
    await edge.create_snapshot("s")
    assert [one.name for one in snapshots.all(edge.fs)] == ["s"]


async def test_a_commit_without_space_fills_the_log(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every timer tries it again; that is said once, and when it has succeeded."""
    caplog.set_level("INFO", logger="snapfs.fuse")
    await make(edge, b"file")

    def full(_: Volume) -> Any:
        raise NoSpace("no space is left for a commit")

    for expected in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(commits, "seal", full)
            for _ in range(3):
                edge.commits.soon()
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(NoSpace):  # whoever asks is told each time
                    await edge.commit()
        assert caplog.text.count("tried again until there is space") == expected
        assert edge.volume.dirty
        await edge.commit()
        assert caplog.text.count("there is space for commits again") == expected
        await make(edge, b"file %d" % expected)


async def test_reads_that_wait_delay_a_commit(
    edge: Edge, device: SlowDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do threads that wait for the kernel: each pool of threads has its own limit."""
    go = threading.Event()
    pools = [pool for pool in Pool if pool is not Pool.COMMITS]
    monkeypatch.setattr(edge.commits, "_can_here", lambda: False)  # or the loop writes by itself
    async with trio.open_nursery() as nursery:
        for pool in pools:
            for _ in range(2 * THREADS[pool]):
                nursery.start_soon(in_thread, pool, lambda: go.wait(20))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await make(edge, b"file")
        device.cold = True
        edge.volume.cache.clear()
        try:
            with trio.fail_after(20):
                await edge.commit()
            assert not go.is_set() and not edge.volume.unsaved
        finally:
            go.set()
    device.cold = False
    assert names(opened(device)) == {b"file"}


async def test_a_copy_begins_while_writes_are_in_flight(edge: Edge, device: SlowDevice) -> None:
    """D2: writes that bypass what is put before the device: at that moment none is on its way, and
    nothing is dirty.
    """
    device.go.clear()
    await make(edge, b"before")
    edge.commits.soon()
    await until(lambda: edge.volume.in_flight is not None)  # a worker thread is at it
    found: list[tuple[object, bool, set[bytes]]] = []

    def begin() -> None:
        found.append((edge.volume.in_flight, edge.volume.dirty, names(opened(device))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(edge.at_rest, begin)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await make(edge, b"meanwhile")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not found
        device.go.set()
    assert found == [(None, False, {b"before", b"meanwhile"})]
    await make(edge, b"after")  # the gate is open again


async def test_snapshot_operations_do_not_take_all_tasks(edge: Edge, device: SlowDevice) -> None:
    outcomes: list[type | None] = []
    device.go.clear()
    await make(edge, b"file")

    async def one(number: int) -> None:
        try:
            await edge.create_snapshot(f"s{number}")
            outcomes.append(None)
        except SnapshotBusy:
            outcomes.append(SnapshotBusy)

    async with trio.open_nursery() as nursery:
        for number in range(WAITING_LIMIT + 10):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert outcomes == [SnapshotBusy] * 9
        device.go.set()
    assert outcomes.count(None) == WAITING_LIMIT + 1
    assert len(snapshots.all(edge.fs)) == WAITING_LIMIT + 1


async def test_commits_come_by_themselves(device: SlowDevice, nursery: trio.Nursery) -> None:
    edge = Edge(opened(device), commit_seconds=0.01)
    nursery.start_soon(edge.run)
    await make(edge, b"file")
    await until(lambda: names(opened(device)) == {b"file"})


async def test_nothing_is_written_to_a_volume_that_is_mounted_read_only(
    device: SlowDevice, nursery: trio.Nursery
) -> None:
    before = device.copy().pages
    edge = Edge(Filesystem(open_volume(device, read_only=True)), commit_seconds=0.001)
    nursery.start_soon(edge.run)
    await edge.commit()
    with pytest.raises(ReadOnly, match="read-only"):
        await edge.create_snapshot("s")
    with contextlib.suppress(NotFound):
        await edge.call(edge.fs.lookup, edge.fs.base, ROOT_INO, b"x")
    await edge.finish()
    assert device.pages == before
