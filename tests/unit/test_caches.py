"""What is kept in memory of metadata that could be read again, and how much of it."""

from __future__ import annotations

import pytest

from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

BLOCK = 4096
FILES = 4000


@pytest.fixture
def fs() -> Filesystem:
    device = SparseDevice(8192 * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    for number in range(FILES):
        ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file-%d" % number, 0o100644, 0, 0).ino
        drive(fs.volume, fs.write, fs.base, ino, 0, b"%d" % number)
    commit(fs.volume)
    return Filesystem(open_volume(device))


def test_a_limit_of_memory_is_not_kept(fs: Filesystem) -> None:
    """Everything is read twice with the least that is allowed: it can be, and no cache grows beyond
    twice its capacity.
    """
    fs.limit_caches(1 << 20)
    blocks, inodes = fs.volume.cache, fs._cache
    assert blocks.capacity == 64
    assert inodes.capacity == 256
    for _ in range(2):
        for number in range(FILES):
            inode = drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"file-%d" % number)
            assert drive(fs.volume, fs.read, fs.base, inode.ino, 0, BLOCK) == b"%d" % number
    assert len(blocks) <= 2 * blocks.capacity + 1
    assert len(inodes._young) + len(inodes._old) <= 2 * inodes.capacity + 1


def test_more_memory_keeps_no_more(fs: Filesystem) -> None:
    fs.limit_caches(64 << 20)
    assert fs.volume.cache.capacity == 4096
    for number in range(FILES):
        drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"file-%d" % number)
    missed = fs.volume.cache.misses
    for number in range(FILES):
        drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"file-%d" % number)
    assert fs.volume.cache.misses == missed
