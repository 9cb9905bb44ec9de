"""Readers of a sealed generation: what they read is not overwritten, and nobody else suffers from
that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapfs import probes
from snapfs.check import check_volume
from snapfs.errors import NoSpace
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.space import readers
from tests.harness.sparse import SparseDevice

BLOCK = 4096
BLOCKS = 2048


@pytest.fixture
def fs() -> Iterator[Filesystem]:
    """An 8 MiB volume; what it has become must stand the checker."""
    device = SparseDevice(BLOCKS * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    yield fs
    commit(fs.volume)
    assert [finding.message() for finding in check_volume(device)] == []
    assert fs.volume.allocator.in_flight == 0
    assert fs.volume.allocator.free == fs.volume.allocator.available


def write(fs: Filesystem, name: bytes, content: bytes) -> int:
    ino: int = drive(fs.volume, fs.make, fs.base, ROOT_INO, name, 0o100644, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, 0, content)
    return ino


def remove(fs: Filesystem, name: bytes) -> None:
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, name)
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)


def churn(fs: Filesystem, rounds: int) -> None:
    """Write and remove more than there is space for, were nothing of it used again."""
    for number in range(rounds):
        write(fs, b"churn", bytes([number % 255 + 1]) * (200 * BLOCK))
        commit(fs.volume)
        remove(fs, b"churn")


def blocks_of(fs: Filesystem, ino: int) -> list[tuple[int, int]]:
    (start, length), *_ = drive(fs.volume, fs.plan_read, fs.base, ino, 0, 100 * BLOCK).runs
    return [(start, length)]


def test_what_is_being_read_is_overwritten(fs: Filesystem) -> None:
    """Blocks that were freed after a reader was opened keep their content until it is closed."""
    ino = write(fs, b"file", b"old" * BLOCK)
    commit(fs.volume)
    places = blocks_of(fs, ino)
    before = [fs.volume.device.read(*place) for place in places]
    with fs.volume.allocator.readers.open() as reader:
        remove(fs, b"file")
        churn(fs, 4)
        assert not reader.lost
        assert [fs.volume.device.read(*place) for place in places] == before
    churn(fs, 12)
    assert [fs.volume.device.read(*place) for place in places] != before


@pytest.mark.reaches(probes.READERS_LOST)
def test_a_reader_makes_the_volume_full(fs: Filesystem) -> None:
    """Whoever writes comes first: a reader that is in the way is told that it has lost."""
    with fs.volume.allocator.readers.open() as reader:
        churn(fs, 40)
        assert reader.lost
        with fs.volume.allocator.readers.open() as another:
            assert not another.lost
    with pytest.raises(NoSpace), fs.volume.allocator.readers.open() as reader:
        write(fs, b"too large", bytes(BLOCKS * BLOCK))
    assert not reader.lost, "nothing was kept for it that could have helped"


def test_a_reader_that_ends_gives_back_what_another_reads(fs: Filesystem) -> None:
    ino = write(fs, b"file", b"old" * BLOCK)
    commit(fs.volume)
    places = blocks_of(fs, ino)
    before = [fs.volume.device.read(*place) for place in places]
    first, second = fs.volume.allocator.readers.open(), fs.volume.allocator.readers.open()
    remove(fs, b"file")
    first.close()
    first.close()
    churn(fs, 4)
    assert not second.lost
    assert [fs.volume.device.read(*place) for place in places] == before
    second.close()


def test_readers_take_memory_without_end(fs: Filesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of too many groups is lost instead."""
    monkeypatch.setattr(readers, "GROUPS_MAX", 0)
    write(fs, b"file", b"old" * BLOCK)
    commit(fs.volume)
    with fs.volume.allocator.readers.open() as reader:
        remove(fs, b"file")
        assert reader.lost
