"""What is set aside for a commit is enough for what operations do (``store.commit.costs``); and
what holds them against it (``tally``) notices.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import NoSpace, NoSuchSnapshot
from snapfs.filesystem import Changes, Filesystem, naming
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit import costs
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

FILE, DIRECTORY, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
BLOCK = 4096
EXCHANGE = 2


class Files:
    """A volume in memory, and operations on its base."""

    def __init__(self, blocks: int = 4096) -> None:
        self.device = SparseDevice(blocks * BLOCK)
        format_volume(self.device)
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def make(self, name: bytes, mode: int = FILE, parent: int = ROOT_INO, **more: Any) -> int:
        ino: int = self.do(self.fs.make, self.fs.base, parent, name, mode, 0, 0, **more).ino
        return ino

    def write(self, ino: int, offset: int, content: bytes) -> None:
        self.do(self.fs.write, self.fs.base, ino, offset, content)

    def resize(self, ino: int, size: int) -> None:
        self.do(self.fs.set_attributes, self.fs.base, ino, Changes(size=size), privileged=True)

    def clean(self) -> None:
        commit(self.volume)
        assert [finding.message() for finding in check_volume(self.device)] == []


@pytest.fixture
def files() -> Files:
    return Files()


def test_a_file_that_grows_sets_nothing_aside(files: Files) -> None:
    ino = files.make(b"file")
    files.clean()
    files.resize(ino, 1 << 30)
    files.clean()


@pytest.mark.parametrize(
    "place", [0, 255, 256, 65535, 65536, (1 << 24) - 1, 1 << 24, 1 << 32, 1 << 44]
)
def test_a_write_makes_more_levels_than_are_set_aside(place: int, files: Files) -> None:
    """Of one block and of several, in a file without anything, in one with a little, and in what a
    commit has sealed.
    """
    for before in (None, 0, 300):
        ino = files.make(b"file %r" % before)
        if before is not None:
            files.write(ino, before * BLOCK, b"x" * BLOCK)
        for _ in range(2):
            files.clean()
            files.write(ino, place * BLOCK, b"y" * BLOCK)
            files.clean()
            files.write(ino, max(0, place - 2) * BLOCK + 5, b"z" * (4 * BLOCK))
        files.clean()
        files.resize(ino, place * BLOCK + 7)
        files.clean()
        files.resize(ino, 3)
        files.clean()


def test_names_split_more_buckets_than_are_set_aside(files: Files) -> None:
    """Long names, so that buckets split all the time; every operation
    begins when nothing is dirty.
    """
    place, other = files.make(b"one", DIRECTORY), files.make(b"two", DIRECTORY)
    for number in range(120):
        name = b"%0250d" % number
        files.clean() if number % 20 == 0 else commit(files.volume)
        ino = files.make(
            name,
            LINK if number % 3 == 0 else FILE,
            place,
            **({"target": b"t" * 3000} if number % 3 == 0 else {}),
        )
        commit(files.volume)
        files.do(files.fs.link, files.fs.base, ino, other, name)
        commit(files.volume)
        files.do(files.fs.rename, files.fs.base, place, name, other, b"renamed " + name[8:], 0)
        commit(files.volume)
        files.do(files.fs.rename, files.fs.base, other, b"renamed " + name[8:], place, name, 0)
        if number:
            commit(files.volume)
            files.do(
                files.fs.rename,
                files.fs.base,
                place,
                name,
                other,
                b"%0250d" % (number - 1),
                EXCHANGE,
            )
        commit(files.volume)
    for number in range(120):
        for directory in (place, other):
            files.do(files.fs.unlink, files.fs.base, directory, b"%0250d" % number)
            commit(files.volume)
    files.clean()


@pytest.mark.parametrize("size", [10, 3000, 5000, 60_000])
def test_attributes_take_more_than_is_set_aside(size: int, files: Files) -> None:
    ino = files.make(b"file")
    for length in (size, 65_000, size, 10, size):
        files.clean()
        files.do(files.fs.xattr_set, files.fs.base, ino, b"user.x", b"x" * length)
    files.clean()
    files.do(files.fs.xattr_remove, files.fs.base, ino, b"user.x")
    files.clean()


def test_designating_a_directory_takes_more_than_is_set_aside(files: Files) -> None:
    """The list of such directories is written with the attribute, and with what takes the directory
    away.
    """
    inos = [files.make(b"%0250d" % number, DIRECTORY) for number in range(40)]
    for ino in inos:
        files.clean() if ino % 10 == 0 else commit(files.volume)
        files.do(files.fs.xattr_set, files.fs.base, ino, b"user.snapfs.designate", b"policy")
        files.do(files.fs.xattr_set, files.fs.base, ino, b"user.large", b"x" * 9000)
    for number in range(0, 40, 2):
        commit(files.volume)
        files.do(
            files.fs.rename,
            files.fs.base,
            ROOT_INO,
            b"%0250d" % number,
            ROOT_INO,
            b"%0250d" % (number + 1),
            0,
        )
        commit(files.volume)
        if number % 4:
            files.do(files.fs.rmdir, files.fs.base, ROOT_INO, b"%0250d" % (number + 1))
        else:
            files.do(files.fs.xattr_remove, files.fs.base, inos[number], b"user.snapfs.designate")
    while files.do(files.fs.work):
        pass
    files.clean()


def test_a_full_volume_says_yes_and_then_has_no_room_for_the_commit() -> None:
    """Whatever was told to be done can be committed: when users have taken all that they get, and
    snapshots come and go.
    """
    files = Files(1024)
    ino = files.make(b"file")
    with pytest.raises(NoSpace):
        for number in range(10_000):
            files.write(ino, number * BLOCK, b"x" * BLOCK)
    commit(files.volume)
    done = 0
    for number in range(40):
        for attempt in (
            lambda number=number: files.make(b"%0250d" % number),
            lambda number=number: files.do(snapshots.create, files.fs, f"s{number}"),
            lambda number=number: files.do(files.fs.set_times, files.fs.base, ino, mtime=number),
            lambda number=number: files.write(ino, number * BLOCK, b"y" * BLOCK),
            lambda number=number: files.resize(ino, (1 << 32) + number),
            lambda number=number: (
                files.do(snapshots.delete, files.fs, f"s{number - 3}") if number > 3 else None
            ),
        ):
            try:
                attempt()
            except (NoSpace, NoSuchSnapshot):
                continue
            done += 1
            commit(files.volume)
    assert done
    files.clean()


def test_an_operation_that_sets_too_little_aside_goes_unnoticed(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tally itself."""
    monkeypatch.setattr(costs, "MAKE", 3)
    with pytest.raises(AssertionError, match=r"make: .* more than were set aside"):
        files.make(b"file")


def test_a_commit_that_takes_more_than_was_set_aside_goes_unnoticed(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tally itself."""
    monkeypatch.setattr(costs, "of_tables", lambda _: 0)
    files.make(b"file")
    with pytest.raises(AssertionError, match="a commit took"):
        commit(files.volume)


def test_a_number_that_somebody_has_counted_by_hand_is_set_aside() -> None:
    """One table says what things cost, and no other place."""
    import ast
    from pathlib import Path

    import snapfs

    for path in Path(snapfs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.BinOp | ast.AugAssign)
                and "dirtied" in ast.unparse(node).split("+")[0]
            ):
                value = node.right if isinstance(node, ast.BinOp) else node.value
                is_one = (
                    isinstance(node, ast.AugAssign) and ast.unparse(value) == "1"
                )  # a block that is made dirty
                assert is_one or not isinstance(value, ast.Constant), (
                    f"{path.name}: {ast.unparse(node)}"
                )
    assert naming.costs is costs
