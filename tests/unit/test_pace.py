"""Commits in the loop itself: only where nobody is kept waiting, and with the same outcome as in a
worker thread.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from snapfs.errors import DeviceError, DeviceFull, ReadOnly
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.pace import (
    QUICK,
    SMALL,
    Pace,
)
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice


class Noting(SparseDevice):
    """Remembers which thread has flushed it; flushes fail with ``failure``."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.threads: list[int] = []
        self.failure: Exception | None = None
        self.is_full = False

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.is_full:
            raise DeviceFull("there is no space")
        super().write(offset, data)

    def flush(self) -> None:
        self.threads.append(threading.get_ident())
        if self.failure is not None:
            raise self.failure


class Quick(Pace):
    """Whatever the machine that runs the tests is busy with."""

    @property
    def is_quick(self) -> bool:
        return True


@pytest.fixture
def device() -> Noting:
    made = Noting(32 << 20)
    format_volume(made)
    return made


@pytest.fixture
async def edge(device: Noting, nursery: trio.Nursery) -> AsyncIterator[Edge]:
    made = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
    made.commits._pace = Quick()
    nursery.start_soon(made.run)
    await trio.testing.wait_all_tasks_blocked()
    await make(made, b"warm")
    await made.commit()  # so that the next one misses nothing in memory
    device.threads.clear()
    made.in_progress = 1
    yield made
    nursery.cancel_scope.cancel()


async def make(edge: Edge, name: bytes) -> None:
    await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, name, 0o100644, 0, 0)


def durable(device: Noting) -> set[bytes]:
    fs = Filesystem(open_volume(device))
    return {entry.name for entry in drive(fs.volume, fs.entries, fs.base, ROOT_INO, 0, 10_000)} - {
        b"warm"
    }


def test_nothing_is_quick_before_it_was() -> None:
    pace = Pace()
    assert not pace.is_quick
    for _ in range(20):
        pace.note(1, QUICK / 5)
    assert pace.is_quick


def test_a_device_that_was_slow_once_is_waited_for_again() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.note(1, QUICK / 5)
    pace.note(1, QUICK)
    assert not pace.is_quick
    pace.note(1, QUICK / 5)
    pace.note(1, 1.0)
    for _ in range(5):
        pace.note(1, QUICK / 5)
    assert not pace.is_quick
    for _ in range(50):
        pace.note(1, QUICK / 5)
    assert pace.is_quick


def test_a_large_commit_says_something_about_small_ones() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(SMALL, QUICK / 5)
    pace.note(SMALL + 1, 1.0)
    assert pace.is_quick


async def test_one_user_waits_for_a_thread(edge: Edge, device: Noting) -> None:
    await make(edge, b"file")
    await edge.commit()
    assert device.threads == [threading.get_ident()] * 2
    assert durable(device) == {b"file"}
    await edge.commit()
    assert len(device.threads) == 2  # there was nothing to do


@pytest.mark.parametrize("others", [0, 2])
async def test_others_wait_for_a_commit(edge: Edge, device: Noting, others: int) -> None:
    """Those whose requests are in progress; and the timer's commit is nobody's hurry."""
    edge.in_progress = others
    await make(edge, b"file")
    await edge.commit()
    assert threading.get_ident() not in device.threads
    assert durable(device) == {b"file"}


async def test_the_loop_writes_a_large_commit(edge: Edge, device: Noting) -> None:
    for number in range(16 * SMALL):
        await make(edge, b"%d" % number)
    await edge.commit()
    assert device.threads
    assert threading.get_ident() not in device.threads
    assert len(durable(device)) == 16 * SMALL


async def test_a_commit_passes_the_one_that_is_being_written(edge: Edge, device: Noting) -> None:
    await make(edge, b"first")
    edge.commits.soon()
    await make(edge, b"second")
    await edge.commit()
    assert device.threads
    assert threading.get_ident() not in device.threads
    assert durable(device) == {b"first", b"second"}


async def test_a_failure_is_not_told(edge: Edge, device: Noting) -> None:
    await make(edge, b"file")
    device.failure = DeviceError("broken")
    with pytest.raises(DeviceError, match="broken"):
        await edge.commit()
    assert device.threads == [threading.get_ident()]
    with pytest.raises(ReadOnly):
        await make(edge, b"more")
    assert edge.volume.in_flight is not None  # what has not arrived is read from memory
    assert durable(device) == set()


async def test_a_defect_leaves_the_volume_writable(edge: Edge, device: Noting) -> None:
    await make(edge, b"file")
    device.failure = ValueError("a defect")
    with pytest.raises(DeviceError, match="a defect"):
        await edge.commit()
    assert edge.volume.read_only


async def test_a_full_host_ends_writing(edge: Edge, device: Noting) -> None:
    await make(edge, b"file")
    device.is_full = True
    with pytest.raises(DeviceFull):
        await edge.commit()
    assert not edge.volume.read_only
    device.is_full = False
    await edge.commit()
    assert durable(device) == {b"file"}
