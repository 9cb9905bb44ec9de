"""``-o snapro``: all snapshots are read-only through the mount, and are made, renamed and deleted
as ever.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def changes(view: Path) -> dict[str, Callable[[], Any]]:
    """What users do to a snapshot: each must fail."""
    file, directory = view / "d/file", view / "d"
    return {
        "write": lambda: os.open(file, os.O_WRONLY),
        "append": lambda: os.open(file, os.O_RDWR | os.O_APPEND),
        "empty": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "cut": lambda: os.truncate(file, 1),
        "create": lambda: os.open(directory / "new", os.O_CREAT | os.O_WRONLY),
        "mkdir": (directory / "new").mkdir,
        "mknod": lambda: os.mkfifo(directory / "new"),
        "symlink": lambda: os.symlink("x", directory / "new"),
        "link": lambda: os.link(file, directory / "new"),
        "rename": lambda: file.rename(directory / "new"),
        "unlink": file.unlink,
        "rmdir": (view / "empty").rmdir,
        "chmod": lambda: file.chmod(0o600),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.x", b"y"),
        "removexattr": lambda: os.removexattr(file, "user.a"),
        "top": (view / "new").touch,
    }


def all_fail(view: Path) -> None:
    for name, change in changes(view).items():
        with pytest.raises(OSError) as caught:
            change()
        assert (name, caught.value.errno) == (name, errno.EROFS)
    assert (view / "d/file").read_text() == "text"
    assert os.listdir(view / "d") == ["file"]
    assert stat.S_IMODE((view / "d/file").stat().st_mode) == 0o644


@pytest.mark.parametrize("requests", ["direct", "pyfuse3"])
def test_a_snapshot_changes_where_all_are_shown_read_only(
    mount_volume: Callable[..., Any], requests: str
) -> None:
    options = f"snapro,requests={requests}"
    mounted = mount_volume(options=options)
    (mounted / "d").mkdir()
    (mounted / "empty").mkdir()
    (mounted / "d/file").write_text("text")
    os.setxattr(mounted / "d/file", "user.a", b"")
    (mounted / "d/file").chmod(0o644)
    (mounted / ".snap/s").mkdir()
    (mounted / "d/.snap/p").mkdir()
    (mounted / ".snap/s/.snap/again").mkdir()
    all_fail(mounted / ".snap/s")
    mounted.remount(options)
    (mounted / ".snap/s").rename(mounted / ".snap/t")
    for view in (mounted / ".snap/t", mounted / ".snap/t/.snap/again"):
        all_fail(view)
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "d/.snap/p/file").write_text("other")
    (mounted / "d/file").write_text("the live tree is as ever")
    mounted.run("restore", mounted.path, "t", "--path", "d/file")
    assert (mounted / "d/file").read_text() == "text"
    (mounted / "d/.snap/p").rmdir()
    mounted.run("snapshot", "delete", mounted.path, "again")
    mounted.remount(f"snapshot=t,{options}")
    all_fail(mounted.path)
    mounted.remount(f"requests={requests}")
    (mounted / ".snap/t/d/file").write_text("it was the mount, not the snapshot")
