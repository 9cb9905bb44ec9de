"""A snapshot that is looked up before a wait: what is done afterwards is done to that one, whatever
has its name by then.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from snapfs import snapshots
from snapfs.control.commands.comparing import Comparing
from snapfs.control.commands.hot import Hot
from snapfs.control.socket.caller import Alone
from snapfs.errors import NoSuchSnapshot, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.protocol.errno import errno_of
from snapfs.snapshots import Instance
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice


def volume() -> Filesystem:
    device = SparseDevice(32 << 20)
    format_volume(device)
    return Filesystem(open_volume(device))


@pytest.fixture
async def edge(nursery: trio.Nursery) -> AsyncIterator[Edge]:
    made = Edge(volume(), commit_seconds=1000)
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()


async def replaced(edge: Edge, name: str) -> Instance:
    """Another snapshot has the name, and the bit that the first one had may be its own."""
    await edge.change(snapshots.delete, edge.fs, name)
    await edge.commits.commit()
    while edge.fs.has_work:
        await edge.call(edge.fs.work)
    await edge.commits.commit()
    made = await edge.change(snapshots.create, edge.fs, name)
    await edge.commits.commit()
    return made


Act = Callable[[Edge, Instance], Awaitable[Any]]


@pytest.mark.parametrize(
    "act",
    [
        lambda edge, one: edge.delete_snapshot(one),
        lambda edge, one: edge.rename_snapshot(one, "new"),
        lambda edge, one: edge.create_snapshot("of", origin=one),
    ],
    ids=["delete", "rename", "create"],
)
async def test_another_snapshot_is_changed_that_got_the_name_meanwhile(
    act: Act, edge: Edge
) -> None:
    found = await edge.create_snapshot("s")
    outcome: list[Exception] = []

    async def later() -> None:
        try:
            await act(edge, found)
        except SnapfsError as exc:
            outcome.append(exc)

    async with trio.open_nursery() as nursery, edge._snapshots_alone():
        nursery.start_soon(later)
        while not edge._snapshot_lock.statistics().tasks_waiting:
            await trio.lowlevel.checkpoint()
        other = await replaced(edge, "s")
        assert other.id == found.id, "the bit is another one: nothing is tried"
    assert [type(exc) for exc in outcome] == [NoSuchSnapshot]
    assert errno_of(outcome[0], "test") == errno.ENOENT
    assert snapshots.all(edge.fs) == [other]


async def test_a_snapshot_that_was_renamed_meanwhile_is_another_one(edge: Edge) -> None:
    found = await edge.create_snapshot("s")
    await edge.rename_snapshot("s", "t")
    await edge.create_snapshot("s")
    await edge.delete_snapshot(found)
    assert [one.name for one in snapshots.all(edge.fs)] == ["s"]


@pytest.mark.parametrize("command", ["diff", "hot"])
def test_a_snapshot_is_shown_to_who_was_permitted_to_see_another(command: str) -> None:
    fs = volume()

    def change(function: Callable[..., Any], *args: Any) -> Any:
        result = drive(fs.volume, function, fs, *args)
        commit(fs.volume)
        return result

    change(snapshots.create, "s")

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return drive(fs.volume, function, *args)

    async def settle() -> None:
        change(snapshots.delete, "s")
        change(snapshots.create, "s")

    work: Any = (Comparing if command == "diff" else Hot)(fs, Alone(), snapshots.anyone)
    asked = (
        work.diff(call, settle, "s", None, [])
        if command == "diff"
        else work.hot(call, settle, "s", None)
    )
    with pytest.raises(NoSuchSnapshot):
        asked.send(None)


def test_two_snapshots_without_a_name_get_the_same() -> None:
    """33: two in one second."""
    fs = volume()
    now = 1_700_000_000_000_000_000
    made = []
    for _ in range(3):
        made.append(drive(fs.volume, snapshots.create, fs, None, now_ns=now).name)
    commit(fs.volume)
    made.append(drive(fs.volume, snapshots.create, fs, None, now_ns=now).name)
    commit(fs.volume)
    assert made == [
        "2023-11-14T22:13:20Z",
        *(f"2023-11-14T22:13:20Z-{number}" for number in (2, 3, 4)),
    ]
    assert [one.name for one in snapshots.all(fs)] == made
