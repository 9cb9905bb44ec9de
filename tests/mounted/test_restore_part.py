"""A directory or a file goes back in place, on a real mount, and all else stays as it is (C7)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20

Tree = dict[str, tuple[Any, ...]]


def tree(top: Path) -> Tree:
    """All that users see below a directory, by paths relative to it."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        content: Any = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = [
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in os.listxattr(path, follow_symlinks=False)
        ]
        found[str(path.relative_to(top))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns,
            content, sorted(xattrs),
        )  # fmt: skip
    return found


def numbers(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.lstat().st_ino for path in top.rglob("*")}


def restore(mounted: Any, name: str, *paths: str, code: int = 0) -> Any:
    arguments = [argument for path in paths for argument in ("--path", path)]
    result = mounted.run("restore", mounted.path, name, *arguments, "--json", code=code)
    return json.loads(result.stdout) if not code else result.stderr


@pytest.fixture
def work(mounted: Any) -> Path:
    """``app`` with files of all kinds, ``other`` beside it, and a snapshot ``good`` of ``app``."""
    app: Path = mounted / "app"
    (app / "lib" / "deep").mkdir(parents=True)
    (mounted / "other").mkdir()
    for number in range(20):
        (app / f"file{number}").write_bytes(b"%d" % number * 9000)
        (mounted / "other" / f"file{number}").write_bytes(b"other %d" % number * 900)
    (app / "lib" / "deep" / "large").write_bytes(os.urandom(3 * MIB))
    (app / "link").symlink_to("lib/deep/large")
    (app / "long link").symlink_to("x" * 3000)
    os.link(app / "file1", app / "lib" / "same as file1")
    os.setxattr(app / "file2", "user.small", b"value")
    os.setxattr(app / "file3", "user.large", b"v" * 9000)
    os.mkfifo(app / "fifo")
    (app / "lib").chmod(0o2750)
    (app / ".snap" / "good").mkdir()
    return app


def spoil(app: Path) -> None:
    """What an upgrade does that goes wrong."""
    (app / "file0").write_bytes(b"new")
    (app / "file1").write_bytes(b"new as well")
    (app / "file2").unlink()
    os.setxattr(app / "file3", "user.large", b"other")
    (app / "file4").rename(app / "lib" / "was file4")
    (app / "file5").unlink()
    (app / "file5").mkdir()
    (app / "file5" / "within").write_text("text")
    (app / "lib" / "deep" / "large").write_bytes(b"short")
    (app / "lib").chmod(0o700)
    (app / "new directory").mkdir()
    for number in range(50):
        (app / "new directory" / f"{number}").write_bytes(b"x" * number)
    (app / "link").unlink()
    os.utime(app / "file7", (1, 1))


def test_a_restored_directory_is_another_one(mounted: Any, work: Path) -> None:
    """C7: brought back as it was; beside it nothing has moved, not even a number or a time."""
    before, beside = tree(work), tree(mounted / "other")
    spoil(work)
    spoiled = tree(work)
    (mounted / "other" / "file3").write_bytes(b"changed after the snapshot")
    beside, inodes = tree(mounted / "other"), numbers(mounted / "other")
    with open(mounted / "other" / "file4", "r+b") as outside:
        outside.write(b"in flight")
        outside.flush()
        result = restore(mounted, "good")
        outside.write(b", and on")
    assert (mounted / "other" / "file4").read_bytes().startswith(b"in flight, and on")
    beside["file4"] = tree(mounted / "other")["file4"]
    assert tree(work) == before
    assert tree(mounted / "other") == beside
    assert numbers(mounted / "other") == inodes
    undo = result["undo"]
    shown = tree(work / ".snap" / undo)
    assert {**shown, ".": None} == {
        **spoiled,
        ".": None,
    }  # the directory of a snapshot has the time of its making
    restore(mounted, undo)
    assert tree(work) == spoiled
    restore(mounted, "good")
    mounted.remount()
    assert tree(work) == before
    assert tree(mounted / "other") == beside
    assert not restore(mounted, "good")["changed"]


def test_a_directory_that_is_gone_stays_gone(mounted: Any, work: Path) -> None:
    """C7: removed with all that was in it, renamed, and with another one in its place."""
    before = tree(work)
    mounted.run("umount", mounted.path)
    mounted.mount()
    shutil.rmtree(work)
    restore(mounted, "good")
    assert tree(work) == before
    work.rename(mounted / "elsewhere")
    restore(mounted, "good")
    assert tree(work) == before == tree(mounted / "elsewhere")
    assert not {one for path, one in numbers(mounted / "elsewhere").items()} & {
        one for path, one in numbers(work).items()
    }
    work.rename(mounted / "further")
    work.write_text("a file in its place")
    undo = restore(mounted, "good")["undo"]
    assert tree(work) == before == tree(mounted / "elsewhere") == tree(mounted / "further")
    restore(mounted, undo)
    assert work.read_text() == "a file in its place"


