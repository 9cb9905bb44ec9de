"""What the kernel holds back of files that are being written reaches every snapshot, whatever
others do meanwhile (A2).

The daemon has three ways to get it: opening files by their handles, by names that are used once,
and page by page. Which one it has depends on what it may do; none may fail silently, nor show
anything to others that they could use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

USER = 12_345

#: What a daemon may not do that has only this way to the kernel's pages.
WAYS = {"handles": "", "names": "-dac_read_search", "pages": "-dac_read_search,-dac_override"}
ways = pytest.mark.parametrize("way", WAYS)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")

libc = ctypes.CDLL(None, use_errno=True)

#: sys/inotify.h
IN_OPEN, IN_CLOSE_NOWRITE = 0x20, 0x10
EVENT = struct.Struct("iIII")


class Watch:
    """What inotify tells of a directory or a file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert (
            libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_OPEN | IN_CLOSE_NOWRITE)
            > 0
        )

    def names(self) -> list[bytes]:
        """The names of all that was opened or closed since the last call; empty for the watched
        thing itself.
        """
        found = []
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return found
            while data:
                *_, length = EVENT.unpack_from(data)
                found.append(data[EVENT.size : EVENT.size + length].rstrip(b"\0"))
                data = data[EVENT.size + length :]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def mount_with(mounted, snapfs_command: Callable[..., list[str]]) -> Callable[..., Path]:
    """Mounts the volume by a daemon that has this way to the kernel's pages."""

    def mount(way: str, options: str = "allow_other") -> Path:
        mounted.unmount()
        command = ["setpriv", "--bounding-set", WAYS[way]] if WAYS[way] else []
        command += snapfs_command("mount", mounted.image, mounted.path, "-o", options)
        subprocess.run(command, check=True, timeout=60)
        mounted.is_mounted = True
        return mounted.path

    return mount


@pytest.fixture
def watch() -> Iterator[Callable[[Path], Watch]]:
    watches: list[Watch] = []

    def begin(path: Path) -> Watch:
        watches.append(Watch(path))
        return watches[-1]

    yield begin
    for one in watches:
        one.close()


def as_user(function: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            function()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def looked_up(directory: int, names: list[bytes]) -> None:
    """Ask for names, as somebody who has learned them."""
    for name in names:
        try:
            os.stat(name, dir_fd=directory)
        except OSError:
            continue


def closed_file(top: Path) -> int:
    """A file that is open for writing and that no daemon may open that has
    to respect permissions.
    """
    descriptor = os.open(top / "file", os.O_RDWR | os.O_CREAT, 0)
    os.fchown(descriptor, USER, USER)
    os.fchmod(descriptor, 0)
    return descriptor


@ways
@pytest.mark.parametrize("loop", ["", ",requests=pyfuse3"])
def test_somebody_who_looks_at_what_the_daemon_opens_makes_snapshots_miss_writes(
    way: str, loop: str, mounted, mount_with, watch
) -> None:
    """Also the one that is taken by somebody who makes a snapshot read-only or restores it."""
    top = mount_with(way, f"allow_other{loop}")
    root = os.open(top, os.O_RDONLY)
    seen = watch(top)
    descriptor = closed_file(top)
    learned: set[bytes] = set()
    try:
        for number in range(4):
            os.pwrite(descriptor, b"%d" % number * 10_000, 0)
            mounted.snapshot(f"s{number}")
            names = [name for name in seen.names() if name.startswith(b".")]
            as_user(lambda: looked_up(root, names))  # noqa: B023 - called at once
            # A name that comes again could be answered, or made, by somebody else.
            used = set(names)
            assert not used & learned
            assert bool(used) == (way == "names")
            learned |= used
        inside = os.open(top / ".snap" / "s0" / "file", os.O_RDWR)
        os.pwrite(inside, b"inside" * 2000, 0)
        mounted.run("snapshot", "set", top, "s0", "--read-only")
        try:
            os.close(inside)
        except OSError as exc:
            # Page by page, only content is fetched: the kernel has the time of that write left,
            # which it sends when the file is closed, and which the snapshot does not take any more.
            assert (way, exc.errno) == ("pages", errno.EROFS)
        os.pwrite(descriptor, b"last" * 2500, 0)
        mounted.run("restore", top, "s1")
    finally:
        os.close(root)
        os.close(descriptor)
    found = [(top / ".snap" / f"s{number}" / "file").read_bytes() for number in range(1, 4)]
    assert found == [b"%d" % number * 10_000 for number in range(1, 4)]
    assert (top / ".snap" / "s0" / "file").read_bytes() == b"inside" * 2000
    assert (top / "file").read_bytes() == b"1" * 10_000
    (undo,) = [
        path
        for path in (top / ".snap").iterdir()
        if path.name not in {f"s{number}" for number in range(4)}
    ]
    assert (undo / "file").read_bytes() == b"last" * 2500


@ways
def test_a_link_under_a_name_of_the_daemons_leads_it_out_of_the_volume(
    way: str, mounted, mount_with, watch, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    top = mount_with(way)
    top.chmod(0o1777)
    seen, opened = watch(top), watch(outside)
    root = os.open(top, os.O_RDONLY)
    descriptor = closed_file(top)

    def plant() -> None:
        for name in learned:
            with contextlib.suppress(OSError):
                os.symlink(outside, name, dir_fd=root)

    try:
        for number in range(2):
            os.pwrite(descriptor, b"%d" % number * 10_000, 0)
            mounted.snapshot(f"s{number}")
            learned = [name for name in dict.fromkeys(seen.names()) if name.startswith(b".")]
            as_user(plant)
    finally:
        os.close(root)
        os.close(descriptor)
    assert opened.names() == []
    assert (top / ".snap" / "s1" / "file").read_bytes() == b"1" * 10_000
