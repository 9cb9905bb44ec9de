"""A device that fails loses nothing that was promised, shows nothing wrong, and stops nobody for
ever (I7, I8).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from snapfs import probes, snapshots
from snapfs.check import check_volume
from snapfs.device import image, open_device
from snapfs.device.reserve import RESERVE_BYTES
from snapfs.errors import (
    CorruptBlock,
    CorruptData,
    DeviceError,
    DeviceFull,
    ReadOnly,
    SnapfsError,
    VolumeError,
)
from snapfs.filesystem import Filesystem, writing
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.crash.oracle import dump
from tests.damage.faults import Fault, FaultyDevice, Kind
from tests.damage.ordeal import FILE, STORIES, UNREADABLE, Story, look
from tests.damage.planting import Planted, build, metadata, planted
from tests.harness.effort import Effort
from tests.harness.sparse import SparseDevice

#: Samples of each story in a usual run, and faults in one: of every way to fail, some wherever the
#: operations of the device come from.
SAMPLES, FAULTS = 2, 120

#: Stories that take long have fewer.
FEWER = {"records": 20, "directories": 60, "full_of_snapshots": 60, "logged_until_full": 60}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_no_failing_operation_loses_leaks_or_lies(name: str, effort: Effort) -> None:
    story = Story.learn(name)
    outcomes: Counter[tuple[str, str]] = Counter()
    for seed in effort.seeds(SAMPLES):
        with effort.sample(seed):
            for fault in story.sample(FEWER.get(name, FAULTS), seed):
                suffer(story, fault, outcomes)
    print(f"{name}: {outcomes.total()} faults: {dict(outcomes)}")


def suffer(story: Story, fault: Fault, outcomes: Counter[tuple[str, str]]) -> None:
    try:
        outcomes[fault.kind.value[0], story.suffer(fault)] += 1
    except Exception as exc:
        raise AssertionError(
            f"replay with: Story.learn({story.name!r}).suffer({fault!r}): "
            f"{type(exc).__name__}: {exc}"
        ) from exc


# The harness itself


def suffer_all(name: str, *kinds: Kind) -> None:
    story = Story.learn(name)
    for fault in [fault for fault in story.faults() if fault.kind in kinds]:
        story.suffer(fault)


def test_blocks_of_a_failed_write_that_stay_taken_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "snapfs.store.space.allocator.Allocator.give_back", lambda *_args, **_named: None
    )
    with pytest.raises(AssertionError, match="leaked"):
        suffer_all("files", Kind.WRITE)


def test_blocks_that_a_failed_write_has_torn_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_adopt_torn", lambda *_: None)
    with pytest.raises(AssertionError, match="/new"):
        suffer_all("in_place", Kind.SHORT_WRITE)


def test_writing_on_after_a_failed_flush_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Volume, "end_writing", lambda *_: None)
    with pytest.raises(AssertionError, match="read-only"):
        suffer_all("files", Kind.FLUSH)


def test_a_commit_that_ignores_a_failed_flush_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    flush = FaultyDevice.flush

    def deaf(self: FaultyDevice) -> None:
        with contextlib.suppress(DeviceError):
            flush(self)

    monkeypatch.setattr(FaultyDevice, "flush", deaf)
    with pytest.raises((AssertionError, SnapfsError)):
        suffer_all("files", Kind.FLUSH)


# Through the edge, where commits and reads are other tasks' and threads' business


class ColdDevice(FaultyDevice):
    """Has nothing at hand: every read is a thread's."""

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        return None


def fresh(blocks: int = 400) -> SparseDevice:
    device = SparseDevice(blocks * 4096)
    format_volume(device)
    return device


