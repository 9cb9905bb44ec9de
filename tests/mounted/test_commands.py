"""The command line on real volumes and mounts: what it does, its exit codes, and its answers to bad
input.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.blocks.geometry import Geometry
from snapfs.blocks.superblock import CHECKSUM_OFFSET
from tests.harness import commands

SUPERBLOCK_VERSION_OFFSET = 8

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> str:
    """Standard error is one line of ours that has these words, and no traceback."""
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr
    return result.stderr


def names(run: Run, target: object) -> list[str]:
    return [one["name"] for one in json.loads(run("snapshot", "list", target, "--json").stdout)]


# --- mkfs ---------------------------------------------------------------------------------------


def test_mkfs_makes_a_sparse_file_of_the_size(tmp_path: Path, run_snapfs: Run) -> None:
    image = tmp_path / "v.img"
    assert run_snapfs("mkfs", image, "--size", "1G", "--label", "mine").stdout == ""
    assert image.stat().st_size == 1 << 30
    assert image.stat().st_blocks * 512 < 4 << 20
    info = json.loads(run_snapfs("info", image, "--json").stdout)
    assert (info["label"], info["block_size"], info["mounted"], info["pid"]) == (
        "mine",
        4096,
        None,
        None,
    )
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", info["uuid"])


@pytest.mark.parametrize("content", [b"my thesis", b"\0" * 70_000 + b"x"])
def test_mkfs_never_overwrites_a_file_unless_forced(
    content: bytes, tmp_path: Path, run_snapfs: Run
) -> None:
    file = tmp_path / "precious"
    file.write_bytes(content)
    one_line(run_snapfs("mkfs", file, "--size", "64M", code=1), "precious", "--force")
    one_line(run_snapfs("mkfs", file, code=1), "--force")
    assert file.read_bytes() == content
    run_snapfs("mkfs", file, "--size", "64M", "--force")
    assert file.stat().st_size == 64 << 20
    run_snapfs("check", file)


def test_mkfs_never_overwrites_a_volume_unless_forced(volume_image: Path, run_snapfs: Run) -> None:
    uuid = json.loads(run_snapfs("info", volume_image, "--json").stdout)["uuid"]
    one_line(run_snapfs("mkfs", volume_image, code=1), "snapfs volume", "--force")
    assert json.loads(run_snapfs("info", volume_image, "--json").stdout)["uuid"] == uuid
    run_snapfs("mkfs", volume_image, "--force")
    assert json.loads(run_snapfs("info", volume_image, "--json").stdout)["uuid"] != uuid


def test_mkfs_takes_a_file_that_holds_nothing(tmp_path: Path, run_snapfs: Run) -> None:
    hole, zeros, empty = tmp_path / "hole", tmp_path / "zeros", tmp_path / "empty"
    with hole.open("wb") as file:
        file.truncate(32 << 20)
    zeros.write_bytes(bytes(32 << 20))
    empty.touch()
    run_snapfs("mkfs", hole)
    run_snapfs("mkfs", zeros)
    one_line(run_snapfs("mkfs", empty, code=2), "--size")
    run_snapfs("mkfs", empty, "--size", "32M")
    for image in (hole, zeros, empty):
        assert image.stat().st_size == 32 << 20
        run_snapfs("check", image)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--size", "64M", "--block-size", "1000"], "block size 1000"),
        (["--size", "64M", "--block-size", "512"], "block size 512"),
        (["--size", "64M", "--block-size", "1M"], "block size"),
        (["--size", "8K"], "too small"),
        (["--size", "64M", "--label", "x" * 65], "label"),
        ([], "--size"),
    ],
)
def test_mkfs_with_what_cannot_be_leaves_no_file(
    words: list[str], text: str, tmp_path: Path, run_snapfs: Run
) -> None:
    one_line(run_snapfs("mkfs", tmp_path / "v.img", *words, code=2), text)
    assert list(tmp_path.iterdir()) == []


def test_mkfs_where_nothing_can_be_made(tmp_path: Path, run_snapfs: Run) -> None:
    one_line(run_snapfs("mkfs", tmp_path / "missing" / "v.img", "--size", "64M", code=1), "missing")
    one_line(run_snapfs("mkfs", tmp_path, code=1), "neither a regular file nor a block device")
    one_line(run_snapfs("mkfs", "/dev/null", code=1), "neither a regular file nor a block device")


def test_mkfs_on_a_device_looks_for_signatures_and_clears_them(
    make_loop, tmp_path: Path, run_snapfs: Run
) -> None:
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(64 << 20)
    device = make_loop(backing)
    subprocess.run(["mke2fs", "-q", "-F", device], check=True, timeout=60)
    one_line(run_snapfs("mkfs", device, code=1), "--force")
    one_line(run_snapfs("mkfs", device, "--size", "32M", code=2), "--size")
    run_snapfs("mkfs", device, "--force")
    probe = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", device],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert probe.stdout.strip() != "ext2"
    run_snapfs("check", device)


# --- mount and umount ---------------------------------------------------------------------------


def test_mount_returns_when_live_and_umount_when_the_image_is_released(
    volume_image: Path, tmp_path: Path, run_snapfs: Run
) -> None:
    mount = tmp_path / "m"
    mount.mkdir()
    for round_ in range(3):
        run_snapfs("mount", volume_image, mount)
        assert mount.is_mount()
        (mount / f"file-{round_}").write_text("text")
        run_snapfs("umount", mount)
        assert not mount.is_mount()
        # Nobody holds the image: commands that open it work at once.
        run_snapfs("check", volume_image)
    run_snapfs("mount", volume_image, mount)
    assert sorted(path.name for path in mount.iterdir()) == ["file-0", "file-1", "file-2"]
    run_snapfs("umount", volume_image)  # by the image
    assert not mount.is_mount()


def test_the_mount_table_shows_the_image_as_given(mounted) -> None:
    def shown() -> list[str]:
        lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return next(line for line in lines if line[1] == str(mounted.path))

    assert shown()[0] == str(mounted.image)
    assert shown()[2] == "fuse.snapfs"
    mounted.remount("fsname=something")
    assert shown()[0] == "something"


def test_a_mount_point_with_files_in_it_is_allowed(
    volume_image: Path, tmp_path: Path, run_snapfs: Run
) -> None:
    mount = tmp_path / "m"
    mount.mkdir()
    (mount / "below").write_text("hidden meanwhile")
    run_snapfs("mount", volume_image, mount)
    assert not (mount / "below").exists()
    run_snapfs("umount", mount)
    assert (mount / "below").read_text() == "hidden meanwhile"


def test_bad_mount_points(mounted, images, tmp_path: Path) -> None:
    image = images.make()
    file = tmp_path / "file"
    file.touch()
    one_line(
        mounted.run("mount", image, tmp_path / "missing", code=32), "missing", "no such mount point"
    )
    one_line(mounted.run("mount", image, file, code=32), "not a directory")
    one_line(mounted.run("mount", image, mounted.path, code=32), "busy", str(mounted.image))
    assert mounted.path.is_mount()


def test_an_image_in_use_is_refused_with_the_process_that_uses_it(mounted, tmp_path: Path) -> None:
    """One volume, one process; A1's other half."""
    other = tmp_path / "other"
    other.mkdir()
    pid = str(mounted.pid)
    one_line(mounted.run("mount", mounted.image, other, code=32), pid, "in use")
    one_line(mounted.run("check", mounted.image, code=8), pid)
    one_line(mounted.run("mkfs", mounted.image, "--force", code=1), pid)
    one_line(mounted.run("mkfs", mounted.image, "--size", "1G", "--force", code=1), pid)
    assert mounted.image.stat().st_size == 64 << 20


