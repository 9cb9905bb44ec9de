"""Devices that do not answer: whoever waits can go, and what is left behind does no harm when it
goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from snapfs import probes
from snapfs.control.copies.apart import (
    Left,
    at_once,
    never,
)
from snapfs.control.copies.threads import Threads
from snapfs.copying import before_write, copy
from snapfs.copying.before_write import Beneath, CopyBeforeWrite
from snapfs.copying.copy import Copy
from snapfs.copying.copy_map import CopyMap
from snapfs.copying.patience import Abandonable, Attempt
from snapfs.device import ImageDevice, open_device
from snapfs.errors import CopyBlocked, DeviceError
from snapfs.filesystem.format import format_volume
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

BLOCK = 4096


class Stuck(SparseDevice):
    """Flushing it ends when somebody says so."""

    def __init__(self, size: int) -> None:
        super().__init__(size, "stuck")
        self.may_go_on = threading.Event()
        self.waits = threading.Event()
        self.flushes = 0

    def flush(self) -> None:
        self.waits.set()
        assert self.may_go_on.wait(60)
        self.flushes += 1


class Copied:
    """A volume in memory, of which a copy to a device that does not answer has begun."""

    def __init__(self, *, copy_first: bool) -> None:
        self.source = SparseDevice(1024 * BLOCK)
        format_volume(self.source, block_size=BLOCK)
        volume = open_volume(self.source)
        self.target = Stuck(self.source.size)
        self.map = CopyMap(bytes(16), volume.generation, volume.geometry.blocks)
        self.failures: list[str] = []
        target = Abandonable(self.target)
        one = Copy(
            self.source,
            target,
            self.map,
            volume.geometry,
            list(volume.allocator.entries),
            sparse=False,
        )
        self.before = CopyBeforeWrite(one, copy_first=copy_first, failing=self.failures.append)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Copied]]:
    monkeypatch.setattr(before_write, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(copy, "AHEAD_BYTES", BLOCK)
    made: list[Copied] = []

    def begin(*, copy_first: bool = False) -> Copied:
        made.append(Copied(copy_first=copy_first))
        return made[-1]

    yield begin
    for one in made:
        one.target.may_go_on.set()


def test_a_writer_waits_for_ever(begin: Callable[..., Copied]) -> None:
    """D7: the copy fails, and is said to before anything is overwritten."""
    copied = begin()
    copied.before.write(0, b"x" * BLOCK)
    assert copied.source.read(0, BLOCK) == b"x" * BLOCK
    (reason,) = copied.failures
    assert "does not answer" in reason
    copied.before.write(BLOCK, b"y" * BLOCK)  # nothing is waited for any more


def test_a_writer_that_comes_second_waits_for_ever(
    begin: Callable[..., Copied], wait_until: Callable[..., None]
) -> None:
    """D7: the write fails; so do others, at once and without threads of their own, until the target
    has answered.
    """
    copied = begin(copy_first=True)
    before, others = copied.source.read(0, BLOCK), set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(CopyBlocked, match="does not answer"):
            copied.before.write(0, b"x" * BLOCK)
    assert copied.source.read(0, BLOCK) == before
    assert len(set(threading.enumerate()) - others) == 1
    copied.target.may_go_on.set()
    wait_until(lambda: copied.target.flushes == 1)

    def is_written() -> bool:
        try:
            copied.before.write(0, b"x" * BLOCK)
        except CopyBlocked:
            return False
        return True

    wait_until(is_written)
    assert copied.target.read(0, BLOCK)[:512] == before[:512]
    assert not copied.failures


def test_a_copy_that_is_given_up_is_waited_for(
    begin: Callable[..., Copied], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: whoever waits for the target goes on when the copy has failed, for whatever reason."""
    monkeypatch.setattr(before_write, "WAIT_SECONDS", 60.0)
    copied = begin()
    writer = Attempt(lambda: copied.before.write(0, b"x" * BLOCK))
    assert copied.target.waits.wait(20)
    assert not writer.is_done
    copied.before.fail("it was cancelled")
    assert writer.wait(20)
    writer.result()


def test_a_mount_that_ends_waits_as_long_as_any(
    begin: Callable[..., Copied], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(before_write, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr(before_write, "HURRIED_SECONDS", 0.05)
    copied = begin()
    writer = Attempt(lambda: copied.before.write(0, b"x" * BLOCK))
    assert copied.target.waits.wait(20)
    before_write.hurry(copied.before)
    assert writer.wait(20)
    assert copied.failures


@pytest.mark.reaches(
    probes.COPY_TARGET_SILENT, probes.COPY_TOOK_WHOLE_GROUP, probes.COPY_ENDED_BENEATH
)
def test_a_thread_that_was_left_writes_into_blocks_of_others(
    begin: Callable[..., Copied], wait_until: Callable[..., None]
) -> None:
    """I4: its map's blocks have been given back meanwhile."""
    copied, others = begin(), set(threading.enumerate())
    place = Beneath(copied.before)
    place.write(8 * BLOCK, b"map")
    copied.before.write(0, b"x" * BLOCK)  # fails the copy
    with pytest.raises(DeviceError, match="has ended"):
        place.write(8 * BLOCK, b"MAP")
    assert copied.source.read(8 * BLOCK, 3) == b"map"
    copied.target.may_go_on.set()
    wait_until(lambda: not set(threading.enumerate()) - others)
    assert copied.source.read(8 * BLOCK, 3) == b"map"


def test_a_descriptor_is_given_to_others_while_a_thread_uses_it(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """A device is closed when the last call has returned; nothing begins after it was given up."""
    path = tmp_path / "target"
    path.write_bytes(bytes(BLOCK))
    below = open_device(str(path))
    flushes, may_go_on = threading.Event(), threading.Event()

    class Waiting(ImageDevice):
        def flush(self) -> None:
            flushes.set()
            assert may_go_on.wait(60)
            super().flush()

    below.__class__ = Waiting
    device = Abandonable(below)
    descriptor = below._descriptor
    flush = Attempt(device.flush)
    assert flushes.wait(20)
    device.close()
    device.close()
    assert not device.wait_closed(0)
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    for call in (
        lambda: device.read(0, 1),
        lambda: device.write(0, b"x"),
        device.flush,
        device.remove_name,
    ):
        with pytest.raises(DeviceError, match="not used any more"):
            call()
    may_go_on.set()
    assert device.wait_closed(20)
    wait_until(lambda: flush.is_done)
    flush.result()


async def test_what_comes_too_late_is_kept(
    monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    """What a thread that was left has made is undone by that thread; and it counts until then."""
    monkeypatch.setattr("snapfs.control.copies.threads.LEAVE_SECONDS", 0.01)
    monkeypatch.setattr("snapfs.control.copies.threads.LOOK_SECONDS", 0.01)
    threads, may_go_on, undone = Threads(), threading.Event(), list[str]()

    def work() -> str:
        assert may_go_on.wait(60)
        return "made"

    with pytest.raises(Left):
        await threads.run(work, over=at_once, undo=undone.append)
    with trio.move_on_after(0.05):
        await threads.run(work, over=never, undo=undone.append)
    assert (threads.left, undone) == (2, [])
    may_go_on.set()
    wait_until(lambda: threads.left == 0)
    assert undone == ["made", "made"]
    assert await threads.run(work, over=at_once, undo=undone.append) == "made"
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0, over=never)
    assert (threads.left, undone) == (0, ["made", "made"])
