"""``-o discard``: the space of freed blocks goes back to the host, from files and from block
devices (A1, A9).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 1 << 20


def used(path: Path) -> int:
    return path.stat().st_blocks * 512


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, size: int) -> None:
    """So many bytes that nobody can keep in less."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.volume(size="256M", options="discard")
def test_a_deleted_file_keeps_its_space_on_the_host(mounted, wait_until) -> None:
    """Written, deleted, synced: the image is small again."""
    empty = used(mounted.image)
    write(mounted / "large", 100 * MIB)
    assert used(mounted.image) > 100 * MIB
    (mounted / "large").unlink()
    sync(mounted.path)
    wait_until(lambda: used(mounted.image) < empty + 2 * MIB, what="the space of the file")


@pytest.mark.volume(size="256M", options="discard,commit=0.2")
def test_small_files_keep_their_space_on_the_host(mounted, wait_until) -> None:
    empty = used(mounted.image)
    for number in range(2000):
        (mounted / f"f{number}").write_bytes(b"x" * 4096)
    sync(mounted.path)
    assert used(mounted.image) > empty + 8 * MIB
    for number in range(0, 2000, 2):  # neighbours stay
        (mounted / f"f{number}").unlink()
    wait_until(lambda: used(mounted.image) < empty + 6 * MIB, what="the space of every second file")
    assert all((mounted / f"f{number}").read_bytes() == b"x" * 4096 for number in range(1, 2000, 2))


@pytest.mark.volume(size="256M", options="discard,commit=0.2")
def test_what_a_snapshot_has_goes_back_to_the_host(mounted, wait_until, run_snapfs) -> None:
    """A9: what a snapshot needs stays; when it is deleted, its space goes
    back in the background.
    """
    empty = used(mounted.image)
    write(mounted / "large", 32 * MIB)
    content = (mounted / "large").read_bytes()
    mounted.snapshot("s")
    (mounted / "large").unlink()
    write(mounted / "other", 8 * MIB)
    (mounted / "other").unlink()
    wait_until(lambda: used(mounted.image) < empty + 35 * MIB, what="the space of the other file")
    assert (mounted.view("s") / "large").read_bytes() == content
    mounted.remount("discard,commit=0.2")
    assert (mounted.view("s") / "large").read_bytes() == content
    (mounted / ".snap" / "s").rmdir()
    wait_until(lambda: used(mounted.image) < empty + 2 * MIB, what="the space of the snapshot")


@pytest.mark.volume(size="256M", options="discard,commit=1000")
def test_unmounting_leaves_discards_out(mounted) -> None:
    """What was deleted just before is given back, too."""
    empty = used(mounted.image)
    write(mounted / "large", 32 * MIB)
    (mounted / "large").unlink()
    mounted.unmount()
    assert used(mounted.image) < empty + 2 * MIB


@pytest.mark.volume(size="256M", options="discard,commit=0.1")
def test_temporary_files_keep_their_space_on_the_host(mounted, wait_until) -> None:
    """Most of what is deleted while it is new never was in a commit; it was
    written all the same.
    """
    empty = used(mounted.image)
    for _ in range(10):
        with (mounted / "temporary").open("wb", buffering=0) as file:
            file.write(os.urandom(8 * MIB))
        (mounted / "temporary").unlink()
    wait_until(lambda: used(mounted.image) < empty + 2 * MIB, what="the space of temporary files")


def test_space_goes_back_unasked(mount_volume, wait_until) -> None:
    """The default for images and devices is ``nodiscard``: the host keeps the space, for the
    volume.
    """
    for options in ("commit=0.1", "nodiscard,commit=0.1"):
        mounted = mount_volume(options=options, size="256M")
        write(mounted / "large", 16 * MIB)
        (mounted / "large").unlink()
        before = used(mounted.image)
        wait_until(
            lambda mounted=mounted: available(mounted.path) > 240 * MIB,
            what="the space in the volume",
        )
        assert used(mounted.image) >= before - MIB