def test_several_volumes_are_mounted_at_once(mount_volume) -> None:
    """A1: each with a daemon of its own."""
    volumes = [mount_volume() for _ in range(3)]
    for number, volume in enumerate(volumes):
        (volume / "which").write_text(str(number))
        volume.snapshot(f"s{number}")
    assert len({volume.pid for volume in volumes}) == 3
    for number, volume in enumerate(volumes):
        assert (volume / "which").read_text() == str(number)
        assert names(volume.run, volume.path) == [f"s{number}"]
        assert names(volume.run, volume.image) == [f"s{number}"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("bogus", ["bogus"]),
        ("commit=never", ["commit"]),
        ("commit=-1", ["commit"]),
        ("writeback=maybe", ["writeback"]),
        ("uid=nobody-here", ["uid"]),
        ("snapdir=a/b", ["snapdir"]),
        ("restore=", ["restore"]),
    ],
)
def test_bad_mount_options_are_named(
    options: str, words: list[str], volume_image: Path, tmp_path: Path, run_snapfs: Run
) -> None:
    mount = tmp_path / "m"
    mount.mkdir()
    one_line(run_snapfs("mount", volume_image, mount, "-o", options, code=1), *words)
    assert not mount.is_mount()


def test_options_of_fstab_are_accepted_and_ignored(mounted) -> None:
    mounted.remount("rw,defaults,nofail,_netdev,users,auto,dev,suid,exec,noatime")
    mounted.remount("nodev,nosuid,noexec")
    assert os.statvfs(mounted.path).f_flag & os.ST_NOSUID


