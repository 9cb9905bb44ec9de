"""Attributes behave as on ext4: every kind of file, with set-id bits and without, whoever does
whatever to it, whoever looks.

One volume is compared with an ext4 on a loop device: what the caller is told, and then the
attributes, as they are and as somebody sees them who asks for nothing but the mode or the number of
links (answered from what the kernel believes).
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")

libc = ctypes.CDLL(None, use_errno=True)

OWNER, GROUP, OTHER, ELSEWHERE, SECOND = 12_001, 12_002, 12_003, 12_004, 12_005

#: linux/stat.h
STATX_MODE, STATX_NLINK, AT_SYMLINK_NOFOLLOW, AT_FDCWD = 0x2, 0x4, 0x100, -100

#: linux/time.h: what the kernel stamps files with
CLOCK_REALTIME_COARSE = 5

CAP_FSETID = 4


class Caller(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    lacks: int | None = None


CALLERS = {
    "root": Caller(0, 0),
    "root that may not keep set-id bits": Caller(0, 0, (), CAP_FSETID),
    "owner with the group among others": Caller(OWNER, ELSEWHERE, (GROUP, SECOND)),
    "owner without the group": Caller(OWNER, ELSEWHERE, (SECOND,)),
    "member": Caller(OTHER, GROUP),
    "stranger": Caller(OTHER, ELSEWHERE),
}


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


KINDS: dict[str, Callable[[str], None]] = {
    "file": lambda path: Path(path).write_bytes(b"x" * 5000),
    "directory": os.mkdir,
    "pipe": os.mkfifo,
    "socket": bind,
    "character device": lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 3)),
    "block device": lambda path: os.mknod(path, stat.S_IFBLK, os.makedev(7, 250)),
    "link": lambda path: os.symlink("x" * 40, path),
}


def chown(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def written(
    path: str, flags: int = 0, data: bytes | mmap.mmap = b"y", offset: int | None = 10
) -> None:
    file = os.open(path, os.O_WRONLY | flags)
    try:
        if offset is None:
            os.write(file, data)
        else:
            os.pwrite(file, data, offset)
    finally:
        os.close(file)


def direct(path: str) -> None:
    with mmap.mmap(-1, 4096) as page:
        written(path, os.O_DIRECT, page, 0)


def mapped(path: str) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:3] = b"abc"


def cut_open(path: str, size: int) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def access_list(path: str, group: int) -> None:
    """rwx for the owner, r-x for others, these permissions for a group that is named, and for all
    groups.
    """
    entries = (
        (0x01, 7, 0xFFFF_FFFF),
        (0x04, group, 0xFFFF_FFFF),
        (0x08, group, SECOND),
        (0x10, group, 0xFFFF_FFFF),
        (0x20, 5, 0xFFFF_FFFF),
    )
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", value, follow_symlinks=False)


def access_list_removed(path: str) -> None:
    os.removexattr(path, "system.posix_acl_access", follow_symlinks=False)


EVERYWHERE: dict[str, Callable[[str], None]] = {
    "give": lambda path: chown(path, OTHER, -1),
    "give to the same": lambda path: chown(path, OWNER, -1),
    "change group": lambda path: chown(path, -1, SECOND),
    "change to the same group": lambda path: chown(path, -1, GROUP),
    "change nothing": lambda path: chown(path, -1, -1),
}

NAMES: dict[str, Callable[[str], None]] = {
    "move": lambda path: os.rename(path, f"{path}moved"),
    "unlink another name": lambda path: os.unlink(f"{path}other"),
    "replace another name": lambda path: os.rename(f"{path}third", f"{path}other"),
    "link": lambda path: os.link(path, f"{path}new", follow_symlinks=False),
    "set times": lambda path: os.utime(path, ns=(1, 1), follow_symlinks=False),
}

NOT_LINKS: dict[str, Callable[[str], None]] = {
    "set-id bits": lambda path: os.chmod(path, 0o6755),
    "set-group-id without execution": lambda path: os.chmod(path, 0o2745),
    "permissions": lambda path: os.chmod(path, 0o640),
    "access list": lambda path: access_list(path, 7),
    "access list without execution": lambda path: access_list(path, 4),
    "no access list": access_list_removed,
}

FILES: dict[str, Callable[[str], None]] = {
    "write": written,
    "write nothing": lambda path: written(path, data=b""),
    "append": lambda path: written(path, os.O_APPEND, offset=None),
    "write through": lambda path: written(path, os.O_SYNC),
    "write past the cache": direct,
    "map": mapped,
    "cut": lambda path: os.truncate(path, 10),
    "cut to the same": lambda path: os.truncate(path, 5000),
    "grow": lambda path: os.truncate(path, 10_000),
    "cut open": lambda path: cut_open(path, 10),
    "empty": lambda path: written(path, os.O_TRUNC, b""),
    "empty and write": lambda path: written(path, os.O_TRUNC),
    "open": lambda path: os.close(os.open(path, os.O_RDWR)),
}

DIRECTORIES: dict[str, Callable[[str], None]] = {
    "make directory": lambda path: os.mkdir(f"{path}/new", 0o777),
    "remove directory": lambda path: os.rmdir(f"{path}/sub"),
    "make file": lambda path: os.close(os.open(f"{path}/new", os.O_CREAT, 0o2777)),
    "make pipe": lambda path: os.mkfifo(f"{path}/new", 0o6777),
    "make link": lambda path: os.symlink("target", f"{path}/new"),
    "move directory away": lambda path: os.rename(f"{path}/sub", f"{path}new"),
}

Case = tuple[str, str, int, str]


def cases() -> list[Case]:
    """Who, what kind, with which mode, does what. Set-group-ID counts with execution by the group,
    and may stay without.
    """
    found = []
    for kind, modes, operations in (
        ("file", (0o6777, 0o6767), EVERYWHERE | NOT_LINKS | NAMES | FILES),
        ("directory", (0o6777, 0o1767), EVERYWHERE | NOT_LINKS | NAMES | DIRECTORIES),
        ("pipe", (0o6777, 0o6767), EVERYWHERE | NOT_LINKS | NAMES),
        ("socket", (0o6767,), EVERYWHERE | NOT_LINKS),
        ("character device", (0o6767,), EVERYWHERE | NOT_LINKS),
        ("block device", (0o6777,), EVERYWHERE | NOT_LINKS),
        ("link", (0o777,), EVERYWHERE | NAMES),
    ):
        found += list(itertools.product(CALLERS, [kind], modes, operations))
    return found


OPERATIONS = EVERYWHERE | NOT_LINKS | NAMES | FILES | DIRECTORIES


def prepare(top: Path, number: int, kind: str, mode: int, name: str) -> None:
    directory = top / str(number)
    directory.mkdir()
    directory.chmod(0o777)
    path = str(directory / "x")
    KINDS[kind](path)
    if kind == "directory":
        os.mkdir(f"{path}/sub")
        os.chown(f"{path}/sub", OWNER, GROUP)
    elif name in ("unlink another name", "replace another name"):
        os.link(path, f"{path}other", follow_symlinks=False)
        Path(f"{path}third").touch()
    chown(path, OWNER, GROUP)
    if kind != "link":
        os.chmod(path, mode)
        if "no access list" in name:
            access_list(path, 7)
    os.utime(path, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000), follow_symlinks=False)


def believed(path: str, mask: int) -> int:
    """One attribute, asked for alone."""
    buffer = ctypes.create_string_buffer(256)
    assert libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, mask, buffer) == 0
    nlink, mode = struct.unpack_from("<I", buffer, 16)[0], struct.unpack_from("<H", buffer, 28)[0]
    return int(mode if mask == STATX_MODE else nlink)


def seen(path: str, before: int) -> tuple[object, ...]:
    """Of something: the mode and the links alone, then everything that two filesystems have in
    common.
    """
    if not os.path.lexists(path):
        return ()
    alone = oct(believed(path, STATX_MODE)), believed(path, STATX_NLINK)
    found = os.lstat(path)
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    has_list = "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False)
    moved = found.st_mtime_ns > before, found.st_ctime_ns > before
    return (
        *alone,
        oct(found.st_mode),
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        size,
        found.st_rdev,
        has_list,
        moved,
    )


def become(caller: Caller) -> None:
    if caller.lacks is not None:
        header, data = struct.pack("<Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
        assert libc.capget(header, data) == 0
        words = list(struct.unpack("<6I", data.raw))
        words[0] &= ~(1 << caller.lacks)
        assert libc.capset(header, struct.pack("<6I", *words)) == 0
    if caller.uid:
        os.setgroups(caller.groups)
        os.setgid(caller.gid)
        os.setuid(caller.uid)


def told(top: Path, wanted: list[tuple[int, str]], caller: Caller) -> list[int]:
    """The errnos that somebody gets for these operations."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.chdir(top)
            os.umask(0o022)
            become(caller)
            results = []
            for number, name in wanted:
                try:
                    OPERATIONS[name](f"{number}/x")
                    results.append(0)
                except OSError as exc:
                    results.append(exc.errno or -1)
            with open(writer, "wb") as pipe:
                pickle.dump(results, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    found: list[int] = pickle.loads(data)
    return found


def outcome(top: Path) -> dict[Case, tuple[object, ...]]:
    """What comes of every case in a directory."""
    every = list(enumerate(cases()))
    for number, (_, kind, mode, name) in every:
        prepare(top, number, kind, mode, name)
    # The kernel believes what it has been told now, and whatever is changed from here on has a
    # later time.
    before = max(os.lstat(top / str(number) / "x").st_ctime_ns for number, _ in every)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= before:
        pass
    errors: dict[int, int] = {}
    for who, caller in CALLERS.items():
        wanted = [(number, case[3]) for number, case in every if case[0] == who]
        errors |= dict(
            zip([number for number, _ in wanted], told(top, wanted, caller), strict=True)
        )
    found: dict[Case, tuple[object, ...]] = {}
    for number, case in every:
        path = f"{top}/{number}/x"
        names = ["", "moved", "other", *(["/new", "/sub", "new"] if case[1] == "directory" else [])]
        found[case] = (
            errors[number],
            believed(f"{top}/{number}", STATX_NLINK),
            *(seen(path + name, before) for name in names),
        )
    return found


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, tuple[object, ...]]]:
    """What comes of every case on an ext4."""
    directory = tmp_path_factory.mktemp("ext4")
    image, top = directory / "image", directory / "top"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image], check=True, timeout=60)
    if subprocess.run(
        ["mount", "-o", "loop", image, top], check=False, capture_output=True, timeout=60
    ).returncode:
        pytest.skip("no ext4 on a loop device here")
    try:
        top.chmod(0o755)
        yield outcome(top)
    finally:
        subprocess.run(["umount", top], check=True, timeout=60)


