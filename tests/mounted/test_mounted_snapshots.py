"""Mounts of single snapshots, as backup programs use them: the same numbers in each, and as a further mount beside the volume's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PATHS = ("", "d", "d/file", "link", "pipe")


def fill(top: Path) -> None:
    (top / "d").mkdir()
    (top / "d/file").write_text("first")
    os.symlink("d", top / "link")
    os.mkfifo(top / "pipe")


def seen(top: Path) -> dict[str, tuple[int, ...]]:
    """What backup programs compare of files: were it another, they would read all anew."""
    found = {path: (top / path).lstat() for path in PATHS}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for path, one in found.items()}


def test_a_backup_program_sees_other_files_in_each_snapshot(mounted: Any) -> None:
    fill(mounted.path)
    live = seen(mounted.path)
    mounted.snapshot("one")
    (mounted / "new").touch()
    mounted.snapshot("two")
    (mounted / ".snap/one/.snap/of one").mkdir()
    for name in ("one", "two"):
        mounted.remount(f"snapshot={name}")
        found = seen(mounted.path)
        assert {path: found[path] for path in PATHS[1:]} == {path: live[path] for path in PATHS[1:]}
        assert found[""][0] == live[""][0]
    mounted.remount("snapshot=one")
    inner = mounted / ".snap/of one"
    assert not {one[0] for one in seen(inner).values()} & {one[0] for one in seen(mounted.path).values()}
    (mounted / "d/file").write_text("second")
    with (mounted / "d/file").open("a") as file:  # what is held back is fetched from the mounted view, too
        file.write(" and more")
        file.flush()
        (mounted / ".snap/again").mkdir()
    assert (mounted / ".snap/again/d/file").read_text() == "second and more"
    assert (inner / "d/file").read_text() == "first"
    mounted.run("restore", mounted.path, "two")
    assert (mounted / "d/file").read_text() == "second and more", "that was the base's"
    mounted.remount()
    assert (mounted / "new").exists()
