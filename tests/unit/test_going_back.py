"""Restores are remembered, and can be arranged for the next mount: both in one commit, and by those
who may (A10, issue 4 point 7).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.blocks.geometry import Geometry
from snapfs.check import check_volume
from snapfs.check.repair import repair_volume
from snapfs.cli.mounting.before_mount import opened
from snapfs.errors import (
    CorruptBlock,
    DeviceFull,
    NoSpace,
    NoSuchFact,
    NoSuchSnapshot,
    NotFound,
    NotPermitted,
    ReadOnly,
    SnapshotBusy,
    UsageError,
)
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.options import parse_options
from snapfs.ids import MAX_INSTANCES, ROOT_INO
from snapfs.snapshots import (
    Facts,
    Restored,
    Scheduled,
    autodelete,
)
from snapfs.snapshots.restore import scheduled as going_back
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.copies import CopyBlock
from snapfs.store.tables.restores import (
    HISTORY_MAX,
    PATHS_BYTES_MAX,
    PATHS_MAX,
    SHOWN_BYTES,
    Restores,
    decode_done,
    decode_scheduled,
)
from snapfs.store.tables.root_record import ROOT_FIXED, RootRecord
from tests.harness.sparse import SparseDevice

USER = 1000


@pytest.fixture
def device() -> Iterator[SparseDevice]:
    """A volume whose file is ``now``; the snapshots ``one`` and ``two`` say ``one`` and ``two``."""
    made = SparseDevice(4 << 20)
    format_volume(made)
    fs = Filesystem(open_volume(made))
    file = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0).ino
    for text in ("one", "two", "now"):
        drive(fs.volume, fs.write, fs.base, file, 0, text.encode())
        if text != "now":
            drive(fs.volume, snapshots.create, fs, text)
        commit(fs.volume)
    yield made
    assert [finding.message() for finding in check_volume(made)] == []


def fresh(device: SparseDevice) -> Filesystem:
    """The volume as it is on the device."""
    return Filesystem(open_volume(device))


def content(fs: Filesystem) -> str:
    ino = drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"file").ino
    return drive(fs.volume, fs.read, fs.base, ino, 0, 100).decode()


def done(fs: Filesystem, function: Any, *args: Any, **kwargs: Any) -> Any:
    result = drive(fs.volume, function, fs, *args, **kwargs)
    commit(fs.volume)
    return result


def mount(device: SparseDevice, options: str = "") -> tuple[Filesystem, list[str]]:
    """What a mount would serve, and what it would warn of."""
    warnings: list[str] = []
    fs, _ = opened(device, parse_options(options), warnings.append)
    return fs, warnings


# What is remembered


def test_a_restore_is_forgotten_or_remembered_without_having_been(device: SparseDevice) -> None:
    """What was restored, when, from what, by whom, and how it is undone: in the very commit."""
    fs = fresh(device)
    result = drive(fs.volume, snapshots.restore, fs, "one", owner=USER, now_ns=5_000_000_000)
    assert fresh(device).volume.restores.done == []
    commit(fs.volume)
    (one,) = fresh(device).volume.restores.done
    assert one == Restored(5_000_000_000, "one", (), 0, USER, result.undo.name, len(result.inodes))
    assert one.undo == "before-restore-1970-01-01T00:00:05Z"
    assert snapshots.last_in_words(fs) == (
        f"restored the snapshot one for user {USER}: {len(result.inodes)} inodes "
        f"differed; the state from before is the snapshot {one.undo}"
    )
    assert not done(fs, snapshots.restore, "one").changed
    assert fresh(device).volume.restores.done == [one]


def test_the_last_restores_are_not_those_that_are_remembered(device: SparseDevice) -> None:
    fs = fresh(device)
    for number in range(HISTORY_MAX + 4):
        done(fs, snapshots.restore, ("one", "two")[number % 2], owner=number)
    assert [one.owner for one in fresh(device).volume.restores.done] == list(
        range(4, HISTORY_MAX + 4)
    )


def test_paths_that_are_too_long_to_be_remembered_are_not_told_of() -> None:
    one = Restored.of(0, "s", [b"a" * 60, b"b" * 60, b"c" * 60], 0, "", 0)
    assert (one.paths, one.more) == ((b"a" * 60, b"b" * 60), 1)
    (path,) = Restored.of(0, "s", [b"x" * 500 + b"end"], 0, "", 0).paths
    assert (len(path), path[:4], path[-4:]) == (SHOWN_BYTES, b"...x", b"xend")
    assert (
        going_back.in_words("s", one.paths, one.more)
        == f"/{'a' * 60}, /{'b' * 60}, 1 more from the snapshot s"
    )


def test_the_root_record_does_not_fit_the_smallest_block() -> None:
    """With all snapshots that there can be, the longest schedule and the longest history: the
    newest restores are kept.
    """
    path = b"p" * (PATHS_BYTES_MAX // PATHS_MAX)
    long = Restored.of(-1 << 62, "n" * 255, [b"q"] * 64, 0xFFFF_FFFF, "u" * 255, 1 << 47)
    restores = Restores(
        Scheduled(MAX_INSTANCES, (path,) * PATHS_MAX, -1 << 62, 0xFFFF_FFFF), [long] * HISTORY_MAX
    )
    geometry = Geometry(4096, 1 << 35)
    counting = b"\xff" * (MAX_INSTANCES // 8 + 1)
    word = (1 << 63) - 1
    most = replace(
        RootRecord().base,
        first=1,
        second=word,
        depth=3,
        blocks=1 << 48,
        inodes=1 << 48,
        next_ino=1 << 47,
        content=1 << 48,
    )
    tree = (1, word), 1 << 34
    copy = CopyBlock((1 << 35) - 100, 4096, 0xFFFF_FFFF)
    fitting = restores.fitting(4096 - ROOT_FIXED - len(counting))
    root = RootRecord(
        0xFFFF_FFFF,
        word,
        1 << 48,
        1 << 48,
        counting,
        most,
        ((1, word), 3, 1 << 34),
        tree,
        tree,
        restores.scheduled,
        fitting,
        copy,
    )
    data = root.encode()
    assert len(data) <= 4096
    assert (
        len(data) - len(counting) - len(replace(root, restored=(), scheduled=None).encode()) <= 4096
    )
    assert len(replace(root, restored=(), scheduled=None, counting=b"").encode()) <= ROOT_FIXED
    assert RootRecord.decode(data, geometry) == root
    roomy = [replace(long, when_ns=number) for number in range(HISTORY_MAX)]
    kept = Restores(None, roomy).fitting(1400)
    assert 0 < len(kept) < HISTORY_MAX
    assert list(kept) == roomy[-len(kept) :]


@pytest.mark.parametrize(
    "value",
    [
        5, [], [1, [], 0], [0, [], 0, 0], [MAX_INSTANCES + 1, [], 0, 0], [1, ["text"], 0, 0], [1,
        [b"a\0b"], 0, 0], [1, b"a", 0, 0],
        [1, [b"a" * (PATHS_BYTES_MAX + 1)], 0, 0], [1, [b"a"] * (PATHS_MAX + 1), 0, 0], [1, [],
        1 << 64, 0], [1, [], 0, -1],
        [True, [], 0, 0],
    ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_believed(value: object) -> None:
    with pytest.raises(CorruptBlock, match="root record: restores"):
        decode_scheduled(value)


@pytest.mark.parametrize(
    "value",
    [
        5, {}, [5], [[]], [[0, b"s", [], 0, 0, "", 0]], [[0, "s", [], 0, 0, b"", 0]], [[0,
        "s" * 256, [], 0, 0, "", 0]],
        [[0, "s", [b"a" * (SHOWN_BYTES + 1)], 0, 0, "", 0]], [[0, "s", [], -1, 0, "", 0]], [[0,
        "s", [], 0, 0, "", -1]],
        [[0, "s", [], 0, 0, "", 0]] * (HISTORY_MAX + 1),
    ],
)  # fmt: skip
def test_a_history_that_makes_no_sense_is_believed(value: object) -> None:
    with pytest.raises(CorruptBlock, match="root record: restores"):
        decode_done(value)


# What is arranged


def test_a_schedule_is_not_done_or_done_twice(device: SparseDevice) -> None:
    """Durable when the commit returns; gone with the commit that the restore is in."""
    done(fresh(device), snapshots.schedule, "one", owner=USER, now_ns=7)
    fs = fresh(device)
    number = snapshots.get(fs, "one").id
    assert fs.volume.restores.scheduled == Scheduled(number, (), 7, USER)
    drive(fs.volume, snapshots.restore_scheduled, fs)
    assert fresh(device).volume.restores.scheduled is not None
    assert content(fresh(device)) == "now"
    commit(fs.volume)
    after = fresh(device)
    assert (after.volume.restores.scheduled, content(after)) == (None, "one")
    assert [(one.name, one.owner) for one in after.volume.restores.done] == [("one", USER)]
    assert snapshots.get(after, after.volume.restores.done[0].undo).owner == USER


def test_a_second_schedule_is_added_to_the_first(device: SparseDevice) -> None:
    fs = fresh(device)
    first, before = done(fs, snapshots.schedule, "one")
    assert before is None
    second, before = done(fs, snapshots.schedule, "two")
    assert before == first
    assert fresh(device).volume.restores.scheduled == second
    assert done(fs, snapshots.cancel) == second
    assert fresh(device).volume.restores.scheduled is None
    with pytest.raises(NoSuchFact, match="nothing to cancel"):
        done(fs, snapshots.cancel)


def test_a_scheduled_snapshot_is_lost_when_it_is_renamed(device: SparseDevice) -> None:
    fs = fresh(device)
    done(fs, snapshots.schedule, "one")
    done(fs, snapshots.rename, "one", "other")
    done(fs, snapshots.create, "one")
    after, warnings = mount(device)
    assert (content(after), warnings) == ("one", [])
    assert after.volume.restores.done[-1].name == "other"


def test_a_scheduled_snapshot_is_deleted(device: SparseDevice) -> None:
    """By nobody, one of a policy for its space included, until that is cancelled."""
    fs = fresh(device)
    drive(fs.volume, snapshots.change_facts, fs, "one", lambda _: Facts(tags={"policy": "hourly"}))
    done(fs, snapshots.schedule, "one")
    with pytest.raises(SnapshotBusy, match="--cancel"):
        done(fs, snapshots.delete, "one")
    planned = done(fs, snapshots.delete_set, ["one", "two"])
    assert ([one.name for one in planned.deleted], list(planned.refused)) == (["two"], ["one"])
    assert autodelete.candidates(fs) == []
    done(fs, snapshots.cancel)
    assert [one.name for one in autodelete.candidates(fs)] == ["one"]
    done(fs, snapshots.delete, "one")


def test_paths_that_nobody_has_or_that_are_too_many_are_scheduled(device: SparseDevice) -> None:
    fs = fresh(device)
    with pytest.raises(NotFound, match="/nothing/here: there is no such path in snapshot 'one'"):
        done(fs, snapshots.schedule, "one", paths=["file", "nothing/here/"])
    with pytest.raises(UsageError, match="at most"):
        done(fs, snapshots.schedule, "one", paths=["x" * 600, "y" * 600])
    with pytest.raises(UsageError, match="at most"):
        done(fs, snapshots.schedule, "one", paths=[str(number) for number in range(PATHS_MAX + 1)])
    with pytest.raises(UsageError, match="no place in a path"):
        done(fs, snapshots.schedule, "one", paths=["../file"])
    assert fs.volume.restores.scheduled is None
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    wanted, _ = done(fs, snapshots.schedule, "one", paths=["/file", "file/"])
    assert wanted.paths == (b"file",)


def test_others_schedule_or_cancel(device: SparseDevice) -> None:
    fs, permit = fresh(device), snapshots.owner_or_root(USER)
    with pytest.raises(NotPermitted):
        done(fs, snapshots.schedule, "one", permit=permit)
    done(fs, snapshots.schedule, "one")
    with pytest.raises(NotPermitted):
        done(fs, snapshots.cancel, owner=USER, permit=permit)
    file = drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"file").ino
    drive(fs.volume, fs.set_attributes, fs.base, file, Changes(uid=USER), privileged=True)
    commit(fs.volume)
    done(fs, snapshots.schedule, "one", paths=["file"], owner=USER, permit=permit)  # whose it is
    done(fs, snapshots.cancel, owner=USER, permit=permit)
    done(fs, snapshots.schedule, "one")
    drive(fs.volume, fs.set_attributes, fs.base, ROOT_INO, Changes(uid=USER), privileged=True)
    done(fs, snapshots.cancel, owner=USER, permit=permit)
    fs.volume.read_only = True
    for change in (lambda: snapshots.schedule(fs, "one"), lambda: snapshots.cancel(fs)):
        with pytest.raises(ReadOnly):
            change()


# At a mount


def test_a_mount_does_not_do_what_is_scheduled(
    device: SparseDevice, caplog: pytest.LogCaptureFixture
) -> None:
    done(fresh(device), snapshots.schedule, "two", owner=0)
    with caplog.at_level(logging.INFO, "snapfs"):
        fs, warnings = mount(device)
    assert (content(fs), warnings) == ("two", [])
    assert [record.message for record in caplog.records] == [snapshots.last_in_words(fs)]
    assert fresh(device).volume.restores.scheduled is None
    assert content(fresh(device)) == "two"


def test_a_schedule_that_changes_nothing_stays(device: SparseDevice) -> None:
    fs = fresh(device)
    done(fs, snapshots.restore, "one")
    done(fs, snapshots.schedule, "one")
    mount(device)
    after = fresh(device)
    assert (after.volume.restores.scheduled, len(after.volume.restores.done)) == (None, 1)


@pytest.mark.parametrize(
    ("options", "why"), [("ro", "is read-only"), ("snapshot=one", "shows a snapshot")]
)
def test_a_mount_that_is_not_of_the_live_tree_or_may_not_write_restores(
    options: str, why: str, device: SparseDevice, caplog: pytest.LogCaptureFixture
) -> None:
    done(fresh(device), snapshots.schedule, "one")
    with caplog.at_level(logging.INFO, "snapfs"):
        fs, warnings = mount(device, options)
    assert (content(fs), warnings) == ("now", [])
    assert [record.message for record in caplog.records] == [
        f"the snapshot one is scheduled to be restored: not by this mount, which {why}"
    ]
    assert fresh(device).volume.restores.scheduled is not None


def test_both_restores_are_done(device: SparseDevice) -> None:
    """The mount's own wins; if it cannot be done, nothing has happened."""
    done(fresh(device), snapshots.schedule, "one")
    with pytest.raises(NoSuchSnapshot):
        mount(device, "restore=none")
    assert fresh(device).volume.restores.scheduled is not None
    fs, _ = mount(device, "restore=two")
    assert content(fs) == "two"
    assert fresh(device).volume.restores.scheduled is None
    assert [one.name for one in fs.volume.restores.done] == ["two"]


