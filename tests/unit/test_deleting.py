"""Several snapshots at once: all that can be deleted go, in one step that nothing divides, and what
they free is what was said (A9, E).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import (
    NoSpace,
    NotPermitted,
    ReadOnly,
    SnapshotHeld,
)
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.interrupts import CommitNeeded, NotCached
from snapfs.snapshots import Facts, Hold, space
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.space.holders import HolderSet, HolderSets
from tests.harness.sparse import SparseDevice

NAMES = [f"s{number}" for number in range(12)]


@pytest.fixture
def device() -> Iterator[SparseDevice]:
    """Snapshots of as many directories, whose owners differ."""
    made = SparseDevice(16 << 20)
    format_volume(made)
    fs = Filesystem(open_volume(made))
    for number, name in enumerate(NAMES):
        directory = drive(
            fs.volume, fs.make, fs.base, ROOT_INO, name.encode(), 0o040755, number, 0
        ).ino
        file = drive(fs.volume, fs.make, fs.base, directory, b"file", 0o100644, number, 0).ino
        drive(fs.volume, fs.write, fs.base, file, 0, name.encode() * 5000)
        drive(fs.volume, snapshots.create, fs, name, targets=[directory])
        commit(fs.volume)
        drive(fs.volume, fs.write, fs.base, file, 0, b"later" * 3000)
        commit(fs.volume)
    yield made
    assert [finding.message() for finding in check_volume(made)] == []


@pytest.fixture
def fs(device: SparseDevice) -> Iterator[Filesystem]:
    opened = Filesystem(open_volume(device))
    yield opened
    commit(opened.volume)


def left(fs: Filesystem) -> list[str]:
    return [one.name for one in snapshots.all(fs)]


def test_blocks_of_others_are_counted() -> None:
    """E: blocks that the base holds, that somebody else reaches, or that nothing live reaches any
    more are freed by no deletion.
    """
    sets = HolderSets()
    entries = [
        (False, 0b0010),
        (False, 0b0100),
        (False, 0b0110),
        (False, 0b1000),
        (False, 0b1010),
        (True, 0b0010),
        (False, 0b10010),
    ]
    for number, (base_held, mask) in enumerate(entries):
        sets.load(number + 1, HolderSet(base_held, 5 if base_held else 0, mask, 10**number))
    sets.set_instances({1: 1, 2: 2, 4: 4})  # 3 is going
    assert sets.only(0b00010) == 10_001  # 3 no longer counts, 4 does
    assert sets.only(0b00110) == 10_111
    assert sets.only(0b10010) == 1_010_001
    assert sets.only(0b01000) == sets.only(0) == 0
    assert sets.alone() == {1: 10_001, 2: 10, 4: 0}
    assert sets.leaving() == 1_000


def test_a_set_is_half_deleted(fs: Filesystem) -> None:
    """With nothing in memory: whatever is missing is asked for before anything has changed."""
    tries = 0
    while True:
        try:
            deletion = snapshots.delete_set(fs, NAMES)
            break
        except NotCached as exc:
            tries += 1
            assert left(fs) == NAMES
            fs.volume.admit(fs.volume.read_wants(exc.wants))
    assert 0 < tries < len(NAMES), "what is missing is not asked for all at once"
    assert [one.name for one in deletion.deleted] == NAMES
    assert left(fs) == []


def test_those_that_cannot_go_keep_the_others(fs: Filesystem) -> None:
    """Each reason by its name, in the plan and in the act; what is freed is what the rest frees."""
    drive(fs.volume, snapshots.change_facts, fs, "s3", lambda facts: facts.hold(Hold("tape")))
    chosen = ["s3", "s5", "missing", "s4", "s5"]
    permit = snapshots.owner_or_root(5)
    planned = drive(fs.volume, snapshots.plan_set, fs, chosen, permit=permit)
    assert {name: type(reason).__name__ for name, reason in planned.refused.items()} == {
        "s3": NotPermitted.__name__, "missing": "NoSuchSnapshot", "s4": NotPermitted.__name__,
    }  # fmt: skip
    assert left(fs) == NAMES
    done = drive(fs.volume, snapshots.delete_set, fs, chosen, permit=permit)
    assert (done.deleted, done.blocks, set(done.refused)) == (
        planned.deleted,
        planned.blocks,
        set(planned.refused),
    )
    assert left(fs) == [name for name in NAMES if name != "s5"]
    assert space.usage(fs).leaving == done.blocks > 0
    by_root = drive(fs.volume, snapshots.delete_set, fs, ["s3", "s4"])
    assert [type(reason) for reason in by_root.refused.values()] == [SnapshotHeld]


def test_the_origin_of_a_snapshot_in_the_making_is_deleted(fs: Filesystem) -> None:
    """Its state is needed until the copy has been sealed; then all goes on."""
    origin = snapshots.get(fs, "s1")
    drive(
        fs.volume, snapshots.create, fs, "copy", origin=origin.id, facts=Facts(description="of s1")
    )
    drive(fs.volume, snapshots.plan_set, fs, ["s0"])
    with pytest.raises(CommitNeeded):
        snapshots.plan_set(fs, ["s0", "s1"])
    drive(fs.volume, snapshots.delete_set, fs, ["s0", "s1"])
    assert left(fs) == [*NAMES[2:], "copy"]
    assert snapshots.get(fs, "copy").origin == 0


def test_a_full_volume_keeps_its_snapshots(fs: Filesystem) -> None:
    """Deleting many at once works from the reserve, as deleting one does."""
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"filler", 0o100644, 0, 0).ino
    size, offset = 1 << 20, 0
    while size >= 4096:
        try:
            offset += drive(fs.volume, fs.write, fs.base, ino, offset, b"f" * size)
        except NoSpace:
            size //= 2
    drive(fs.volume, snapshots.delete_set, fs, NAMES)
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    assert left(fs) == []
    drive(fs.volume, fs.write, fs.base, ino, offset, b"f" * 4096 * len(NAMES))


def test_a_volume_that_is_only_read_is_changed(fs: Filesystem) -> None:
    fs.volume.read_only = True
    with pytest.raises(ReadOnly):
        drive(fs.volume, snapshots.delete_set, fs, NAMES)
    assert len(drive(fs.volume, snapshots.plan_set, fs, NAMES).deleted) == len(NAMES)
    fs.volume.read_only = False
