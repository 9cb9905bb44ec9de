"""The superblock: what a mount believes when slots are torn, damaged or from the future (I8)."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import (
    BLOCK_SIZES,
    MINIMUM_BLOCKS,
    RING_SLOTS,
    SUPERBLOCK_SLOTS,
    Geometry,
)
from snapfs.blocks.superblock import CHECKSUM_OFFSET, SUPERBLOCK_BYTES, Superblock
from snapfs.device.memory import MemoryDevice
from snapfs.errors import CorruptBlock, NotAVolume, Truncated, UnsupportedVersion, UsageError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

BLOCKS = 512
VERSION_OFFSET = 8
INCOMPATIBLE_OFFSET = 48


def with_generations(count: int) -> tuple[MemoryDevice, int]:
    """A device where generation after generation made one more file; and the newest generation."""
    device = MemoryDevice(BLOCKS * 4096)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    for number in range(count):
        drive(fs.volume, fs.make, fs.base, ROOT_INO, b"%d" % number, 0o100644, 0, 0)
        commit(fs.volume)
    return device, fs.volume.generation


def names(device: MemoryDevice) -> set[bytes]:
    fs = Filesystem(open_volume(device))
    return {entry.name for entry in drive(fs.volume, fs.entries, fs.base, ROOT_INO, 0, 1000)}


def slots(generation: int) -> tuple[int, int]:
    front, tail = Geometry(4096, BLOCKS).slot_offsets()
    return front[generation % SUPERBLOCK_SLOTS], tail[generation % SUPERBLOCK_SLOTS]


@pytest.mark.parametrize("byte", [0, 20, 100, CHECKSUM_OFFSET])
def test_a_damaged_newest_superblock_loses_the_volume(byte: int) -> None:
    """I8: with the newest slot and its copy unreadable, the generation before is mounted, whole."""
    device, newest = with_generations(5)
    for offset in slots(newest):
        device.data[offset + byte] ^= 0xFF
    assert open_volume(device).generation == newest - 1
    assert names(device) == {b"0", b"1", b"2", b"3"}


@pytest.mark.parametrize(
    "place",
    [pytest.param(0, marks=pytest.mark.reaches(probes.COPY_OF_RING_AHEAD)), 1],
    ids=["front", "tail"],
)
def test_one_damaged_copy_loses_a_generation(place: int) -> None:
    """I8: the other copy of the slot still names the newest generation."""
    device, newest = with_generations(5)
    device.data[slots(newest)[place] + 30] ^= 1
    assert open_volume(device).generation == newest
    assert len(names(device)) == 5


@pytest.mark.reaches(probes.TORN_SUPERBLOCK)
def test_a_torn_superblock_is_believed() -> None:
    """I8: a slot of which only a part was written over an older one does not verify."""
    device, newest = with_generations(SUPERBLOCK_SLOTS + 3)
    for offset in slots(newest):
        found = Superblock.decode(bytes(device.data[offset : offset + 4096]))
        older = dataclasses.replace(found, generation=newest - SUPERBLOCK_SLOTS).encode()
        device.data[offset + 100 : offset + 512] = older[100:512]
    assert open_volume(device).generation == newest - 1


@pytest.mark.reaches(probes.RING_LOST)
def test_the_whole_front_ring_is_needed() -> None:
    """I8: the copy of the ring at the end is found from the device's size alone."""
    device, newest = with_generations(3)
    device.data[: RING_SLOTS * 4096] = bytes(RING_SLOTS * 4096)
    assert open_volume(device).generation == newest


def rewrite(device: MemoryDevice, generation: int, offset: int, value: bytes) -> None:
    """Change a field and make the checksum right again."""
    for slot in slots(generation):
        body = bytearray(device.data[slot : slot + CHECKSUM_OFFSET])
        body[offset : offset + len(value)] = value
        device.data[slot : slot + SUPERBLOCK_BYTES] = bytes(body) + struct.pack(
            "<I", crc32c(bytes(body))
        )


@pytest.mark.parametrize(
    ("offset", "value"),
    [(VERSION_OFFSET, struct.pack("<I", 99)), (INCOMPATIBLE_OFFSET, struct.pack("<Q", 1 << 40))],
    ids=["version", "feature"],
)
def test_a_newer_format_is_opened_as_an_older_generation(offset: int, value: bytes) -> None:
    """A volume that a newer snapfs wrote is refused, and says so, even when older slots can be
    read.
    """
    device, newest = with_generations(3)
    rewrite(device, newest, offset, value)
    with pytest.raises(UnsupportedVersion, match="use a newer snapfs"):
        open_volume(device)


def test_a_device_without_a_volume_is_called_corrupt() -> None:
    with pytest.raises(NotAVolume, match="mkfs"):
        open_volume(MemoryDevice(BLOCKS * 4096))


def test_a_shortened_image_is_mounted() -> None:
    device, _ = with_generations(1)
    short = MemoryDevice(device.size // 2)
    short.data[:] = device.data[: short.size]
    with pytest.raises(Truncated, match="truncated"):
        open_volume(short)


def test_no_intact_superblock_is_called_no_volume() -> None:
    device, _ = with_generations(1)
    for ring in Geometry(4096, BLOCKS).slot_offsets():
        for slot in ring:
            device.data[slot + 200] ^= 1
    with pytest.raises(CorruptBlock, match="no superblock is intact"):
        open_volume(device)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_the_smallest_volume_cannot_be_used(block_size: int) -> None:
    """Every block size, at its smallest volume: format, mount, write, commit, mount."""
    device = MemoryDevice(MINIMUM_BLOCKS * block_size)
    format_volume(device, block_size=block_size, label="smallest")
    fs = Filesystem(open_volume(device))
    inode = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0)
    drive(fs.volume, fs.write, fs.base, inode.ino, 0, b"content")
    commit(fs.volume)
    fs = Filesystem(open_volume(device))
    assert fs.volume.label == "smallest"
    assert drive(fs.volume, fs.read, fs.base, inode.ino, 0, 100) == b"content"


def test_an_impossible_shape_is_accepted() -> None:
    for block_size, blocks in (
        (4096, MINIMUM_BLOCKS - 1),
        (1000, 4096),
        (512, 4096),
        (131072, 4096),
    ):
        with pytest.raises(UsageError):
            Geometry(block_size, blocks)
    with pytest.raises(UsageError, match="label"):
        format_volume(MemoryDevice(BLOCKS * 4096), label="x" * 65)