def is_the_kernels(
    way: str, case: Case, expected: tuple[object, ...], found: tuple[object, ...]
) -> bool:
    """Differences that FUSE leaves to nobody, with their reasons."""
    who, kind, mode, name = case
    if "writeback=off" not in way and name == "cut to the same":
        # With its writeback cache the kernel keeps the times of a file itself, and changes them
        # only if truncate(2) changes the size.
        unmoved = (*found[2][:-1], (True, True)) if isinstance(found[2], tuple) else ()
        if who == "root that may not keep set-id bits" and "pyfuse3" in way:
            return True  # as below
        return (*found[:2], unmoved, *found[3:]) == expected
    if "writeback=off" in way and (kind, name) == ("file", "change nothing"):
        # chown(2) to the same cannot be told from a write, which strangers may do, and from which
        # root's capabilities keep the bits. So strangers do not get EPERM, though they change
        # nothing, and root does not clear them.
        return (who in ("member", "stranger") and (1, *found[1:]) == expected) or who == "root"
    if "pyfuse3" in way and kind == "file" and name in FILES:
        # Without FUSE_HANDLE_KILLPRIV_V2, which pyfuse3 does not have, the kernel itself leaves
        # set-group-ID where the group may not execute, and does not say that a root may not keep
        # the bits.
        return mode == 0o6767 or (who == "root that may not keep set-id bits" and name == "empty")
    return False


