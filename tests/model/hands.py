"""What programs hold of a tree while it is changed around them: open files and directories, and
places to work in.

What they may expect afterwards:

- A file that nobody has a name for any more stays readable, as it was. Only going back with a whole
  volume can end that, with an error: the files of another state of the volume are not kept beside
  it. A file that was open without a name then, too, is as it was then.
- A file that has the same content as before goes on working, whatever happened to its name in
  between.
- A file whose content is another one now shows that one, at most as long as the file was when it
  was opened; or an error.
- A directory that is where it was shows what is in it; one that was removed shows nothing, or an
  error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.sight import digest

_libc = ctypes.CDLL(None, use_errno=True)

#: What a handle ends with when what it was for is not there any more.
GONE = (errno.EIO, errno.ESTALE, errno.ENOENT)


@dataclass
class Hand:
    """One open descriptor."""

    path: str
    descriptor: int
    ino: int
    #: Which inode it is, told from others that had or get its number.
    identity: bytes
    #: Of a file, when it was opened or last written by this harness.
    content: bytes | None
    #: What that was at earlier times.
    earlier: list[bytes] = field(default_factory=list)
    #: Whether it can be written through.
    writes: bool = False
    #: Whether it had a name before what is looked at happened.
    had_name: bool = True

    def sync(self) -> None:
        """Write out what was written through it."""
        try:
            os.fsync(self.descriptor)
        except OSError as exc:  # what was written last could not be stored: its file is gone
            assert exc.errno in GONE, self.path

    def close(self) -> None:
        try:
            os.close(self.descriptor)
        except OSError as exc:  # what was written last could not be stored: its file is gone
            assert exc.errno in GONE, self.path


def take(top: Path, path: str, *, writes: bool = False) -> list[Hand]:
    """Hold what is there: a file open for reading or for both; a directory open, and as somebody's
    place to work in.
    """
    place = top / path
    status = os.lstat(place)
    if stat.S_ISDIR(status.st_mode):
        flags = (os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY)
        descriptors = [os.open(place, each) for each in flags]
        os.listdir(descriptors[0])
        return [Hand(path, each, status.st_ino, identity(place), None) for each in descriptors]
    if not stat.S_ISREG(status.st_mode):
        return []
    descriptor = os.open(place, os.O_RDWR if writes else os.O_RDONLY)
    return [
        Hand(
            path,
            descriptor,
            status.st_ino,
            identity(place),
            os.pread(descriptor, 1 << 20, 0),
            writes=writes,
        )
    ]


def identity(place: Path) -> bytes:
    """The number and the generation of an inode, as name_to_handle_at(2) has them. Raises
    ``OSError``.
    """
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    if _libc.name_to_handle_at(-100, os.fsencode(place), handle, ctypes.byref(ctypes.c_int()), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    size, kind = struct.unpack_from("=Ii", handle)
    return struct.pack("=i", kind) + handle.raw[8 : 8 + size]


@dataclass
class Seen:
    """What a hand showed: an errno, or data, or names; and where the kernel says that it is."""

    error: int = 0
    data: bytes = b""
    names: list[str] | None = None
    status: os.stat_result | None = None
    place: str = ""


def use(hand: Hand) -> Seen:
    """Read through it."""
    place = f"/proc/self/fd/{hand.descriptor}"
    try:
        if hand.content is None:
            # Opened anew by way of /proc: a place to work in can be listed by whoever works there.
            names = sorted(os.listdir(place))
            for name in names:
                os.stat(name, dir_fd=hand.descriptor, follow_symlinks=False)
            return Seen(names=names, status=os.stat(hand.descriptor), place=os.readlink(place))
        return Seen(data=os.pread(hand.descriptor, 1 << 20, 0), status=os.fstat(hand.descriptor))
    except OSError as exc:
        return Seen(error=exc.errno or -1)


def renew(hand: Hand) -> bool:
    """Remember what it shows now, before something happens; False when it is of no use any more."""
    seen = use(hand)
    if seen.error or seen.status is None:
        return False
    hand.had_name = seen.status.st_nlink > 0
    if hand.content is not None:
        hand.earlier.append(hand.content)
        hand.content = seen.data
    return True


def complaint(
    hand: Hand, seen: Seen, top: Path, path: str | None, twin: Path, *, may_end: bool
) -> str | None:
    """What is wrong with what it showed, when a fresh mount has its inode at ``path`` (None:
    nowhere, which ends it if it ``may_end``).
    """
    if (
        path is None
        and may_end
        and (seen.error in GONE or (not seen.error and seen.data in hand.earlier))
    ):
        return None
    right_type = stat.S_ISDIR if hand.content is None else stat.S_ISREG
    if path is not None and not right_type(os.lstat(twin / path).st_mode):
        # The number is another thing's by now.
        return (
            None
            if seen.error in GONE
            else f"open {hand.path}, whose number is that of {path} on a fresh mount: goes on"
        )
    judge = _of_directory if hand.content is None else _of_file
    wrong = judge(hand, seen, top, path, twin)
    return (
        wrong
        and f"open {hand.path}, which is {'nowhere' if path is None else 'at ' + path} on a "
        f"fresh mount: {wrong}"
    )


def _of_directory(hand: Hand, seen: Seen, top: Path, path: str | None, twin: Path) -> str | None:
    if path is None or not hand.had_name:
        if seen.error in GONE or seen.names == []:
            return None
        if path is None:
            return f"shows {seen.error or seen.names}"
    assert path is not None
    right = sorted(os.listdir(twin / path))
    if seen.error or seen.names != right:
        return f"shows {errno.errorcode.get(seen.error) or seen.names}, and not {right}"
    if seen.place and ".snap" not in path and seen.place != os.fspath(top / path if path else top):
        return f"is {seen.place} for the kernel"  # of what is in a snapshot there are several names
    return None


def _of_file(hand: Hand, seen: Seen, _top: Path, path: str | None, twin: Path) -> str | None:
    before = hand.content
    assert before is not None
    now = None if path is None else _read(twin / path)
    if now is None or now == before:
        right = [before]
        may_fail = now is None and hand.path.startswith(".snap/")  # with its snapshot, or purged
    else:
        right = [now, now[: len(before)].ljust(len(before), b"\0")] + (
            [] if hand.had_name else [before]
        )
        may_fail = True
    if seen.error:
        return (
            None
            if may_fail and seen.error in GONE
            else f"fails with {errno.errorcode.get(seen.error)}, and not {digest(before)}"
        )
    if seen.data not in right:
        return f"reads {digest(seen.data)}, and not {' or '.join(map(digest, right))}"
    if now is not None and now == before and hand.had_name:
        assert seen.status is not None
        there = os.lstat(twin / (path or ""))
        for what in ("st_mode", "st_uid", "st_gid", "st_size", "st_nlink"):
            if getattr(there, what) != getattr(seen.status, what):
                return (
                    f"{what} is {getattr(seen.status, what):#o}, and not {getattr(there, what):#o}"
                )
    return None


def _read(place: Path) -> bytes | None:
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
