"""Images and requests that are not what they should be, beyond those of ``test_commands``:
superblocks that say what cannot be, images that have lost a part, a volume without space while
several users work on it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import SLOT_BYTES, Geometry
from snapfs.blocks.superblock import CHECKSUM_OFFSET, LAYOUT, MAGIC

Run = Callable[..., subprocess.CompletedProcess[str]]

#: Exit code of a check that found damage, where the volume is recognised at all.
CHECK_FOUND = 4

#: Places of fields in a superblock.
FIELDS = {
    "version": 1,
    "block_size": 2,
    "blocks": 3,
    "generation": 4,
    "incompatible": 7,
    "root_block": 12,
    "root_length": 13,
}


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Standard error is one line of ours that has these words, and no traceback."""
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def slots(image: Path) -> list[int]:
    front, tail = Geometry.for_size(4096, image.stat().st_size).slot_offsets()
    return front + tail


def patch(image: Path, *, newest_only: bool = False, **values: int) -> None:
    """Change fields of the superblocks, and make their checksums fit."""
    with image.open("r+b") as file:
        found = []
        for offset in slots(image):
            file.seek(offset)
            data = file.read(SLOT_BYTES)
            if data.startswith(MAGIC):
                found.append((LAYOUT.unpack_from(data)[4], offset, data))
        newest = max(generation for generation, _, _ in found)
        for generation, offset, data in found:
            if newest_only and generation != newest:
                continue
            fields = list(LAYOUT.unpack_from(data))
            for name, value in values.items():
                fields[FIELDS[name]] = value
            body = LAYOUT.pack(*fields).ljust(CHECKSUM_OFFSET, b"\0")
            file.seek(offset)
            file.write((body + struct.pack("<I", crc32c(body))).ljust(SLOT_BYTES, b"\0"))


def refused(run: Run, image: Path, directory: Path, *words: str, check: int = 8) -> None:
    """By commands that read and that write, each with its code and one line, and without a change
    to the image.
    """
    before = image.read_bytes()
    one_line(run("mount", image, directory, code=32), *words)
    assert not directory.is_mount()
    one_line(run("info", image, code=1), *words)
    one_line(run("snapshot", "create", image, "x", code=1), *words)
    result = run("check", image, code=check)
    assert check == CHECK_FOUND or not one_line(result, *words)
    assert image.read_bytes() == before


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "directory"
    found.mkdir()
    return found


@pytest.fixture
def damaged(images) -> Path:
    """A volume that has seen some commits, to be damaged."""
    image: Path = images.make("16M")
    images.expect_damage(image)
    return image


