"""``snapfs copy`` on real mounts (D1 to D5, D7): what a copy shows while it is filled and
afterwards, and what happens when things fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.control.socket import client

Hashes = dict[str, str]

MIB = 1 << 20


def hashes(top: Path) -> Hashes:
    """Of every file below, by its path."""
    found: Hashes = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            found[str(path.relative_to(top))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def all_views(mounted: Any, names: list[str]) -> dict[str, Hashes]:
    return {".": hashes(mounted.path), **{name: hashes(mounted.view(name)) for name in names}}


def fill(top: Path, dice: random.Random, count: int, size: int = 300_000) -> None:
    for number in range(count):
        directory = top / f"d{number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(dice.randbytes(dice.randrange(1, size)))


def with_history(mounted: Any, seed: int = 1) -> list[str]:
    """Files, and snapshots that differ from them."""
    dice = random.Random(seed)
    fill(mounted.path, dice, 60)
    mounted.snapshot("one")
    fill(mounted.path, dice, 30)
    mounted.snapshot("two")
    (mounted.view("one") / "d0" / "f0").write_bytes(b"written in the view")
    for number in range(0, 60, 3):
        (mounted.path / f"d{number % 7}" / f"f{number}").unlink()
    return ["one", "two"]


def status(mounted: Any, target: object = None) -> dict[str, Any]:
    return json.loads(
        mounted.run("copy", "status", target or mounted.path, "--json", code=None).stdout
    )


def set_free(mounted: Any) -> dict[str, Any]:
    """Have it copied to the end."""
    return json.loads(
        mounted.run("copy", "resume", mounted.path, "--rate", "max", "--wait", "--json").stdout
    )


@contextlib.contextmanager
def load(mount: Path, seed: int = 7) -> Iterator[Callable[[], int]]:
    """Somebody writes, syncs, renames and deletes all the time. What is yielded tells how often.

    By a descriptor: after a kill the mount's own path leads into the directory below it.
    """
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    top = Path(f"/proc/self/fd/{root}")
    end = threading.Event()
    done = [0]
    failures: list[BaseException] = []

    def work() -> None:
        dice = random.Random(seed)
        try:
            while not end.is_set():
                files = [
                    Path(directory, name) for directory, _, names in os.walk(top) for name in names
                ]
                action = dice.randrange(10)
                if action < 5 or not files:
                    path = top / f"load{dice.randrange(40)}"
                    with contextlib.suppress(IsADirectoryError), path.open("wb") as file:
                        file.write(dice.randbytes(dice.randrange(1, 400_000)))
                        if dice.random() < 0.4:
                            os.fsync(file.fileno())
                elif action < 7:
                    dice.choice(files).unlink()
                elif action < 8:
                    dice.choice(files).rename(top / f"load{dice.randrange(40)}")
                else:
                    with dice.choice(files).open("r+b") as file:
                        file.seek(dice.randrange(100_000))
                        file.write(dice.randbytes(5000))
                        os.fsync(file.fileno())
                done[0] += 1
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: done[0]
    finally:
        end.set()
        thread.join(60)
        assert not thread.is_alive()
        os.close(root)
    assert not failures, failures


# --- what it shows --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["on-volume", "outside"])
@pytest.mark.volume(size="200M")
def test_a_copy_shows_another_moment_than_that_of_the_command(
    where: str, mounted, mount_volume, images, wait_until, tmp_path: Path
) -> None:
    """D1, D3, D4, D5: mounted at once, while it is filled, and alone when it is complete, under a
    random load on the source.
    """
    names = with_history(mounted)
    before = all_views(mounted, names)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--map", where, "--rate", "100K")
    with load(mounted.path) as done:
        early = mount_volume(target)
        wait_until(lambda: done() > 40, 60, "the load")
        assert all_views(early, names) == before
        assert status(mounted)["state"] == "copying"
        set_free(mounted)
        assert all_views(early, names) == before  # which is the same mount
        early.unmount()
    now = all_views(mounted, names)
    assert now["."] != before["."]
    alone = mount_volume(images.watch(target))
    assert all_views(alone, names) == before
    (alone / "new").write_bytes(b"a volume like any other")
    alone.remount()
    assert (alone / "new").read_bytes() == b"a volume like any other"
    mounted.remount()
    assert all_views(mounted, names) == now
    assert not list(tmp_path.glob("*.copymap"))


@pytest.mark.volume(size="120M")
def test_what_the_copy_still_needs_is_overwritten(
    mounted, mount_volume, images, tmp_path: Path
) -> None:
    """D3: nothing is copied behind, and the source is written over and over until it is full."""
    dice = random.Random(3)
    fill(mounted.path, dice, 300)
    (mounted / "stays").write_bytes(dice.randbytes(2 * MIB))
    os.sync()  # what is being written when the copy begins would be copied at once
    before = hashes(mounted.path)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--rate", "0")
    first = status(mounted)["copied"]
    for path in before:
        if path != "stays":
            (mounted.path / path).unlink()
    for _ in range(3):
        for number in range(85):
            (mounted.path / f"new{number}").write_bytes(dice.randbytes(MIB))
        os.sync()
    now = hashes(mounted.path)
    told = status(mounted)
    assert told["state"] == "copying"
    assert told["copied"] > first + 20 * MIB, "nothing was overwritten: the test shows nothing"
    early = mount_volume(target)
    assert hashes(early.path) == before
    early.unmount()
    set_free(mounted)
    assert hashes(mounted.path) == now
    assert hashes(mount_volume(images.watch(target)).path) == before


def test_what_was_written_before_the_command_is_missing(
    mounted, mount_volume, images, tmp_path: Path
) -> None:
    """D1: also what only the kernel has of it; and nothing that is written after it has returned is
    there.
    """
    with (mounted / "open").open("wb") as file:
        file.write(b"x" * 200_000)
        file.flush()
        mounted.run("copy", mounted.path, tmp_path / "copy.img", "--rate", "0")
        file.write(b"y" * 200_000)
    set_free(mounted)
    copy = mount_volume(images.watch(tmp_path / "copy.img"))
    assert (copy / "open").read_bytes() == b"x" * 200_000


def test_free_space_is_copied(mounted, images, tmp_path: Path) -> None:
    """D4: a sparse target stays sparse, and what was freed is not copied."""
    (mounted / "large").write_bytes(random.Random(1).randbytes(30 * MIB))
    os.sync()
    (mounted / "large").unlink()
    (mounted / "small").write_bytes(b"x" * MIB)
    mounted.run("copy", mounted.path, tmp_path / "copy.img", "--wait")
    images.watch(tmp_path / "copy.img")
    assert (tmp_path / "copy.img").stat().st_blocks * 512 < 3 * MIB
    assert (tmp_path / "copy.img").stat().st_size == mounted.image.stat().st_size


def test_an_image_that_nobody_has_mounted_is_changed_by_its_copy(
    mounted, run_snapfs, images, mount_volume, tmp_path: Path
) -> None:
    """D1: the command copies to the end; with the map outside the source is only read."""
    names = with_history(mounted)
    before = all_views(mounted, names)
    mounted.unmount()
    source = hashlib.sha256(mounted.image.read_bytes()).hexdigest()
    told = json.loads(run_snapfs("copy", mounted.image, tmp_path / "copy.img", "--json").stdout)
    assert (told["state"], told["registered"], told["copied"]) == ("complete", False, told["total"])
    assert hashlib.sha256(mounted.image.read_bytes()).hexdigest() == source
    assert all_views(mount_volume(images.watch(tmp_path / "copy.img")), names) == before
    told = json.loads(
        run_snapfs(
            "copy", mounted.image, tmp_path / "second.img", "--map", "on-volume", "--json"
        ).stdout
    )
    assert (told["state"], told["registered"], told["map"]) == ("complete", True, "on-volume")
    assert all_views(mount_volume(images.watch(tmp_path / "second.img")), names) == before


def test_a_read_only_mount_cannot_be_copied(mounted, mount_volume, images, tmp_path: Path) -> None:
    names = with_history(mounted)
    mounted.remount("ro")
    before = all_views(mounted, names)
    mounted.run("copy", mounted.path, tmp_path / "copy.img", "--wait")
    assert all_views(mount_volume(images.watch(tmp_path / "copy.img")), names) == before
    result = mounted.run(
        "copy", mounted.path, tmp_path / "second.img", "--map", "on-volume", code=2
    )
    assert re.fullmatch(r"snapfs: [^\n]*--map outside\n", result.stderr)


def test_a_copy_of_an_unfinished_copy_is_wrong(
    mounted, mount_volume, images, tmp_path: Path
) -> None:
    names = with_history(mounted)
    before = all_views(mounted, names)
    mounted.run("copy", mounted.path, tmp_path / "copy.img", "--rate", "0")
    assert json.loads(mounted.run("check", tmp_path / "copy.img", "--json").stdout)["clean"]
    assert json.loads(mounted.run("scrub", tmp_path / "copy.img", "--json").stdout)["clean"]
    mounted.run("copy", tmp_path / "copy.img", tmp_path / "second.img")
    assert all_views(mount_volume(images.watch(tmp_path / "second.img")), names) == before
    mounted.run("copy", "cancel", mounted.path)


# --- the initial part -----------------------------------------------------------------------------


def test_files_that_go_first_are_not_there(mounted, tmp_path: Path) -> None:
    """D2: when the command returns they can be read from the target alone, with all that leads to
    them.
    """
    (mounted / "boot").mkdir()
    kernel = random.Random(1).randbytes(3 * MIB)
    (mounted / "boot" / "vmlinuz").write_bytes(kernel)
    (mounted / "boot" / "link").symlink_to("vmlinuz")
    os.setxattr(mounted / "boot" / "vmlinuz", "user.large", b"v" * 5000)
    (mounted / "rest").write_bytes(random.Random(2).randbytes(3 * MIB))
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--first", mounted / "boot", "--rate", "0")
    assert 3 * MIB < status(mounted)["copied"] < 4 * MIB
    script = """
