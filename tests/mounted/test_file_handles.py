"""File handles (open_by_handle_at(2), what NFS servers work with): what exists opens, what was
deleted is ESTALE for ever.

A mount that was made anew knows no names, as one whose caches the kernel has dropped; so each
handle is opened on one of those.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="opening by a handle needs CAP_DAC_READ_SEARCH"
)

AT_FDCWD = -100
SPACE = 128

libc = ctypes.CDLL(None, use_errno=True)


def handle_of(path: Path) -> bytes:
    buffer = ctypes.create_string_buffer(struct.pack("<II", SPACE, 0) + bytes(SPACE))
    mount = ctypes.c_int()
    if libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return buffer.raw


def open_handle(top: Path, handle: bytes, flags: int = os.O_RDONLY) -> int:
    directory = os.open(top, os.O_RDONLY)
    try:
        descriptor = libc.open_by_handle_at(directory, ctypes.create_string_buffer(handle), flags)
    finally:
        os.close(directory)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(descriptor)


def is_stale(function: Callable[..., Any], *args: Any) -> bool:
    try:
        os.close(function(*args))
    except OSError as exc:
        assert exc.errno == errno.ESTALE, exc
        return True
    return False


def identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    os.close(descriptor)
    return status.st_dev, status.st_ino


def test_file_handles_outlive_remounts_and_not_their_files(mounted) -> None:
    (mounted / "a" / "b").mkdir(parents=True)
    (mounted / "a" / "b" / "file").write_text("text")
    handle, directory = handle_of(mounted / "a" / "b" / "file"), handle_of(mounted / "a" / "b")
    mounted.remount()
    with open(open_handle(mounted.path, handle), encoding="utf-8") as file:
        assert file.read() == "text"
    descriptor = open_handle(mounted.path, directory)
    assert os.listdir(descriptor) == ["file"]
    assert os.readlink(f"/proc/self/fd/{descriptor}") == str(mounted / "a" / "b")
    os.close(descriptor)
    (mounted / "a" / "b" / "file").unlink()
    mounted.remount()
    for number in range(20):  # numbers are used again
        (mounted / f"new{number}").write_text("new")
    assert is_stale(open_handle, mounted.path, handle)


#: Where to look for what a snapshot of the whole (``s``), of the directory ``d`` (``p``) and of
#: that (``q``) show.
PLACES = (
    ".snap", "d/.snap", "d/e/.snap", ".snap/s", ".snap/s/f", ".snap/s/d", ".snap/s/d/e",
    ".snap/s/d/e/f", ".snap/s/.snap",
    ".snap/s/d/.snap", "d/.snap/s", "d/.snap/p", "d/.snap/p/e", "d/.snap/p/e/f", "d/e/.snap/p",
    "d/.snap/p/.snap", "d/.snap/p/.snap/q",
    "d/.snap/p/.snap/q/e",
)  # fmt: skip


def fill(mounted: Any) -> None:
    (mounted / "d" / "e").mkdir(parents=True)
    for place in ("f", "d/e/f"):
        (mounted / place).write_text(place)
    for place in (".snap/s", "d/.snap/p", "d/.snap/p/.snap/q"):
        (mounted / place).mkdir()


@pytest.mark.parametrize(
    ("requests", "places"),
    [("direct", PLACES), ("direct", PLACES[::-1]), ("pyfuse3", PLACES[::-1])],
)
def test_a_handle_in_snapshots_does_not_open(
    mounted, requests: str, places: tuple[str, ...]
) -> None:
    """Nor one of ``.snap`` itself, which no listing shows. The deep ones first, when nothing above
    is known, and last, when all is.
    """
    fill(mounted)
    handles = {place: handle_of(mounted / place) for place in places}
    mounted.remount(f"requests={requests}")
    opened = {}
    for place, handle in handles.items():
        try:
            opened[place] = open_handle(mounted.path, handle)
        except OSError as exc:
            pytest.fail(f"{place}: {exc}")
    for place, descriptor in opened.items():
        if (mounted / place).is_dir():
            assert sorted(os.listdir(descriptor)) == sorted(os.listdir(mounted / place))
            found = os.readlink(f"/proc/self/fd/{descriptor}")
            assert os.path.samefile(found, mounted / place), found
        assert identity(descriptor) == identity(os.open(mounted / place, os.O_RDONLY))
    assert ".snap" not in os.listdir(mounted.path), "for others it stays hidden"
    assert ".snap" not in os.listdir(mounted / "d")


def test_a_handle_of_a_deleted_snapshot_opens_what_is_in_the_next(mounted) -> None:
    """Its id is used again, and what the next one shows has the same numbers there."""
    fill(mounted)
    (mounted / "d/.snap/p/.snap/q").rmdir()
    places = [
        place
        for place in PLACES
        if ".snap/q" not in place and place not in (".snap", "d/.snap", "d/e/.snap")
    ]
    handles = {place: handle_of(mounted / place) for place in places}
    (mounted / ".snap/s").rmdir()
    (mounted / "d/.snap/p").rmdir()
    mounted.remount()
    fill_again = {".snap/s": mounted / ".snap/s", "d/.snap/p": mounted / "d/.snap/p"}
    for path in fill_again.values():
        path.mkdir()
    new = {place: handle_of(mounted / place) for place in places}
    assert all(is_stale(open_handle, mounted.path, handle) for handle in handles.values())
    mounted.remount()
    for place, handle in handles.items():
        assert is_stale(open_handle, mounted.path, handle), place
    numbers = [{handle[8:16] for handle in found.values()} for found in (handles, new)]
    assert numbers[0] == numbers[1], "or the test proves nothing"
    for place, handle in new.items():
        assert not is_stale(open_handle, mounted.path, handle), place


def test_a_handle_says_another_thing_for_each_way_to_a_file(mounted) -> None:
    """Made, looked up, listed, reached by its own handle: the kernel is told the same generation
    each time.
    """
    fill(mounted)
    top = mounted / ".snap/s"
    (top / "new").write_text("made")
    (top / "made").mkdir()
    os.mkfifo(top / "pipe")
    os.symlink("f", top / "link")
    os.link(top / "f", top / "linked")
    names = sorted(os.listdir(top))
    first = {name: handle_of(top / name) for name in names} | {".": handle_of(top)}
    mounted.remount()
    looked_up = {name: handle_of(top / name) for name in [*names, "."]}
    mounted.remount()
    os.close(open_handle(mounted.path, first["made"]))
    assert set(os.listdir(top)) == set(names)
    listed = {name: handle_of(top / name) for name in [*names, "."]}
    mounted.remount("requests=pyfuse3")
    other_loop = {name: handle_of(top / name) for name in [*names, "."]}
    assert first == looked_up == listed == other_loop