# --- superblocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 512, 1000, 4095, 12288, 3 << 20, 1 << 31])
def test_a_block_size_that_cannot_be(
    size: int, damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    patch(damaged, block_size=size)
    refused(run_snapfs, damaged, directory, damaged.name)


@pytest.mark.parametrize("size", [8192, 65536])
def test_a_block_size_that_is_another(
    size: int, damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    """The sizes in the superblock would reach behind the image."""
    patch(damaged, block_size=size)
    refused(run_snapfs, damaged, directory, damaged.name)


@pytest.mark.parametrize("blocks", [0, 1, (16 << 20) // 4096 + 1, 1 << 40, (1 << 64) - 1])
def test_a_number_of_blocks_that_cannot_be(
    blocks: int, damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    patch(damaged, blocks=blocks)
    refused(run_snapfs, damaged, directory, damaged.name)


@pytest.mark.parametrize(
    "values",
    [{"root_block": 0}, {"root_block": 1 << 50}, {"root_length": 0}, {"root_length": 1 << 31}],
)
def test_a_root_that_cannot_be(
    values: dict[str, int], damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    patch(damaged, **values)
    refused(run_snapfs, damaged, directory, damaged.name)


def test_a_root_that_is_not_there(damaged: Path, directory: Path, run_snapfs: Run) -> None:
    """A place that could have it, and has something else."""
    patch(damaged, root_block=4000)
    refused(run_snapfs, damaged, directory, damaged.name, "checksum", check=CHECK_FOUND)


def test_a_newer_format_and_features_that_are_not_known(
    damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    original = damaged.read_bytes()
    patch(damaged, version=2)
    refused(run_snapfs, damaged, directory, "format 2", "newer snapfs")
    damaged.write_bytes(original)
    patch(damaged, incompatible=1 << 63)
    refused(run_snapfs, damaged, directory, "features", "newer snapfs")


def test_a_newer_snapfs_wrote_last(mounted, images, directory: Path) -> None:
    """Older superblocks are still there, of states that the newer one has overwritten: not one of
    them may be taken.
    """
    (mounted / "file").write_text("text")
    mounted.unmount()
    images.expect_damage(mounted.image)
    patch(mounted.image, newest_only=True, version=7)
    refused(mounted.run, mounted.image, directory, "format 7", "newer snapfs")


def test_one_ring_of_superblocks_is_enough(mounted, images, tmp_path: Path) -> None:
    (mounted / "file").write_text("text")
    mounted.snapshot("s")
    mounted.unmount()
    for name, half in (("front", 0), ("end", 1)):
        image = tmp_path / f"{name}.img"
        shutil.copyfile(mounted.image, image)
        images.expect_damage(image)
        places = slots(image)
        with image.open("r+b") as file:
            for offset in places[: len(places) // 2] if half == 0 else places[len(places) // 2 :]:
                file.seek(offset)
                file.write(bytes(SLOT_BYTES))
        assert json.loads(mounted.run("snapshot", "list", image, "--json").stdout)[0]["name"] == "s"


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 4096, 65536, 8 << 20, (16 << 20) - 8192])
def test_an_image_that_has_lost_its_end(
    lost: int, damaged: Path, directory: Path, run_snapfs: Run
) -> None:
    size = damaged.stat().st_size
    os.truncate(damaged, size - lost)
    refused(run_snapfs, damaged, directory, "truncated")


def test_an_image_that_has_grown_is_what_it_was(mounted) -> None:
    (mounted / "file").write_text("text")
    mounted.unmount()
    os.truncate(mounted.image, 100 << 20)
    mounted.mount()
    assert (mounted / "file").read_text() == "text"
    mounted.run("snapshot", "create", mounted.path, "s")


def test_an_image_that_was_overwritten_in_the_middle(mounted, images) -> None:
    """I7: damage is an error of input and output, never wrong data, and the rest of the volume
    stays usable.
    """
    good, bad = os.urandom(1 << 20), os.urandom(1 << 20)
    (mounted / "bad").write_bytes(bad)
    (mounted / "good").write_bytes(good)
    mounted.unmount()
    images.expect_damage(mounted.image)
    data = mounted.image.read_bytes()
    place = data.index(bad[:4096])
    with mounted.image.open("r+b") as file:
        file.seek(place + 100_000)
        file.write(b"damage")
    mounted.mount()
    with pytest.raises(OSError, match="Input/output") as caught:
        (mounted / "bad").read_bytes()
    assert caught.value.errno == errno.EIO
    with (mounted / "bad").open("rb") as file:
        assert file.read(65536) == bad[:65536]
    assert (mounted / "good").read_bytes() == good
    (mounted / "new").write_bytes(b"new")
    mounted.unmount()
    assert mounted.run("check", mounted.image, code=None).returncode in (0, 4)


def test_an_image_in_use_names_process_and_command(mounted, directory: Path) -> None:
    pid = mounted.pid
    for command, code in (
        (["mount", mounted.image, directory], 32),
        (["check", mounted.image], 8),
        (["mkfs", mounted.image, "--force"], 1),
    ):
        one_line(mounted.run(*command, code=code), f"{pid}", "in use")
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        name = file.read().strip()
    # Another name for the same file is the same volume.
    link = directory.parent / "link.img"
    os.link(mounted.image, link)
    one_line(mounted.run("mount", link, directory, code=32), f"{pid}")
    one_line(mounted.run("check", link, code=8), f"{pid}", name)
    assert json.loads(mounted.run("info", link, "--json").stdout)["pid"] == pid
    link.unlink()
    symlink = directory.parent / "symlink.img"
    symlink.symlink_to(mounted.image)
    one_line(mounted.run("mount", symlink, directory, code=32), f"{pid}")


def test_mount_points_that_are_taken(mounted, images, tmp_path: Path) -> None:
    image = images.make("16M")
    one_line(mounted.run("mount", image, mounted.path, code=32), "busy")
    (mounted / "inside").mkdir()
    other = images.make("16M")
    mounted.run("mount", other, mounted / "inside")  # a directory of a mount is as good as any
    try:
        (mounted / "inside" / "file").write_text("text")
        one_line(mounted.run("umount", mounted.path, code=1), "in use")
        assert os.listdir(mounted.path) == ["inside"]
    finally:
        mounted.run("umount", mounted / "inside")
    assert os.listdir(mounted / "inside") == []
    file = tmp_path / "file"
    file.touch()
    one_line(mounted.run("mount", image, file, code=32), "not a directory")


# --- snapshots that cannot be ---------------------------------------------------------------------


def test_refused_snapshot_operations_leave_everything_as_it_was(mounted) -> None:
    """No such snapshot, a name that is taken, a bad name: by command and by system call."""
    (mounted / "file").write_text("first")
    mounted.snapshot("s")
    mounted.snapshot("t")
    (mounted / "file").write_text("second")
    before = json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout)
    snap = mounted / ".snap"
    for command in (
        ["create", "s"],
        ["rename", "s", "t"],
        ["rename", "x", "y"],
        ["delete", "x"],
        ["show", "x"],
        ["create", "a,b"],
        ["create", "x" * 300],
    ):
        action, *names = command
        one_line(mounted.run("snapshot", action, mounted.path, *names, code=1))
    one_line(mounted.run("restore", mounted.path, "x", code=1), "no snapshot", "'x'")
    mounted.unmount()
    one_line(mounted.mount("restore=x", code=32), "'x'")
    one_line(mounted.mount("snapshot=x", code=32), "'x'")
    mounted.mount()
    for code, function, args in (
        (errno.EEXIST, os.mkdir, (snap / "s",)),
        (errno.EEXIST, os.rename, (snap / "s", snap / "t")),
        (errno.ENOENT, os.rename, (snap / "x", snap / "y")),
        (errno.ENOENT, os.rmdir, (snap / "x",)),
        (errno.ENOENT, os.listdir, (snap / "x",)),
        (errno.EINVAL, os.mkdir, (snap / "a,b",)),
    ):
        with pytest.raises(OSError) as caught:
            function(*args)
        assert caught.value.errno == code, (function, args)
    assert json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout) == before
    assert (mounted / "file").read_text() == "second"
    assert (mounted.view("s") / "file").read_text() == "first"


# --- no space -------------------------------------------------------------------------------------


def fill(path: Path, chunk: bytes) -> int:
    """Write until there is no space; which of write, fsync and close says so is the kernel's
    business. The bytes that are durable.
    """
    durable = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        with pytest.raises(OSError) as caught:
            try:
                for _ in range(1000):
                    count = os.write(descriptor, chunk)
                    os.fsync(descriptor)
                    durable += count
            finally:
                try:
                    os.close(descriptor)
                except OSError as exc:
                    assert exc.errno == errno.ENOSPC
    finally:
        assert caught.value.errno == errno.ENOSPC
    return durable


@pytest.mark.volume(size="32M")
def test_a_full_volume_keeps_all_that_it_had_and_takes_all_that_needs_no_space(
    mounted, wait_until
) -> None:
    kept = {f"file{number}": os.urandom(10_000) for number in range(20)}
    for name, content in kept.items():
        (mounted / name).write_bytes(content)
    mounted.snapshot("s")
    chunk = os.urandom(256 << 10)
    durable = fill(mounted / "big", chunk)
    assert durable >= 20 << 20
    assert os.statvfs(mounted.path).f_bavail * 4096 < len(chunk)
    # Reading, looking, renaming, deleting, and the daemon's own affairs go on.
    for name, content in kept.items():
        assert (mounted / name).read_bytes() == content
        assert (mounted.view("s") / name).read_bytes() == content
    assert (mounted / "big").read_bytes()[:durable] == (chunk * (durable // len(chunk) + 1))[
        :durable
    ]
    with pytest.raises(OSError, match="No space left"):
        (mounted / "more").write_bytes(chunk)
        with (mounted / "more").open("rb") as file:
            os.fsync(file.fileno())
    (mounted / "more").unlink(missing_ok=True)
    mounted.run("info", mounted.path)
    (mounted / "file0").unlink()
    del kept["file0"]
    mounted.run("snapshot", "delete", mounted.path, "s")
    # Another mount finds the same; then space comes back, and is there for writing.
    mounted.remount()
    for name, content in kept.items():
        assert (mounted / name).read_bytes() == content
    assert (mounted / "big").read_bytes()[:durable] == (chunk * (durable // len(chunk) + 1))[
        :durable
    ]
    (mounted / "big").unlink()
    wait_until(
        lambda: os.statvfs(mounted.path).f_bavail * 4096 > 24 << 20,
        what="the space of the deleted file",
    )
    with (mounted / "again").open("wb") as file:
        for _ in range(60):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    assert (mounted / "again").read_bytes() == chunk * 60


@pytest.mark.volume(size="32M")
def test_a_writer_without_space_does_not_stop_others(mounted) -> None:
    """One fills the volume again and again; another one reads and deletes; a third one changes what
    it has: nobody hangs.
    """
    chunk = os.urandom(128 << 10)
    data = os.urandom(1 << 20)
    (mounted / "read").write_bytes(data)
    stop = threading.Event()
    wrong: list[BaseException] = []
    rounds = {"fill": 0, "read": 0, "change": 0}

    def guarded(function: Callable[[], None], name: str) -> None:
        try:
            while not stop.is_set():
                function()
                rounds[name] += 1
                if rounds["fill"] >= 4 and rounds["read"] >= 10 and rounds["change"] >= 10:
                    stop.set()
        except BaseException as exc:
            wrong.append(exc)
            stop.set()

    def filler() -> None:
        fill(mounted / "full", chunk)
        (mounted / "full").unlink()

    def reader() -> None:
        assert (mounted / "read").read_bytes() == data
        assert sorted(set(os.listdir(mounted.path)) - {"full", "changed", "renamed"}) == ["read"]

    def changer() -> None:
        try:
            (mounted / "changed").write_bytes(b"x" * 3000)
            os.rename(mounted / "changed", mounted / "renamed")
            os.chmod(mounted / "renamed", 0o600)
            (mounted / "renamed").unlink()
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            (mounted / "changed").unlink(missing_ok=True)
            (mounted / "renamed").unlink(missing_ok=True)

    threads = [
        threading.Thread(target=guarded, args=pair)
        for pair in ((filler, "fill"), (reader, "read"), (changer, "change"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if wrong:
        raise wrong[0]
    assert (mounted / "read").read_bytes() == data
    mounted.remount()
    assert (mounted / "read").read_bytes() == data


@pytest.mark.volume(size="32M")
def test_a_volume_that_snapshots_fill_lets_files_and_snapshots_go(mounted, wait_until) -> None:
    """Deleting a file that a snapshot holds takes blocks, and works all the same; then the snapshot
    gives everything back.
    """
    data = os.urandom(20 << 20)
    fresh = os.statvfs(mounted.path).f_bfree
    (mounted / "held").write_bytes(data)
    mounted.snapshot("s")
    durable = fill(mounted / "held", os.urandom(1 << 20))
    assert durable < 12 << 20
    assert (mounted.view("s") / "held").read_bytes() == data
    with pytest.raises(OSError, match="No space left"):
        (mounted.view("s") / "more").write_bytes(bytes(range(256)) * 40_000)
        with (mounted.view("s") / "more").open("rb") as file:
            os.fsync(file.fileno())
    result = mounted.run("snapshot", "create", mounted.path, "t", code=None)
    if result.returncode:
        one_line(result, "space")
    for name in os.listdir(mounted.path):
        (mounted / name).unlink()
    past = (mounted.view("s") / "held").read_bytes()
    assert past == data
    for name in os.listdir(mounted / ".snap"):
        (mounted / ".snap" / name).rmdir()
    wait_until(
        lambda: os.statvfs(mounted.path).f_bfree >= fresh - 50, limit=30, what="all of the space"
    )
    (mounted / "file").write_bytes(data)
    mounted.remount()
    assert (mounted / "file").read_bytes() == data
