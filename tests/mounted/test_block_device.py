"""A1: block devices, whatever their sectors, size and protection; and those that change under a
mount.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

MIB = 1 << 20


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def resize(path: Path, size: int) -> Path:
    with path.open("ab") as file:
        file.truncate(size)
    return path


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    return resize(tmp_path / "backing", 64 * MIB)


def use(mounted, run: Run, options: str = "") -> None:
    """Files, a snapshot, going back, on a mount that ends."""
    first, second = os.urandom(3 * MIB + 17), os.urandom(5 * MIB)
    try:
        (mounted / "file").write_bytes(first)
        mounted.snapshot("s")
        (mounted / "file").write_bytes(second)
        mounted.remount(options)
        assert (mounted / "file").read_bytes() == second
        assert (mounted.view("s") / "file").read_bytes() == first
        run("restore", mounted.path, "s")
        assert (mounted / "file").read_bytes() == first
        run("scrub", mounted.path)
    finally:
        mounted.unmount()
    for command in (["check"], ["check", "--repair"], ["scrub"]):
        run(*command, mounted.image)


@pytest.mark.parametrize("sector", ["512", "4096"])
@pytest.mark.parametrize("block_size", ["4096", "65536"])
def test_a1_sectors_of_another_size(
    sector: str, block_size: str, backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    """A1: everything that is read and written is made of whole sectors,
    also past the host's cache.
    """
    device = make_loop(backing, "--sector-size", sector)
    run_snapfs("mkfs", device, "--block-size", block_size)
    use(mount_volume(device, options="discard"), run_snapfs, "discard")


@pytest.mark.parametrize("size", [64 * MIB + 3 * 512, 130 * MIB - 512])
def test_a1_a_size_that_is_no_multiple_of_blocks(
    size: int, backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    device = make_loop(resize(backing, size))
    run_snapfs("mkfs", device)
    use(mount_volume(device), run_snapfs)


def test_a1_a_device_that_is_larger_than_its_volume(
    backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    """A1: a volume that was copied onto a larger device is what it was."""
    run_snapfs("mkfs", backing)
    device = make_loop(resize(backing, 300 * MIB))
    mounted = mount_volume(device)
    assert os.statvfs(mounted.path).f_blocks * 4096 <= 64 * MIB
    use(mounted, run_snapfs)


def test_a1_a_device_that_is_smaller_than_its_volume(
    backing: Path, make_loop, run_snapfs: Run, tmp_path: Path
) -> None:
    run_snapfs("mkfs", backing)
    device = make_loop(resize(backing, 63 * MIB))
    (tmp_path / "m").mkdir()
    one_line(run_snapfs("mount", device, tmp_path / "m", code=32), str(device), "truncated")
    one_line(run_snapfs("check", device, code=8), str(device), "truncated")


def test_a1_a_device_that_is_write_protected(
    backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    """A1: the kernel lets it be opened for writing; what is written would be lost with the first
    commit.
    """
    run_snapfs("mkfs", backing)
    run_snapfs("snapshot", "create", backing, "s")
    device = make_loop(backing, "--read-only")
    for words, code in (
        (["snapshot", "create", device, "t"], 1),
        (["mkfs", device, "--force"], 1),
        (["check", device, "--repair"], 8),
    ):
        one_line(run_snapfs(*words, code=code), str(device), "write-protected")
    run_snapfs("check", device)
    run_snapfs("scrub", device)
    mounted = mount_volume(device, options="ro")
    try:
        assert (mounted.view("s")).is_dir()
        with pytest.raises(OSError) as caught:
            (mounted / "file").write_text("")
        assert caught.value.errno == errno.EROFS
        mounted.unmount()
        one_line(mounted.mount(code=32), str(device), "write-protected", "-o ro")
    finally:
        mounted.unmount()


def test_a1_who_uses_a_device_is_not_told(
    backing: Path, make_loop, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """A1: the line names the process, as for images; nothing is written by others while it is
    mounted.
    """
    device = make_loop(backing)
    run_snapfs("mkfs", device)
    mounted = mount_volume(device)
    try:
        (tmp_path / "m").mkdir()
        for words, code in ((["check", device], 8), (["mkfs", device, "--force"], 1)):
            one_line(run_snapfs(*words, code=code), f"in use by process {mounted.pid}")
        one_line(run_snapfs("mount", device, tmp_path / "m", code=32), f"by process {mounted.pid}")
        assert json.loads(run_snapfs("info", device, "--json").stdout)["mounted"] == str(
            mounted.path
        )
    finally:
        mounted.unmount()


def test_a1_a_device_that_is_detached_while_it_is_mounted(
    backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    """A1: the kernel detaches it when the daemon lets go of it; until then all is as before."""
    device = make_loop(backing)
    run_snapfs("mkfs", device)
    mounted = mount_volume(device)
    subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
    try:
        (mounted / "file").write_bytes(b"x" * MIB)
        mounted.snapshot("s")
        assert (mounted.view("s") / "file").read_bytes() == b"x" * MIB
    finally:
        mounted.unmount()
    run_snapfs("check", backing)
    assert [
        one["name"] for one in json.loads(run_snapfs("snapshot", "list", backing, "--json").stdout)
    ] == ["s"]


def test_a1_a_device_that_shrinks_while_it_is_mounted(
    backing: Path, make_loop, mount_volume, run_snapfs: Run
) -> None:
    """A1: nothing is said to be durable from then on, and unmounting ends."""
    device = make_loop(backing)
    run_snapfs("mkfs", device)
    mounted = mount_volume(device)
    try:
        (mounted / "file").write_bytes(b"x" * MIB)
        mounted.run("snapshot", "create", mounted.path, "s")
        os.truncate(backing, 32 * MIB)
        subprocess.run(["losetup", "--set-capacity", device], check=True, timeout=30)
        descriptor = os.open(mounted / "file", os.O_RDWR)
        with pytest.raises(OSError) as caught:
            os.pwrite(descriptor, b"y" * MIB, 0)
            os.fsync(descriptor)
        os.close(descriptor)
        assert caught.value.errno in (errno.EIO, errno.EROFS)
        assert (
            "cut from" in json.loads(run_snapfs("info", mounted.path, "--json").stdout)["read_only"]
        )
    finally:
        mounted.unmount()
    one_line(run_snapfs("check", device, code=8), "truncated")


@pytest.fixture
def partition(backing: Path, make_loop) -> Iterator[Path]:
    """One that begins in the middle of a block of its disk."""
    disk = make_loop(resize(backing, 256 * MIB))
    added = subprocess.run(
        ["addpart", disk, "1", "2049", str(200 << 11)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    path = Path(f"{disk}p1")
    if added.returncode or not path.is_block_device():
        pytest.skip(f"no partitions of loop devices here: {added.stderr.strip()}")
    yield path
    subprocess.run(["delpart", disk, "1"], check=True, timeout=30)


def test_a1_a_partition_that_is_not_aligned(
    partition: Path, backing: Path, mount_volume, run_snapfs: Run, wait_until
) -> None:
    """A1: only what the disk can discard as a whole is discarded, and of neighbours nothing."""

    def used() -> int:
        return backing.stat().st_blocks * 512

    run_snapfs("mkfs", partition)
    mounted = mount_volume(partition, options="discard,commit=0.2")
    try:
        hashes = {}
        for number in range(40):
            content = os.urandom(MIB + number * 4096)
            (mounted / f"f{number}").write_bytes(content)
            hashes[number] = hashlib.sha256(content).digest()
        subprocess.run(["sync", partition], check=True, timeout=60)
        before = used()
        for number in range(0, 40, 2):
            (mounted / f"f{number}").unlink()
        wait_until(lambda: used() < before - 15 * MIB, what="the space of every second file")
        for number in range(1, 40, 2):
            assert hashlib.sha256((mounted / f"f{number}").read_bytes()).digest() == hashes[number]
    finally:
        mounted.unmount()
    run_snapfs("check", partition)
    run_snapfs("scrub", partition)


def test_a1_d6_memory_cannot_be_loaded_from_a_device(
    backing: Path, make_loop, run_snapfs: Run, tmp_path: Path
) -> None:
    """D6: of a device nobody knows where it has holes; zeros take no memory."""
    device = make_loop(backing)
    run_snapfs("mkfs", device)
    run_snapfs("snapshot", "create", device, "s")
    point = tmp_path / "m"
    point.mkdir()
    run_snapfs("mount", "--load", device, "mem:", point)
    try:
        assert (point / ".snap" / "s").is_dir()
        pid = json.loads(run_snapfs("info", point, "--json").stdout)["pid"]
        used = [
            os.stat(f"/proc/{pid}/fd/{number}").st_blocks
            for number in os.listdir(f"/proc/{pid}/fd")
        ]
        assert max(used) * 512 < 8 * MIB
        run_snapfs("check", device)  # nobody holds it any more
    finally:
        run_snapfs("umount", point)
