"""The times of ``.snap/NAME``: people and scripts choose the newest snapshot by them. Below, times
are those of then.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


def listed(place: Path, *options: str) -> list[str]:
    return subprocess.run(
        ["ls", *options, place], check=True, capture_output=True, text=True, timeout=30
    ).stdout.split()


def newer(place: Path, than: Path) -> set[str]:
    command = [
        "find",
        place,
        "-mindepth",
        "1",
        "-maxdepth",
        "1",
        "-newer",
        than,
        "-printf",
        r"%f\n",
    ]
    return set(
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=30
        ).stdout.split()
    )


def times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.parametrize("options", ["requests=direct", "requests=pyfuse3"])
def test_the_newest_snapshot_is_chosen_by_its_name(mount_volume: Any, options: str) -> None:
    """In the ``.snap`` in which it was made: of the whole and of a directory, made by whatever way,
    as fast as can be.
    """
    mounted = mount_volume(options=options)
    (mounted / "d").mkdir()
    names = ["c", "a", "d", "b"]
    for name in names:
        (mounted / ".snap" / name).mkdir()
        (mounted / "d" / ".snap" / f"{name}{name}").mkdir()
    mounted.run("snapshot", "create", mounted.path, "0")
    (mounted / ".snap/a/.snap/of a").mkdir()
    (mounted / ".snap/a/file").touch()
    names.append("0")
    for _ in range(2):
        assert listed(mounted / ".snap", "-tr") == listed(mounted / ".snap", "-tcr") == names
        assert listed(mounted / "d/.snap", "-tr")[-4:] == [name * 2 for name in names[:-1]]
        for number, name in enumerate(names):
            assert newer(mounted / ".snap", mounted / ".snap" / name) == set(names[number + 1 :])
        mounted.remount(options)
    assert (mounted / ".snap/a/.snap/of a").stat().st_mtime_ns > (
        mounted / ".snap/0"
    ).stat().st_mtime_ns
    mounted.run("snapshot", "rename", mounted.path, "c", "z")
    (mounted / ".snap/d").rmdir()
    assert listed(mounted / ".snap", "-tr") == ["z", "a", "b", "0"]


def test_what_lies_below_has_the_times_of_the_snapshot(mounted: Any) -> None:
    """Nor does going back bring them into the live tree, and a mount of the snapshot alone shows
    what its root had.
    """
    paths = ["d", "d/e", "d/file"]
    (mounted / "d/e").mkdir(parents=True)
    (mounted / "d/file").write_text("x")
    for number, path in enumerate(["", *paths]):
        os.utime(mounted.path / path, ns=(number * 10**18, number * 10**18 + 1))
    live = {path: times(mounted.path / path) for path in ["", *paths]}
    view = mounted.snapshot("s")
    assert {path: times(view / path) for path in paths} == {path: live[path] for path in paths}
    assert times(view) != live[""]
    os.utime(mounted.path)
    os.utime(mounted / "d")
    mounted.run("restore", mounted.path, "s")
    assert mounted.path.stat().st_mtime_ns == live[""][0]
    assert (mounted / "d").stat().st_mtime_ns == live["d"][0]
    mounted.remount("snapshot=s")
    assert {path: times(mounted.path / path) for path in live} == live


def test_a_backup_program_that_compares_times_takes_all_anew(mounted: Any, tmp_path: Path) -> None:
    (mounted / "d").mkdir()
    for number in range(10):
        (mounted / f"d/file{number}").write_text("x")
        os.utime(mounted / f"d/file{number}", (number * 10**8, number * 10**8))
    mounted.snapshot("one")
    (mounted / "d/file3").write_text("changed")
    mounted.snapshot("two")

    def backup(name: str) -> list[str]:
        command = [
            "rsync",
            "-a",
            "--delete",
            "--out-format=%n",
            f"{mounted.view(name)}/",
            tmp_path / "backup",
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        return [line for line in out.splitlines() if not line.endswith("/")]

    assert len(backup("one")) == 10
    assert backup("one") == []
    assert backup("two") == ["d/file3"]
    assert backup("one") == ["d/file3"]
    assert (tmp_path / "backup/d/file5").stat().st_mtime == 5 * 10**8