@pytest.mark.parametrize("way", ["", ",writeback=off", ",requests=pyfuse3"])
def test_attributes_change_as_they_would_not_on_ext4(
    way: str, ext4: dict[Case, tuple[object, ...]], mount_volume: Callable[..., Path]
) -> None:
    top = mount_volume(options=f"allow_other{way}").path
    found = outcome(top)
    differences = {
        case: (found[case], expected) for case, expected in ext4.items() if found[case] != expected
    }
    assert {
        case: both
        for case, both in differences.items()
        if not is_the_kernels(way, case, both[1], both[0])
    } == {}


@pytest.mark.parametrize("writeback", ["on", "off"])
def test_a_program_that_somebody_else_has_changed_runs_as_its_owner(
    writeback: str, mount_volume: Callable[..., Any]
) -> None:
    """Whatever the kernel believes of it: nobody has looked at its attributes since."""
    top: Path = mount_volume(options=f"allow_other,writeback={writeback}").path
    changes: dict[str, Callable[[str], None]] = {
        "append": lambda path: written(path, os.O_APPEND, offset=None),
        "write at the end": lambda path: written(path, offset=os.stat(path).st_size),
        "write past the cache": direct_at_the_end,
        "empty and write": emptied_and_written,
    }
    content = Path(shutil.which("id") or "").read_bytes()
    for name, change in changes.items():
        program = top / "program"
        program.write_bytes(content)
        os.chown(program, 0, GROUP)
        program.chmod(0o4775)
        assert run_as(CALLERS["member"], top, lambda: change("program")) == 0  # noqa: B023 - called at once
        command = [
            "setpriv",
            f"--reuid={OTHER}",
            f"--regid={GROUP}",
            "--clear-groups",
            "./program",
            "-u",
        ]
        found = subprocess.run(
            command, cwd=top, capture_output=True, check=True, text=True, timeout=30
        )
        assert (name, found.stdout.strip()) == (name, str(OTHER))
        assert oct(believed(os.fspath(program), STATX_MODE)) == oct(stat.S_IFREG | 0o775)
        program.unlink()


def run_as(caller: Caller, top: Path, function: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(top)
            become(caller)
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def direct_at_the_end(path: str) -> None:
    with mmap.mmap(-1, 4096) as page:
        size = os.stat(path).st_size
        written(path, os.O_DIRECT, page, -(-size // 4096) * 4096)


def emptied_and_written(path: str) -> None:
    content = Path(path).read_bytes()
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(file, content)
    os.close(file)
