"""Snapshots in which somebody works or has mounted something, while they or others are renamed and
deleted.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Prints its working directory, and what is in it, for every line that it reads.
WORKING = """
import os, sys
print(flush=True)
for line in sys.stdin:
    print(os.getcwd(), sorted(os.listdir(".")), flush=True)
"""


class Worker:
    """A process that works in a directory."""

    def __init__(self, place: Path) -> None:
        command = [sys.executable, "-c", WORKING]
        self.process = subprocess.Popen(
            command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it is there

    def look(self) -> str:
        """Where it believes to be, and what it sees there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture
def worker(mounted: Any) -> Iterator[Worker]:
    """Works in a directory of the snapshot ``one``, beside the snapshots ``two`` and ``three``."""
    (mounted / "d/inner").mkdir(parents=True)
    (mounted / "d/file").touch()
    for name in ("one", "two", "three"):
        mounted.snapshot(name)
    made = Worker(mounted.view("one") / "d")
    yield made
    made.process.communicate(timeout=60)


def seen(mounted: Any, name: str) -> str:
    return f"{mounted.view(name) / 'd'} ['file', 'inner']"


def test_who_works_in_a_snapshot_is_lost_when_another_one_changes(
    mounted: Any, worker: Worker
) -> None:
    mounted.run("snapshot", "rename", mounted.path, "two", "TWO")
    assert worker.look() == seen(mounted, "one")
    mounted.run("snapshot", "delete", mounted.path, "three")
    assert worker.look() == seen(mounted, "one")
    mounted.view("TWO").rename(mounted.view("two"))
    mounted.view("two").rmdir()
    assert worker.look() == seen(mounted, "one")


@pytest.mark.skipif(os.geteuid() != 0, reason="who may not open by handle follows a look-up later")
@pytest.mark.parametrize("first", ["one", "new"])
def test_who_works_in_a_snapshot_is_lost_when_it_is_renamed(
    mounted: Any, worker: Worker, first: str
) -> None:
    """Whichever of its names is looked up first."""
    mounted.run("snapshot", "rename", mounted.path, "one", "new")
    assert mounted.view(first).exists() == (first == "new")
    assert worker.look() == seen(mounted, "new")
    assert not mounted.view("one").exists()
    mounted.view("new").rename(mounted.view("one"))
    assert worker.look() == seen(mounted, "one")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_what_is_mounted_in_a_snapshot_is_detached_when_it_is_renamed(mounted: Any) -> None:
    """In the ``.snap`` of any directory."""
    (mounted / "d/inner").mkdir(parents=True)
    mounted.snapshot("one")
    places = [Path(".snap/{}/d/inner"), Path("d/.snap/{}/inner")]
    try:
        for place in places:
            there = mounted / str(place).format("one")
            subprocess.run(["mount", "-t", "tmpfs", "guest", there], check=True, timeout=60)
            (there / "guest").touch()
        mounted.run("snapshot", "rename", mounted.path, "one", "new")
        assert not (mounted / ".snap/one").exists()
        for place in places:
            assert (mounted / str(place).format("new") / "guest").exists()
    finally:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            source, where = line.split()[:2]
            if source == "guest" and where.startswith(f"{mounted.path}/"):
                subprocess.run(["umount", where], check=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.volume(options="snapdir=.zfs")
def test_what_is_mounted_in_a_snapshot_is_detached_when_it_is_deleted(mounted: Any) -> None:
    """As rmdir(2) does of directories, it says EBUSY, also where another snapshot goes."""
    (mounted / "d/inner").mkdir(parents=True)
    for name in ("one", "two", "three"):
        (mounted / "d/.zfs" / name).mkdir()
    there = mounted / "d/.zfs/one/inner"
    subprocess.run(["mount", "-t", "tmpfs", "guest", there], check=True, timeout=60)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            (mounted / "d/.zfs/one").rmdir()
        result = mounted.run("snapshot", "delete", mounted.path, "one", "two", code=1)
        assert f"{there}: something is mounted there" in result.stderr
        (mounted / "d/.zfs/three").rmdir()
        assert os.listdir(mounted / "d/.zfs") == ["one"]
        assert there.is_mount()
    finally:
        subprocess.run(["umount", there], check=True, timeout=60)
    (mounted / "d/.zfs/one").rmdir()