@pytest.mark.parametrize(
    "error",
    [NoSpace("no space left"), CorruptBlock("block 5 fails its checksum"), SnapshotBusy("not now")],
)
def test_a_restore_that_fails_keeps_the_volume_from_being_mounted(
    error: Exception, device: SparseDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so once, is not tried again at a mount that nobody connects it with, and leaves the
    volume writable.
    """
    done(fresh(device), snapshots.schedule, "one")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(going_back, "exchange", fail)
    fs, (line,) = mount(device)
    assert line == (
        "the snapshot one was scheduled to be restored, which is not possible: "
        f"{error}; nothing was restored, and the schedule is dropped"
    )
    assert content(fs) == "now"
    fs.volume.check_writable()
    assert fresh(device).volume.restores.scheduled is None


def test_a_commit_that_fails_leaves_half_of_a_restore(
    device: SparseDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk below is full for good: the mount shows what is on the volume."""
    done(fresh(device), snapshots.schedule, "one")

    def full(_offset: int, _data: object) -> None:
        raise DeviceFull("no space left on the host")

    with monkeypatch.context() as patch:
        patch.setattr(device, "write", full)
        fs, (line,) = mount(device)
        assert (
            "nothing was restored, and whether it is tried again is not certain: no "
            "space left on the host" in line
        )
        assert content(fs) == "now"
    commit(fs.volume)
    assert (content(fresh(device)), fresh(device).volume.restores.scheduled) == ("now", None)


def test_somebody_who_may_no_longer_restores_at_the_mount(device: SparseDevice) -> None:
    """Who asked must still be allowed to, by what owners the mount shows."""
    for options, expected in (("", "now"), (f"uid={USER}", "one")):
        done(fresh(device), snapshots.schedule, "one", owner=USER)
        fs, warnings = mount(device, options)
        assert content(fs) == expected
        assert len(warnings) == (expected == "now")


def test_a_snapshot_that_damage_has_cost_ends_the_mount(device: SparseDevice) -> None:
    fs = fresh(device)
    fs.volume.restores.schedule(Scheduled(77))
    commit(fs.volume)
    with pytest.raises(NoSuchSnapshot):
        drive(fs.volume, snapshots.restore_scheduled, fs)
    assert [finding.rule for finding in check_volume(device)] == ["scheduled-restore"]
    done(fs, snapshots.cancel)
    fs.volume.restores.schedule(Scheduled(77))
    commit(fs.volume)
    after, (line,) = mount(device)
    assert "that no longer exists" in line
    assert content(after) == "now"


def test_repair_drops_a_schedule_that_can_be_done(device: SparseDevice) -> None:
    fs = fresh(device)
    done(fs, snapshots.schedule, "one")
    done(fs, snapshots.restore, "two")
    fs.volume.allocator.groups[0].blocks[fs.volume.geometry.blocks - 20] ^= 1  # something to mend
    fs.volume.allocator.groups[0].dirty = True
    commit(fs.volume)
    assert repair_volume(device).before
    restores = fresh(device).volume.restores
    assert restores.scheduled is not None
    assert [one.name for one in restores.done] == ["two"]
