"""Names of snapshots, and in which `.snap` they are found."""

from __future__ import annotations

import pytest

from snapfs import snapshots
from snapfs.errors import BadName, NameTaken, NoSuchSnapshot, NotDirectory
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice


@pytest.fixture
def fs() -> Filesystem:
    device = SparseDevice(1024 * 4096)
    format_volume(device)
    return Filesystem(open_volume(device))


def directory(fs: Filesystem, name: bytes, parent: int = ROOT_INO) -> int:
    ino: int = drive(fs.volume, fs.make, fs.base, parent, name, 0o040755, 0, 0).ino
    return ino


def make(fs: Filesystem, name: str, **options: int) -> snapshots.Instance:
    instance: snapshots.Instance = drive(fs.volume, snapshots.create, fs, name, **options)
    commit(fs.volume)
    return instance


def seen(fs: Filesystem, ino: int, origin: int = 0) -> list[str]:
    return [one.name for one in drive(fs.volume, snapshots.visible, fs, fs.view(origin), ino)]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a,b", "a\nb", "a\0b", "a\x7fb", "x" * 256, "ü" * 128,
    "\udcff", "-o", " a", "a ", "a\u3000",
     "a\u202eb", "a\u2066b", "a\u200f", "a\u2028b", "a\u2029b"],
)  # fmt: skip
def test_an_impossible_name_is_taken(name: str) -> None:
    with pytest.raises(BadName):
        snapshots.check_name(name)


@pytest.mark.parametrize(
    "name", ["a", "2024-01-01T00:00:00Z", "x" * 255, "ü" * 127, "with space", "a-o", "名前"]
)
def test_a_good_name_is_refused(name: str) -> None:
    snapshots.check_name(name)


@pytest.mark.parametrize("name", ["-o", " a ", "a\u202eb", "a\u2028b"])
def test_a_snapshot_of_before_a_rule_for_names_cannot_be_read(fs: Filesystem, name: str) -> None:
    """Such names could be given once: their snapshots open, and can be renamed and deleted."""
    instance = make(fs, "fine")
    fs.volume.instances.rename(instance, name)
    commit(fs.volume)
    again = Filesystem(open_volume(fs.volume.device))
    assert seen(again, ROOT_INO) == [name]
    drive(again.volume, snapshots.rename, again, name, "better")
    drive(again.volume, snapshots.delete, again, "better")


def test_a_name_that_is_given_because_it_is_free_is_taken_or_none(fs: Filesystem) -> None:
    long = "ü" * 127
    for name in ("n", "n-2", long):
        make(fs, name)
    drive(fs.volume, snapshots.create, fs, "n-3")  # not committed yet
    assert snapshots.free_name(fs, "other") == "other"
    assert snapshots.free_name(fs, "n") == "n-4"
    assert snapshots.free_name(fs, long) == "ü" * 126 + "-2"
    snapshots.check_name(snapshots.free_name(fs, long + long))


def test_a_default_name_is_no_name() -> None:
    assert snapshots.default_name(0) == "1970-01-01T00:00:00Z"
    assert snapshots.default_name(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"
    snapshots.check_name(snapshots.default_name(4_000_000_000_000_000_000))


def test_two_snapshots_have_one_name(fs: Filesystem) -> None:
    make(fs, "one")
    drive(fs.volume, snapshots.create, fs, "two")
    for name in ("one", "two"):  # the second one is not committed yet
        with pytest.raises(NameTaken):
            drive(fs.volume, snapshots.create, fs, name)
    commit(fs.volume)
    with pytest.raises(NameTaken):
        drive(fs.volume, snapshots.rename, fs, "one", "two")
    drive(fs.volume, snapshots.rename, fs, "one", "one")
    drive(fs.volume, snapshots.rename, fs, "one", "three")
    make(fs, "one")
    assert {one.name for one in snapshots.all(fs)} == {"one", "two", "three"}


def test_a_deleted_name_is_still_found(fs: Filesystem) -> None:
    """A9: the name is gone at once, and can be given again before the space has come back."""
    make(fs, "one")
    view = fs.view(1)
    drive(fs.volume, snapshots.delete, fs, "one")
    assert snapshots.all(fs) == []
    for call in (
        lambda: snapshots.get(fs, "one"),
        lambda: snapshots.find(fs, fs.base, ROOT_INO, b"one"),
        lambda: fs.view(1),
    ):
        with pytest.raises(NoSuchSnapshot):
            call()
    assert make(fs, "one").id != view.id
    assert Filesystem(open_volume(fs.volume.device)).volume.instances.by_name("one").id != view.id


def test_a_snapshot_is_shown_where_it_does_not_belong(fs: Filesystem) -> None:
    """C1: a directory's `.snap` shows the snapshots that cover it and in which it was there."""
    outer = directory(fs, b"outer")
    inner, beside = directory(fs, b"inner", outer), directory(fs, b"beside")
    make(fs, "all")
    make(fs, "part", targets=[outer])
    late = directory(fs, b"late")
    assert seen(fs, ROOT_INO) == ["all"]
    assert seen(fs, outer) == ["all", "part"]
    assert seen(fs, inner) == ["all", "part"]
    assert seen(fs, beside) == ["all"]
    assert seen(fs, late) == []
    assert snapshots.get(fs, "part").path == "/outer"
    assert snapshots.view_inode(fs, snapshots.find(fs, fs.base, inner, b"part"), inner).ino == inner
    for ino, name in ((beside, b"part"), (late, b"all"), (ROOT_INO, b"\xff"), (ROOT_INO, b"part")):
        with pytest.raises(NoSuchSnapshot):
            drive(fs.volume, snapshots.find, fs, fs.base, ino, name)


def test_a_snapshot_of_a_snapshot_is_shown_in_the_base(fs: Filesystem) -> None:
    """C6: it is found in the view that it was made of; when that is deleted, where that one was."""
    first = make(fs, "first")
    make(fs, "second", origin=first.id)
    assert (seen(fs, ROOT_INO), seen(fs, ROOT_INO, first.id)) == (["first"], ["second"])
    drive(fs.volume, snapshots.delete, fs, "first")
    assert seen(fs, ROOT_INO) == ["second"]


def test_a_file_is_covered(fs: Filesystem) -> None:
    file = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0)
    with pytest.raises(NotDirectory):
        drive(fs.volume, snapshots.create, fs, "one", targets=[file.ino])


def test_an_inode_number_that_was_used_again_is_taken_for_the_old_directory(fs: Filesystem) -> None:
    """C1: the generation of an inode tells the directory of then from that of now."""
    old = directory(fs, b"old")
    make(fs, "one")
    drive(fs.volume, fs.rmdir, fs.base, ROOT_INO, b"old")
    assert directory(fs, b"new") == old
    assert seen(fs, old) == []
