"""D6: devices in memory, and what becomes of them when memory runs out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapfs import probes
from snapfs.check import check_volume
from snapfs.control.socket.registry import image_key
from snapfs.device import DirectReader, RamDevice, headroom, open_device, ram
from snapfs.device.in_use import lock_holder
from snapfs.errors import DeviceFull
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

BLOCK = 4096


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the host has left, in place of what it says; one number, which the test changes."""
    left = [1 << 30]
    monkeypatch.setattr(headroom, "total", lambda: 1 << 30)
    monkeypatch.setattr(headroom, "available", lambda: left[0])
    return left


def used(device: RamDevice) -> int:
    return device.status().st_blocks * 512


def test_memory_that_was_not_written_costs_something() -> None:
    device = RamDevice("mem:1T", 1 << 40)
    assert used(device) == 0
    device.write(1 << 39, b"x" * BLOCK)
    assert BLOCK <= used(device) <= 1 << 20
    assert device.read(1 << 39, BLOCK) == b"x" * BLOCK
    assert device.read(0, BLOCK) == bytes(BLOCK)
    device.discard(1 << 39, BLOCK)
    assert used(device) == 0
    device.close()


def test_reading_memory_is_left_to_a_thread() -> None:
    """The kernel has no non-blocking reads of such files, and they need none."""
    device = RamDevice("mem:1M", 1 << 20)
    device.write(4096, b"x" * BLOCK)
    assert device.read_nowait(4096, BLOCK) == b"x" * BLOCK
    assert device.read_nowait(8192, BLOCK) == bytes(BLOCK)
    reader = DirectReader(device, 1 << 16)
    assert bytes(reader.read(4096, BLOCK)) == b"x" * BLOCK
    reader.close()
    device.close()


def test_two_devices_are_taken_for_one() -> None:
    """Daemons are found by what names their image."""
    devices = [RamDevice("mem:1M", 1 << 20) for _ in range(3)]
    assert len({image_key(device.status()) for device in devices}) == 3
    assert all(lock_holder(device._descriptor) == os.getpid() for device in devices)
    for device in devices:
        device.close()


def test_memory_that_runs_out_ends_the_process(memory: list[int]) -> None:
    """What would take what is left to the host fails as on a full disk; what has its memory already
    goes on.
    """
    device = RamDevice("mem:1G", 1 << 30)
    device.write(0, b"x" * BLOCK)
    memory[0] = (1 << 30) // 16  # what is left to the host
    with pytest.raises(
        DeviceFull, match=r"mem:1G: write at [0-9]+ failed: the host has no memory left for it"
    ):
        for place in range(1 << 20, 1 << 30, 1 << 20):
            device.write(place, b"x" * (1 << 20))
    assert used(device) <= ram.STEP_BYTES + (2 << 20), "it is not asked often enough what is left"
    device.write(0, b"y" * BLOCK)
    memory[0] = 1 << 30
    device.write(64 << 20, b"x" * (32 << 20))
    device.close()


@pytest.mark.reaches(probes.HOST_RESERVE_SPENT, probes.BLOCKS_PREFERRED_USED)
def test_deleting_in_a_volume_that_has_used_up_memory_fails(memory: list[int]) -> None:
    """Users get ENOSPC, nothing becomes read-only, and deleting helps."""
    device = RamDevice("mem:64M", 64 << 20)
    format_volume(device, clear=False)
    fs = Filesystem(open_volume(device))
    fs.volume.allocator.discards.wanted = True
    volume = fs.volume
    inodes = [
        drive(volume, fs.make, fs.base, ROOT_INO, b"%d" % number, 0o100600, 0, 0).ino
        for number in range(4)
    ]
    for ino in inodes:
        drive(volume, fs.write, fs.base, ino, 0, b"x" * (1 << 20))
    commit(volume)
    before = used(device)
    memory[0] = 0
    device._allowance = 0
    with pytest.raises(DeviceFull):
        drive(volume, fs.write, fs.base, inodes[0], 1 << 20, b"y" * (1 << 20))
    for number in range(3):
        drive(volume, fs.unlink, fs.base, ROOT_INO, b"%d" % number)
    while drive(volume, fs.work):
        pass
    commit(volume)
    assert not volume.read_only
    assert used(device) < before - (2 << 20)
    memory[0] = 1 << 30
    drive(volume, fs.write, fs.base, inodes[3], 1 << 20, b"y" * (1 << 20))
    commit(volume)
    assert drive(volume, fs.read, fs.base, inodes[3], 0, 2 << 20) == b"x" * (1 << 20) + b"y" * (
        1 << 20
    )
    assert check_volume(device) == []
    device.close()


def test_loading_fills_memory_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(256 << 20)
        for place in (0, 5 << 20, (256 << 20) - BLOCK):
            os.pwrite(file.fileno(), b"x" * BLOCK, place)
        os.pwrite(file.fileno(), bytes(8 << 20), 64 << 20)  # zeros that are there
    source = open_device(str(path), read_only=True)
    device = RamDevice("mem:", 256 << 20)
    device.fill_from(source)
    assert used(device) < 1 << 20
    for place in range(0, 256 << 20, 1 << 20):
        assert device.read(place, 1 << 20) == source.read(place, 1 << 20)
    assert device.read((256 << 20) - BLOCK, BLOCK) == b"x" * BLOCK
    source.close()
    device.close()


# What there is


def test_figures_of_this_machine_make_no_sense() -> None:
    assert 0 < headroom.available() <= headroom.total()


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {}, (3 << 30, 2 << 30)),
        ("0::/a/b\n", {"a/memory.max": "max", "a/b/memory.max": "max"}, (3 << 30, 2 << 30)),
        (
            "0::/a/b\n",
            {
                "a/memory.max": str(1 << 30),
                "a/memory.current": str(900 << 20),
                "a/memory.stat": "anon 5\ninactive_file 104857600\nactive_file 0\n",
                "a/b/memory.max": "max",
            },
            (1 << 30, 224 << 20),
        ),
        (
            "5:cpu:/x\n4:memory:/c\n0::/\n",
            {
                "memory/c/memory.limit_in_bytes": str(512 << 20),
                "memory/c/memory.usage_in_bytes": str(100 << 20),
            },
            (512 << 20, 412 << 20),
        ),
        (
            "4:cpuset,memory:/c\n",
            {"memory/c/memory.limit_in_bytes": "9223372036854771712"},
            (3 << 30, 2 << 30),
        ),
        (
            "4:memory:/c\n",
            {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "2000"},
            (1000, 0),
        ),
    ],
)
def test_a_limit_of_a_control_group_is_overlooked(
    lines: str,
    files: dict[str, str],
    expected: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container that takes more than it may have is ended."""
    (tmp_path / "meminfo").write_text(
        "MemTotal:  2097152 kB\nMemAvailable: 1048576 kB\nSwapTotal: 1048576 "
        "kB\nSwapFree: 1048576 kB\n"
    )
    (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(headroom, "MEMINFO", str(tmp_path / "meminfo"))
    monkeypatch.setattr(headroom, "MEMBERSHIP", str(tmp_path / "cgroup"))
    monkeypatch.setattr(headroom, "GROUPS", str(tmp_path / "fs"))
    assert (headroom.total(), headroom.available()) == expected