def test_read_only_mounts_refuse_changes(mounted) -> None:
    (mounted / "file").write_text("text")
    mounted.snapshot("s")
    mounted.remount("ro")
    assert (mounted / "file").read_text() == "text"
    for change in (
        (mounted / "new").touch,
        (mounted / "file").unlink,
        (mounted / ".snap" / "t").mkdir,
    ):
        with pytest.raises(OSError, match="Read-only") as caught:
            change()
        assert caught.value.errno == errno.EROFS
    one_line(mounted.run("snapshot", "create", mounted.path, code=1), "read-only")
    assert names(mounted.run, mounted.path) == ["s"]


def test_restore_and_read_only_exclude_each_other_or_name_what_is_missing(mounted) -> None:
    mounted.snapshot("s")
    mounted.unmount()
    one_line(mounted.mount("restore=missing", code=32), "missing")
    assert not mounted.path.is_mount()
    one_line(mounted.mount("ro,restore=s", code=1), "restore")


def test_mount_in_the_foreground_tells_the_service_manager(
    volume_image: Path, tmp_path: Path, snapfs_command, start
) -> None:
    mount = tmp_path / "m"
    mount.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = snapfs_command("mount", volume_image, mount, "-f")
        daemon = start(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert manager.recv(100) == b"READY=1"
        assert mount.is_mount()
        (mount / "file").write_text("text")
        daemon.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert daemon.wait(30) == 0
        assert "mounted on" in daemon.stderr.read()
    assert not mount.is_mount()


def test_umount_of_what_is_no_mount_of_ours(
    tmp_path: Path, run_snapfs: Run, volume_image: Path
) -> None:
    one_line(run_snapfs("umount", tmp_path, code=1), "not mounted")
    one_line(run_snapfs("umount", tmp_path / "missing", code=1), "no such mount point")
    one_line(run_snapfs("umount", volume_image, code=1), "not mounted")
    one_line(run_snapfs("umount", "/proc", code=1), "not a snapfs mount", "proc")
    assert Path("/proc").is_mount()


def test_a_busy_mount_stays_unless_it_is_detached(mounted, wait_until) -> None:
    pid = mounted.pid
    with (mounted / "open").open("w") as file:
        one_line(mounted.run("umount", mounted.path, code=1), "in use", "--lazy")
        assert mounted.path.is_mount()
        mounted.run("umount", mounted.path, "--lazy")
        mounted.is_mounted = False
        assert not mounted.path.is_mount()
        file.write("written after detaching")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the daemon's end")
    mounted.mount()
    assert (mounted / "open").read_text() == "written after detaching"


def test_a_mount_whose_daemon_was_killed_is_told_apart_and_can_be_removed(mounted, images) -> None:
    with (mounted / "file").open("w") as file:
        file.write("text")
        file.flush()
        os.fsync(file.fileno())
    pid = mounted.pid
    watch = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([watch], [], [], 30)[0]
    os.close(watch)
    one_line(mounted.run("info", mounted.path, code=1), "--lazy")
    one_line(mounted.run("snapshot", "list", mounted.path, code=1), "--lazy")
    one_line(mounted.run("mount", images.make(), mounted.path, code=32), "daemon has ended")
    mounted.run("umount", mounted.path)
    mounted.is_mounted = False
    assert os.listdir(mounted.path) == []
    mounted.mount()
    assert (mounted / "file").read_text() == "text"


def test_remount_does_not_mount_twice(mounted) -> None:
    def count() -> int:
        return sum(
            str(mounted.path) in line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )

    assert count() == 1
    mounted.run("mount", mounted.image, mounted.path, "-o", "remount,rw")
    one_line(
        mounted.run("mount", mounted.image, mounted.path, "-o", "remount,ro", code=32), "unmount it"
    )
    assert count() == 1
    mounted.unmount()
    one_line(
        mounted.run("mount", mounted.image, mounted.path, "-o", "remount,rw", code=32),
        "no snapfs volume",
    )


# --- snapshots and restore, on a mount and on the image ------------------------------------------


@pytest.fixture(params=["mount point", "path inside", "image of the mount", "image"])
def target(request: pytest.FixtureRequest, mounted) -> Path:
    """Everything that a TARGET can be; the volume has a directory ``d`` with a file and the
    snapshot ``first``.
    """
    (mounted / "d").mkdir()
    (mounted / "d" / "file").write_text("first")
    mounted.snapshot("first")
    (mounted / "d" / "file").write_text("second")
    if request.param == "image":
        mounted.unmount()
    return {"mount point": mounted.path, "path inside": mounted / "d" / "file"}.get(
        request.param, mounted.image
    )


def test_the_life_of_a_snapshot(target: Path, run_snapfs: Run) -> None:
    """The same command line serves an image, a mount point and any path inside a mount."""
    assert run_snapfs("snapshot", "create", target, "second").stdout == "second\n"
    default = run_snapfs("snapshot", "create", target).stdout.strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", default)
    assert names(run_snapfs, target) == ["first", "second", default]
    created = json.loads(
        run_snapfs("snapshot", "create", target, "part", "--path", "d", "--json").stdout
    )
    assert (created["name"], created["path"]) == ("part", "/d")
    run_snapfs("snapshot", "rename", target, "second", "zweiter")
    shown = json.loads(run_snapfs("snapshot", "show", target, "zweiter", "--json").stdout)
    assert (shown["name"], shown["path"], shown["origin"], shown["owner"]) == (
        "zweiter",
        "/",
        None,
        os.geteuid(),
    )
    assert "zweiter" in run_snapfs("snapshot", "show", target, "zweiter").stdout
    table = run_snapfs("snapshot", "list", target).stdout.splitlines()
    assert re.split("  +", table[0])[:3] == ["NAME", "CREATED", "ONLY HERE"]
    assert [line.split()[0] for line in table[1:]] == ["first", "zweiter", default, "part"]
    run_snapfs("snapshot", "delete", target, default, "part")
    assert names(run_snapfs, target) == ["first", "zweiter"]


def test_bad_snapshot_names_and_missing_snapshots(target: Path, run_snapfs: Run) -> None:
    one_line(run_snapfs("snapshot", "create", target, "first", code=1), "first")
    for name in ("", "a/b", "a,b", ".hidden", "..", "new\nline", "x" * 256, "ä" * 128):
        one_line(run_snapfs("snapshot", "create", target, name, code=1))
        one_line(run_snapfs("snapshot", "rename", target, "first", name, code=1))
    for words in (
        ["show", target, "no"],
        ["rename", target, "no", "new"],
        ["delete", target, "no"],
    ):
        one_line(run_snapfs("snapshot", *words, code=1), "no")
    one_line(run_snapfs("restore", target, "no", code=1), "no")
    run_snapfs("snapshot", "create", target, "second")
    one_line(run_snapfs("snapshot", "rename", target, "first", "second", code=1), "second")
    one_line(
        run_snapfs("snapshot", "create", target, "third", "--path", "missing", code=1), "missing"
    )
    one_line(
        run_snapfs(
            "snapshot", "create", target, "third", "--path", "d", "--path", "d/file/below", code=1
        ),
        "d/file/below",
    )
    assert names(run_snapfs, target) == ["first", "second"]


def test_deleting_several_deletes_those_that_exist(target: Path, run_snapfs: Run) -> None:
    run_snapfs("snapshot", "create", target, "second")
    one_line(
        run_snapfs("snapshot", "delete", target, "first", "missing", "second", code=1), "missing"
    )
    assert names(run_snapfs, target) == []


def test_restore_goes_back_and_can_be_undone(target: Path, mounted) -> None:
    """A10: the state from before stays as a snapshot of its own."""

    def content() -> str:
        if mounted.is_mounted:
            return (mounted / "d" / "file").read_text()
        mounted.mount()
        text = (mounted / "d" / "file").read_text()
        mounted.unmount()
        return text

    result = json.loads(mounted.run("restore", target, "first", "--json").stdout)
    assert result["changed"] is True
    assert re.fullmatch(r"before-restore-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result["undo"])
    assert content() == "first"
    assert "nothing differs" in mounted.run("restore", target, "first").stdout
    assert names(mounted.run, target) == ["first", result["undo"]]
    assert "restored" in mounted.run("restore", target, result["undo"]).stdout
    assert content() == "second"


def test_restore_while_mounting(mounted) -> None:
    """A10, as a mount option; twice changes nothing the second time."""
    (mounted / "file").write_text("first")
    mounted.snapshot("s")
    (mounted / "file").unlink()
    (mounted / "other").write_text("later")
    for _ in range(2):
        mounted.remount("restore=s")
        assert [path.name for path in mounted.path.iterdir()] == ["file"]
        assert (mounted / "file").read_text() == "first"
        found = names(mounted.run, mounted.path)
        assert len(found) == 2
    undo = next(name for name in found if name != "s")
    assert (mounted.view(undo) / "other").read_text() == "later"


def test_info_reports_the_mount_and_the_image(target: Path, mounted) -> None:
    info = json.loads(mounted.run("info", target, "--json").stdout)
    assert info["snapshots"] == 1
    assert info["size"] <= 64 << 20
    assert 0 < info["available"] <= info["free"] < info["size"]
    assert info["counters"]
    if mounted.is_mounted:
        assert (info["mounted"], info["image"]) == (str(mounted.path), str(mounted.image))
        assert info["requests"]
    text = mounted.run("info", target).stdout
    assert info["uuid"] in text


def test_a_path_in_the_mount_names_a_directory_for_a_snapshot(mounted) -> None:
    (mounted / "a" / "b").mkdir(parents=True)
    created = json.loads(
        mounted.run(
            "snapshot", "create", mounted.path, "s", "--path", mounted / "a" / "b", "--json"
        ).stdout
    )
    assert created["path"] == "/a/b"
    assert (mounted / "a" / "b" / ".snap" / "s").is_dir()


# --- images that are not what they should be ------------------------------------------------------


def every_command(run: Run, image: Path, mount: Path, *words: str) -> None:
    """All of them refuse the image, each with its code and one line."""
    one_line(run("mount", image, mount, code=32), *words)
    assert not mount.is_mount()
    one_line(run("check", image, code=8), *words)
    for command in (
        ["info", image],
        ["snapshot", "list", image],
        ["snapshot", "create", image, "x"],
        ["restore", image, "x"],
    ):
        one_line(run(*command, code=1), *words)


@pytest.fixture
def empty_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("content", [b"", b"x", b"hello\n" * 10_000, bytes(1 << 20)])
def test_what_is_no_volume(
    content: bytes, tmp_path: Path, empty_directory: Path, run_snapfs: Run
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    every_command(run_snapfs, file, empty_directory, "file")
    assert file.read_bytes() == content


def test_an_image_that_is_missing_or_cannot_be_one(
    tmp_path: Path, empty_directory: Path, run_snapfs: Run
) -> None:
    every_command(run_snapfs, tmp_path / "missing", empty_directory, "missing")
    one_line(run_snapfs("mount", tmp_path, empty_directory, code=32), "neither")
    one_line(run_snapfs("mount", "/dev/null", empty_directory, code=32), "/dev/null")
    one_line(run_snapfs("info", tmp_path, code=1), "neither")


def test_a_truncated_image(images, empty_directory: Path, run_snapfs: Run) -> None:
    image = images.make()
    images.expect_damage(image)
    os.truncate(image, 40 << 20)
    every_command(run_snapfs, image, empty_directory, "volume.img")


def superblocks(image: Path) -> list[int]:
    front, tail = Geometry.for_size(4096, image.stat().st_size).slot_offsets()
    return front + tail


def test_a_newer_format(images, empty_directory: Path, run_snapfs: Run) -> None:
    from snapfs.blocks.checksum import crc32c

    image = images.make()
    images.expect_damage(image)
    with image.open("r+b") as file:
        for offset in superblocks(image):
            file.seek(offset)
            slot = bytearray(file.read(4096))
            if not any(slot):
                continue
            struct.pack_into("<I", slot, SUPERBLOCK_VERSION_OFFSET, 99)
            struct.pack_into("<I", slot, CHECKSUM_OFFSET, crc32c(bytes(slot[:CHECKSUM_OFFSET])))
            file.seek(offset)
            file.write(slot)
    every_command(run_snapfs, image, empty_directory, "99", "newer")


def test_superblocks_that_are_all_damaged(images, empty_directory: Path, run_snapfs: Run) -> None:
    image = images.make()
    images.expect_damage(image)
    with image.open("r+b") as file:
        for offset in superblocks(image):
            file.seek(offset + 100)
            file.write(b"damage")
    every_command(run_snapfs, image, empty_directory, "volume.img")


def test_an_image_that_may_not_be_read(
    volume_image: Path, empty_directory: Path, run_snapfs: Run
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    volume_image.chmod(0)
    one_line(run_snapfs("mount", volume_image, empty_directory, code=32), "Permission denied")
    volume_image.chmod(0o600)


# --- a full volume --------------------------------------------------------------------------------


@pytest.mark.volume(size="16M")
def test_a_full_volume_fails_its_writer_and_nobody_else(mounted) -> None:
    (mounted / "small").write_text("still here")
    chunk = os.urandom(1 << 20)
    written = 0
    with (
        pytest.raises(OSError, match="No space left") as caught,
        (mounted / "big").open("wb", buffering=0) as file,
    ):
        while written < 64 << 20:
            written += file.write(chunk)
            os.fsync(file.fileno())
    assert caught.value.errno == errno.ENOSPC
    assert (mounted / "small").read_text() == "still here"
    assert os.statvfs(mounted.path).f_bavail < 1000
    mounted.run("info", mounted.path)
    (mounted / "big").unlink()
    (mounted / "again").write_bytes(chunk)
    with (mounted / "again").open("rb") as file:
        os.fsync(file.fileno())
    mounted.remount()
    assert (mounted / "again").read_bytes() == chunk


@pytest.mark.volume(size="16M")
def test_a_volume_that_snapshots_fill_can_be_emptied_by_deleting_them(mounted, wait_until) -> None:
    """A9: deleting works on a full volume, and its space comes back."""
    chunk = os.urandom(1 << 20)
    number = 0
    with pytest.raises(OSError, match="No space left"):
        while number < 64:
            with (mounted / "file").open("wb", buffering=0) as file:
                for _ in range(2):
                    file.write(chunk)
                os.fsync(file.fileno())
            number += 1
            (mounted / ".snap" / f"s{number}").mkdir()
    made = names(mounted.run, mounted.path)
    assert made
    mounted.run("snapshot", "delete", mounted.path, *made)
    wait_until(
        lambda: os.statvfs(mounted.path).f_bavail * os.statvfs(mounted.path).f_frsize > 8 << 20,
        what="the space of the snapshots",
    )
    (mounted / "file").write_bytes(chunk * 4)


# --- other users ----------------------------------------------------------------------------------


NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_another_user_may_not_ask_the_daemon(mounted) -> None:
    mounted.remount("allow_other")
    # The directories of pytest are closed to others; a link between mounts is not needed, only one
    # more mount.
    with tempfile.TemporaryDirectory(prefix="snapfs-open-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "m").mkdir()
        subprocess.run(["mount", "--bind", mounted.path, place / "m"], check=True, timeout=60)
        try:
            for words in (["snapshot", "create", place / "m", "mine"], ["info", place / "m"]):
                result = commands.run(
                    commands.snapfs_command(*words), capture_output=True, text=True, **NOBODY
                )
                assert result.returncode == 1
                one_line(result, "only that user and root")
        finally:
            subprocess.run(["umount", "-i", place / "m"], check=True, timeout=60)
    assert names(mounted.run, mounted.path) == []
