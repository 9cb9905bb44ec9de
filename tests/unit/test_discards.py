"""Discards of freed blocks: when they are told to the device, and that nobody waits for them or
loses anything by them (I4, I5).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from snapfs import probes, snapshots
from snapfs.check import check_volume
from snapfs.check.repair import repair_volume
from snapfs.device import ImageDevice, open_device
from snapfs.device.discarding import inwards
from snapfs.errors import DeviceError, NoSpace
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.ids import ROOT_INO
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

BLOCK = 4096
BLOCKS = 2048
FILE = 0o100644

Run = tuple[int, int]


class Noting(SparseDevice):
    """Notes what is discarded, as runs of blocks."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__(blocks * BLOCK)
        self.runs: list[Run] = []
        self.failure: DeviceError | None = None
        self.go = threading.Event()
        self.go.set()

    def discard(self, offset: int, length: int) -> None:
        assert self.go.wait(20)
        if self.failure is not None:
            raise self.failure
        self.runs.append((offset // BLOCK, length // BLOCK))
        super().discard(offset, length)

    def discarded(self) -> set[int]:
        return {block for start, length in self.runs for block in range(start, start + length)}


@pytest.fixture
def device() -> Noting:
    made = Noting()
    format_volume(made)
    return made


@pytest.fixture
def fs(device: Noting) -> Iterator[Filesystem]:
    """A volume whose mount wants discards; what it has become must stand the checker."""
    fs = Filesystem(open_volume(device))
    fs.volume.allocator.discards.wanted = True
    yield fs
    commit(fs.volume)
    assert [finding.message() for finding in check_volume(device)] == []
    fs.volume.allocator.discards.let_go()
    assert fs.volume.allocator.in_flight == 0
    assert fs.volume.allocator.free == fs.volume.allocator.available
    assert not any(group.pinned for group in fs.volume.allocator.groups.values())


def write(fs: Filesystem, name: bytes, blocks: int) -> list[Run]:
    """Make a file; where it lies."""
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, name, FILE, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, 0, name[:1] * blocks * BLOCK)
    runs = drive(fs.volume, fs.plan_read, fs.base, ino, 0, blocks * BLOCK).runs
    return [(start // BLOCK, length // BLOCK) for start, length in runs]


def blocks_of(runs: list[Run]) -> set[int]:
    return {block for start, length in runs for block in range(start, start + length)}


def remove(fs: Filesystem, name: bytes) -> None:
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, name)
    while drive(fs.volume, fs.work):
        pass


def test_what_is_freed_is_never_discarded(fs: Filesystem, device: Noting) -> None:
    places = blocks_of(write(fs, b"a", 100))
    commit(fs.volume)
    remove(fs, b"a")
    assert not places & device.discarded(), (
        "discarded before the generation that frees it is durable"
    )
    commit(fs.volume)
    assert places <= device.discarded()


def test_discards_happen_unasked(device: Noting) -> None:
    """Without the option nothing is discarded, and blocks are available as they were before."""
    fs = Filesystem(open_volume(device))
    write(fs, b"a", 100)
    commit(fs.volume)
    remove(fs, b"a")
    commit(fs.volume)
    assert not device.runs
    assert fs.volume.allocator.in_flight == 0


def test_neighbours_are_discarded_one_by_one(fs: Filesystem, device: Noting) -> None:
    """Small files that lie side by side are one discard."""
    for number in range(50):
        write(fs, b"%d" % number, 1)
    commit(fs.volume)
    device.runs.clear()
    for number in range(50):
        remove(fs, b"%d" % number)
    commit(fs.volume)
    assert len(device.discarded()) < 20, "repair could not go back to the generation before"
    write(fs, b"x", 1)
    commit(fs.volume)
    assert len(device.discarded()) >= 50
    assert len(device.runs) < 10


def test_discards_take_from_repair_what_it_goes_back_to(fs: Filesystem, device: Noting) -> None:
    """A root record that cannot be read: the generation before is still whole, as it is without
    discards.
    """
    for number in range(10):
        write(fs, b"%d" % number, 30)
        commit(fs.volume)
    remove(fs, b"3")
    commit(fs.volume)
    generation = fs.volume.generation
    broken = device.copy()
    broken.write(fs.volume.root_block * BLOCK, bytes(BLOCK))
    found = repair_volume(broken)
    assert any(f"went back to generation {generation - 1}" in line for line in found.actions), (
        found.actions
    )
    mended = Filesystem(open_volume(broken))
    names = {
        entry.name for entry in drive(mended.volume, mended.entries, mended.base, ROOT_INO, 0, 100)
    }
    assert {b"%d" % number for number in range(10)} - {b"3"} <= names
    assert check_volume(broken) == []


def test_what_was_never_durable_keeps_its_space(fs: Filesystem, device: Noting) -> None:
    """A temporary file that is removed before a commit has come by was written all the same."""
    places = blocks_of(write(fs, b"temporary", 100))
    remove(fs, b"temporary")
    commit(fs.volume)
    assert places <= device.discarded()


def test_what_a_snapshot_has_is_discarded(fs: Filesystem, device: Noting) -> None:
    places = blocks_of(write(fs, b"a", 100))
    commit(fs.volume)
    drive(fs.volume, snapshots.create, fs, "one")
    commit(fs.volume)
    remove(fs, b"a")
    commit(fs.volume)
    assert not places & device.discarded()
    drive(fs.volume, snapshots.delete, fs, "one")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    assert places <= device.discarded()


def test_a_block_is_given_out_while_it_is_being_discarded(fs: Filesystem, device: Noting) -> None:
    """The discard would arrive after what was written there."""
    write(fs, b"a", 1500)
    commit(fs.volume)
    remove(fs, b"a")
    sealed = seal(fs.volume)
    sealed.write()
    fs.volume.committed(sealed)
    discards = fs.volume.allocator.discards
    runs = discards.begin()
    assert len(blocks_of(runs)) >= 1500
    assert not discards.begin(), "two pieces at once"
    assert not blocks_of(runs) & blocks_of(write(fs, b"b", 300))
    with pytest.raises(NoSpace):
        write(fs, b"c", 1000)
    discards.done(fs.volume.discard(runs))
    write(fs, b"d", 1000)


@pytest.mark.reaches(probes.DISCARDS_SKIPPED)
def test_a_full_volume_waits_for_discards(fs: Filesystem, device: Noting) -> None:
    """What is due is given out as it is when somebody needs it."""
    places = blocks_of(write(fs, b"a", 1500))
    commit(fs.volume)
    remove(fs, b"a")
    sealed = seal(fs.volume)
    sealed.write()
    fs.volume.committed(sealed)
    assert len(places & blocks_of(write(fs, b"b", 1400))) > 800
    assert not places & device.discarded()


def test_what_is_being_read_is_discarded(fs: Filesystem, device: Noting) -> None:
    places = blocks_of(write(fs, b"a", 100))
    commit(fs.volume)
    with fs.volume.allocator.readers.open() as reader:
        remove(fs, b"a")
        commit(fs.volume)
        assert not places & device.discarded()
        assert not reader.lost
    commit(fs.volume)
    assert places <= device.discarded()


@pytest.mark.reaches(probes.DISCARD_FAILED)
def test_a_device_that_knows_no_discards_ends_the_volume(fs: Filesystem, device: Noting) -> None:
    reasons: list[str] = []
    fs.volume.allocator.discards.gave_up = reasons.append
    device.failure = DeviceError("not supported")
    for number in range(3):
        write(fs, b"%d" % number, 100)
        commit(fs.volume)
        remove(fs, b"%d" % number)
        commit(fs.volume)
    assert reasons == ["not supported"]
    assert not fs.volume.read_only


def test_a_volume_that_ends_writing_discards_on(fs: Filesystem, device: Noting) -> None:
    """What can be read of it may be all that somebody has."""
    write(fs, b"a", 100)
    commit(fs.volume)
    remove(fs, b"a")
    sealed = seal(fs.volume)
    sealed.write()
    fs.volume.committed(sealed)
    fs.volume.end_writing("planted")
    assert not fs.volume.allocator.discards.begin()
    fs.volume.read_only = False  # for the fixture's last commit


# Through the edge


async def removed(edge: Edge, name: bytes) -> None:
    await edge.change(edge.fs.unlink, edge.fs.base, ROOT_INO, name)
    while await edge.work():
        pass
    await edge.commit()


async def written(edge: Edge, name: bytes, blocks: int) -> None:
    inode = await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, name, FILE, 0, 0)
    await edge.change(edge.fs.write, edge.fs.base, inode.ino, 0, name[:1] * blocks * BLOCK)


@pytest.fixture
async def edge(device: Noting, nursery: trio.Nursery):
    fs = Filesystem(open_volume(device))
    fs.volume.allocator.discards.wanted = True
    edge = Edge(fs, commit_seconds=1000)
    nursery.start_soon(edge.run)
    yield edge
    device.go.set()
    nursery.cancel_scope.cancel()


async def test_users_wait_for_a_slow_discard(edge: Edge, device: Noting) -> None:
    """While there is other space they go on; when there is none, they wait and do not fail."""
    await written(edge, b"a", 1500)
    await edge.commit()
    await edge.discarding.finish()
    device.runs.clear()
    device.go.clear()
    with trio.fail_after(10):
        await removed(edge, b"a")
        await written(edge, b"b", 200)
        await edge.commit()
    assert not device.runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(written, edge, b"c", 1500)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not device.runs and len(nursery.child_tasks) == 1
        device.go.set()
    assert device.runs
    await edge.commit()
    assert [finding.message() for finding in check_volume(device)] == []


async def test_the_last_discards_are_left_out(edge: Edge, device: Noting) -> None:
    """Unmounting ends with them."""
    await written(edge, b"a", 1500)
    await edge.commit()
    await edge.change(edge.fs.unlink, edge.fs.base, ROOT_INO, b"a")
    edge.work_soon()
    with trio.fail_after(10):
        await edge.finish()
    assert len(device.discarded()) >= 1500
    assert not edge.volume.allocator.discards.pending


async def test_a_failed_discard_is_told_more_than_once(
    edge: Edge, device: Noting, caplog: pytest.LogCaptureFixture
) -> None:
    device.failure = DeviceError("planted")
    for name in (b"a", b"b", b"c"):
        await written(edge, name, 100)
        await edge.commit()
        await removed(edge, name)
    with trio.fail_after(10):
        await edge.finish()
    lines = [record.message for record in caplog.records if "discard" in record.message]
    assert lines == ["freed blocks are not discarded any more: planted"]
    assert not edge.volume.read_only


# Files


def test_a_file_keeps_what_is_discarded(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * (64 * BLOCK))
    device: ImageDevice = open_device(str(path))
    before = os.stat(path)
    device.discard(8 * BLOCK, 32 * BLOCK)
    after = os.stat(path)
    assert after.st_size == before.st_size
    assert after.st_blocks * 512 <= before.st_blocks * 512 - 32 * BLOCK
    assert device.read(7 * BLOCK, BLOCK) == device.read(40 * BLOCK, BLOCK) == b"x" * BLOCK
    assert device.read(8 * BLOCK, BLOCK) == bytes(BLOCK)
    with pytest.raises(DeviceError, match="outside the device"):
        device.discard(60 * BLOCK, 32 * BLOCK)
    device.close()


def test_a_host_without_holes_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()  # a file that can do nothing of that
    device = ImageDevice(write, "pipe", 1 << 20, read_only=False)
    with pytest.raises(DeviceError, match="pipe: discard at 4096 failed"):
        device.discard(4096, 4096)
    device.close()
    os.close(read)


@pytest.mark.parametrize(
    ("offset", "length", "granularity", "alignment", "expected"),
    [
        (4096, 8192, 4096, 0, (4096, 12288)),
        (4096, 8192, 512, 0, (4096, 12288)),
        (4096, 65536, 65536, 0, (65536, 65536)),
        (4096, 131072, 65536, 0, (65536, 131072)),
        (4096, 131072, 65536, 4096, (4096, 135168)),
        (8192, 4096, 65536, 4096, (69632, 4096)),
    ],
)
def test_more_is_discarded_than_was_asked_for(
    offset: int, length: int, granularity: int, alignment: int, expected: Run
) -> None:
    low, high = inwards(offset, length, granularity, alignment)
    assert (low, high) == expected
    assert low >= high or (offset <= low and high <= offset + length)