def available(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_an_unmounted_image_keeps_the_space_of_what_is_deleted(mount_volume, run_snapfs) -> None:
    """``--discard`` gives it back; without it the image stays as large as it is."""
    mounted = mount_volume(size="256M")
    empty = used(mounted.image)
    for name in ("one", "two"):
        write(mounted / "large", 16 * MIB)
        mounted.snapshot(name)
    (mounted / "large").unlink()
    mounted.snapshot("three")
    mounted.unmount()
    run_snapfs("snapshot", "delete", mounted.image, "one")
    assert used(mounted.image) > 32 * MIB
    run_snapfs("snapshot", "delete", mounted.image, "two", "--discard")
    assert used(mounted.image) < empty + 18 * MIB


def test_a_discard_of_a_mounted_volume_is_forgotten(mounted, run_snapfs) -> None:
    """The mount's own option says what is done; asking for another thing is
    a mistake that is told.
    """
    mounted.snapshot("s")
    result = run_snapfs("snapshot", "delete", mounted.path, "s", "--discard", code=1)
    assert "-o discard" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    mounted.remount("discard")
    run_snapfs("snapshot", "delete", mounted.path, "s", "--discard")


def test_a_block_device_hears_of_no_discard(
    make_loop: Callable[[Path], Path], mount_volume, tmp_path: Path, run_snapfs, wait_until
) -> None:
    """A1: discards of a loop device make holes in the file behind it."""
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(256 * MIB)
    device = make_loop(backing)
    run_snapfs("mkfs", device)
    mounted = mount_volume(device, options="discard,commit=0.2")
    try:
        empty = used(backing)
        write(mounted / "large", 64 * MIB)
        subprocess.run(["sync", device], check=True, timeout=60)
        assert used(backing) > 64 * MIB
        (mounted / "large").unlink()
        wait_until(lambda: used(backing) < empty + 2 * MIB, what="the space of the file")
    finally:
        mounted.unmount()
    run_snapfs("check", device)


def test_a_device_without_discards_cannot_be_mounted(
    mount_volume, images, tmp_path: Path, snapfs_command, run_snapfs, start
) -> None:
    """On a host that has no holes the log says so once, and everything else works."""
    host = tmp_path / "host"
    host.mkdir()
    made = subprocess.run(
        ["mount", "-t", "ramfs", "none", host],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if made.returncode:
        pytest.skip(f"no filesystem without holes here: {made.stderr.strip()}")
    point = tmp_path / "m"
    point.mkdir()
    try:
        run_snapfs("mkfs", host / "volume.img", "--size", "64M")
        command = snapfs_command(
            "mount", "-f", "-o", "discard,commit=0.1", host / "volume.img", point
        )
        process = start(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "mounted on" in process.stderr.readline()
        for _ in range(3):
            (point / "file").write_bytes(b"x" * MIB)
            sync(point)
            (point / "file").unlink()
            sync(point)
        run_snapfs("umount", point)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert log.count("freed blocks are not discarded any more") == 1
        assert "Operation not supported" in log
        run_snapfs("check", host / "volume.img")
    finally:
        subprocess.run(["umount", host], check=True, timeout=60)


@pytest.mark.volume(size="128M", options="discard,commit=0.05")
def test_discards_damage_what_is_written_meanwhile(mounted, run_snapfs) -> None:
    """I4: files are written, deleted and checked while blocks are discarded and given out again all
    the time.
    """
    expected: dict[str, bytes] = {}
    for number in range(300):
        name = f"f{number % 23}"
        if number % 3 == 2:
            (mounted / name).unlink(missing_ok=True)
            expected.pop(name, None)
        else:
            expected[name] = os.urandom(4096 * (1 + number * 7 % 200))
            (mounted / name).write_bytes(expected[name])
        if number % 40 == 0:
            mounted.snapshot(f"s{number}")
    for name, content in expected.items():
        assert (mounted / name).read_bytes() == content
    assert json.loads(run_snapfs("scrub", mounted.path, "--json").stdout)["clean"]
    mounted.remount()
    for name, content in expected.items():
        assert (mounted / name).read_bytes() == content


@pytest.mark.volume(size="256M", options="discard,commit=0.1")
def test_discards_take_away_what_a_copy_still_needs(
    mounted, mount_volume, images, tmp_path: Path, wait_until
) -> None:
    """D3, I4: what is freed while a copy runs is copied before it is discarded."""
    contents = {}
    for number in range(30):
        contents[f"f{number}"] = os.urandom(MIB + number * 4096)
        (mounted / f"f{number}").write_bytes(contents[f"f{number}"])
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--rate", "1M")
    before = used(mounted.image)
    for name in contents:
        (mounted / name).unlink()
    wait_until(
        lambda: used(mounted.image) < before - 25 * MIB, limit=60, what="the space of the files"
    )
    write(mounted / "other", 40 * MIB)
    mounted.run(
        "copy", "resume", mounted.path, "--rate", "max", "--wait", code=None
    )  # if it is not complete by now
    mounted.unmount()
    copy = mount_volume(images.watch(target))
    assert {name: (copy / name).read_bytes() for name in contents} == contents
