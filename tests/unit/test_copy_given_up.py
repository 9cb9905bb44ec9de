"""D4, D7: copies that are given up, or could not be set up, while a device fails: nobody waits for
ever, and nothing seems what it is not.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from snapfs.blocks.copy_mark import FAILED, CopyMark
from snapfs.control.commands.offline import OfflineEngine
from snapfs.control.copies import behind
from snapfs.control.copies.apart import Here, Left
from snapfs.control.copies.behind import Behind
from snapfs.control.copies.copying import Copying
from snapfs.control.socket.caller import Alone
from snapfs.copying import CANCELLED, CopyJob, Wishes, job
from snapfs.copying.before_write import Beneath
from snapfs.copying.opening import open_unfinished, read_mark
from snapfs.copying.target import CopyTarget
from snapfs.device import Device, Lock, open_device
from snapfs.device.base import Buffer
from snapfs.errors import CopyError, DeviceError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

T = TypeVar("T")

BYTES = 8 << 20


class Waiting(Alone):
    """A caller in an event loop."""

    async def pause(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Sick:
    """Places where it cannot be said that a copy has failed: ``source``, and ``target``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = self.target = False
        self.tries = 0
        write, write_mark = Beneath.write, job.write_mark

        def to_source(beneath: Beneath, offset: int, data: Buffer) -> None:
            if self.source:
                self.tries += 1
                raise DeviceError("the source is sick")
            write(beneath, offset, data)

        def to_target(device: Device, mark: CopyMark) -> None:
            if self.target and mark.state == FAILED:
                raise DeviceError("the target is sick")
            write_mark(device, mark)

        monkeypatch.setattr(Beneath, "write", to_source)
        monkeypatch.setattr(job, "write_mark", to_target)


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sick:
    return Sick(monkeypatch)


class Copied:
    """A volume in a file, and a file that is there for its copy, which stays when the copy is given
    up.
    """

    def __init__(self, where: Path) -> None:
        self.image, self.target = str(where / "source"), str(where / "target")
        for path in (self.image, self.target):
            Path(path).touch()
            os.truncate(path, BYTES)
        self.device = open_device(self.image)
        format_volume(self.device)
        self.fs = Filesystem(open_volume(self.device))
        inode = drive(
            self.fs.volume, self.fs.make, self.fs.base, ROOT_INO, b"f", stat.S_IFREG | 0o644, 0, 0
        )
        self.ino = inode.ino
        self.write(b"before")
        self.copying = Copying(OfflineEngine(self.fs), self.fs, self.image, mount_device=1)

    def write(self, data: bytes) -> None:
        drive(self.fs.volume, self.fs.write, self.fs.base, self.ino, 0, data * 4096)
        commit(self.fs.volume)

    async def begin(self) -> CopyJob:
        await self.copying.begin(
            Waiting(),
            self.target,
            first=[],
            map_outside=False,
            wishes=Wishes(rate=0),
            force=False,
            owner=0,
        )
        assert self.copying.job is not None
        return self.copying.job

    def mark(self) -> CopyMark:
        with contextlib.closing(
            open_device(self.target, read_only=True, lock=Lock.SHARED)
        ) as device:
            mark = read_mark(device)
        assert mark is not None
        return mark

    def content(self) -> bytes:
        """Of the file, as the copy shows it. Raises ``CopyError``, ``DeviceError``."""
        device = open_device(self.target, read_only=True, lock=Lock.SHARED)
        with contextlib.closing(open_unfinished(device, self.mark())) as copy:
            fs = Filesystem(open_volume(copy, read_only=True))
            found: bytes = drive(fs.volume, fs.read, fs.base, self.ino, 0, 6)
            return found


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    made = Copied(tmp_path)
    yield made
    made.copying.close()
    made.device.close()


@pytest.mark.parametrize("target", [False, True], ids=["the target says so", "nobody can say so"])
async def test_what_could_not_be_set_up_seems_to_be_a_copy(
    copied: Copied, sick: Sick, target: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: the target was there before, and says that it is filled; so it is, until somebody has
    said that it is not.
    """

    shared = job.share

    def share(one: CopyTarget) -> None:
        shared(one)
        sick.source, sick.target = True, target
        raise DeviceError("it cannot be shared")

    monkeypatch.setattr(job, "share", share)
    with pytest.raises(DeviceError, match="cannot be shared"):
        await copied.begin()
    copied.write(b"after_")
    if not target:
        assert copied.mark().state == FAILED
        assert copied.copying.job is None
        assert copied.fs.volume.device is copied.device
        return
    assert copied.content() == b"before"
    sick.source = sick.target = False
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Behind(copied.copying).run)
            while copied.copying.has_work:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert copied.mark().state == FAILED
    assert copied.fs.volume.device is copied.device


async def test_who_gives_up_a_copy_waits_as_long_as_its_source_fails(
    copied: Copied, sick: Sick, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """He is told, and it is tried again until it works: with no more threads, and not one line of
    the log for each time.
    """
    monkeypatch.setattr(behind, "AGAIN_SECONDS", 0.01)
    one = await copied.begin()
    sick.source = sick.target = True
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Behind(copied.copying).run)
            with pytest.raises(CopyError, match=r"the source is sick.*tried again"):
                await copied.copying.cancel(Waiting())
            others = threading.active_count()
            while sick.tries < 10:
                await trio.sleep(0.01)
            assert threading.active_count() <= others + 2
            assert copied.copying.job is one
            copied.write(b"after_")
            assert copied.content() == b"before"
            sick.source = False
            while one.ended is None:
                await trio.sleep(0.01)
            assert one.ended == CANCELLED
            nursery.cancel_scope.cancel()
    assert copied.fs.volume.device is copied.device
    assert len([line for line in caplog.messages if "the source is sick" in line]) == 1


async def test_each_try_to_give_up_a_copy_leaves_a_thread(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that does not answer at all is waited for by one."""
    monkeypatch.setattr(behind, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(job, "FAIL_SECONDS", 0.05)
    may_go_on, tries = threading.Event(), [0]
    write = Beneath.write

    def wait(beneath: Beneath, offset: int, data: Buffer) -> None:
        tries[0] += 1
        assert may_go_on.wait(60)
        write(beneath, offset, data)

    one = await copied.begin()
    monkeypatch.setattr(Beneath, "write", wait)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Behind(copied.copying).run)
                for _ in range(3):
                    with pytest.raises(CopyError, match="does not answer"):
                        await copied.copying.cancel(Waiting())
                assert tries == [1]
                may_go_on.set()
                while one.ended is None:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
    finally:
        may_go_on.set()
    assert one.ended == CANCELLED


async def test_who_gives_up_a_copy_waits_for_the_next_one(copied: Copied) -> None:
    """It goes to the same place; but it is another one."""

    class Apart(Here):
        """Waits until it is not wanted."""

        async def run(
            self,
            work: Callable[[], T],
            *,
            over: Callable[[], bool],
            undo: Callable[[T], object] | None = None,
        ) -> T:
            while not over():
                await trio.sleep(0.001)
            raise Left("left")

    copied.copying.apart = Apart()

    async def begin() -> None:
        for _ in range(2):
            with pytest.raises(CopyError, match="cancelled"):
                await copied.begin()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                await copied.copying.cancel(Waiting())