import sys
from snapfs.copying import mark_of
from snapfs.device import Lock, open_device
from snapfs.filesystem import Filesystem
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
# What is not in the target reads as zeros.
volume = open_volume(open_device(sys.argv[1], read_only=True, lock=Lock.NONE))
fs = Filesystem(volume)
boot = drive(volume, fs.lookup, fs.base, 1, b"boot")
file = drive(volume, fs.lookup, fs.base, boot.ino, b"vmlinuz")
assert drive(volume, fs.xattr_get, fs.base, file.ino, b"user.large") == b"v" * 5000
assert drive(volume, fs.readlink, fs.base, drive(volume, fs.lookup, fs.base, boot.ino,
b"link").ino) == b"vmlinuz"
sys.stdout.buffer.write(drive(volume, fs.read, fs.base, file.ino, 0, 4 << 20))
"""
    found = subprocess.run(
        [sys.executable, "-c", script, target], check=True, capture_output=True, timeout=60
    )
    assert found.stdout == kernel
    mounted.run("copy", "cancel", mounted.path)


def test_a_path_that_is_not_there_goes_first(mounted, tmp_path: Path) -> None:
    result = mounted.run("copy", mounted.path, tmp_path / "copy.img", "--first", "nowhere", code=1)
    assert re.fullmatch(r"snapfs: /nowhere: [^\n]*\n", result.stderr)
    assert not list(tmp_path.glob("copy*"))
    assert status(mounted)["state"] == "none"


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["on-volume", "outside"])
@pytest.mark.volume(size="200M")
def test_a_killed_daemon_ends_the_copy(
    where: str, mounted, mount_volume, images, wait_until, tmp_path: Path
) -> None:
    """D4, D5: kill -9 in the middle, several times, under a load; the next mount goes on."""
    names = with_history(mounted)
    before = all_views(mounted, names)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--map", where, "--rate", "100K")
    reached = [status(mounted)["copied"]]
    for seed in range(4):
        with contextlib.suppress(AssertionError, OSError), load(mounted.path, seed) as done:
            ends = done() + 15
            wait_until(lambda done=done, ends=ends: done() >= ends, 60, "the load")
            mounted.kill()
        assert not os.listdir(mounted.path)
        told = status(mounted, target)
        assert (told["state"], told["destination"]) == ("interrupted", str(target))
        mounted.mount()
        reached.append(status(mounted)["copied"])
    assert reached == sorted(reached)
    early = mount_volume(target)
    assert all_views(early, names) == before
    early.unmount()
    set_free(mounted)
    assert all_views(mount_volume(images.watch(target)), names) == before


def test_commands_on_the_image_of_an_interrupted_copy_spoil_it(
    mounted, run_snapfs, mount_volume, images, tmp_path: Path
) -> None:
    """D3, D4: a command that writes to the source copies before it does."""
    names = with_history(mounted)
    before = all_views(mounted, names)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--rate", "0")
    mounted.unmount()
    run_snapfs("snapshot", "delete", mounted.image, "one", "two")
    run_snapfs("snapshot", "create", mounted.image, "three")
    assert json.loads(run_snapfs("info", mounted.image, "--json").stdout)["snapshots"] == 1
    run_snapfs("copy", "resume", mounted.image, "--rate", "max")
    assert all_views(mount_volume(images.watch(target)), names) == before


def test_a_copy_that_was_paused_goes_on_by_itself(
    mounted, run_snapfs, mount_volume, images, tmp_path: Path
) -> None:
    """D4: also after the next mount."""
    names = with_history(mounted)
    before = all_views(mounted, names)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--rate", "300K")
    mounted.run("copy", "pause", target)
    assert status(mounted)["state"] == "paused"
    mounted.remount()
    assert status(mounted)["state"] == "paused"
    assert set_free(mounted)["state"] == "complete"
    assert all_views(mount_volume(images.watch(target)), names) == before


def test_an_interrupted_command_loses_what_it_has_copied(
    mounted, snapfs_command, start, run_snapfs, mount_volume, images, wait_until, tmp_path: Path
) -> None:
    """D4: a copy of an image that nobody has mounted goes on where Ctrl-C ended it, if the image is
    the same.
    """
    names = with_history(mounted)
    before = all_views(mounted, names)
    mounted.unmount()
    target = tmp_path / "copy.img"
    process = start(
        snapfs_command("copy", mounted.image, target, "--rate", "300K"), stderr=subprocess.DEVNULL
    )
    wait_until(lambda: target.exists() and target.stat().st_blocks * 512 > MIB, 30, "the copy")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert status(mounted, target)["state"] == "interrupted"
    early = mount_volume(target)
    assert all_views(early, names) == before
    refused = run_snapfs("mount", mounted.image, mounted.path, code=32)
    assert "in use by process" in refused.stderr  # it would change what the copy shows
    early.unmount()
    told = json.loads(run_snapfs("copy", "resume", target, "--json").stdout)
    assert told["state"] == "complete"
    assert all_views(mount_volume(images.watch(target)), names) == before


def test_a_copy_goes_on_although_its_source_has_changed(
    mounted, snapfs_command, start, run_snapfs, wait_until, tmp_path: Path
) -> None:
    """D4: what a source does not know of it does not wait for."""
    with_history(mounted)
    mounted.unmount()
    target = tmp_path / "copy.img"
    process = start(
        snapfs_command("copy", mounted.image, target, "--rate", "300K"), stderr=subprocess.DEVNULL
    )
    wait_until(lambda: target.exists() and target.stat().st_blocks * 512 > MIB, 30, "the copy")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    run_snapfs("snapshot", "create", mounted.image, "another")
    for words in (("copy", "resume", target), ("mount", target, mounted.path), ("info", target)):
        result = run_snapfs(*words, code=None)
        assert result.returncode in (1, 32)
        assert re.fullmatch(r"snapfs: [^\n]*changed since[^\n]*\n", result.stderr), result.stderr


@pytest.mark.volume(size="1G")
@pytest.mark.parametrize("how", ["interrupt", "cancel"])
def test_a_copy_that_is_being_set_up_cannot_be_given_up(
    how: str, mounted, snapfs_command, start, wait_until, tmp_path: Path
) -> None:
    """D4: by Ctrl-C, or by somebody else; nothing is left of it, and another one can begin."""
    chunk = random.Random(1).randbytes(MIB)
    with (mounted / "large").open("wb") as file:
        for _ in range(600):
            file.write(chunk)
        os.fsync(file.fileno())
    target = tmp_path / "copy.img"
    command = snapfs_command("copy", mounted.path, target, "--first", mounted / "large")
    daemon = client.of_image(os.fspath(mounted.image))
    assert daemon is not None
    with daemon:
        process = start(command, stderr=subprocess.PIPE, text=True)
        wait_until(
            lambda: target.exists() and target.stat().st_blocks * 512 > 8 * MIB, 30, "the beginning"
        )
        if how == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            told = daemon.call("copy.cancel")  # a command of its own might come too late
            assert (told["state"], told["destination"], told["removed"]) == (
                "cancelled",
                str(target),
                True,
            )
        _, errors = process.communicate(timeout=30)
    assert re.fullmatch(r"snapfs: [^\n]*cancelled\n", errors), errors
    assert process.returncode == (130 if how == "interrupt" else 1)
    assert not list(tmp_path.glob("copy*"))
    assert status(mounted)["state"] == "none"
    mounted.run("copy", mounted.path, target, "--rate", "0")
    mounted.run("copy", "cancel", mounted.path)


def test_an_interrupted_command_does_not_say_that_the_copy_goes_on(
    mounted, snapfs_command, start, wait_until, tmp_path: Path
) -> None:
    """D4: one that waited for a daemon."""
    with_history(mounted)
    target = tmp_path / "copy.img"
    command = snapfs_command("copy", mounted.path, target, "--rate", "300K", "--wait")
    process = start(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: status(mounted)["state"] == "copying", 30, "the copy")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert re.fullmatch(r"snapfs: interrupted[^\n]*goes on[^\n]*copy cancel[^\n]*\n", errors), (
        errors
    )
    assert status(mounted)["state"] == "copying"
    mounted.run("copy", "cancel", target)


def test_cancelling_leaves_something_of_it(
    mounted, mount_volume, run_snapfs, tmp_path: Path
) -> None:
    """D4: the target goes, if it was made for the copy; whoever reads it gets an error and never
    wrong data; space comes back.
    """
    with_history(mounted)
    mounted.remount()
    free = json.loads(mounted.run("info", mounted.path, "--json").stdout)["free"]
    for where in ("on-volume", "outside"):
        target = tmp_path / "copy.img"
        mounted.run("copy", mounted.path, target, "--rate", "0", "--map", where)
        mounted.run("copy", "cancel", target)
        assert not list(tmp_path.glob("copy*"))
        assert status(mounted)["state"] == "cancelled"
        assert json.loads(mounted.run("info", mounted.path, "--json").stdout)["free"] >= free - 4096
    # One that nobody goes on with, of a file that was there before.
    target.write_bytes(b"")
    mounted.run("copy", mounted.path, target, "--rate", "0")
    mounted.kill()
    run_snapfs("copy", "cancel", mounted.image)
    assert status(mounted, mounted.image)["state"] == "none"
    result = run_snapfs("mount", target, mounted.path, code=32)
    assert "cancelled" in result.stderr
    assert "internal" not in result.stderr


# --- what fails -----------------------------------------------------------------------------------


@pytest.fixture
def small_place(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 10 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem needs root")
    top = tmp_path / "small"
    top.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10M", "none", top],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if result.returncode:
        pytest.skip(f"no tmpfs to mount here: {result.stderr.strip()}")
    yield top
    subprocess.run(["umount", top], check=True, timeout=60)


@pytest.mark.parametrize("where", ["on-volume", "outside"])
def test_a_full_target_harms_the_source(where: str, mounted, small_place: Path, wait_until) -> None:
    """D7: by default it is the copy that fails, with its reason, and nobody
    takes it for a volume.
    """
    (mounted / "large").write_bytes(random.Random(1).randbytes(30 * MIB))
    mounted.run("copy", mounted.path, small_place / "copy.img", "--map", where)
    wait_until(lambda: status(mounted)["state"] == "failed", 60, "the failure")
    told = mounted.run("copy", "status", mounted.path, code=1)
    assert "No space left" in told.stdout
    for _ in range(3):
        (mounted / "large").write_bytes(random.Random(2).randbytes(30 * MIB))
    mounted.remount()
    assert (mounted / "large").read_bytes() == random.Random(2).randbytes(30 * MIB)
    result = mounted.run("info", small_place / "copy.img", code=1)
    assert re.fullmatch(r"snapfs: [^\n]*failed[^\n]*\n", result.stderr)
    mounted.run("copy", mounted.path, small_place / "copy.img", "--force", "--rate", "0")
    mounted.run("copy", "cancel", mounted.path)


@pytest.mark.volume(size="64M", options="writeback=off")
def test_writes_do_not_wait_for_a_copy_that_comes_first(
    mounted, mount_volume, images, small_place: Path, wait_until
) -> None:
    """D7: with ``--on-error write`` what would be destroyed is not written until there is space;
    then everything goes on.
    """
    dice = random.Random(1)
    ballast = small_place / "ballast"
    fill(mounted.path, dice, 120)
    before = hashes(mounted.path)
    ballast.write_bytes(bytes(9 * MIB))
    mounted.run("copy", mounted.path, small_place / "copy.img", "--on-error", "write")
    wait_until(lambda: status(mounted)["state"] == "blocked", 60, "the full target")
    assert [status(mounted)["state"] for _ in range(10)] == ["blocked"] * 10, (
        "it is tried all the time"
    )
    for path in before:
        (mounted.path / path).unlink()
    with pytest.raises(OSError):  # where depends on where lies what is needed
        for number in range(60):
            path = mounted / f"new{number}"
            with path.open("wb") as file:
                file.write(dice.randbytes(MIB))
                os.fsync(file.fileno())
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=200M", small_place], check=True, timeout=60)
    wait_until(lambda: status(mounted)["state"] == "complete", 60, "the rest of the copy")
    (mounted / "after").write_bytes(b"after")
    mounted.remount()
    assert (mounted / "after").read_bytes() == b"after"
    copy = mount_volume(small_place / "copy.img")
    assert hashes(copy.path) == before
    copy.unmount()
    assert json.loads(mounted.run("check", small_place / "copy.img", "--json").stdout)["clean"]


def test_a_command_never_ends_that_cannot_go_on(
    mounted, run_snapfs, small_place: Path, mount_volume
) -> None:
    """D4, D7: of an image that nobody has mounted it ends with the reason, and goes on when there
    is space.
    """
    (mounted / "large").write_bytes(random.Random(1).randbytes(30 * MIB))
    mounted.unmount()
    target = small_place / "copy.img"
    for words in ((mounted.image, target, "--on-error", "write"), ("resume", target)):
        result = run_snapfs("copy", *words, code=1, limit=30)
        assert re.fullmatch(r"snapfs: [^\n]*No space left[^\n]*copy resume[^\n]*\n", result.stderr)
        assert result.stdout == ""
    subprocess.run(["mount", "-o", "remount,size=200M", small_place], check=True, timeout=60)
    assert run_snapfs("copy", "resume", target).stdout.startswith(f"{target}: the copy is complete")
    copy = mount_volume(target)
    assert (copy / "large").read_bytes() == random.Random(1).randbytes(30 * MIB)
    copy.unmount()


def test_a_target_that_is_missing_at_the_next_mount(mounted, run_snapfs, tmp_path: Path) -> None:
    """D7: the copy fails, and the volume is mounted; or it comes first, and the volume is not."""
    with_history(mounted)
    target = tmp_path / "copy.img"
    mounted.run("copy", mounted.path, target, "--rate", "0")
    mounted.unmount()
    target.rename(tmp_path / "elsewhere.img")
    result = mounted.mount()
    assert re.fullmatch(r"snapfs: [^\n]*copy to [^\n]*\n", result.stderr)
    assert status(mounted)["state"] == "none"
    result = mounted.run("info", tmp_path / "elsewhere.img", code=1)
    assert "internal" not in result.stderr

    mounted.run("copy", mounted.path, target, "--rate", "0", "--on-error", "write")
    mounted.unmount()
    target.rename(tmp_path / "gone.img")
    result = mounted.mount(code=32)
    assert "copy cancel" in result.stderr
    mounted.mount("ro")
    mounted.unmount()
    (tmp_path / "gone.img").rename(target)
    mounted.mount()
    assert status(mounted)["state"] == "copying"
    mounted.unmount()
    target.unlink()
    run_snapfs("copy", "cancel", mounted.image)
    mounted.mount()


def test_a_read_only_mount_ends_a_copy_or_goes_on_with_it(mounted, tmp_path: Path) -> None:
    """D4: one line says why nothing can be done, and the copy goes on at the next mount."""
    with_history(mounted)
    mounted.run("copy", mounted.path, tmp_path / "copy.img", "--rate", "0")
    mounted.remount("ro")
    assert status(mounted)["state"] == "interrupted"
    for action in ("cancel", "pause", "resume"):
        result = mounted.run("copy", action, mounted.path, code=1)
        assert re.fullmatch(r"snapfs: [^\n]*mounted read-only\n", result.stderr), result.stderr
    mounted.remount()
    assert status(mounted)["state"] == "copying"
    mounted.run("copy", "cancel", mounted.path)


# --- devices --------------------------------------------------------------------------------------


def test_block_devices_are_copied_otherwise(
    loop_device: Path, make_loop, mount_volume, tmp_path: Path, images
) -> None:
    """A1, D1: from a device to a larger one that holds something, and back to a file."""
    mounted = mount_volume(loop_device)
    names = with_history(mounted)
    before = all_views(mounted, names)
    backing = tmp_path / "second"
    backing.write_bytes(b"\xff" * (80 * MIB))
    device = make_loop(backing)
    result = mounted.run("copy", mounted.path, device, code=1)
    assert "--force" in result.stderr
    mounted.run("copy", mounted.path, device, "--force", "--rate", "100K", "--map", "on-volume")
    early = mount_volume(device)
    assert all_views(early, names) == before
    early.unmount()
    set_free(mounted)
    copy = mount_volume(device)
    assert all_views(copy, names) == before
    copy.run("copy", copy.path, tmp_path / "third.img", "--wait")
    copy.unmount()
    assert json.loads(mounted.run("check", device, "--json").stdout)["clean"]
    assert all_views(mount_volume(images.watch(tmp_path / "third.img")), names) == before
    mounted.unmount()


def test_a_device_is_remembered_by_a_name_that_passes(mounted, make_loop, tmp_path: Path) -> None:
    """D4: the name that it was given by leads to it after a boot as well, and not the kernel's of
    today.
    """
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(80 * MIB)
    (tmp_path / "by-id").symlink_to(make_loop(backing))
    mounted.run("copy", mounted.path, tmp_path / "by-id", "--rate", "0")
    assert status(mounted)["destination"] == str(tmp_path / "by-id")
    mounted.unmount()
    other = tmp_path / "other"
    backing.rename(other)
    (tmp_path / "by-id").unlink()
    (tmp_path / "by-id").symlink_to(make_loop(other))  # it has another name now
    mounted.mount()
    assert set_free(mounted)["state"] == "complete"
    assert json.loads(mounted.run("check", tmp_path / "by-id", "--json").stdout)["clean"]


def test_a_device_that_is_too_small_is_taken(mounted, make_loop, tmp_path: Path) -> None:
    backing = tmp_path / "small"
    with backing.open("wb") as file:
        file.truncate(32 * MIB)
    result = mounted.run("copy", mounted.path, make_loop(backing), code=1)
    assert re.fullmatch(r"snapfs: [^\n]*too small[^\n]*\n", result.stderr)
    assert backing.read_bytes() == bytes(32 * MIB)


# --- bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_a_target_is_taken(mounted, run_snapfs, tmp_path: Path) -> None:
    """One line each, and nothing is left behind."""
    (tmp_path / "data").write_bytes(b"somebody's")
    cases: list[tuple[tuple[object, ...], int]] = [
        ((mounted.path, mounted / "inside.img"), 2),
        ((mounted.path, mounted.image), 2),
        ((mounted.path, tmp_path / "no" / "where.img"), 1),
        ((mounted.path, f"{tmp_path}/directory/"), 2),
        ((mounted.path, tmp_path), 1),
        ((mounted.path, "/dev/null"), 1),
        ((mounted.path, tmp_path / "data"), 1),
        ((mounted.path, "/proc/self/x"), 1),
        ((mounted.path, tmp_path / ("n" * 300)), 1),
        ((tmp_path / "data", tmp_path / "copy.img"), 1),
        ((tmp_path / "missing", tmp_path / "copy.img"), 1),
        ((mounted.path, tmp_path / "copy.img", "--rate", "fast"), 2),
        ((mounted.path,), 2),
        (("status", mounted.path, "--first", "x"), 2),
        (("pause", mounted.path), 1),
        (("resume", mounted.path), 1),
        (("cancel", mounted.path), 1),
        (("status", tmp_path / "data"), 1),
    ]
    there = sorted(os.listdir(tmp_path))
    for words, code in cases:
        result = run_snapfs("copy", *map(str, words), code=code)
        assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), (words, result.stderr)
        assert "internal error" not in result.stderr, words
        assert sorted(os.listdir(tmp_path)) == there, words
    assert (tmp_path / "data").read_bytes() == b"somebody's"
    assert os.listdir(mounted.path) == []
    assert run_snapfs("copy", "status", mounted.path).stdout.endswith("no copy is running\n")


def test_two_copies_of_one_volume_disturb_each_other(mounted, tmp_path: Path) -> None:
    (mounted / "file").write_bytes(b"x" * 5 * MIB)
    mounted.run("copy", mounted.path, tmp_path / "copy.img", "--rate", "0")
    result = mounted.run("copy", mounted.path, tmp_path / "second.img", code=1)
    assert str(tmp_path / "copy.img") in result.stderr
    assert not (tmp_path / "second.img").exists()
    for words in (
        ("mount", tmp_path / "copy.img", tmp_path),
        ("mkfs", tmp_path / "copy.img", "--force"),
    ):
        result = mounted.run(*words, code=None) if words[0] == "mkfs" else None
        assert result is None or "in use" in result.stderr
    set_free(mounted)
