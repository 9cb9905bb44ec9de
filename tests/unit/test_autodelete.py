"""Automatic deletion: what a policy made goes, oldest first, when there is no other way; never
anything else. Without a mount.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from snapfs import snapshots
from snapfs.errors import NoSpace, ReadOnly
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.autodelete import AutoDelete
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.neighbours import NoKernel
from snapfs.ids import ROOT_INO
from snapfs.snapshots import Facts, Hold, autodelete, space
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

REGULAR = 0o100644
MIB = 1 << 20

BY_POLICY = Facts(tags={"policy": "hourly"})
HELD = Facts(tags={"policy": "hourly"}, holds=(Hold("audit"),))
BY_HAND = Facts(tags={"purpose": "before the upgrade"})


def filesystem(size: int = 16 * MIB) -> Filesystem:
    device = SparseDevice(size)
    format_volume(device)
    return Filesystem(open_volume(device))


def write(fs: Filesystem, ino: int, length: int) -> None:
    drive(fs.volume, fs.write, fs.base, ino, 0, b"x" * length)


def rounds(fs: Filesystem, facts: dict[str, Facts]) -> int:
    """Snapshots with these facts, each of which alone has 1 MiB of what a file was; the file's
    inode.
    """
    ino: int = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", REGULAR, 0, 0).ino
    for name, said in facts.items():
        write(fs, ino, MIB)
        drive(fs.volume, snapshots.create, fs, name, facts=said)
        commit(fs.volume)
    write(fs, ino, MIB)
    commit(fs.volume)
    return ino


def work_off(fs: Filesystem) -> None:
    while drive(fs.volume, fs.work):
        pass


def left(fs: Filesystem) -> list[str]:
    return [one.name for one in snapshots.all(fs)]


def test_what_no_policy_made_or_somebody_holds_is_deleted() -> None:
    fs = filesystem()
    rounds(
        fs, {"hand": BY_HAND, "held": HELD, "old": BY_POLICY, "busy": BY_POLICY, "new": BY_POLICY}
    )
    busy = snapshots.get(fs, "busy").id
    assert [one.name for one in autodelete.candidates(fs)] == ["old", "busy", "new"]
    gone = [drive(fs.volume, autodelete.make_room, fs, {busy}) for _ in range(3)]
    assert [one and one.name for one in gone] == ["old", "new", None]
    assert left(fs) == ["hand", "held", "busy"]


def test_snapshots_go_although_that_frees_nothing() -> None:
    """What the live tree or somebody's snapshot has as well is not freed by deleting those of a
    policy.
    """
    fs = filesystem()
    ino = rounds(fs, {"policy": BY_POLICY, "another": BY_POLICY})
    drive(fs.volume, snapshots.restore, fs, "policy")
    commit(fs.volume)
    for name in ("another", "hand"):
        drive(fs.volume, snapshots.delete, fs, name) if name == "another" else drive(
            fs.volume, snapshots.create, fs, name, facts=BY_HAND
        )
        commit(fs.volume)
    write(fs, ino, MIB)
    commit(fs.volume)
    assert space.frees(fs, autodelete.candidates(fs)) == 0
    assert drive(fs.volume, autodelete.make_room, fs) is None
    assert "policy" in left(fs)


def test_two_that_share_their_blocks_are_kept_for_that() -> None:
    """Neither frees much alone; together they do, so the older one is the first to go."""
    fs = filesystem()
    ino = rounds(fs, {"first": BY_POLICY})
    drive(
        fs.volume,
        snapshots.create,
        fs,
        "second",
        origin=snapshots.get(fs, "first").id,
        facts=BY_POLICY,
    )
    commit(fs.volume)
    write(fs, ino, MIB)
    commit(fs.volume)
    assert space.frees(fs, [snapshots.get(fs, "first")]) == 0
    gone = drive(fs.volume, autodelete.make_room, fs)
    assert gone is not None
    assert gone.name == "first"


def test_space_that_is_on_its_way_counts_as_missing() -> None:
    fs = filesystem()
    rounds(fs, {str(number): BY_POLICY for number in range(9)})
    work_off(fs)
    assert autodelete.is_short(fs, 50)
    for name in ("0", "1", "2"):
        drive(fs.volume, snapshots.delete, fs, name)
    assert not autodelete.is_short(fs, 50)
    work_off(fs)
    assert not autodelete.is_short(fs, 50)
    assert autodelete.is_short(fs, 60)


def test_a_volume_that_cannot_be_written_loses_snapshots() -> None:
    fs = filesystem()
    rounds(fs, {"one": BY_POLICY})
    fs.volume.read_only = True
    with pytest.raises(ReadOnly):
        drive(fs.volume, autodelete.make_room, fs)
    assert left(fs) == ["one"]


# On the edge


class Listener(NoKernel):
    """The kernel, as far as it hears of snapshots that end."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.flushing: Callable[[], Any] | None = None

    async def flush(self, view_ids: object = None) -> None:
        if self.flushing:
            await self.flushing()

    async def view_ended(self, view_id: int, *, asked_by: int | None) -> None:
        assert asked_by is None
        self.ended.append(view_id)


