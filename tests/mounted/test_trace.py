"""Traces of real mounts: what is recorded, by whom and where, and that it turns out as it was when
it is served once more, without a kernel, on the image as it was.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.copying import open_image
from snapfs.filesystem import Filesystem, View
from snapfs.fuse.replaying.replay import Replay, replay
from snapfs.fuse.tracing.reading import Trace
from snapfs.fuse.tracing.ring import GATHERED
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume

#: Other ways of serving, and of writing.
WAYS = ["requests=direct", "requests=pyfuse3", "writeback=off"]

#: A time that a file is given, in nanoseconds.
SET_TIME = 1_234_567_890_123_456_789


# --- replaying ------------------------------------------------------------------------------------


def session(top: Path, seed: int) -> None:
    """What programs do: all requests that there are, in files, directories and snapshots."""
    dice = random.Random(seed)
    (top / "dir" / "below").mkdir(parents=True)
    for index in range(20):
        (top / "dir" / f"file{index}").write_bytes(dice.randbytes(dice.randrange(0, 20_000)))
    (top / ".snap" / "one").mkdir()
    with (top / "dir" / "file1").open("r+b") as file:
        file.seek(5_000)
        file.write(b"in the middle")
        file.flush()
        os.fsync(file.fileno())
        os.ftruncate(file.fileno(), 7_777)
    for index in range(0, 20, 3):
        os.rename(top / "dir" / f"file{index}", top / "dir" / "below" / f"file{index}")
    for index in range(1, 20, 3):
        os.unlink(top / "dir" / f"file{index}")
    os.link(top / "dir" / "file2", top / "second")
    os.symlink("dir/file2", top / "symbolic")
    assert os.readlink(top / "symbolic") == "dir/file2"
    os.mkfifo(top / "pipe", 0o640)
    os.chmod(top / "second", 0o751)
    os.chown(top / "second", os.geteuid(), os.getegid())
    os.utime(top / "second", ns=(5, SET_TIME))
    os.setxattr(top / "second", "user.name", b"value")
    os.setxattr(top / "second", "user.long", b"x" * 9_000)
    os.removexattr(top / "second", "user.name")
    assert os.listxattr(top / "second") == ["user.long"]
    assert os.getxattr(top / "second", "user.long") == b"x" * 9_000
    view = top / ".snap" / "one"
    (view / "dir" / "file4").write_bytes(b"written in the snapshot")
    (view / "dir" / "new").write_bytes(dice.randbytes(9_000))
    os.unlink(view / "dir" / "file5")
    (top / ".snap" / "two").mkdir()
    os.rename(top / ".snap" / "two", top / ".snap" / "three")
    with (top / "mapped").open("w+b") as file:
        file.truncate(3 << 20)
        with mmap.mmap(file.fileno(), 3 << 20) as mapped:
            mapped[1_000_000:1_000_005] = b"hello"
            mapped.flush()
    (top / "big").write_bytes(dice.randbytes(2_500_000))
    unnamed = os.open(top / "dir" / "file5", os.O_RDWR)
    os.unlink(top / "dir" / "file5")
    os.write(unnamed, b"nobody will find this")
    os.close(unnamed)
    for place in (top / "missing", top / "second" / "below", top / ("n" * 256)):
        with pytest.raises(OSError, match=str(place)):
            os.stat(place)
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(top / "dir")
    assert len(os.listdir(top / "dir" / "below")) == 7
    assert len((top / "big").read_bytes()) == 2_500_000
    os.statvfs(top)
    (top / ".snap" / "four").mkdir()
    (top / ".snap" / "four").rmdir()


def tree(image: Path) -> dict[str, Any]:
    """All views of an image by their paths, with all that a file has but times that are the
    daemon's.
    """
    device = open_image(str(image), read_only=True)
    try:
        assert [finding.message() for finding in check_volume(device)] == []
        volume = open_volume(device, read_only=True)
        fs = Filesystem(volume)
        found: dict[str, Any] = {}
        walk(fs, fs.base, ROOT_INO, "", found)
        for instance in drive(volume, snapshots.all, fs):
            walk(fs, fs.view(instance.id), ROOT_INO, f"@{instance.name}", found)
        return found
    finally:
        device.close()


def walk(fs: Filesystem, view: View, ino: int, path: str, found: dict[str, Any]) -> None:
    volume = fs.volume
    inode = drive(volume, fs.inode, view, ino)
    content: object = None
    if stat.S_ISREG(inode.mode):
        plan = drive(volume, fs.plan_read, view, ino, 0, inode.size)
        data = plan.assemble([volume.device.read(*run) for run in plan.runs])
        content = hashlib.sha256(data).hexdigest()
    elif stat.S_ISLNK(inode.mode):
        content = drive(volume, fs.readlink, view, ino)
    names = drive(volume, fs.xattr_list, view, ino)
    attributes = {name: drive(volume, fs.xattr_get, view, ino, name) for name in names}
    # Times that the daemon gave are those of its coarse clock, which a trace does not have.
    mtime = inode.mtime if inode.mtime == SET_TIME else None
    found[path] = (
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.size, mtime, attributes, content,
    )  # fmt: skip
    after = 0
    while stat.S_ISDIR(inode.mode):
        entries = drive(volume, fs.entries, view, ino, after, 100)
        if not entries:
            break
        for entry in entries:
            walk(fs, view, entry.ino, f"{path}/{os.fsdecode(entry.name)}", found)
            after = entry.cookie


def replayed(trace: Path, image: Path) -> Replay:
    device = open_image(str(image), read_only=False)
    try:
        volume = open_volume(device)
        with Trace(str(trace)) as opened:
            result = trio.run(replay, Filesystem(volume), opened.header, opened.records())
        volume.close()
    finally:
        device.close()
    return result


@pytest.mark.parametrize("way", WAYS)
def test_a_session_turns_out_otherwise_without_a_kernel(
    mount_volume: Callable[..., Any], images, tmp_path: Path, way: str
) -> None:
    image = images.make()
    before = tmp_path / "before.img"
    shutil.copy(image, before)
    images.watch(before)
    trace = tmp_path / "trace"
    mounted = mount_volume(image, options=f"{way},trace={trace},trace_data=all")
    session(mounted.path, 1)
    mounted.unmount()
    result = replayed(trace, before)
    assert result.mismatches == []
    assert result.served > 200
    assert result.skipped <= 20, "more than INIT and the daemon's own names"
    assert tree(before) == tree(image)


def test_a_trace_without_data_cannot_be_replayed(
    mount_volume: Callable[..., Any], images, tmp_path: Path, run_snapfs: Callable[..., Any]
) -> None:
    image = images.make()
    before = tmp_path / "before.img"
    shutil.copy(image, before)
    images.watch(before)
    trace = tmp_path / "trace"
    mounted = mount_volume(image, options=f"trace={trace}")
    session(mounted.path, 2)
    mounted.unmount()
    found = run_snapfs("trace", "replay", trace, before, "--json")
    document = json.loads(found.stdout)
    assert document["differences"] == []
    assert document["served"] > 200
    assert tree(before).keys() == {""}, "the image was written"
    planted = images.watch(Path(shutil.copy(before, tmp_path / "planted.img")))
    with pytest.MonkeyPatch.context() as patch:  # a defect, of which the replay says where it shows
        patch.setattr(Filesystem, "readlink", lambda *_: b"elsewhere")
        (found,) = replayed(trace, planted).mismatches
    assert (found.operation, found.what, found.recorded) == ("readlink", "target", "dir/file2")
    result = replayed(trace, before)
    assert result.mismatches == []
    right, now = tree(image), tree(before)
    assert {path: facts[:-1] for path, facts in now.items()} == {
        path: facts[:-1] for path, facts in right.items()
    }
    result = replayed(trace, before)  # which is not as it was any more
    assert len(result.mismatches) > 20
    assert {one.what for one in result.mismatches} > {"result", "node"}
    line = run_snapfs("trace", "replay", trace, image, code=1)
    assert "is not as it was when the trace began: generation " in line.stderr
    assert "request 1: lookup: " in line.stdout.replace("getattr: ", "lookup: ")


# --- recording ------------------------------------------------------------------------------------


def shown(run_snapfs: Callable[..., Any], trace: Path) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = json.loads(
        run_snapfs("trace", "show", trace, "--json").stdout
    )["requests"]
    return requests


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_trace_has_not_what_was_asked_or_answered(
    mount_volume: Callable[..., Any], tmp_path: Path, run_snapfs: Callable[..., Any], way: str
) -> None:
    trace = tmp_path / "trace"
    mounted = mount_volume(options=f"{way},trace={trace}")
    (mounted / "naïve \u202e name").write_bytes(b"12345")
    os.unlink(mounted / "naïve \u202e name")
    with pytest.raises(FileNotFoundError):
        os.rmdir(mounted / "missing")
    os.mkdir(mounted / "dir")
    trace_status = json.loads(run_snapfs("trace", "status", mounted.path, "--json").stdout)
    requests = shown(run_snapfs, trace)
    assert trace_status["path"] == str(trace)
    assert 0 < trace_status["requests"] <= len(requests)
    assert trace.stat().st_mode & 0o7777 == 0o600
    (made,) = (one for one in requests if one["operation"] == "create")
    assert (made["node"], made["uid"], made["error"]) == (1, os.geteuid(), None)
    assert made["arguments"]["name"] == "naïve \u202e name"
    assert made["arguments"]["mode"].startswith("100")
    assert made["microseconds"] > 0
    (written,) = (one for one in requests if one["operation"] == "write")
    assert (written["node"], written["result"]["size"]) == (made["result"]["node"], 5)
    (removed,) = (one for one in requests if one["operation"] == "unlink")
    assert removed["arguments"] == {"name": "naïve \u202e name"}
    text = run_snapfs("trace", "show", trace).stdout
    assert "\u202e" not in text, "a name changes the order of a line"
    assert any("unlink(1, name=" in line and "pid=" in line for line in text.splitlines())
    mounted.unmount()


@pytest.mark.parametrize("way", WAYS[:2])
def test_requests_are_recorded_while_nobody_wants_it(
    mount_volume: Callable[..., Any], tmp_path: Path, run_snapfs: Callable[..., Any], way: str
) -> None:
    mounted = mount_volume(options=way)
    trace, other = tmp_path / "trace", tmp_path / "other"
    os.mkdir(mounted / "before")
    found = run_snapfs("trace", "status", mounted.path)
    assert found.stdout == "no trace is written\n"
    run_snapfs("trace", "on", mounted.path, trace, "--size", "1M")
    os.mkdir(mounted / "while")
    run_snapfs("trace", "on", mounted.path, other)
    os.mkdir(mounted / "other")
    run_snapfs("trace", "off", mounted.path)
    run_snapfs("trace", "off", mounted.path)
    os.mkdir(mounted / "after")

    def made(file: Path) -> list[str]:
        requests = shown(run_snapfs, file)
        return [one["arguments"]["name"] for one in requests if one["operation"] == "mkdir"]

    assert (made(trace), made(other)) == (["while"], ["other"])
    # What stood there before is kept once.
    run_snapfs("trace", "on", mounted.path, trace)
    assert made(Path(f"{trace}.old")) == ["while"]
    found = run_snapfs("trace", "on", mounted.path, trace, code=2)
    assert "another mount writes its trace there" in found.stderr
    assert json.loads(run_snapfs("trace", "status", mounted.path, "--json").stdout)["path"]


def test_a_killed_daemon_takes_its_trace_with_it(
    mount_volume: Callable[..., Any], tmp_path: Path, run_snapfs: Callable[..., Any]
) -> None:
    trace = tmp_path / "trace"
    mounted = mount_volume(options=f"trace={trace}")
    pid = mounted.pid
    for index in range(50):
        os.mkdir(mounted / f"dir{index}")
    mounted.kill(pid)
    requests = shown(run_snapfs, trace)
    made = [one["arguments"]["name"] for one in requests if one["operation"] == "mkdir"]
    assert made == [f"dir{index}" for index in range(len(made))]
    assert len(made) > 50 - GATHERED


def test_bad_words_about_traces_are_not_one_clear_line(
    mount_volume: Callable[..., Any], tmp_path: Path, run_snapfs: Callable[..., Any], images
) -> None:
    mounted = mount_volume(options=f"trace_size=64K,trace={tmp_path}/trace")
    (tmp_path / "precious").write_text("precious")
    other = images.make()
    place = tmp_path / "place"
    place.mkdir()
    mounting = ("mount", other, place, "-o")
    for code, words, reason in (
        (2, ("trace", "on", mounted.path, mounted / "t"), "is in the mount that is to be traced"),
        (2, ("trace", "on", mounted.path, tmp_path / "precious"), "is no trace: choose another"),
        (2, ("trace", "on", mounted.path, tmp_path / "t", "--size", "1K"), "from 64K to 64G"),
        (2, ("trace", "on", mounted.path), "the following arguments are required: FILE"),
        (1, ("trace", "off", tmp_path / "precious"), "not mounted, so nobody asks anything of it"),
        (2, ("trace", "show", tmp_path / "precious"), "precious: is not a trace of snapfs"),
        (1, ("trace", "show", tmp_path), "Is a directory"),
        (1, (*mounting, f"trace={place}/trace"), "would be hidden below the mount"),
        (1, (*mounting, f"trace={tmp_path}/precious"), "is no trace"),
    ):
        found = run_snapfs(*words, code=code)
        assert len(found.stderr.splitlines()) == 1, found.stderr
        assert found.stderr.startswith("snapfs: ")
        assert reason in found.stderr
    assert (tmp_path / "precious").read_text() == "precious"
