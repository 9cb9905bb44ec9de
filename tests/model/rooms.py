"""Ways in which a tree is spoiled before it is brought back, each in a directory of its own: its
room.

A room is made, looked at, perhaps used by somebody (``USES``), and spoiled. What comes after that,
and the comparison, is the test's.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from tests.model.sight import ACCESS, DEFAULT

#: ACLs as they are stored (linux/posix_acl_xattr.h): version 2, then tag, permissions and id of
#: each entry.
_NO_ID = b"\xff\xff\xff\xff"


def acl(user: int, bits: int) -> bytes:
    """An ACL that gives one more user some permissions."""
    entries = [
        (1, 7, _NO_ID),
        (2, bits, user.to_bytes(4, "little")),
        (4, 5, _NO_ID),
        (16, 7, _NO_ID),
        (32, 1, _NO_ID),
    ]
    return b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + who for tag, mode, who in entries
    )


def build(room: Path) -> None:
    """What is in every room before it is spoiled."""
    room.mkdir(parents=True)
    for name in ("project", "other", "empty", "deep", "deep/er", "deep/er/est"):
        (room / name).mkdir()
    (room / "project" / "paper").write_text("first\n")
    (room / "project" / "log").write_bytes(b"l" * 9000)
    (room / "other" / "paper").write_text("of the other\n")
    (room / "deep/er/est/file").write_text("deep\n")
    (room / "file").write_bytes(b"content\n" * 2000)
    (room / "twice").write_text("two names\n")
    os.link(room / "twice", room / "project" / "second")
    (room / "link").symlink_to("project/paper")
    os.mkfifo(room / "pipe")
    for name in ("file", "project"):
        os.setxattr(room / name, "user.x", b"before")
        os.setxattr(room / name, ACCESS, acl(65533, 5))
    os.setxattr(room / "project", DEFAULT, acl(65533, 4))


def nothing(room: Path) -> None:
    assert room.is_dir()


def directory_removed(room: Path) -> None:
    shutil.rmtree(room / "project")


def directory_moved_away(room: Path) -> None:
    (room / "project").rename(room / "project.bad")


def directory_emptied(room: Path) -> None:
    for name in os.listdir(room / "project"):
        (room / "project" / name).unlink()


def directories_swapped(room: Path) -> None:
    (room / "project").rename(room / "third")
    (room / "other").rename(room / "project")
    (room / "third").rename(room / "other")


def directory_made_anew(room: Path) -> None:
    shutil.rmtree(room / "project")
    (room / "project").mkdir()
    (room / "project" / "paper").write_text("anew\n")


def directory_replaced_by_rename(room: Path) -> None:
    directory_emptied(room)
    (room / "other").rename(room / "project")


def directory_replaced(kind: str) -> Callable[[Path], None]:
    def spoil(room: Path) -> None:
        shutil.rmtree(room / "project")
        make = {
            "file": lambda place: place.write_text("no directory\n"),
            "pipe": os.mkfifo,
            "link": lambda place: place.symlink_to("other"),
        }
        make[kind](room / "project")

    return spoil


def directory_moved_down(room: Path) -> None:
    (room / "project").rename(room / "deep/er/est/project")


def things_removed(room: Path) -> None:
    for name in (
        "file",
        "link",
        "pipe",
        "twice",
        "project/paper",
        "project/second",
        "deep/er/est/file",
    ):
        (room / name).unlink()
    (room / "empty").rmdir()


def things_replaced(room: Path) -> None:
    for name in ("file", "link", "pipe"):
        (room / name).unlink()
    (room / "file").mkdir()
    (room / "file" / "inside").write_text("inside\n")
    (room / "link").write_text("a file\n")
    (room / "pipe").symlink_to("file")
    (room / "empty").rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.open(".", os.O_RDONLY)  # a socket's path may have 108 bytes
        os.chdir(room)
        try:
            listener.bind("empty")
        finally:
            os.fchdir(before)
            os.close(before)


def things_made(room: Path) -> None:
    for name in ("new", "project/new", "empty/new"):
        (room / name).write_text("new\n")
    (room / "new directory").mkdir()
    (room / "new directory" / "file").write_text("new\n")
    (room / "new link").symlink_to("new")
    os.link(room / "file", room / "project" / "linked")


def attributes_changed(room: Path) -> None:
    for name in ("file", "project", "project/log", "pipe", "deep/er", "twice"):
        os.chown(room / name, 65532, 65531)
        os.chmod(room / name, 0o700)
        os.utime(room / name, ns=(1_000_000_000, 2_000_000_007))
    os.chown(room / "link", 65532, 65531, follow_symlinks=False)


def attributes_of_the_room_changed(room: Path) -> None:
    os.chown(room, 65532, 65531)
    os.chmod(room, 0o711)
    os.setxattr(room, DEFAULT, acl(65530, 7))
    os.setxattr(room, "user.y", b"new")


def acls_changed(room: Path) -> None:
    os.setxattr(room / "file", ACCESS, acl(65530, 7))
    os.removexattr(room / "project", ACCESS)
    os.removexattr(room / "project", DEFAULT)
    os.setxattr(room / "other", DEFAULT, acl(65530, 7))
    os.setxattr(room / "file", "user.x", b"after")
    os.setxattr(room / "other", "user.y", b"new")


def links_changed(room: Path) -> None:
    (room / "link").unlink()
    (room / "link").symlink_to("file")


def contents_changed(room: Path) -> None:
    (room / "file").write_bytes(b"longer than before\n" * 3000)
    (room / "project/log").write_bytes(b"short")
    os.truncate(room / "twice", 0)
    with (room / "deep/er/est/file").open("r+b") as file:
        file.write(b"D")


def same_bytes_written(room: Path) -> None:
    for name in ("file", "project/log", "twice"):
        data = (room / name).read_bytes()
        (room / name).write_bytes(data)


def same_bytes_in_new_files(room: Path) -> None:
    for name in ("file", "project/log", "twice"):
        data = (room / name).read_bytes()
        (room / name).unlink()
        (room / name).write_bytes(data)


def saved_by_rename(room: Path) -> None:
    for name in ("file", "project/paper", "twice"):
        (room / "temporary").write_bytes(b"saved by an editor\n")
        (room / "temporary").rename(room / name)


def files_swapped(room: Path) -> None:
    (room / "file").rename(room / "third")
    (room / "project/log").rename(room / "file")
    (room / "third").rename(room / "project/log")


def hard_links_moved(room: Path) -> None:
    (room / "project/second").unlink()
    os.link(room / "twice", room / "other" / "second")
    os.link(room / "file", room / "project" / "second")


SPOILS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        nothing,
        directory_removed,
        directory_moved_away,
        directory_emptied,
        directories_swapped,
        directory_made_anew,
        directory_replaced_by_rename,
        directory_moved_down,
        things_removed,
        things_replaced,
        things_made,
        attributes_changed,
        attributes_of_the_room_changed,
        acls_changed,
        links_changed,
        contents_changed,
        same_bytes_written,
        same_bytes_in_new_files,
        saved_by_rename,
        files_swapped,
        hard_links_moved,
    )
} | {
    f"directory_replaced_by_a_{kind}": directory_replaced(kind) for kind in ("file", "pipe", "link")
}

_FILES = ("file", "twice", "project/log", "project/paper", "other/paper", "deep/er/est/file")

#: Who uses a room while it is spoiled: what somebody has open in it, and what of that to write.
USES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unused": ((), ()),
    "worked in": (("", "project", "other", "empty", "deep/er"), ()),
    "open": (_FILES[::2], _FILES[1::2]),
}