@pytest.fixture
async def opened(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Edge]]:
    def make(fs: Filesystem, below: float) -> Edge:
        edge = Edge(fs, commit_seconds=3600.0)
        edge.kernel = Listener()
        room = AutoDelete(edge, below)
        edge.room = room
        nursery.start_soon(room.run)
        nursery.start_soon(edge.run)
        return edge

    yield make
    nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.001)


async def new_file(edge: Edge, name: bytes, length: int) -> None:
    inode = await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, name, REGULAR, 0, 0)
    for offset in range(0, length, MIB):
        await edge.change(
            edge.fs.write, edge.fs.base, inode.ino, offset, b"n" * min(MIB, length - offset)
        )


async def test_a_write_fails_although_a_policys_snapshot_could_go(
    opened: Callable[..., Edge], caplog: pytest.LogCaptureFixture
) -> None:
    """One at a time, as many as it takes, told in one line each; when nothing is left that may go,
    the write fails.
    """
    fs = filesystem()
    rounds(fs, {"a": BY_POLICY, "hand": BY_HAND, "b": BY_POLICY, "c": BY_POLICY, "held": HELD})
    ids = {one.name: one.id for one in snapshots.all(fs)}
    edge = opened(fs, 0)
    room = fs.statfs().available * fs.volume.geometry.block_size
    with trio.fail_after(20), caplog.at_level(logging.WARNING, "snapfs.fuse"):
        await new_file(edge, b"fits", room // MIB * MIB)
        assert left(fs) == ["a", "hand", "b", "c", "held"]
        await new_file(edge, b"more", MIB)
        assert left(fs) == ["hand", "b", "c", "held"]
        with pytest.raises(NoSpace):
            await new_file(edge, b"too much", 5 * MIB)
    assert left(fs) == ["hand", "held"]
    await until(lambda: edge.kernel.ended == [ids["a"], ids["b"], ids["c"]])  # type: ignore[attr-defined]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "snapshot a (of the policy hourly" in lines[0]
    assert "no space is left" in lines[0]


async def test_less_is_available_than_was_asked_for(
    opened: Callable[..., Edge], caplog: pytest.LogCaptureFixture
) -> None:
    """Below the percentage the oldest go until it is reached, and no more of them."""
    fs = filesystem()
    rounds(fs, {str(number): BY_POLICY for number in range(8)})
    before = fs.statfs()
    with caplog.at_level(logging.WARNING, "snapfs.fuse"):
        opened(fs, before.available * 100 / before.blocks + 10)
        await until(lambda: left(fs) == ["2", "3", "4", "5", "6", "7"] and not fs.has_work)
        await trio.testing.wait_all_tasks_blocked()
    assert len(left(fs)) == 6
    assert len(caplog.records) == 2
    assert "of the volume is available" in caplog.records[0].getMessage()


async def test_that_nothing_can_be_deleted_is_told_with_every_commit(
    opened: Callable[..., Edge], caplog: pytest.LogCaptureFixture
) -> None:
    fs = filesystem()
    rounds(fs, {"hand": BY_HAND, "held": HELD})
    with caplog.at_level(logging.WARNING, "snapfs.fuse"):
        edge = opened(fs, 99)
        for name in (b"1", b"2", b"3"):
            await new_file(edge, name, 100)
            await edge.commit()
            await trio.testing.wait_all_tasks_blocked()
    assert left(fs) == ["hand", "held"]
    assert len(caplog.records) == 1


async def test_a_snapshot_operation_and_a_write_wait_for_each_other(
    opened: Callable[..., Edge],
) -> None:
    """Making a snapshot has the kernel send what it holds; where that finds no space, an old
    snapshot goes. Not the one that is copied.
    """
    fs = filesystem()
    rounds(fs, {"origin": BY_POLICY, "old": BY_POLICY, "older": BY_POLICY})
    edge = opened(fs, 0)
    room = fs.statfs().available * fs.volume.geometry.block_size

    async def dirty_pages() -> None:
        await new_file(edge, b"cached", room // MIB * MIB + MIB)

    edge.kernel.flushing = dirty_pages  # type: ignore[attr-defined]
    with trio.fail_after(20):
        await edge.create_snapshot("copy", origin=snapshots.get(fs, "origin").id)
    assert left(fs) == ["origin", "older", "copy"]
    assert edge.spared == 0


async def test_many_that_find_no_space_take_more_than_they_need(
    opened: Callable[..., Edge], nursery: trio.Nursery
) -> None:
    """Whoever waited while another one made room tries again first."""
    fs = filesystem()
    rounds(fs, {str(number): BY_POLICY for number in range(6)})
    edge = opened(fs, 0)
    await new_file(
        edge, b"fits", fs.statfs().available * fs.volume.geometry.block_size // MIB * MIB
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as writers:
            for number in range(8):
                writers.start_soon(new_file, edge, b"%d" % number, MIB // 16)
    assert len(left(fs)) == 5