class User:
    """Does what users do, one thing after the other, whatever came of the last."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.fs = edge.fs
        self.acknowledged = edge.volume.generation
        self.errors: list[SnapfsError] = []

    async def write(self, name: bytes, offset: int, content: bytes) -> None:
        try:
            inode = await self.edge.call(self.fs.lookup, self.fs.base, ROOT_INO, name)
        except SnapfsError:
            inode = await self.edge.change(self.fs.make, self.fs.base, ROOT_INO, name, FILE, 0, 0)
        await self.edge.change(self.fs.write, self.fs.base, inode.ino, offset, content)

    async def sync(self) -> None:
        generation = self.edge.volume.generation
        await self.edge.commit()
        self.acknowledged = max(self.acknowledged, generation)

    async def live(self) -> None:
        edge, fs = self.edge, self.fs
        for step in (
            lambda: self.write(b"a", 0, b"a" * 30_000),
            self.sync,
            lambda: edge.create_snapshot("one"),
            lambda: self.write(b"a", 8192, b"b" * 5000),
            lambda: self.write(b"c", 0, b"c" * 5000),
            self.sync,
            lambda: edge.create_snapshot("two"),
            lambda: edge.change(fs.unlink, fs.base, ROOT_INO, b"a"),
            lambda: edge.delete_snapshot("two"),
            lambda: edge.restore("one"),
            lambda: edge.rename_snapshot("one", "first"),
            lambda: edge.delete_snapshot("first"),
            edge._work_done.wait,
            self.sync,
        ):
            edge.volume.cache.clear()
            try:
                await step()
            except SnapfsError as exc:
                self.errors.append(exc)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    logger = logging.getLogger("snapfs")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)


async def at_an_edge(content: bytes, fault: Fault | None) -> tuple[ColdDevice, Edge, User]:
    device = ColdDevice(content)
    edge = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
    user = User(edge)
    device.arm(fault)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(edge.run)
            await user.live()
            written = device.counts["write"]
            was_read_only = edge.volume.read_only
            try:
                await edge.finish()
            except SnapfsError as exc:
                user.errors.append(exc)
            nursery.cancel_scope.cancel()
    assert not was_read_only or device.counts["write"] == written
    return device, edge, user


@pytest.mark.slow
async def test_no_failing_operation_stops_or_deceives_the_daemon(lines: list[str]) -> None:
    content = fresh()
    device, edge, user = await at_an_edge(content, None)
    assert not user.errors and not edge.volume.read_only
    operations = device.counts.copy()
    for kind in Kind:
        for lasting in (False, True):
            for at in range(1, operations[kind.operation] + 1):
                fault = Fault(kind, at, lasting)
                lines.clear()
                device, edge, user = await at_an_edge(content, fault)
                if not device.hits:
                    continue  # threads read in another order, and one read less may do
                device.is_armed = False
                wrong = [exc for exc in user.errors if not isinstance(exc, SnapfsError)]
                assert not wrong, fault
                latch = [line for line in lines if "read-only from now on" in line]
                assert len(latch) == (edge.volume.read_only_reason is not None), (fault, lines)
                assert not [line for line in lines if "internal error" in line], (fault, lines)
                if kind in (Kind.READ, Kind.FULL):
                    assert not latch, (fault, lines)
                opened = open_volume(device)
                assert opened.generation >= user.acknowledged, fault
                found = check_volume(device)
                assert not found, (fault, [one.message() for one in found][:3])
                dump(Filesystem(opened))


# The device is full: nothing durable is lost, and it can be tried again


def full_from_now_on(device: FaultyDevice) -> None:
    device.arm(Fault(Kind.FULL, 1, lasting=True))


@pytest.mark.reaches(probes.COMMIT_WAITS_FOR_HOST)
def test_a_commit_that_finds_no_space_is_not_tried_again() -> None:
    device = FaultyDevice(fresh())
    volume = open_volume(device)
    fs = Filesystem(volume)
    drive(volume, fs.make, fs.base, ROOT_INO, b"file", FILE, 0, 0)
    full_from_now_on(device)
    for _ in range(3):
        with pytest.raises(DeviceFull):
            commit(volume)
    drive(volume, fs.make, fs.base, ROOT_INO, b"another", FILE, 0, 0)
    assert volume.read_only_reason is None
    assert [one.message() for one in check_volume(device)] == []
    device.is_armed = False
    commit(volume)
    assert check_volume(device) == []
    assert dump(Filesystem(open_volume(device))) == dump(fs)


async def test_a_full_host_ends_writing_or_floods_the_log(
    nursery: trio.Nursery, lines: list[str]
) -> None:
    device = FaultyDevice(fresh())
    edge = Edge(Filesystem(open_volume(device)), commit_seconds=0.005)
    user = User(edge)
    nursery.start_soon(edge.run)
    await user.write(b"file", 0, b"x" * 9000)
    full_from_now_on(device)
    for _ in range(5):
        with pytest.raises(DeviceFull):
            await user.sync()
    with pytest.raises(DeviceFull):
        await user.write(b"file", 4096, b"y" * 9000)
    with pytest.raises(DeviceFull):
        await edge.create_snapshot("one")
    await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, b"in memory", FILE, 0, 0)
    edge.volume.written_bytes = 1 << 40  # too much waits
    with pytest.raises(DeviceFull):
        await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, b"too much", FILE, 0, 0)
    assert len([line for line in lines if "a commit failed" in line]) == 1
    device.is_armed = False
    await user.sync()
    assert len([line for line in lines if "space for commits" in line]) == 1
    await edge.create_snapshot("two")
    await edge.finish()
    assert check_volume(device) == []
    assert [one.name for one in snapshots.all(edge.fs)] == ["two"]


async def test_a_snapshot_whose_commit_found_no_space_appears_later(nursery: trio.Nursery) -> None:
    device = FaultyDevice(fresh())
    edge = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
    nursery.start_soon(edge.run)
    full_from_now_on(device)
    with pytest.raises(DeviceFull):
        await edge.create_snapshot("one")
    device.is_armed = False
    await edge.commit()
    assert snapshots.all(edge.fs) == []
    await edge.create_snapshot("one")
    await edge._work_done.wait()
    await edge.commit()
    assert check_volume(device) == []


def test_a_failed_write_far_into_a_sparse_file_leaves_pointer_blocks() -> None:
    device = FaultyDevice(fresh())
    volume = open_volume(device)
    fs = Filesystem(volume)
    inode = drive(volume, fs.make, fs.base, ROOT_INO, b"sparse", FILE, 0, 0)
    drive(volume, fs.write, fs.base, inode.ino, 0, b"first")
    device.arm(Fault(Kind.WRITE, 1))
    with pytest.raises(DeviceError):
        drive(volume, fs.write, fs.base, inode.ino, 1 << 40, b"far")
    assert (inode.blocks, inode.map.depth, inode.size) == (1, 0, 5)
    commit(volume)
    assert check_volume(device) == []


# Damage


@pytest.fixture(name="planted")
def planted_fixture() -> Planted:
    return planted()


def use_everything(p: Planted) -> None:
    """Look at everything and change something in each view; what cannot be done is somebody else's
    test.
    """
    look(p.fs)
    for view in (p.base, *(p.fs.view(one.id) for one in p.volume.instances.live())):
        with contextlib.suppress(SnapfsError):
            p.do(
                snapshots.create,
                p.fs,
                f"policy of {view.id}",
                origin=view.id,
                targets=[snapshots.Designated("policy")],
            )
        with contextlib.suppress(SnapfsError):
            p.do(p.fs.unlink, view, ROOT_INO, b"plain")
    with contextlib.suppress(SnapfsError):
        while p.do(p.fs.work):
            pass
        commit(p.volume)


def test_damaged_metadata_is_written_on(planted: Planted) -> None:
    """Each kind of metadata block, flipped: the volume becomes read-only when it is used, and says
    why; or it does not open.
    """
    seen: Counter[str] = Counter()
    for what, block in list(metadata(planted)):
        if seen[what] >= 4:
            continue
        device = build().copy()
        device.write(block * 4096 + 100, bytes([device.read(block * 4096 + 100, 1)[0] ^ 4]))
        before = device.copy().pages
        try:
            p = Planted(device)
        except CorruptBlock:
            assert what in ("root record", "group table", "instance table", "holder sets")
            continue
        use_everything(p)
        seen[what] += 1
        assert p.volume.read_only_reason is not None, f"{what}, block {block}"
        assert "metadata is damaged" in p.volume.read_only_reason
        assert device.pages == before, "it was written to"
        with pytest.raises(ReadOnly, match="snapfs check"):
            p.volume.check_writable()
    assert len(seen) >= 5, seen


def test_damaged_data_makes_a_volume_read_only(planted: Planted) -> None:
    block = planted.block_of(planted.find("plain"))
    planted.flip(block * 4096 + 5)
    with pytest.raises(CorruptData, match=f"block {block}, .*byte 0 "):
        planted.do(planted.fs.read, planted.base, planted.find("plain").ino, 0, 100)
    with pytest.raises(CorruptData):  # its other bytes must be kept
        planted.do(planted.fs.write, planted.base, planted.find("plain").ino, 10, b"x")
    assert planted.volume.read_only_reason is None
    trees = look(planted.fs)
    assert [
        path
        for path, facts in trees[""].items()
        if path.startswith(b"/") and facts[8] == UNREADABLE
    ] == [b"/plain"]
    planted.do(planted.fs.write, planted.base, planted.find("plain").ino, 0, b"x" * 4096)
    assert planted.do(planted.fs.read, planted.base, planted.find("plain").ino, 0, 10) == b"x" * 10


def test_looking_at_a_damaged_volume_says_that_an_error_made_it_read_only(planted: Planted) -> None:
    """Whoever opens it to read has nothing to end."""
    inode = planted.find("dir")
    block = inode.names.root[0] & (1 << 48) - 1
    planted.flip((block & 0xFFFFFFFFFF) * 4096 + 100)
    volume = open_volume(planted.device, read_only=True)
    fs = Filesystem(volume)
    with pytest.raises(VolumeError):
        drive(
            volume,
            fs.lookup,
            fs.base,
            drive(volume, fs.lookup, fs.base, ROOT_INO, b"dir").ino,
            b"sub",
        )
    assert volume.read_only and volume.read_only_reason is None


# The image device itself


class System:
    """Stands in for ``os``: transfers are short, and fail when told to."""

    def __init__(self) -> None:
        self.piece = 1000
        self.failure: dict[str, OSError | int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _planted(self, name: str) -> int | None:
        what = self.failure.get(name)
        if isinstance(what, OSError):
            raise what
        return what

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        end = self._planted("pread")
        return os.pread(
            descriptor,
            min(length, self.piece) if end is None else max(0, min(length, end - offset)),
            offset,
        )

    def preadv(self, descriptor: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        self._planted("preadv")
        with memoryview(buffers[0]) as view:
            return os.preadv(descriptor, [view[: self.piece]], offset)

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        if self._planted("pwrite") == 0:
            return 0
        with memoryview(data) as view:
            return os.pwrite(descriptor, view[: self.piece], offset)

    def fdatasync(self, descriptor: int) -> None:
        self._planted("fdatasync")
        os.fdatasync(descriptor)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(image, "os", made)
    return made


@pytest.fixture
def device(tmp_path: Path, system: System) -> Iterator[image.ImageDevice]:
    path = tmp_path / "image"
    path.write_bytes(bytes(4 << 20))
    opened = open_device(str(path))
    yield opened
    opened.close()


def test_short_transfers_lose_bytes(device: image.ImageDevice) -> None:
    """A whole story on a device that transfers 1000 bytes at a time."""
    format_volume(device)
    volume = open_volume(device)
    fs = Filesystem(volume)
    content = os.urandom(50_000)
    inode = drive(volume, fs.make, fs.base, ROOT_INO, b"file", FILE, 0, 0)
    drive(volume, fs.write, fs.base, inode.ino, 0, content)
    commit(volume)
    again = open_volume(device)
    fs = Filesystem(again)
    assert drive(again, fs.read, fs.base, inode.ino, 0, 50_000) == content
    assert check_volume(device) == []
    assert device.read_nowait(0, 4096) is None  # a part of it is not it


@pytest.mark.parametrize(
    ("name", "failure", "call", "kind", "words"),
    [
        (
            "pread",
            OSError(errno.EIO, "Input/output error"),
            lambda d: d.read(0, 10),
            DeviceError,
            "read at 0 failed",
        ),
        (
            "pread",
            5000,
            lambda d: d.read(4096, 4096),
            DeviceError,
            "ends at 5000, 3192 bytes are missing",
        ),
        (
            "preadv",
            OSError(errno.EIO, "Input/output error"),
            lambda d: d.read_nowait(0, 10),
            DeviceError,
            "read at 0 failed",
        ),
        (
            "pwrite",
            OSError(errno.EIO, "Input/output error"),
            lambda d: d.write(0, b"x"),
            DeviceError,
            "write at 0 failed",
        ),
        (
            "pwrite",
            OSError(errno.ENOSPC, "No space left on device"),
            lambda d: d.write(0, b"x"),
            DeviceFull,
            "No space left",
        ),
        (
            "pwrite",
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            lambda d: d.write(0, b"x"),
            DeviceFull,
            "quota",
        ),
        ("pwrite", 0, lambda d: d.write(0, b"x"), DeviceError, "ended after 0 of 1 bytes"),
        (
            "fdatasync",
            OSError(errno.EIO, "Input/output error"),
            lambda d: d.flush(),
            DeviceError,
            "flush .*failed",
        ),
        (
            "fdatasync",
            OSError(errno.ENOSPC, "No space left on device"),
            lambda d: d.flush(),
            DeviceFull,
            "flush .*failed",
        ),
    ],
)
def test_what_the_system_refuses_is_taken_for_done(
    device: image.ImageDevice,
    system: System,
    name: str,
    failure: Any,
    call: Callable[[Any], Any],
    kind: type,
    words: str,
) -> None:
    system.failure[name] = failure
    with pytest.raises(kind, match=words) as caught:
        call(device)
    assert type(caught.value) is kind
    system.failure.clear()
    call(device)


def test_an_image_that_was_cut_off_is_flushed_as_if_it_were_whole(
    device: image.ImageDevice,
) -> None:
    os.truncate(device.path, 1 << 20)
    with pytest.raises(DeviceError, match="bytes are missing"):
        device.read(2 << 20, 4096)
    device.write(2 << 20, b"grows again")
    with pytest.raises(DeviceError, match="has been cut from 4194304 to"):
        device.flush()


def test_space_that_is_kept_for_commits_changes_the_image_or_stays_behind(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    device = open_device(str(path))
    format_volume(device)
    volume = open_volume(device)
    fs = Filesystem(volume)
    drive(volume, fs.make, fs.base, ROOT_INO, b"file", FILE, 0, 0)
    before = path.stat().st_blocks * 512
    commit(volume)
    assert path.stat().st_size == 16 << 20
    assert before + RESERVE_BYTES <= path.stat().st_blocks * 512 < before + 2 * RESERVE_BYTES
    volume.close()
    device.close()
    assert path.stat().st_size == 16 << 20
    assert path.stat().st_blocks * 512 < before + RESERVE_BYTES // 2
