"""The order of snapshots is that in which they were made. The clock may be set back meanwhile:
times are only shown.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.device import open_device
from snapfs.errors import CorruptBlock
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.snapshots import Facts, autodelete
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.instances import Instance
from tests.harness.sparse import SparseDevice

REGULAR = 0o100644
SECOND = 1_000_000_000

#: The clock is set back before each: by it the newest is the oldest.
TIMES = {
    "first": 3000 * SECOND,
    "second": 2000 * SECOND,
    "third": 2000 * SECOND,
    "fourth": 1000 * SECOND,
}

Run = Callable[..., subprocess.CompletedProcess[str]]


def filesystem(device: Any) -> Filesystem:
    format_volume(device)
    return Filesystem(open_volume(device))


def fill(fs: Filesystem, **options: Any) -> None:
    """A snapshot at each of the times, with a content of its own."""
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", REGULAR, 0, 0).ino
    for name, now in TIMES.items():
        drive(fs.volume, fs.write, fs.base, ino, 0, name.encode())
        drive(fs.volume, snapshots.create, fs, name, now_ns=now, **options)
        commit(fs.volume)


def names(fs: Filesystem) -> list[str]:
    return [one.name for one in snapshots.all(fs)]


def opened(fs: Filesystem) -> Filesystem:
    return Filesystem(open_volume(fs.volume.device))


def test_the_clock_decides_which_snapshot_is_older() -> None:
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs)
    assert names(fs) == list(TIMES)
    assert names(opened(fs)) == list(TIMES)
    assert [one.created_ns for one in snapshots.all(fs)] == list(TIMES.values()), (
        "times are those of the clock"
    )
    shown = [one.listed for one in snapshots.all(fs)]
    assert shown == sorted(set(shown)), "what .snap shows is in that order, too"
    assert shown == [one.listed for one in snapshots.all(opened(fs))]


def test_snapshots_that_share_a_commit_have_no_order() -> None:
    """They are of one epoch and of one moment, and their ids say nothing: those of deleted ones are
    used again.
    """
    fs = filesystem(SparseDevice(16 << 20))
    for name in ("early", "late"):
        drive(fs.volume, snapshots.create, fs, name, now_ns=SECOND)
        commit(fs.volume)
    drive(fs.volume, snapshots.delete, fs, "early")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    made = [drive(fs.volume, snapshots.create, fs, name, now_ns=SECOND) for name in ("b", "a")]
    commit(fs.volume)
    assert made[0].epoch == made[1].epoch
    assert made[0].id < snapshots.get(fs, "late").id
    assert names(opened(fs)) == ["late", "b", "a"]
    shown = [one.listed for one in snapshots.all(fs)]
    assert shown == sorted(set(shown))


def test_a_snapshot_of_an_old_snapshot_is_old() -> None:
    """It has the epoch of what it was made of, and was made last."""
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs)
    drive(
        fs.volume,
        snapshots.create,
        fs,
        "of the first",
        origin=snapshots.get(fs, "first").id,
        now_ns=SECOND,
    )
    commit(fs.volume)
    assert names(opened(fs)) == [*TIMES, "of the first"]


def test_space_is_made_by_deleting_the_newest() -> None:
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs, facts=Facts(tags={"policy": "hourly"}))
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    commit(fs.volume)
    for name in TIMES:
        gone = drive(fs.volume, autodelete.make_room, fs)
        assert gone is not None
        assert gone.name == name
        commit(fs.volume)


def test_what_an_older_version_made_has_no_order() -> None:
    """There the epoch decides, and all of them come before what is made now."""
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs)
    for one in snapshots.all(fs):
        one.serial, one.listed_ns = 0, None
        fs.volume.instances.dirty.add(one.id)
    old = snapshots.get(fs, "first").encode()
    del old["serial"], old["listed"]
    found = Instance.decode(1, old, fs.volume.geometry)
    assert (found.serial, found.listed) == (0, TIMES["first"])
    assert names(fs) == list(TIMES)
    drive(fs.volume, snapshots.create, fs, "now", now_ns=SECOND)
    commit(fs.volume)
    assert names(opened(fs)) == [*TIMES, "now"]
    assert snapshots.get(fs, "now").listed > TIMES["first"]
    assert not check_volume(fs.volume.device)


def test_a_restore_leaves_a_state_behind_that_is_not_the_newest() -> None:
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs)
    drive(fs.volume, fs.make, fs.base, ROOT_INO, b"another", REGULAR, 0, 0)
    commit(fs.volume)
    result = drive(fs.volume, snapshots.restore, fs, "first", now_ns=SECOND)
    commit(fs.volume)
    assert names(opened(fs))[-1] == result.undo.name


def test_commands_follow_the_clock(tmp_path: Path, run_snapfs: Run) -> None:
    image = tmp_path / "volume.img"
    run_snapfs("mkfs", image, "--size", "16M")
    device = open_device(str(image))
    fs = Filesystem(open_volume(device))
    fill(fs)
    fs.volume.close()
    device.close()
    listed = json.loads(run_snapfs("snapshot", "list", image, "--json").stdout)
    assert [one["name"] for one in listed] == list(TIMES)
    table = run_snapfs("snapshot", "list", image).stdout.splitlines()[1:]
    assert [line.split()[0] for line in table] == list(TIMES)
    found = json.loads(run_snapfs("versions", image, "--path", "/file", "--json").stdout)[
        "versions"
    ]
    assert [one["snapshots"][0]["name"] for one in found] == list(TIMES)[::-1], (
        "the newest version first"
    )
    run_snapfs("check", image)


@pytest.mark.parametrize("serial", [-1, "1", None, 1 << 63])
def test_a_place_in_the_order_that_cannot_be_is_believed(serial: object) -> None:
    fs = filesystem(SparseDevice(16 << 20))
    fill(fs)
    value = snapshots.get(fs, "first").encode() | {"serial": serial}
    with pytest.raises(CorruptBlock):
        Instance.decode(1, value, fs.volume.geometry)
