"""``.snap`` on a real mount: made, listed, entered, written, renamed, deleted and gone back to, by
system calls alone.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

USER = 12_345
CLOCK_REALTIME_COARSE = 5  # linux/time.h: what the kernel stamps files with

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")


def errno_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """0 when it succeeds."""
    try:
        function(*args, **kwargs)
    except OSError as exc:
        return exc.errno or -1
    return 0


def fails(code: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    found = errno_of(function, *args, **kwargs)
    assert found == code, f"{errno.errorcode.get(found, found)}, not {errno.errorcode[code]}"


def in_user(path: Path, script: str, uid: int = USER) -> subprocess.CompletedProcess[str]:
    """Run a shell script as another user, in a directory that he need not be able to reach."""
    return subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=path,
        user=uid,
        group=uid,
        extra_groups=[],
    )


@pytest.fixture
def top(mounted) -> Path:
    return mounted.path


# --- the directory --------------------------------------------------------------------------------


def test_it_is_in_every_directory_and_in_no_listing(top: Path) -> None:
    (top / "a" / "b").mkdir(parents=True)
    (top / "file").touch()
    for directory in (top, top / "a", top / "a" / "b"):
        status = (directory / ".snap").stat()
        assert stat.filemode(status.st_mode) == "drwxr-xr-x"
        assert status.st_uid == directory.stat().st_uid
        assert status.st_dev == top.stat().st_dev
        assert os.listdir(directory / ".snap") == []
        assert ".snap" not in os.listdir(directory)
        assert (directory / ".snap" / "..").stat().st_ino == directory.stat().st_ino
    assert (
        len(
            {(directory / ".snap").stat().st_ino for directory in (top, top / "a", top / "a" / "b")}
        )
        == 3
    )
    fails(errno.ENOTDIR, os.stat, top / "file" / ".snap")
    fails(errno.ENOENT, os.stat, top / ".snap" / "missing")
    subprocess.run(["rm", "-r", top / "a"], check=True)


@pytest.mark.volume(options="snapshow")
def test_it_is_met_by_whoever_copies_or_removes_a_directory_where_it_is_shown(top: Path) -> None:
    """Shown is what people look at first, the mount's root; nothing that goes through a directory
    finds its snapshots.
    """
    (top / "src" / "deep").mkdir(parents=True)
    (top / "src" / "deep" / "file").write_text("x")
    (top / ".snap" / "s").mkdir()
    (top / "src" / ".snap" / "t").mkdir()
    assert sorted(os.listdir(top)) == [".snap", "src"]
    assert os.listdir(top / ".snap") == ["s"]
    assert os.listdir(top / ".snap" / "s") == ["src"]
    assert os.listdir(top / "src") == ["deep"]
    assert set(os.listdir(top / "src" / ".snap")) == {"s", "t"}
    subprocess.run(["cp", "-r", top / "src", top / "copy"], check=True)
    assert sorted(path.name for path in (top / "copy").rglob("*")) == ["deep", "file"]
    subprocess.run(["rm", "-rf", top / "src"], check=True)
    assert not (top / "src").exists()
    assert (top / ".snap" / "s" / "src" / "deep" / "file").read_text() == "x"


@pytest.mark.parametrize("loop", ["direct", "pyfuse3"])
def test_a_name_means_one_thing_before_it_is_listed_and_another_after(loop: str, mounted) -> None:
    """An entry of the volume that has the directory of snapshots' name is hidden, whatever is done
    first, and that is said.
    """
    for directory in (mounted.path, mounted / "d"):
        (directory / ".zfs").mkdir(parents=True)
        (directory / ".zfs" / "real").touch()
        (directory / "other").touch()
    mounted.snapshot("s")
    mounted.unmount()
    told = mounted.mount(f"snapdir=.zfs,snapshow,requests={loop}").stderr
    assert "/.zfs is hidden" in told and "snapdir=" in told
    for _ in range(2):
        for directory, names in (
            (mounted.path, {".zfs", "d", "other"}),
            (mounted / "d", {"other"}),
            (mounted / ".zfs" / "s", {"d", "other"}),
            (mounted / "d" / ".zfs" / "s", {"other"}),
        ):
            assert os.listdir(directory / ".zfs") == ([] if "s" in directory.parts else ["s"])
            listed = {entry.name: entry.inode() for entry in os.scandir(directory)}
            assert listed.keys() == names
            subprocess.run(["ls", "-la", directory], check=True, capture_output=True)
            assert not (directory / ".zfs" / "real").exists()
    fails(errno.EEXIST, os.mkdir, mounted / ".zfs")
    fails(errno.ENOTEMPTY, _emptied, mounted / "d")
    assert "hidden" not in mounted.run("umount", mounted.path).stderr
    mounted.is_mounted = False
    mounted.mount()
    assert (mounted / "d" / ".zfs" / "real").exists()
    subprocess.run(["rm", "-r", mounted / "d"], check=True)


def _emptied(directory: Path) -> None:
    """As rmdir(1) after removing what is listed."""
    for name in os.listdir(directory):
        (directory / name).unlink()
    directory.rmdir()


@pytest.mark.volume(options="snapdir=.zfs")
def test_its_name_can_be_chosen(mounted) -> None:
    (mounted / ".zfs" / "s").mkdir()
    fails(errno.ENOENT, os.stat, mounted / ".snap")
    (mounted / ".snap").mkdir()  # a name like any other
    mounted.remount()
    assert os.listdir(mounted / ".snap") == ["s"]


def test_nothing_but_snapshots_can_be_made_in_it(top: Path) -> None:
    (top / "file").touch()
    (top / "dir").mkdir()
    snap = top / ".snap"
    (snap / "s").mkdir()
    fails(errno.EROFS, os.open, snap / "file", os.O_CREAT | os.O_WRONLY)
    fails(errno.EROFS, os.symlink, "x", snap / "link")
    fails(errno.EROFS, os.mknod, snap / "node")
    fails(errno.EROFS, os.link, top / "file", snap / "link")
    fails(errno.EROFS, os.chmod, snap, 0o777)
    fails(errno.EROFS, os.setxattr, snap, "user.a", b"1")
    fails(errno.EPERM, os.rename, top / "dir", snap / "dir")
    fails(errno.EPERM, os.rename, snap / "s", top / "s")
    fails(errno.EPERM, os.rmdir, snap)
    fails(errno.EPERM, os.rename, snap, top / "other")
    fails(errno.EEXIST, os.mkdir, snap)
    fails(errno.EEXIST, os.symlink, "x", snap)
    assert os.listdir(snap) == ["s"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"a,b", errno.EINVAL),
        (b".hidden", errno.EINVAL),
        (b"a\nb", errno.EINVAL),
        (b"caf\xe9", errno.EINVAL),
        (b"x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_names_that_no_snapshot_can_have(name: bytes, code: int, top: Path) -> None:
    snap = os.fsencode(top / ".snap")
    assert errno_of(os.mkdir, os.path.join(snap, name)) in (code, errno.EINVAL)
    os.mkdir(os.path.join(snap, b"good"))
    assert errno_of(os.rename, os.path.join(snap, b"good"), os.path.join(snap, name)) in (
        code,
        errno.EINVAL,
    )
    assert os.listdir(snap) == [b"good"]


def test_names_of_255_bytes_and_of_any_script(top: Path) -> None:
    for name in ("x" * 255, "Zürich · früh", "月曜日", "a b'c\"d"):
        (top / ".snap" / name).mkdir()
    assert len(os.listdir(top / ".snap")) == 4


# --- making, listing, deleting --------------------------------------------------------------------


def test_a_snapshot_has_everything_that_was_written_before(mounted) -> None:
    """A2: dirty pages that only the kernel has are in it, mapped ones included."""
    chunk = os.urandom(1 << 20)
    with (
        (mounted / "big").open("wb", buffering=0) as big,
        (mounted / "mapped").open("w+b") as mapped,
    ):
        mapped.truncate(1 << 20)
        with mmap.mmap(mapped.fileno(), 1 << 20) as view:
            for number in range(24):
                big.write(chunk)
                view[number * 1000 : number * 1000 + 4] = b"here"
            (mounted / ".snap" / "s").mkdir()
            big.write(b"later")
            view[0:4] = b"gone"
    past = mounted / ".snap" / "s"
    assert (past / "big").read_bytes() == chunk * 24
    assert (past / "mapped").read_bytes()[:4] == b"here"
    assert (past / "mapped").read_bytes()[23_000:23_004] == b"here"
    assert (mounted / "big").stat().st_size == 24 * (1 << 20) + 5


def test_every_write_that_returned_is_in_the_snapshot_while_others_go_on(mounted) -> None:
    """A2, under load: each writer notes how far it was before the snapshot was asked for."""
    done = [0] * 4
    stop = threading.Event()

    def write(number: int) -> None:
        with (mounted / f"file{number}").open("wb", buffering=0) as file:
            while not stop.is_set() and done[number] < 20_000:
                file.write(b"%08d" % done[number])
                done[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    noted: list[list[int]] = []
    for round_number in range(5):
        noted.append(list(done))
        (mounted / ".snap" / f"s{round_number}").mkdir()
    stop.set()
    for thread in threads:
        thread.join()
    for round_number, counts in enumerate(noted):
        for number, count in enumerate(counts):
            path = mounted / ".snap" / f"s{round_number}" / f"file{number}"
            data = path.read_bytes() if path.exists() else b""
            assert len(data) >= 8 * count
            assert data[: 8 * count] == b"".join(b"%08d" % step for step in range(count))


def test_snapshots_are_isolated_from_the_base_and_from_each_other(mounted) -> None:
    """B3, A10's condition: nobody sees another's later writes."""
    (mounted / "file").write_text("one")
    (mounted / ".snap" / "one").mkdir()
    (mounted / "file").write_text("two")
    (mounted / "new").touch()
    (mounted / ".snap" / "two").mkdir()
    (mounted / "file").unlink()
    (mounted / ".snap" / "one" / "file").write_text("one, changed")
    (mounted / ".snap" / "one" / "added").mkdir()
    for _ in range(2):
        assert sorted(os.listdir(mounted / ".snap" / "one")) == ["added", "file"]
        assert sorted(os.listdir(mounted / ".snap" / "two")) == ["file", "new"]
        assert os.listdir(mounted.path) == ["new"]
        assert (mounted / ".snap" / "one" / "file").read_text() == "one, changed"
        assert (mounted / ".snap" / "two" / "file").read_text() == "two"
        mounted.remount()


def test_a_snapshot_of_a_directory_covers_just_that(mounted) -> None:
    """C1: the view shows the part under its real path."""
    (mounted / "a" / "b").mkdir(parents=True)
    (mounted / "a" / "b" / "file").write_text("text")
    (mounted / "a" / "outside").touch()
    (mounted / "a" / "b" / ".snap" / "s").mkdir()
    (mounted / "a" / "b" / "file").write_text("changed")
    assert (mounted / "a" / "b" / ".snap" / "s" / "file").read_text() == "text"
    assert os.listdir(mounted / ".snap") == os.listdir(mounted / "a" / ".snap") == []
    (mounted / "a" / "b" / "c").mkdir()
    assert os.listdir(mounted / "a" / "b" / "c" / ".snap") == []  # not there then
    (mounted / "a" / "b" / ".snap" / "t").mkdir()
    assert os.listdir(mounted / "a" / "b" / "c" / ".snap") == ["t"]
    mounted.remount("snapshot=s")
    assert os.listdir(mounted.path) == ["a"]
    assert os.listdir(mounted / "a") == ["b"]
    assert (mounted / "a" / "b" / "file").read_text() == "text"


def test_a_snapshot_is_seen_from_every_directory_that_was_there(top: Path) -> None:
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("text")
    (top / ".snap" / "s").mkdir()
    (top / "a" / "b" / "file").unlink()
    for directory, inside in ((top, "a/b/file"), (top / "a", "b/file"), (top / "a" / "b", "file")):
        assert os.listdir(directory / ".snap") == ["s"]
        assert (directory / ".snap" / "s" / inside).read_text() == "text"
    assert (top / "a" / "b" / ".snap" / "s").stat().st_ino == (
        top / ".snap" / "s" / "a" / "b"
    ).stat().st_ino


def test_taken_names_and_missing_ones(top: Path) -> None:
    (top / "d").mkdir()
    (top / ".snap" / "s").mkdir()
    fails(errno.EEXIST, (top / ".snap" / "s").mkdir)
    fails(errno.EEXIST, (top / "d" / ".snap" / "s").mkdir)
    fails(errno.ENOENT, (top / ".snap" / "missing").rmdir)
    fails(errno.ENOENT, os.rename, top / ".snap" / "missing", top / ".snap" / "x")
    (top / ".snap" / "t").mkdir()
    fails(errno.EEXIST, os.rename, top / ".snap" / "s", top / ".snap" / "t")
    fails(errno.EPERM, (top / "d" / ".snap" / "s").rmdir)  # made above
    (top / ".snap" / "s").rmdir()
    assert os.listdir(top / "d" / ".snap") == ["t"]


def test_renaming_keeps_what_is_open(mounted) -> None:
    (mounted / "d").mkdir()
    (mounted / "file").write_text("text")
    (mounted / ".snap" / "s").mkdir()
    assert (mounted / "d" / ".snap" / "s").is_dir()
    with (mounted / ".snap" / "s" / "file").open() as file:
        os.rename(mounted / ".snap" / "s", mounted / ".snap" / "t")
        assert file.read() == "text"
    assert os.listdir(mounted / ".snap") == os.listdir(mounted / "d" / ".snap") == ["t"]
    for directory in (mounted.path, mounted / "d"):
        fails(errno.ENOENT, os.stat, directory / ".snap" / "s")
        assert (directory / ".snap" / "t").is_dir()
    mounted.run("snapshot", "rename", mounted.path, "t", "u")
    fails(errno.ENOENT, os.stat, mounted / ".snap" / "t")
    assert (mounted / ".snap" / "u" / "file").read_text() == "text"
    mounted.remount()
    assert os.listdir(mounted / ".snap") == ["u"]


@pytest.mark.parametrize("how", ["rmdir", "command"])
def test_what_is_open_in_a_deleted_snapshot_is_stale(how: str, mounted) -> None:
    (mounted / "d").mkdir()
    (mounted / "d" / "file").write_bytes(b"x" * 100_000)
    (mounted / ".snap" / "s").mkdir()
    past = mounted / ".snap" / "s"
    assert (mounted / "d" / ".snap" / "s" / "file").stat().st_size == 100_000
    directory = os.open(past / "d", os.O_RDONLY)
    descriptor = os.open(past / "d" / "file", os.O_RDWR)
    if how == "rmdir":
        past.rmdir()
    else:
        mounted.run("snapshot", "delete", mounted.path, "s")
    fails(errno.ENOENT, os.stat, past)
    fails(errno.ENOENT, os.stat, mounted / "d" / ".snap" / "s")
    fails(errno.ESTALE, os.open, "file", os.O_RDONLY, dir_fd=directory)
    fails(errno.ESTALE, os.mkdir, "new", dir_fd=directory)
    fails(errno.ESTALE, os.listdir, directory)
    if how == "command":  # which waits until the kernel has forgotten
        fails(errno.ESTALE, os.pread, descriptor, 10, 50_000)
        fails(errno.ESTALE, os.fstat, descriptor)
    os.close(directory)
    os.close(descriptor)
    assert os.listdir(mounted / ".snap") == []
    (mounted / ".snap" / "s").mkdir()  # the name is free again
    assert (mounted / ".snap" / "s" / "d" / "file").stat().st_size == 100_000


def test_numbers_of_a_deleted_snapshot_are_not_given_out_while_they_are_known(
    mounted, wait_until
) -> None:
    (mounted / "file").write_text("first")
    (mounted / ".snap" / "s").mkdir()
    first = (mounted / ".snap" / "s" / "file").stat().st_ino
    with (mounted / ".snap" / "s" / "file").open() as file:
        (mounted / ".snap" / "s").rmdir()
        (mounted / "file").write_text("second")
        for number in range(3):
            (mounted / ".snap" / f"t{number}").mkdir()
            assert (mounted / ".snap" / f"t{number}" / "file").stat().st_ino != first
            assert (mounted / ".snap" / f"t{number}" / "file").read_text() == "second"
        assert errno_of(file.read) in (0, errno.ESTALE)


def test_snapshots_deleted_while_listing(top: Path) -> None:
    for number in range(40):
        (top / ".snap" / f"s{number}").mkdir()
    with os.scandir(top / ".snap") as entries:
        for entry in entries:
            os.rmdir(entry.path)
    assert os.listdir(top / ".snap") == []


def test_space_comes_back_when_a_snapshot_is_deleted(mounted, wait_until) -> None:
    """A9."""
    (mounted / "file").write_bytes(os.urandom(4 << 20))
    (mounted / ".snap" / "s").mkdir()
    (mounted / "file").unlink()
    mounted.remount()
    held = os.statvfs(mounted.path).f_bfree
    (mounted / ".snap" / "s").rmdir()
    wait_until(
        lambda: os.statvfs(mounted.path).f_bfree > held + 1000,
        what="the space of the deleted snapshot",
    )


@needs_root
@pytest.mark.volume(options="allow_other")
def test_only_owners_make_and_delete_snapshots(top: Path) -> None:
    (top / "theirs").mkdir()
    os.chown(top / "theirs", USER, USER)
    (top / "mine").mkdir()
    (top / "theirs" / ".snap" / "roots").mkdir()
    assert (
        in_user(
            top,
            "mkdir theirs/.snap/own && rmdir theirs/.snap/own && mv theirs/.snap/roots "
            "theirs/.snap/moved",
        ).returncode
        == 0
    )
    assert in_user(top, "rmdir theirs/.snap/moved").returncode == 0
    for script in ("mkdir mine/.snap/x", "mkdir .snap/x"):
        assert in_user(top, script).returncode == 1
    (top / ".snap" / "s").mkdir()
    assert in_user(top, "rmdir .snap/s").returncode == 1
    assert in_user(top, "mv .snap/s .snap/t").returncode == 1
    assert os.listdir(top / ".snap") == ["s"]
    os.chown(top / "mine", USER, USER)
    assert in_user(top, "mkdir mine/.snap/x").returncode == 0


def test_snapshots_on_a_read_only_mount(mounted) -> None:
    (mounted / "file").write_text("text")
    (mounted / ".snap" / "s").mkdir()
    mounted.remount("ro")
    assert (mounted / ".snap" / "s" / "file").read_text() == "text"
    fails(errno.EROFS, (mounted / ".snap" / "t").mkdir)
    fails(errno.EROFS, (mounted / ".snap" / "s").rmdir)
    fails(errno.EROFS, (mounted / ".snap" / "s" / "file").unlink)


def test_many_at_once(mounted) -> None:
    """Requests that wait for one another leave somebody to serve the kernel."""
    (mounted / "file").write_bytes(bytes(100_000))
    for number in range(30):
        (mounted / f"d{number}").mkdir()
    outcomes: list[int] = []

    def make(number: int) -> None:
        with (mounted / f"d{number}" / "file").open("wb") as file:
            file.write(os.urandom(50_000))
            outcomes.append(errno_of(os.mkdir, mounted / f"d{number}" / ".snap" / f"s{number}"))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == [0] * 30
    assert all(
        os.listdir(mounted / f"d{number}" / ".snap") == [f"s{number}"] for number in range(30)
    )


# --- inside ---------------------------------------------------------------------------------------


def test_everything_works_in_a_view(mounted) -> None:
    """B1, B2."""
    (mounted / "d").mkdir()
    (mounted / "d" / "file").write_bytes(b"0123456789" * 1000)
    os.setxattr(mounted / "d" / "file", "user.a", b"1")
    (mounted / ".snap" / "s").mkdir()
    past = mounted / ".snap" / "s"
    with (past / "d" / "file").open("r+b") as file:
        file.seek(4096)
        file.write(b"changed")
    os.rename(past / "d" / "file", past / "moved")
    os.link(past / "moved", past / "link")
    os.symlink("moved", past / "symlink")
    os.mkfifo(past / "fifo")
    os.truncate(past / "moved", 6000)
    os.setxattr(past / "moved", "user.a", b"2")
    (past / "d").rmdir()
    fails(errno.EXDEV, os.rename, past / "moved", mounted / "moved")
    fails(errno.EXDEV, os.link, mounted / "d" / "file", past / "x")
    fails(errno.EXDEV, os.rename, mounted / "d", past / "d")
    for _ in range(2):
        data = (b"0123456789" * 1000)[:4096] + b"changed" + (b"0123456789" * 1000)[4103:6000]
        assert (past / "symlink").read_bytes() == (past / "link").read_bytes() == data
        assert os.getxattr(past / "link", "user.a") == b"2"
        assert sorted(os.listdir(past)) == ["fifo", "link", "moved", "symlink"]
        assert (mounted / "d" / "file").read_bytes() == b"0123456789" * 1000
        assert os.getxattr(mounted / "d" / "file", "user.a") == b"1"
        mounted.remount()


def test_a_snapshot_of_a_snapshot(mounted) -> None:
    (mounted / "file").write_text("one")
    (mounted / ".snap" / "s").mkdir()
    past = mounted / ".snap" / "s"
    (past / "file").write_text("two")
    (past / ".snap" / "t").mkdir()
    (past / "file").write_text("three")
    assert os.listdir(mounted / ".snap") == ["s"]
    assert os.listdir(past / ".snap") == ["t"]
    assert (past / ".snap" / "t" / "file").read_text() == "two"
    mounted.remount()
    assert (past / ".snap" / "t" / "file").read_text() == "two"
    assert (past / "file").read_text() == "three"
    (past / ".snap" / "t").rmdir()
    assert os.listdir(past / ".snap") == []


def test_times_and_numbers_in_a_view(mounted) -> None:
    (mounted / "file").write_text("text")
    os.utime(mounted / "file", ns=(1, 2))
    before = (mounted / "file").stat()
    (mounted / ".snap" / "s").mkdir()
    past = mounted / ".snap" / "s" / "file"
    assert past.read_text() == "text"
    now = past.stat()
    assert (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns) == (1, 2, before.st_ctime_ns)
    assert now.st_dev == before.st_dev
    assert now.st_ino != before.st_ino
    mounted.remount()
    assert past.stat().st_ino == now.st_ino


def test_samba_can_ask_when_a_snapshot_was_made(mounted) -> None:
    (mounted / "d").mkdir()
    earliest = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    (mounted / ".snap" / "s").mkdir()
    latest = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    for directory in (mounted / ".snap" / "s", mounted / "d" / ".snap" / "s"):
        value = os.getxattr(directory, "ceph.snap.btime").decode()
        seconds, nanoseconds = value.split(".")
        assert len(nanoseconds) == 9
        assert earliest <= int(seconds) * 10**9 + int(nanoseconds) <= latest
    for path in (mounted.path, mounted / ".snap", mounted / "d"):
        fails(errno.ENODATA, os.getxattr, path, "ceph.snap.btime")
    assert os.listxattr(mounted / ".snap" / "s") == []


def test_mounting_a_snapshot_as_the_root(mounted) -> None:
    (mounted / "file").write_text("past")
    (mounted / ".snap" / "s").mkdir()
    (mounted / "file").write_text("present")
    mounted.remount("snapshot=s")
    assert (mounted / "file").read_text() == "past"
    (mounted / "file").write_text("changed past")
    assert os.listdir(mounted / ".snap") == []
    (mounted / ".snap" / "t").mkdir()
    assert (mounted / ".snap" / "t" / "file").read_text() == "changed past"
    mounted.remount("snapshot=s,ro")
    assert (mounted / "file").read_text() == "changed past"
    fails(errno.EROFS, (mounted / "file").unlink)
    mounted.remount()
    assert (mounted / "file").read_text() == "present"
    assert (mounted / ".snap" / "s" / "file").read_text() == "changed past"
    mounted.unmount()
    assert "missing" in mounted.mount("snapshot=missing", code=32).stderr


# --- going back -----------------------------------------------------------------------------------


def tree(top: Path) -> dict[str, bytes | None]:
    """Relative path to content, None for directories."""
    found: dict[str, bytes | None] = {}
    for directory, directories, files in os.walk(top):
        here = Path(directory)
        found |= {str((here / name).relative_to(top)): None for name in directories}
        found |= {str((here / name).relative_to(top)): (here / name).read_bytes() for name in files}
    return found


def test_a_live_restore_is_seen_at_once_whatever_the_kernel_has_cached(mounted) -> None:
    """A10: names, sizes, contents, missing names and listings, all of which the kernel believes for
    long.
    """
    (mounted / "d" / "e").mkdir(parents=True)
    (mounted / "grows").write_bytes(b"short")
    (mounted / "shrinks").write_bytes(b"x" * 50_000)
    (mounted / "d" / "moves").write_bytes(b"moves")
    (mounted / "d" / "vanishes").write_bytes(b"vanishes")
    (mounted / "same").write_bytes(b"same")
    (mounted / "linked").write_bytes(b"linked")
    os.link(mounted / "linked", mounted / "d" / "linked")
    past = tree(mounted.path)
    (mounted / ".snap" / "s").mkdir()
    (mounted / "grows").write_bytes(b"much longer" * 1000)
    os.truncate(mounted / "shrinks", 10)
    os.rename(mounted / "d" / "moves", mounted / "d" / "e" / "moved")
    (mounted / "d" / "vanishes").unlink()
    (mounted / "appears").write_bytes(b"appears")
    (mounted / "d" / "linked").write_bytes(b"changed by another name")
    (mounted / "new").mkdir()
    present = tree(mounted.path)
    assert not (mounted / "d" / "vanishes").exists()  # a negative entry in the kernel's cache
    place = os.getcwd()
    os.chdir(mounted / "d")
    try:
        mounted.run("restore", mounted.path, "s")
        assert tree(mounted.path) == past
        assert os.getcwd() == str(mounted / "d")
        assert sorted(os.listdir()) == ["e", "linked", "moves", "vanishes"]
        undo = next(name for name in os.listdir(mounted / ".snap") if name != "s")
        assert tree(mounted / ".snap" / undo) == present
        (mounted / "grows").write_bytes(b"after")
        assert (mounted / "grows").read_bytes() == b"after"
        assert (mounted / ".snap" / "s" / "grows").read_bytes() == b"short"
        mounted.run("restore", mounted.path, undo)
        assert tree(mounted.path) == present
    finally:
        os.chdir(place)
    mounted.remount()
    assert tree(mounted.path) == present


def test_the_state_before_a_live_restore_has_what_the_kernel_held(mounted) -> None:
    """A10: dirty pages go into the undo snapshot, not over the restored file."""
    (mounted / "file").write_bytes(b"old" * 1000)
    (mounted / ".snap" / "s").mkdir()
    with (mounted / "file").open("r+b", buffering=0) as file:
        file.write(b"new")  # little, or the kernel would send it of its own accord
        mounted.run("restore", mounted.path, "s")
    assert (mounted / "file").read_bytes() == b"old" * 1000
    undo = next(name for name in os.listdir(mounted / ".snap") if name != "s")
    assert (mounted / ".snap" / undo / "file").read_bytes() == b"new" + (b"old" * 1000)[3:]
    mounted.remount()
    assert (mounted / "file").read_bytes() == b"old" * 1000


def test_files_that_are_open_during_a_restore_do_no_harm(mounted) -> None:
    (mounted / "changed").write_bytes(b"old")
    (mounted / "same").write_bytes(b"same")
    (mounted / ".snap" / "s").mkdir()
    (mounted / "changed").write_bytes(b"newer")
    (mounted / "added").write_bytes(b"added")
    with (
        (mounted / "changed").open("r+b", buffering=0) as changed,
        (mounted / "same").open("r+b", buffering=0) as same,
    ):
        added = os.open(mounted / "added", os.O_RDWR)
        mounted.run("restore", mounted.path, "s")
        assert same.read() == b"same"
        assert errno_of(changed.read) in (0, errno.ESTALE, errno.EIO)
        assert errno_of(os.pwrite, added, b"x", 0) in (0, errno.ESTALE, errno.EIO)
        errno_of(os.close, added)
    assert (mounted / "changed").read_bytes() == b"old"
    assert sorted(os.listdir(mounted.path)) == ["changed", "same"]


def test_restoring_under_load_ends_and_leaves_a_clean_volume(mounted) -> None:
    for number in range(20):
        (mounted / f"file{number}").write_bytes(bytes([number]) * 10_000)
    (mounted / ".snap" / "s").mkdir()
    stop = threading.Event()

    def disturb(number: int) -> None:
        step = 0
        while not stop.is_set():
            step += 1
            path = mounted / f"file{(number + step) % 20}"
            errno_of(path.write_bytes, os.urandom(5_000))
            errno_of(os.rename, path, mounted / f"renamed{number}-{step % 7}")
            errno_of(os.listdir, mounted.path)

    threads = [threading.Thread(target=disturb, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            mounted.run("restore", mounted.path, "s")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    mounted.run("restore", mounted.path, "s")
    assert tree(mounted.path) == {f"file{number}": bytes([number]) * 10_000 for number in range(20)}


def test_what_is_deleted_while_a_snapshot_is_made_of_it_is_freed(mounted, wait_until) -> None:
    """The kernel holds nothing for the sake of the names by which a snapshot reaches open files."""
    (mounted / "other").touch()
    free = os.statvfs(mounted.path).f_bfree
    with (mounted / "file").open("wb") as file:
        file.write(os.urandom(4 << 20))
        (mounted / ".snap" / "s").mkdir()
        assert os.listdir(mounted.path) in (["file", "other"], ["other", "file"])
        (mounted / "file").unlink()
    (mounted / ".snap" / "s").rmdir()
    wait_until(lambda: os.statvfs(mounted.path).f_bfree > free - 100, what="the space")