def test_one_file_does_not_come_back(mounted: Any, work: Path) -> None:
    """C7: one file of a snapshot of everything, by its path; its neighbours stay as they are."""
    mounted.snapshot("all")
    content = (work / "file2").read_bytes()
    spoil(work)
    spoiled = tree(work)
    result = restore(mounted, "all", "/app/file2")
    assert (work / "file2").read_bytes() == content
    assert os.getxattr(work / "file2", "user.small") == b"value"
    now = tree(work)
    assert {path: facts for path, facts in now.items() if path not in ("file2", ".")} == {
        path: facts for path, facts in spoiled.items() if path != "."
    }
    restore(mounted, result["undo"])
    assert not (work / "file2").exists(), "nothing was there before"
    assert tree(work).keys() == spoiled.keys()
    restore(mounted, "all", "/app/file2", "/app/lib")
    assert (work / "file2").read_bytes() == content
    assert (work / "lib" / "deep" / "large").stat().st_size == 3 * MIB
    assert (work / "file0").read_bytes() == b"new"


def test_directories_on_the_way_are_missing(mounted: Any, work: Path) -> None:
    content = (work / "lib" / "deep" / "large").read_bytes()
    mode = (work / "lib").stat().st_mode
    work.rename(mounted / "elsewhere")
    restore(mounted, "good", "/app/lib/deep/large")
    assert sorted(str(path.relative_to(work)) for path in work.rglob("*")) == [
        "lib",
        "lib/deep",
        "lib/deep/large",
    ]
    assert (work / "lib" / "deep" / "large").read_bytes() == content
    assert (work / "lib").stat().st_mode == mode


def test_an_open_file_reads_something_else(mounted: Any, work: Path) -> None:
    """What is open goes on as it is, or shows the state that came back; it never hangs, and never
    shows another file.
    """
    (work / "only now").write_bytes(b"not in the snapshot" * 1000)
    with open(work / "only now", "rb") as gone, open(work / "file0", "rb") as kept:
        (work / "file0").write_bytes(b"2" * 100_000)
        restore(mounted, "good")
        assert gone.read() == b"not in the snapshot" * 1000
        assert os.fstat(gone.fileno()).st_nlink == 0
        try:
            # The kernel believes its own size of an open file, and shows zeros behind the end.
            assert kept.read().rstrip(b"\0") == b"0" * 9000
        except OSError as exc:
            assert exc.errno == errno.ESTALE
    assert not (work / "only now").exists()
    mounted.remount()
    assert (work / "file0").read_bytes() == b"0" * 9000


def test_a_link_over_the_border_is_changed_outside(mounted: Any, work: Path) -> None:
    """C7: the name outside keeps what it has; the one inside gets what it had."""
    os.link(work / "file6", mounted / "other" / "link")
    (work / ".snap" / "linked").mkdir()
    (mounted / "other" / "link").write_bytes(b"changed through the other name")
    restore(mounted, "linked")
    assert (work / "file6").read_bytes() == b"6" * 9000
    assert (mounted / "other" / "link").read_bytes() == b"changed through the other name"
    assert (work / "file6").stat().st_nlink == (mounted / "other" / "link").stat().st_nlink == 1


def test_a_full_volume_cannot_go_back(mount_volume: Callable[..., Any]) -> None:
    """C7: blocks are shared, so it takes no space."""
    mounted = mount_volume(size="32M")
    (mounted / "d").mkdir()
    content = os.urandom(8 * MIB)
    (mounted / "d" / "file").write_bytes(content)
    os.sync()
    (mounted / "d" / ".snap" / "s").mkdir()
    (mounted / "d" / "file").unlink()
    with (
        open(mounted / "d" / "filler", "wb", buffering=0) as file,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            file.write(b"x" * MIB)
            os.fsync(file.fileno())
    restore(mounted, "s", "/d/file")
    assert (mounted / "d" / "file").read_bytes() == content


@pytest.mark.parametrize(
    ("paths", "words", "code"),
    [
        (["/app/nothing"], "no such path in snapshot 'good'", 1),
        (["/other"], "covers only /app", 2),
        (["/app/../other"], "'..' has no place", 2),
        (["/app/lib/deep"], "/app/lib is not a directory now: move it away first", 1),
    ],
)
def test_a_path_that_cannot_be_restored_is_not_refused(
    mounted: Any, work: Path, paths: list[str], words: str, code: int
) -> None:
    (work / "lib").rename(work / "was lib")
    (work / "lib").write_text("a file")
    before = tree(mounted.path)
    error = restore(mounted, "good", *paths, code=code)
    assert len(error.splitlines()) == 1
    assert words in error
    assert tree(mounted.path) == before
    assert [
        one["name"]
        for one in json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout)
    ] == ["good"]
