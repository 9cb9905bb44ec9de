"""Who reads the requests, and how it waits for them, makes no difference to those who ask; and the
daemon ends in time whatever they do.

The same operations run under each way of serving. What clears set-id bits is compared with the
host's filesystem.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import pickle
import random
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WAYS = ["polling=on", "requests=pyfuse3", "polling=off", "writeback=off"]

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
USER = 12_345

#: A value of security.capability, as setcap(8) makes it: cap_net_bind_service.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.telldir.restype = ctypes.c_long
libc.getxattr.restype = libc.listxattr.restype = ctypes.c_ssize_t


def code_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """How it ends: the name of an errno, or an empty string."""
    try:
        function(*args, **kwargs)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return ""


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "a call of the C library")
    return result


def renameat2(old: Path, new: Path, flags: int) -> None:
    checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


# --- the same under every way ---------------------------------------------------------------------


def names_and_contents(top: Path) -> Iterator[object]:
    file = top / "file"
    file.write_bytes(b"0123456789" * 1000)
    yield file.read_bytes() == b"0123456789" * 1000
    with file.open("r+b") as opened:
        opened.seek(9_999)
        opened.write(b"end")
        opened.flush()
        yield os.fstat(opened.fileno()).st_size
        os.ftruncate(opened.fileno(), 5)
        yield os.fstat(opened.fileno()).st_size
        os.ftruncate(opened.fileno(), 20)
    yield file.read_bytes()
    with file.open("wb"):
        yield file.stat().st_size
    file.write_bytes(b"one")
    os.rename(file, top / "renamed")
    yield code_of(file.stat)
    (top / "other").write_bytes(b"two")
    yield code_of(renameat2, top / "renamed", top / "other", RENAME_NOREPLACE)
    renameat2(top / "renamed", top / "other", RENAME_EXCHANGE)
    yield (top / "renamed").read_bytes(), (top / "other").read_bytes()
    yield code_of(renameat2, top / "renamed", top / "missing", RENAME_EXCHANGE)
    renameat2(top / "renamed", top / "new", RENAME_NOREPLACE)
    yield code_of(renameat2, top / "new", top / "newer", 1 << 2 | RENAME_EXCHANGE)
    os.rename(top / "new", top / "other")
    yield (top / "other").read_bytes()
    os.link(top / "other", top / "linked")
    yield (top / "linked").stat().st_nlink, code_of(os.link, top / "other", top / "linked")
    os.symlink("other/../" * 30 + "other", top / "symbolic")
    yield os.readlink(top / "symbolic"), (top / "symbolic").lstat().st_size
    os.unlink(top / "linked")
    yield (
        (top / "other").stat().st_nlink,
        code_of(os.unlink, top / "linked"),
        code_of(os.unlink, top),
    )
    (top / "dir").mkdir(0o700)
    (top / "dir" / "below").mkdir()
    yield (
        code_of((top / "dir").rmdir),
        (top / "dir").stat().st_nlink,
        oct((top / "dir").stat().st_mode),
    )
    (top / "dir" / "below").rmdir()
    (top / "dir").rmdir()
    yield (
        code_of((top / "dir").stat),
        code_of((top / "other" / "below").stat),
        code_of((top / ("n" * 256)).stat),
    )
    os.mkfifo(top / "pipe", 0o640)
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(300, 70_000))
    yield (
        oct((top / "pipe").stat().st_mode),
        oct((top / "device").stat().st_mode),
        (top / "device").stat().st_rdev,
    )
    yield sorted(os.listdir(top))


def attributes(top: Path) -> Iterator[object]:
    file = top / "file"
    file.write_bytes(b"x")
    file.chmod(0o4751)
    yield oct(file.stat().st_mode)
    os.chown(file, 1, 2)
    found = file.stat()
    yield oct(found.st_mode), found.st_uid, found.st_gid
    for atime, mtime in (
        (1, 2),
        (-1, -1_500_000_001),
        (1_234_567_890_123_456_789, 7_000_000_000_999_999_999),
    ):
        os.utime(file, ns=(atime, mtime))
        yield file.stat().st_atime_ns, file.stat().st_mtime_ns
    before = file.stat().st_mtime_ns
    os.utime(file)
    yield file.stat().st_mtime_ns == file.stat().st_atime_ns, file.stat().st_mtime_ns != before
    link = top / "symbolic"
    os.symlink("nowhere", link)
    os.utime(link, ns=(5, 6), follow_symlinks=False)
    yield link.lstat().st_mtime_ns
    figures = os.statvfs(top)
    yield (
        figures.f_bsize,
        figures.f_frsize,
        figures.f_namemax,
        figures.f_blocks,
        0 < figures.f_bavail <= figures.f_bfree,
    )


def extended_attributes(top: Path) -> Iterator[object]:
    file = top / "file"
    file.write_bytes(b"")
    yield code_of(os.getxattr, file, "user.a"), os.listxattr(file)
    yield code_of(os.setxattr, file, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    yield code_of(os.setxattr, file, "user.a", b"2", os.XATTR_CREATE), os.getxattr(file, "user.a")
    os.setxattr(file, "user.a", b"33", os.XATTR_REPLACE)
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "user.long", b"\0\1" * 1000)
    yield (
        os.getxattr(file, "user.a"),
        os.getxattr(file, "user.empty"),
        os.getxattr(file, "user.long") == b"\0\1" * 1000,
    )
    yield sorted(os.listxattr(file))
    path = os.fsencode(file)
    for size in (0, 1, 2, 100):
        buffer = ctypes.create_string_buffer(100)
        yield code_of(lambda: checked(libc.getxattr(path, b"user.a", buffer, size))), buffer.raw  # noqa: B023 - called at once
        yield code_of(lambda: checked(libc.listxattr(path, buffer, size)))  # noqa: B023 - the same
    yield libc.getxattr(path, b"user.long", None, 0), libc.listxattr(path, None, 0)
    os.removexattr(file, "user.a")
    yield code_of(os.removexattr, file, "user.a"), sorted(os.listxattr(file))
    yield (
        code_of(os.setxattr, file, "nonsense", b""),
        code_of(os.setxattr, file, "user.big", bytes(65_536)),
    )


def listings(top: Path) -> Iterator[object]:
    many = {f"{'n' * (index % 200)}-{index}" for index in range(3000)}
    for name in many:
        os.close(os.open(top / name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    yield len(many), set(os.listdir(top)) == many
    with os.scandir(top) as entries:
        yield all(
            entry.is_file(follow_symlinks=False) and entry.inode() == entry.stat().st_ino
            for entry in entries
        )
    stream = libc.opendir(os.fsencode(top))
    try:
        places = []
        while True:
            place = libc.telldir(stream)
            entry = libc.readdir(stream)
            if not entry:
                break
            places.append((place, ctypes.string_at(entry + 19)))
        yield {os.fsdecode(name) for _, name in places} == many | {".", ".."}, len(places)
        for place, name in random.Random(6).sample(places, 50):
            libc.seekdir(stream, place)
            entry = libc.readdir(stream)
            if not entry or ctypes.string_at(entry + 19) != name:
                yield name
    finally:
        libc.closedir(stream)
    for name in many:
        os.unlink(top / name)
    yield os.listdir(top)


def snapshots(top: Path) -> Iterator[object]:
    snap = top / ".snap"
    (top / "file").write_bytes(b"before")
    (snap / "one").mkdir()
    (top / "file").write_bytes(b"after, and longer")
    os.unlink(top / "file")
    (top / "new").write_bytes(b"new")
    yield (snap / "one" / "file").read_bytes(), sorted(os.listdir(snap / "one")), os.listdir(snap)
    (snap / "one").rename(snap / "two")
    yield code_of((snap / "one").stat), (snap / "two" / "file").read_bytes(), os.listdir(snap)
    yield (
        code_of((snap / "two").mkdir),
        code_of((snap / "file").write_bytes, b""),
        code_of((snap / "two").rename, top / "out"),
    )
    (snap / "two" / "file").write_bytes(b"in the snapshot")
    (snap / "three").mkdir()
    yield (
        sorted(os.listdir(snap)),
        (snap / "two" / "file").read_bytes(),
        sorted(os.listdir(snap / "three")),
    )
    yield (
        code_of(os.link, top / "new", snap / "two" / "linked"),
        code_of(os.rename, top / "new", snap / "two" / "moved"),
    )
    (snap / "two").rmdir()
    (snap / "three").rmdir()
    yield os.listdir(snap), code_of((snap / "two").stat), sorted(os.listdir(top))


@pytest.mark.parametrize(
    "story",
    [names_and_contents, attributes, extended_attributes, listings, snapshots],
    ids=lambda story: story.__name__,
)
@needs_root
def test_results_depend_on_who_reads_the_requests(
    story: Callable[[Path], Iterator[object]], mount_volume
) -> None:
    results = {}
    for way in WAYS:
        mounted = mount_volume(options=way)
        results[way] = list(story(mounted.path))
        mounted.remount("ro," + way)  # and what is there afterwards is the same
        tree = {
            path.relative_to(mounted.path): (oct(path.lstat().st_mode), path.lstat().st_nlink)
            for path in mounted.path.rglob("*")
        }
        results[way].append(tree)
        mounted.unmount()
    for way in WAYS[1:]:
        assert results[way] == results[WAYS[0]], way


# --- set-id bits ----------------------------------------------------------------------------------


def as_user(directory: Path, function: Callable[[], Any], uid: int) -> Any:
    """Run in a process of another user whose working directory that is; what it returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.chdir(directory)
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.write(writer, pickle.dumps(function()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(data)


def written(path: Path, flags: int = 0) -> list[int]:
    """The mode that is seen after a write, by those who have the file open and by others, and after
    a second one.
    """
    descriptor = os.open(path, os.O_WRONLY | flags)
    seen = []
    for _ in range(2):
        os.write(descriptor, b"abc")
        seen += [os.fstat(descriptor).st_mode, os.stat(path).st_mode]
    os.close(descriptor)
    return seen


def mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:3] = b"abc"


def cut_open(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    os.ftruncate(descriptor, 3)
    seen = os.fstat(descriptor).st_mode
    os.close(descriptor)
    return seen


def emptied(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    seen = os.fstat(descriptor).st_mode
    os.close(descriptor)
    return seen


CHANGES: dict[str, Callable[[Path], Any]] = {
    "write": written,
    "append": lambda path: written(path, os.O_APPEND),
    "sync": lambda path: written(path, os.O_SYNC),
    "map": mapped,
    "cut": lambda path: os.truncate(path, 100),
    "grow": lambda path: os.truncate(path, 10_000),
    "cut open": cut_open,
    "empty": emptied,
    "chown": lambda path: os.chown(path, -1, USER),
    "nothing": lambda path: os.close(os.open(path, os.O_RDWR)),
}


def modes_after(top: Path) -> dict[str, tuple[Any, str, bool]]:
    """What is seen meanwhile, the mode afterwards, and whether capabilities are left, by mode, user
    and change.
    """
    top.chmod(0o777)
    found = {}
    # Without execution by the group, set-group-id is not a privilege, and FUSE leaves it alone.
    for mode in (0o6777, 0o2777, 0o4766, 0o0777):
        for uid in (0, USER):
            for name, change in CHANGES.items():
                for has_capability in (False, True):
                    case = f"{mode:o} {uid} {name} {has_capability}"
                    path = top / case
                    path.write_bytes(b"x" * 5000)
                    if name == "chown":
                        os.chown(path, USER, USER)
                    if has_capability:
                        os.setxattr(path, "security.capability", CAPABILITY)
                    path.chmod(mode)
                    seen = as_user(top, lambda: change(Path(case)), uid)  # noqa: B023 - called at once
                    found[case] = (
                        seen,
                        oct(path.stat().st_mode),
                        "security.capability" in os.listxattr(path),
                    )
    return found


@pytest.mark.parametrize("way", [*WAYS, "requests=pyfuse3,writeback=off"])
@needs_root
def test_writing_leaves_set_id_bits_and_capabilities_as_no_other_filesystem_does(
    way: str, mount_volume, tmp_path: Path
) -> None:
    (tmp_path / "host").mkdir()
    os.chmod(tmp_path, 0o755)
    expected = modes_after(tmp_path / "host")
    mounted = mount_volume(options=f"allow_other,{way}")
    found = modes_after(mounted.path)
    assert found == expected
    mounted.remount("allow_other")
    stored = {
        path.name: (oct(path.stat().st_mode), "security.capability" in os.listxattr(path))
        for path in mounted.path.iterdir()
    }
    assert stored == {case: result[1:] for case, result in expected.items()}


# --- many at once, and the end --------------------------------------------------------------------


def pattern(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.volume(size="256M")
@pytest.mark.parametrize("way", WAYS)
def test_many_clients_at_once_get_each_others_bytes(way: str, mounted) -> None:
    big = pattern(0, 24 << 20)
    (mounted / "big").write_bytes(big)
    mounted.remount(way)
    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except BaseException as exc:
            failures.append(exc)

    def writes_and_syncs(number: int) -> None:
        with (mounted / f"file-{number}").open("w+b") as file:
            for turn in range(8):
                file.seek(turn << 17)
                file.write(pattern(number * 100 + turn, 1 << 17))
                file.flush()
                os.fsync(file.fileno())

    def reads(number: int) -> None:
        chosen = random.Random(number)
        with (mounted / "big").open("rb", buffering=0) as file:
            for _ in range(60):
                offset, size = (
                    chosen.randrange(len(big)),
                    chosen.choice((100, 4096, 300_000, 1 << 20)),
                )
                found = os.pread(file.fileno(), size, offset)
                assert found == big[offset : offset + size], f"{size} bytes at {offset}"

    def snapshots(number: int) -> None:
        for turn in range(4):
            (mounted / ".snap" / f"s-{number}-{turn}").mkdir()
            assert (
                digest(mounted / ".snap" / f"s-{number}-{turn}" / "big")
                == hashlib.sha256(big).hexdigest()
            )

    def names(number: int) -> None:
        directory = mounted / f"dir-{number}"
        directory.mkdir()
        for turn in range(150):
            (directory / f"a-{turn}").write_bytes(b"%d" % turn)
            os.rename(directory / f"a-{turn}", directory / f"b-{turn}")
            if turn % 3 == 0:
                os.unlink(directory / f"b-{turn}")
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
            f"b-{n}": b"%d" % n for n in range(150) if n % 3
        }

    work = [(writes_and_syncs, 6), (reads, 4), (snapshots, 2), (names, 3)]
    threads = [
        threading.Thread(target=guarded, args=(function, n), daemon=True)
        for function, count in work
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a client waits for ever"
    assert not failures
    mounted.remount(way)
    for number in range(6):
        expected = b"".join(pattern(number * 100 + turn, 1 << 17) for turn in range(8))
        assert (mounted / f"file-{number}").read_bytes() == expected
    for name in os.listdir(mounted / ".snap"):
        found = (mounted / ".snap" / name / "big").read_bytes()
        assert found == big, name


@contextlib.contextmanager
def ending(pid: int, limit: float) -> Iterator[None]:
    """The process has ended at most ``limit`` seconds after this."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        import select

        assert select.select([descriptor], [], [], limit)[0], (
            f"the daemon has not ended within {limit:g} s"
        )
    finally:
        os.close(descriptor)


class Busy:
    """Clients that keep requests in progress until they get errors: writes with fsync, and
    snapshots that wait for one another.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._begun = [threading.Event() for _ in range(6)]
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(3)
        ]
        self._threads += [
            threading.Thread(target=self._make_snapshots, args=(number,), daemon=True)
            for number in range(3, 6)
        ]
        #: By file, how many turns have been synced.
        self.synced = [0, 0, 0]
        for thread in self._threads:
            thread.start()
        for event in self._begun:
            assert event.wait(60)

    def _write(self, number: int) -> None:
        with (
            contextlib.suppress(OSError),
            (self._top / f"busy-{number}").open("wb", buffering=0) as file,
        ):
            for turn in range(1_000_000):
                file.write(b"%8d" % turn * 1000)
                os.fsync(file.fileno())
                self.synced[number] = turn + 1
                self._begun[number].set()

    def _make_snapshots(self, number: int) -> None:
        with contextlib.suppress(OSError):
            for turn in range(1_000_000):
                (self._top / ".snap" / f"busy-{number}-{turn}").mkdir()
                self._begun[number].set()
                (self._top / ".snap" / f"busy-{number}-{turn}").rmdir()

    def wait(self) -> None:
        """All have got their errors."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client waits for ever"

    def check(self, top: Path) -> None:
        """What was synced is there."""
        for number, turns in enumerate(self.synced):
            found = (top / f"busy-{number}").read_bytes()
            assert len(found) >= turns * 8000
            assert found[: turns * 8000] == b"".join(b"%8d" % turn * 1000 for turn in range(turns))


@pytest.mark.volume(size="256M")
@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_that_is_asked_to_end_while_it_is_used_does_not_or_loses_something(
    way: str, mounted
) -> None:
    mounted.remount(way)
    held = (mounted / "held").open("w+b", buffering=0)
    held.write(b"written before the end")
    pid = mounted.pid
    busy = Busy(mounted.path)
    with contextlib.closing(held), ending(pid, 30):
        os.kill(pid, signal.SIGTERM)
    busy.wait()
    mounted.is_mounted = False
    mounted.mount()
    assert (mounted / "held").read_bytes() == b"written before the end"
    busy.check(mounted.path)


@pytest.mark.volume(size="256M")
@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_that_was_killed_while_it_was_used_leaves_what_was_synced(
    way: str, mounted
) -> None:
    mounted.remount(way)
    pid = mounted.pid
    busy = Busy(mounted.path)
    mounted.kill(pid)
    busy.wait()
    mounted.mount(way)
    busy.check(mounted.path)
