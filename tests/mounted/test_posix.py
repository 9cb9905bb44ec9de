"""What a filesystem of the kernel's gives, given by a mount: every errno, every kind of file,
times, attributes, access lists.

Each test runs on a real mount. Where behaviour is open to choice, it is ext4's.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100
CLOCK_REALTIME_COARSE = 5  # linux/time.h: what the kernel stamps files with
USER = 12_345

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
with_others = pytest.mark.volume(options="allow_other")

libc = ctypes.CDLL(None, use_errno=True)


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


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def as_user(
    path: Path, function: Callable[[], T], uid: int = USER, groups: tuple[int, ...] = ()
) -> T:
    """Run in a process of another user whose working directory is ``path``; what it raises is
    raised here.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.chdir(path)
            os.umask(0o022)
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            try:
                answer = (True, function())
            except BaseException as exc:
                answer = (False, exc)
            os.write(writer, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    succeeded, result = pickle.loads(data)
    if not succeeded:
        raise result
    return result


@pytest.fixture
def top(mounted) -> Path:
    return mounted.path


# --- names ----------------------------------------------------------------------------------------


def test_what_is_missing_is_enoent(top: Path) -> None:
    missing = top / "missing"
    for function in (os.stat, os.lstat, os.unlink, os.rmdir, os.readlink, os.listdir, os.mkdir):
        fails(errno.ENOENT, function, missing / "deeper" if function is os.mkdir else missing)
    fails(errno.ENOENT, os.open, missing, os.O_RDONLY)
    fails(errno.ENOENT, os.rename, missing, top / "other")
    fails(errno.ENOENT, os.link, missing, top / "other")
    fails(errno.ENOENT, os.truncate, missing, 0)
    fails(errno.ENOENT, os.open, missing / "file", os.O_CREAT | os.O_WRONLY)


def test_what_exists_is_eexist(top: Path) -> None:
    (top / "file").touch()
    (top / "dir").mkdir()
    for name in ("file", "dir"):
        fails(errno.EEXIST, os.mkdir, top / name)
        fails(errno.EEXIST, os.mknod, top / name)
        fails(errno.EEXIST, os.symlink, "x", top / name)
        fails(errno.EEXIST, os.link, top / "file", top / name)
        fails(errno.EEXIST, os.open, top / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_a_file_is_no_directory(top: Path) -> None:
    (top / "file").touch()
    (top / "dir").mkdir()
    fails(errno.ENOTDIR, os.stat, top / "file" / "x")
    fails(errno.ENOTDIR, os.listdir, top / "file")
    fails(errno.ENOTDIR, os.rmdir, top / "file")
    fails(errno.ENOTDIR, os.mkdir, top / "file" / "x")
    fails(errno.ENOTDIR, os.rename, top / "dir", top / "file")
    fails(errno.ENOTDIR, os.open, top / "file", os.O_RDONLY | os.O_DIRECTORY)


def test_a_directory_is_no_file(top: Path) -> None:
    (top / "file").touch()
    (top / "dir").mkdir()
    fails(errno.EISDIR, os.open, top / "dir", os.O_WRONLY)
    fails(errno.EISDIR, os.unlink, top / "dir")
    fails(errno.EISDIR, os.rename, top / "file", top / "dir")
    fails(errno.EISDIR, os.truncate, top / "dir", 0)
    fails(errno.EPERM, os.link, top / "dir", top / "link")
    descriptor = os.open(top / "dir", os.O_RDONLY)
    fails(errno.EISDIR, os.read, descriptor, 1)
    os.close(descriptor)


def test_a_directory_that_is_not_empty_stays(top: Path) -> None:
    (top / "full" / "inner").mkdir(parents=True)
    (top / "empty").mkdir()
    fails(errno.ENOTEMPTY, os.rmdir, top / "full")
    fails(errno.ENOTEMPTY, os.rename, top / "empty", top / "full")
    os.rename(top / "full", top / "empty")
    assert os.listdir(top / "empty") == ["inner"]
    (top / "empty" / "inner").rmdir()
    (top / "empty").rmdir()


def test_dots_cannot_be_removed(top: Path) -> None:
    (top / "dir").mkdir()
    fails(errno.EINVAL, os.rmdir, f"{top}/dir/.")
    fails(errno.ENOTEMPTY, os.rmdir, f"{top}/dir/..")


def test_links_in_a_circle_are_eloop(top: Path) -> None:
    os.symlink("b", top / "a")
    os.symlink("a", top / "b")
    fails(errno.ELOOP, os.stat, top / "a")
    fails(errno.ELOOP, os.open, top / "a", os.O_RDONLY)
    fails(errno.ELOOP, os.open, top / "a", os.O_RDONLY | os.O_NOFOLLOW)


def test_names_have_255_bytes(top: Path) -> None:
    longest, too_long = "n" * 255, "n" * 256
    (top / longest).touch()
    os.rename(top / longest, top / ("m" * 255))
    for function in (os.stat, os.mkdir, os.unlink, os.rmdir, os.mknod):
        fails(errno.ENAMETOOLONG, function, top / too_long)
    fails(errno.ENAMETOOLONG, os.open, top / too_long, os.O_CREAT | os.O_WRONLY)
    fails(errno.ENAMETOOLONG, os.rename, top / ("m" * 255), top / too_long)
    fails(errno.ENAMETOOLONG, os.symlink, "x", top / too_long)
    (top / ("ä" * 127)).mkdir()
    fails(errno.ENAMETOOLONG, os.mkdir, top / ("ä" * 128))


def test_names_are_any_bytes(mounted) -> None:
    names = sorted(
        [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
        + [b"\xff" * 255, b"a\nb", b"..."]
    )
    directory = os.fsencode(mounted / "dir")
    os.mkdir(directory)
    for name in names:
        os.close(os.open(os.path.join(directory, name), os.O_CREAT | os.O_EXCL))
    assert sorted(os.listdir(directory)) == names
    mounted.remount()
    assert sorted(os.listdir(directory)) == names
    for name in names:
        os.unlink(os.path.join(directory, name))
    assert os.listdir(directory) == []


# --- rename ---------------------------------------------------------------------------------------


def test_rename_replaces_and_keeps_what_is_open(top: Path) -> None:
    (top / "old").write_text("old")
    (top / "new").write_text("new")
    with (top / "new").open() as file:
        os.rename(top / "old", top / "new")
        assert file.read() == "new"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert (top / "new").read_text() == "old"
    assert os.listdir(top) == ["new"]


def test_rename_to_a_name_of_the_same_file_does_nothing(top: Path) -> None:
    (top / "a").touch()
    os.link(top / "a", top / "b")
    os.rename(top / "a", top / "b")
    assert sorted(os.listdir(top)) == ["a", "b"]
    os.rename(top / "a", top / "a")


def test_a_directory_does_not_move_below_itself(top: Path) -> None:
    (top / "a" / "b" / "c").mkdir(parents=True)
    fails(errno.EINVAL, os.rename, top / "a", top / "a" / "x")
    fails(errno.EINVAL, os.rename, top / "a", top / "a" / "b" / "c" / "x")
    fails(errno.ENOTEMPTY, os.rename, top / "a" / "b", top / "a")


def test_moved_directories_count_in_their_parents(top: Path) -> None:
    (top / "a" / "d").mkdir(parents=True)
    (top / "b").mkdir()
    assert ((top / "a").stat().st_nlink, (top / "b").stat().st_nlink) == (3, 2)
    os.rename(top / "a" / "d", top / "b" / "d")
    assert ((top / "a").stat().st_nlink, (top / "b").stat().st_nlink) == (2, 3)
    assert (top / "b" / "d" / "..").stat().st_ino == (top / "b").stat().st_ino


def test_noreplace_and_exchange(top: Path) -> None:
    (top / "a").write_text("a")
    (top / "d").mkdir()
    (top / "d" / "b").write_text("b")
    fails(errno.EEXIST, renameat2, top / "a", top / "d" / "b", RENAME_NOREPLACE)
    renameat2(top / "a", top / "d" / "b", RENAME_EXCHANGE)
    assert ((top / "a").read_text(), (top / "d" / "b").read_text()) == ("b", "a")
    renameat2(top / "a", top / "d", RENAME_EXCHANGE)
    assert ((top / "d").read_text(), (top / "a" / "b").read_text()) == ("b", "a")
    renameat2(top / "d", top / "c", RENAME_NOREPLACE)
    fails(errno.ENOENT, renameat2, top / "c", top / "missing", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, top / "a", top / "a" / "b", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, top / "c", top / "x", RENAME_WHITEOUT)
    fails(errno.EINVAL, renameat2, top / "c", top / "x", RENAME_NOREPLACE | RENAME_EXCHANGE)
    assert sorted(os.listdir(top)) == ["a", "c"]


def test_other_filesystems_are_exdev(top: Path, tmp_path: Path) -> None:
    (top / "file").touch()
    fails(errno.EXDEV, os.rename, top / "file", tmp_path / "file")
    fails(errno.EXDEV, os.link, top / "file", tmp_path / "file")


# --- kinds of files -------------------------------------------------------------------------------


def test_hard_links_are_one_file(mounted) -> None:
    one, two = mounted / "one", mounted / "two"
    one.write_text("text")
    os.link(one, two)
    assert one.stat() == two.stat()
    assert one.stat().st_nlink == 2
    two.chmod(0o600)
    two.write_text("changed")
    mounted.remount()
    assert one.read_text() == "changed"
    assert one.stat().st_ino == two.stat().st_ino
    one.unlink()
    assert (two.stat().st_nlink, two.read_text()) == (1, "changed")
    os.symlink("two", mounted / "link")
    os.link(mounted / "link", mounted / "link2", follow_symlinks=False)
    assert os.readlink(mounted / "link2") == "two"


@pytest.mark.parametrize("length", [1, 59, 60, 112, 113, 1000, 4095])
def test_symbolic_links_of_every_length(length: int, mounted) -> None:
    target = "t" * length
    os.symlink(target, mounted / "link")
    mounted.remount()
    assert os.readlink(mounted / "link") == target
    status = os.lstat(mounted / "link")
    assert (status.st_size, stat.filemode(status.st_mode)) == (length, "lrwxrwxrwx")
    fails(errno.EINVAL, os.readlink, mounted.path)


def test_a_target_that_is_too_long(top: Path) -> None:
    fails(errno.ENAMETOOLONG, os.symlink, "t" * 4096, top / "link")
    fails(errno.ENOENT, os.symlink, "", top / "link")


def test_pipes_and_sockets_work(mounted) -> None:
    os.mkfifo(mounted / "fifo", 0o640)
    assert stat.filemode((mounted / "fifo").stat().st_mode) == "prw-r-----"
    writer = threading.Thread(target=lambda: (mounted / "fifo").write_bytes(b"through"))
    writer.start()
    assert (mounted / "fifo").read_bytes() == b"through"
    writer.join()
    place = os.getcwd()
    try:
        os.chdir(mounted.path)  # addresses of sockets are short
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
            client.send(b"hello")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(10) == b"hello"
    finally:
        os.chdir(place)
    mounted.remount()
    assert stat.S_ISSOCK((mounted / "socket").stat().st_mode)
    assert stat.S_ISFIFO((mounted / "fifo").stat().st_mode)


@needs_root
def test_devices_keep_their_numbers_and_work(mounted) -> None:
    os.mknod(mounted / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mounted / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    (mounted / "null").write_bytes(b"gone")
    assert (mounted / "null").read_bytes() == b""
    mounted.remount()
    for name, numbers in (("null", (1, 3)), ("block", (259, 70_000))):
        device = (mounted / name).stat().st_rdev
        assert (os.major(device), os.minor(device)) == numbers
    mounted.remount("nodev")
    fails(errno.EACCES, os.open, mounted / "null", os.O_RDONLY)


def test_many_entries_are_listed_once_each(mounted) -> None:
    names = {f"file-{number}" for number in range(2000)}
    directory = mounted / "dir"
    directory.mkdir()
    for name in names:
        (directory / name).touch()
    listed = os.listdir(directory)
    assert len(listed) == len(set(listed))
    assert set(listed) == names
    # Removing while listing skips nothing.
    with os.scandir(directory) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(directory) == []
    mounted.remount()
    directory.rmdir()


def test_listings_begin_with_dots_and_have_types(top: Path) -> None:
    (top / "dir").mkdir()
    (top / "dir" / "file").touch()
    os.symlink("x", top / "dir" / "link")
    listing = subprocess.run(
        ["ls", "-fai", top / "dir"], check=True, capture_output=True, text=True
    ).stdout.split()
    numbers = dict(zip(listing[1::2], listing[::2], strict=True))
    assert int(numbers["."]) == (top / "dir").stat().st_ino
    assert int(numbers[".."]) == top.stat().st_ino
    assert set(numbers) == {".", "..", "file", "link"}
    with os.scandir(top / "dir") as entries:
        kinds = {
            entry.name: (entry.is_file(follow_symlinks=False), entry.is_symlink(), entry.inode())
            for entry in entries
        }
    assert kinds["file"] == (True, False, (top / "dir" / "file").stat().st_ino)
    assert kinds["link"][:2] == (False, True)


def test_a_removed_directory_that_is_open_is_empty_and_takes_nothing(top: Path) -> None:
    (top / "dir").mkdir()
    descriptor = os.open(top / "dir", os.O_RDONLY)
    (top / "dir").rmdir()
    fails(errno.ENOENT, os.open, "file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    fails(errno.ENOENT, os.mkdir, "inner", dir_fd=descriptor)
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


# --- contents -------------------------------------------------------------------------------------


def test_a_file_lives_until_its_last_user_has_gone(mounted, wait_until) -> None:
    free = os.statvfs(mounted.path).f_bfree
    data = os.urandom(8 << 20)
    with (mounted / "file").open("w+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        (mounted / "file").unlink()
        assert os.listdir(mounted.path) == []
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(0)
        assert file.read() == data
        file.write(b"more")
        file.flush()
        assert os.fstat(file.fileno()).st_size == len(data) + 4
        assert os.statvfs(mounted.path).f_bfree < free - 1000
    wait_until(
        lambda: os.statvfs(mounted.path).f_bfree > free - 100, what="the space of the deleted file"
    )


def test_files_that_were_deleted_while_open_leave_nothing_after_a_remount(mounted) -> None:
    (mounted / "empty").touch()
    mounted.remount()
    free = os.statvfs(mounted.path).f_bfree
    for number in range(20):
        with (mounted / f"file{number}").open("wb") as file:
            file.write(os.urandom(100_000))
            file.flush()
            os.fsync(file.fileno())
            (mounted / f"file{number}").unlink()
    mounted.remount()
    assert abs(os.statvfs(mounted.path).f_bfree - free) < 20


def test_a_shared_mapping_reaches_the_file(mounted) -> None:
    path = mounted / "mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[50_000:50_005] = b"hello"
        assert os.pread(file.fileno(), 5, 50_000) == b"hello"
        os.pwrite(file.fileno(), b"world", 60_000)
        assert view[60_000:60_005] == b"world"
        view.flush()
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    view[70_000:70_004] = b"late"  # after the file was closed, before the mapping is
    view.close()
    mounted.remount()
    data = path.read_bytes()
    assert (data[50_000:50_005], data[60_000:60_005], data[70_000:70_004]) == (
        b"hello",
        b"world",
        b"late",
    )


def test_truncation_both_ways_leaves_zeros(mounted) -> None:
    path = mounted / "file"
    path.write_bytes(b"x" * 10_000)
    os.truncate(path, 5_000)
    os.truncate(path, 20_000)
    assert path.read_bytes() == b"x" * 5_000 + bytes(15_000)
    mounted.remount()
    assert path.read_bytes() == b"x" * 5_000 + bytes(15_000)
    with path.open("r+b") as file:
        os.ftruncate(file.fileno(), 4096)
        os.pwrite(file.fileno(), b"end", 12_345)
    assert path.read_bytes() == b"x" * 4096 + bytes(12_345 - 4096) + b"end"
    with path.open("wb"):  # O_TRUNC
        pass
    assert path.stat().st_size == 0
    fails(errno.EINVAL, os.truncate, path, -1)


def test_appending_from_several_processes_loses_nothing(top: Path, start) -> None:
    path = top / "log"
    script = f"for i in $(seq 500); do echo line-$i-of-$$ >> {path}; done"
    writers = [start(["bash", "-c", script]) for _ in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    lines = path.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 2000


def test_any_pattern_of_writes_reads_back(mounted) -> None:
    import random

    dice = random.Random(7)
    path = mounted / "file"
    expected = bytearray()
    with path.open("w+b", buffering=0) as file:
        for _ in range(400):
            kind = dice.random()
            place = dice.randrange(600_000)
            if kind < 0.7:
                data = dice.randbytes(dice.choice([1, 100, 4096, 5000, 70_000]))
                os.pwrite(file.fileno(), data, place)
                expected.extend(bytes(max(0, place + len(data) - len(expected))))
                expected[place : place + len(data)] = data
            elif kind < 0.8:
                os.ftruncate(file.fileno(), place)
                del expected[place:]
                expected.extend(bytes(place - len(expected)))
            elif kind < 0.9:
                assert os.pread(file.fileno(), 50_000, place) == expected[place : place + 50_000]
            else:
                os.fsync(file.fileno())
    assert path.read_bytes() == expected
    mounted.remount("writeback=off")
    assert path.read_bytes() == expected


def test_what_the_kernel_takes_behind_the_largest_size_is_lost(mounted) -> None:
    """The kernel's cache takes writes up to its own limit, 2**63 - 1: so files are as large as
    that, and made and removed at once.
    """
    limit = (1 << 63) - 1
    path = mounted / "huge"
    began = time.monotonic()
    path.touch()
    os.truncate(path, limit)
    assert path.stat().st_size == limit
    assert path.stat().st_blocks < 100
    with path.open("r+b") as file:
        assert os.pread(file.fileno(), 10, limit - 10) == bytes(10)
        os.pwrite(file.fileno(), b"end", limit - 3)
        os.pwrite(file.fileno(), b"mid", 1 << 43)
        os.fsync(file.fileno())
    assert path.stat().st_blocks < 200
    mounted.remount()
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 5, limit - 5) == b"\0\0end"
        assert os.pread(file.fileno(), 4, 1 << 43) == b"mid\0"
    path.unlink()
    assert time.monotonic() - began < 20
    assert os.listdir(mounted.path) == []


def test_statfs_moves_with_what_is_written(mounted) -> None:
    before = os.statvfs(mounted.path)
    assert (before.f_bsize, before.f_frsize, before.f_namemax) == (4096, 4096, 255)
    assert 0 < before.f_bavail <= before.f_bfree < before.f_blocks <= (64 << 20) // 4096
    assert 0 < before.f_ffree <= before.f_files
    (mounted / "file").write_bytes(os.urandom(8 << 20))
    mounted.remount()
    after = os.statvfs(mounted.path)
    assert 2048 <= before.f_bfree - after.f_bfree < 2300
    assert (mounted / "file").stat().st_blocks * 512 >= 8 << 20


def test_fsync_and_datasync_and_syncfs(mounted) -> None:
    with (mounted / "file").open("wb") as file:
        file.write(b"durable")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    descriptor = os.open(mounted.path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    mounted.kill()
    mounted.mount()
    assert (mounted / "file").read_bytes() == b"durable"


def test_copies_of_every_tool_are_equal(top: Path) -> None:
    (top / "a").write_bytes(b"x" * 100_000)
    subprocess.run(["cp", "--sparse=always", top / "a", top / "b"], check=True)
    subprocess.run(["cp", "-a", top / "a", top / "c"], check=True)
    shutil.copyfile(top / "a", top / "d")
    assert (
        (top / "b").read_bytes()
        == (top / "c").read_bytes()
        == (top / "d").read_bytes()
        == b"x" * 100_000
    )


# --- times ----------------------------------------------------------------------------------------

YEARS = {
    1901: -2_177_452_800,
    1969: -1,
    1970: 0,
    2038: 1 << 31,
    2106: 1 << 32,
    2446: 15_032_385_535,
}


@pytest.mark.parametrize("year", YEARS)
def test_times_of_all_years_keep_their_nanoseconds(year: int, mounted) -> None:
    atime, mtime = YEARS[year] * 10**9 + 123_456_789, YEARS[year] * 10**9 + 999_999_999
    for name, make in (("file", Path.touch), ("dir", Path.mkdir)):
        make(mounted / name)
        os.utime(mounted / name, ns=(atime, mtime))
    os.symlink("x", mounted / "link")
    os.utime(mounted / "link", ns=(atime, mtime), follow_symlinks=False)
    mounted.remount("noatime")
    for name in ("file", "dir", "link"):
        status = os.lstat(mounted / name)
        assert (status.st_atime_ns, status.st_mtime_ns) == (atime, mtime), name


def test_times_move_when_they_must(top: Path, wait_until) -> None:
    """As POSIX has it: contents move mtime and ctime, attributes ctime, names both of the
    directory.
    """

    def times(path: Path) -> tuple[int, int]:
        status = path.lstat()
        return status.st_mtime_ns, status.st_ctime_ns

    path = top / "file"
    path.touch()
    (top / "dir").mkdir()

    def moves(what: Path, action: Callable[[], Any], mtime: bool, ctime: bool) -> None:
        before = times(what)
        clock = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        wait_until(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > clock, what="the clock")
        action()
        after = times(what)
        assert (after[0] > before[0], after[1] > before[1]) == (mtime, ctime), action

    moves(path, lambda: path.write_bytes(b"x"), True, True)
    moves(path, lambda: path.chmod(0o600), False, True)
    moves(path, lambda: os.truncate(path, 0), True, True)
    moves(path, lambda: os.link(path, top / "second"), False, True)
    moves(path, lambda: os.rename(top / "second", top / "third"), False, True)
    moves(path, (top / "third").unlink, False, True)
    moves(path, path.read_bytes, False, False)
    moves(top / "dir", (top / "dir" / "x").touch, True, True)
    moves(top / "dir", lambda: (top / "dir" / "x").write_bytes(b"x"), False, False)
    moves(top / "dir", lambda: os.rename(top / "dir" / "x", top / "dir" / "y"), True, True)
    moves(top / "dir", (top / "dir" / "y").unlink, True, True)


def test_what_is_made_later_is_never_older(top: Path, tmp_path: Path) -> None:
    """Or make(1) builds again what it has built: the kernel stamps written files, the daemon new
    ones.
    """
    beside = tmp_path / "of another filesystem, which has fine stamps taken"
    beside.touch()
    last = 0
    for number in range(200):
        path = top / f"file{number}"
        beside.stat()
        beside.touch()
        if number % 2:
            path.write_bytes(b"x")
        else:
            path.mkdir()
        now = path.stat().st_mtime_ns
        assert now >= last
        last = now


@pytest.mark.parametrize("options", ["", "writeback=off"])
def test_times_are_stored_as_they_were_shown(options: str, mounted) -> None:
    """The kernel's own times of writes and those of the daemon must not overwrite each other."""
    mounted.remount(options)
    for number in range(100):
        path = mounted / f"file{number}"
        path.write_bytes(b"x" * 1000 * number)
        if number % 3 == 0:
            with path.open("ab") as file:
                file.write(b"more")

    def times() -> dict[str, tuple[int, int, int]]:
        found = {path.name: path.stat() for path in mounted.path.iterdir()}
        return {
            name: (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            for name, status in found.items()
        }

    shown = times()
    mounted.remount(options)
    assert times() == shown


def test_access_times_follow_relatime(mounted) -> None:
    path = mounted / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(10**9, 2 * 10**9))
    mounted.remount()
    path.read_bytes()
    renewed = path.stat().st_atime_ns
    assert renewed > 10**18
    mounted.remount()
    path.read_bytes()
    assert path.stat().st_atime_ns == renewed
    os.utime(path, ns=(10**9, 2 * 10**9))
    mounted.remount("noatime")
    path.read_bytes()
    assert path.stat().st_atime_ns == 10**9


# --- permissions ----------------------------------------------------------------------------------


@needs_root
@with_others
def test_permissions_hold_for_others(top: Path) -> None:
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    (top / "closed").mkdir(mode=0o700)
    (top / "closed" / "file").touch()
    (top / "open").mkdir()
    (top / "open").chmod(0o777)

    def other() -> None:
        fails(errno.EACCES, os.open, "secret", os.O_RDONLY)
        fails(errno.EACCES, os.listdir, "closed")
        fails(errno.EACCES, os.stat, "closed/file")
        fails(errno.EACCES, os.unlink, "secret")
        fails(errno.EACCES, os.mkdir, "new")
        fails(errno.EPERM, os.chmod, "secret", 0o777)
        fails(errno.EPERM, os.chown, "secret", USER, USER)
        fails(errno.EPERM, os.utime, "secret", (1, 1))
        fails(errno.EACCES, os.utime, "secret")
        fails(errno.EACCES, os.truncate, "secret", 0)
        fails(errno.EPERM, os.mknod, "open/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        fails(errno.EACCES, os.rename, "secret", "open/secret")
        with open("open/mine", "w", encoding="utf-8") as file:
            file.write("mine")
        fails(errno.EPERM, os.chown, "open/mine", 0, 0)
        os.chmod("open/mine", 0o600)
        os.unlink("open/mine")

    as_user(top, other)


@needs_root
def test_without_allow_other_nobody_else_gets_in(mounted) -> None:
    # The directory above is entered first, as root.
    fails(errno.EACCES, as_user, mounted.path.parent, lambda: os.listdir(mounted.path.name))


@needs_root
@with_others
def test_in_a_sticky_directory_everybody_removes_only_what_is_theirs(top: Path) -> None:
    sticky = top / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "roots").touch()

    def other() -> None:
        fails(errno.EPERM, os.unlink, "sticky/roots")
        fails(errno.EPERM, os.rename, "sticky/roots", "sticky/mine")
        with open("sticky/own", "w", encoding="utf-8"):
            pass
        fails(errno.EPERM, os.rename, "sticky/own", "sticky/roots")
        os.rename("sticky/own", "sticky/renamed")
        os.unlink("sticky/renamed")

    as_user(top, other)
    (sticky / "roots").unlink()


@needs_root
@with_others
def test_set_id_bits_are_lost_when_they_must_be(top: Path) -> None:
    def fresh(name: str) -> Path:
        path = top / name
        path.write_bytes(b"x" * 100)
        os.chown(path, USER, USER)
        path.chmod(0o6755)
        assert stat.S_IMODE(path.stat().st_mode) == 0o6755
        return path

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    written, cut, emptied, given, roots, unexecutable = map(
        fresh, ("written", "cut", "emptied", "given", "roots", "unexecutable")
    )
    unexecutable.chmod(0o6745)

    def other() -> None:
        with open("written", "r+b") as file:
            file.write(b"y")
        os.truncate("cut", 1)
        with open("emptied", "wb"):
            pass

    as_user(top, other)
    assert [oct(mode(path)) for path in (written, cut, emptied)] == [oct(0o755)] * 3
    os.chown(given, 7, 7)
    assert mode(given) == 0o755
    os.chown(unexecutable, 7, 7)
    assert (
        mode(unexecutable) == 0o2745
    )  # set-group-id without execution is mandatory locking, not a privilege
    with roots.open("r+b") as file:
        file.write(b"y")
    assert mode(roots) == 0o6755


@needs_root
@with_others
def test_set_group_id_directories_give_their_group(top: Path) -> None:
    shared = top / "shared"
    shared.mkdir()
    os.chown(shared, 0, 777)
    shared.chmod(0o2777)

    def other() -> None:
        with open("shared/file", "w", encoding="utf-8"):
            pass
        os.mkdir("shared/dir")
        os.symlink("x", "shared/link")

    as_user(top, other)
    assert {os.lstat(shared / name).st_gid for name in os.listdir(shared)} == {777}
    assert {os.lstat(shared / name).st_uid for name in os.listdir(shared)} == {USER}
    assert (shared / "dir").stat().st_mode & stat.S_ISGID
    assert not (shared / "file").stat().st_mode & stat.S_ISGID


def test_the_umask_of_the_caller_counts(top: Path) -> None:
    before = os.umask(0o077)
    try:
        (top / "file").touch()
        (top / "dir").mkdir()
        os.mkfifo(top / "fifo")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in top.iterdir()}
    assert modes == {"file": 0o600, "dir": 0o700, "fifo": 0o600}


@pytest.mark.volume(options="uid=4321,gid=1234,umask=027")
def test_owners_and_permissions_can_be_replaced_for_a_mount(mounted) -> None:
    (mounted / "file").touch()
    status = (mounted / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4321, 1234, 0o750)
    mounted.remount()
    status = (mounted / "file").stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


# --- extended attributes --------------------------------------------------------------------------


def test_attributes_of_every_size(mounted) -> None:
    values = {f"user.{size}": os.urandom(size) for size in (0, 1, 100, 4000, 4096, 65_536)}
    path = mounted / "file"
    path.touch()
    for name, value in values.items():
        os.setxattr(path, name, value)
    assert set(os.listxattr(path)) == set(values)
    mounted.remount()
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == values
    os.setxattr(path, "user.1", b"changed")
    os.removexattr(path, "user.65536")
    assert os.getxattr(path, "user.1") == b"changed"
    assert "user.65536" not in os.listxattr(path)
    fails(errno.ENODATA, os.getxattr, path, "user.65536")
    fails(errno.ENODATA, os.removexattr, path, "user.65536")
    fails(errno.E2BIG, os.setxattr, path, "user.big", bytes(65_537))
    for name in os.listxattr(path):
        os.removexattr(path, name)
    assert os.listxattr(path) == []


def test_creating_and_replacing_attributes(top: Path) -> None:
    path = top / "file"
    path.touch()
    fails(errno.ENODATA, os.setxattr, path, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, path, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b"3"


@needs_root
def test_namespaces_of_attributes(top: Path) -> None:
    path = top / "file"
    path.touch()
    os.symlink("file", top / "link")
    for name in ("user.a", "trusted.b", "security.c"):
        os.setxattr(path, name, b"1")
    assert sorted(os.listxattr(path)) == ["security.c", "trusted.b", "user.a"]
    for name in ("nonsense", "other.a", "user.", "system.a"):
        assert errno_of(os.setxattr, path, name, b"1") in (errno.EOPNOTSUPP, errno.EINVAL), name
    fails(errno.EPERM, os.setxattr, top / "link", "user.a", b"1", follow_symlinks=False)
    os.setxattr(top / "link", "trusted.a", b"1", follow_symlinks=False)
    assert os.listxattr(top / "link", follow_symlinks=False) == ["trusted.a"]
    fails(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"1")
    os.setxattr(path, "user." + "n" * 250, b"1")


@needs_root
@with_others
def test_others_see_no_trusted_attributes(top: Path) -> None:
    (top / "file").touch()
    os.setxattr(top / "file", "trusted.a", b"1")
    os.setxattr(top / "file", "user.a", b"1")

    def other() -> list[str]:
        fails(errno.ENODATA, os.getxattr, "file", "trusted.a")
        fails(errno.EPERM, os.setxattr, "file", "trusted.a", b"2")
        fails(errno.EACCES, os.setxattr, "file", "user.a", b"2")
        return os.listxattr("file")

    assert as_user(top, other) == ["user.a"]


@pytest.mark.volume(options="noxattr")
def test_a_mount_without_attributes_has_none(mounted) -> None:
    (mounted / "file").touch()
    fails(errno.EOPNOTSUPP, os.setxattr, mounted / "file", "user.a", b"1")
    fails(errno.EOPNOTSUPP, os.getxattr, mounted / "file", "user.a")
    (mounted / "file").write_bytes(b"data")
    assert (mounted / "file").read_bytes() == b"data"


# --- access control lists -------------------------------------------------------------------------

needs_setfacl = pytest.mark.skipif(
    shutil.which("setfacl") is None, reason="setfacl is missing (package acl)"
)


def getfacl(path: Path) -> list[str]:
    result = subprocess.run(["getfacl", "-cpEn", path], check=True, capture_output=True, text=True)
    return result.stdout.split()


def setfacl(*arguments: str | Path) -> None:
    subprocess.run(["setfacl", *arguments], check=True)


@needs_root
@needs_setfacl
@with_others
def test_an_access_list_lets_in_whom_it_names(mounted) -> None:
    path = mounted / "file"
    path.write_text("text")
    path.chmod(0o600)
    mounted.path.chmod(0o755)
    fails(errno.EACCES, as_user, mounted.path, lambda: os.open("file", os.O_RDONLY))
    setfacl("-m", f"u:{USER}:r", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert getfacl(path) == [
        "user::rw-",
        f"user:{USER}:r--",
        "group::---",
        "mask::r--",
        "other::---",
    ]

    def other() -> str:
        fails(errno.EACCES, os.open, "file", os.O_WRONLY)
        with open("file", encoding="utf-8") as file:
            return file.read()

    assert as_user(mounted.path, other) == "text"
    path.chmod(0o600)  # goes to the mask
    assert getfacl(path)[3] == "mask::---"
    fails(errno.EACCES, as_user, mounted.path, lambda: os.open("file", os.O_RDONLY))
    path.chmod(0o660)
    mounted.remount("allow_other")
    assert as_user(mounted.path, other) == "text"
    setfacl("-b", path)
    assert getfacl(path) == ["user::rw-", "group::---", "other::---"]
    fails(errno.EACCES, as_user, mounted.path, lambda: os.open("file", os.O_RDONLY))


@needs_root
@with_others
@pytest.mark.parametrize(("groups", "expected"), [((), 0o755), ((23_456,), 0o2755)])
def test_an_access_list_keeps_a_group_that_its_owner_is_not_in(
    groups: tuple[int, ...], expected: int, top: Path
) -> None:
    """As for chmod(2): who is not in the file's group may not have a program run as that group."""
    entries = (
        (1, 7),
        (4, 5),
        (32, 5),
    )  # u::rwx,g::r-x,o::r-x in the form of linux/posix_acl_xattr.h
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, 0xFFFF_FFFF) for tag, bits in entries
    )
    path = top / "program"
    path.touch()
    os.chown(path, USER, 23_456)
    path.chmod(0o2700)
    as_user(top, lambda: os.setxattr("program", "system.posix_acl_access", value), groups=groups)
    assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(expected)
    path.chmod(0o2700)
    os.setxattr(path, "system.posix_acl_access", value)
    assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(0o2755)


@needs_setfacl
def test_default_lists_are_inherited(mounted) -> None:
    top = mounted / "top"
    top.mkdir()
    setfacl("-m", "d:u:4321:rwx,d:g::r-x,d:o::---", top)
    (top / "dir" / "inner").mkdir(parents=True)
    (top / "dir" / "file").touch(mode=0o640)
    os.symlink("x", top / "dir" / "link")
    mounted.remount()
    default = [
        "default:user::rwx",
        "default:user:4321:rwx",
        "default:group::r-x",
        "default:mask::rwx",
        "default:other::---",
    ]
    assert getfacl(top / "dir" / "inner")[-5:] == default
    found = getfacl(top / "dir" / "file")
    assert found == ["user::rw-", "user:4321:rwx", "group::r-x", "mask::r--", "other::---"]
    assert stat.S_IMODE((top / "dir" / "file").stat().st_mode) == 0o640
    setfacl("-k", top / "dir")
    (top / "dir" / "plain").mkdir()
    assert len(getfacl(top / "dir" / "plain")) == 3


# --- what users do --------------------------------------------------------------------------------


def test_sqlite_and_locks(top: Path) -> None:
    import fcntl
    import sqlite3

    connection = sqlite3.connect(top / "data.db")
    connection.execute("create table t(a)")
    with connection:
        connection.executemany("insert into t values(?)", [(number,) for number in range(1000)])
    assert connection.execute("select sum(a) from t").fetchone() == (499_500,)
    connection.close()
    with (top / "lock").open("w") as one, (top / "lock").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_programs_run_and_trees_are_copied(mounted) -> None:
    shutil.copy2("/bin/true", mounted / "program")
    subprocess.run([mounted / "program"], check=True)
    shutil.copytree(Path(os.__file__).parent / "json", mounted / "tree", symlinks=True)
    archive = subprocess.run(
        ["tar", "-C", mounted / "tree", "-cf", "-", "."], check=True, capture_output=True
    ).stdout
    (mounted / "again").mkdir()
    subprocess.run(["tar", "-C", mounted / "again", "-xf", "-"], input=archive, check=True)
    subprocess.run(["diff", "-r", mounted / "tree", mounted / "again"], check=True)
    mounted.remount("noexec")
    fails(errno.EACCES, subprocess.run, [mounted / "program"], check=True)


def test_many_users_at_once_do_not_disturb_each_other(mounted) -> None:
    def work(number: int) -> None:
        place = mounted / f"worker-{number}"
        place.mkdir()
        for step in range(40):
            path = place / f"file-{step}"
            path.write_bytes(bytes([number]) * (step * 997))
            if step % 3 == 0:
                os.rename(path, place / f"renamed-{step}")
            if step % 5 == 0:
                with (
                    path.open("wb") if step % 3 else (place / f"renamed-{step}").open("ab") as file
                ):
                    os.fsync(file.fileno())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mounted.remount()
    for number in range(8):
        files = list((mounted / f"worker-{number}").iterdir())
        assert len(files) == 40
        assert all(set(path.read_bytes()) <= {number} for path in files)
