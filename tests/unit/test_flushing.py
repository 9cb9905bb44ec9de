"""How the daemon gets what the kernel holds back, by a process that does as told: nothing is taken
for fetched that was not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import trio

from snapfs.errors import (
    AccessDenied,
    DeviceError,
    FileTooBig,
    NoSpace,
    ReadOnly,
    SnapfsError,
    StaleInode,
)
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.flusher import (
    NO_WAY,
    Result,
    WantedFlush,
    flush_all,
)
from snapfs.fuse.kernel.flushing import Flushing
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.ids import BASE_VIEW, ROOT_INO
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice


class Process:
    """In the place of ``Flusher``: answers what ``answer`` says of each inode, and remembers what
    it was asked for.
    """

    pid = 77

    def __init__(self) -> None:
        self.answer: Callable[[WantedFlush], Result] = lambda _: Result(0)
        self.asked: list[list[WantedFlush]] = []

    def flush(self, mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
        self.asked.append(list(wanted))
        return [self.answer(one) for one in wanted]


class Notified:
    """In the place of the kernel: which inodes had to forget their pages, and what that brings."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []
        self.names: list[tuple[int, bytes]] = []
        self.then: Callable[[int], None] = lambda _: None

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        if not attributes_only:
            self.forgotten.append(node)
            self.then(node)

    def forget_name(self, parent: int, name: bytes) -> None:
        self.names.append((parent, name))


class Mount:
    def __init__(self) -> None:
        device = SparseDevice(32 << 20)
        format_volume(device)
        self.edge = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
        numbers = Numbers(BASE_VIEW)
        self.known = Known(numbers, lambda *_: None)
        self.flushing = Flushing(self.edge, self.known, numbers, "/nowhere")
        self.process, self.notified = Process(), Notified()
        self.flushing._flusher = self.process  # type: ignore[assignment]
        self.flushing.notices = self.notified

    async def writers(self, count: int) -> list[int]:
        """That many files that are open for writing."""
        nodes = []
        for number in range(count):
            fs = self.edge.fs
            inode = await self.edge.change(
                fs.make, fs.base, ROOT_INO, b"file%d" % number, stat.S_IFREG | 0o644, 0, 0
            )
            self.known.opened(inode.ino, os.O_RDWR)
            nodes.append(inode.ino)
        return nodes


@pytest.fixture
async def mount(nursery: trio.Nursery) -> AsyncIterator[Mount]:
    made = Mount()
    nursery.start_soon(made.edge.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_opened_is_taken_for_flushed(mount: Mount) -> None:
    """Whatever opening ends with, above all with "no such file", which whoever made the name be
    believed missing can bring about.
    """
    nodes = await mount.writers(3)
    for number in (errno.ENOENT, errno.ESTALE, errno.EACCES, errno.ELOOP, errno.EIO, NO_WAY):
        mount.notified.forgotten.clear()
        mount.process.answer = lambda one, number=number: Result(
            number if one.node == nodes[1] else 0
        )  # type: ignore[misc]
        await mount.flushing.flush()
        assert mount.notified.forgotten == [nodes[1]], number


async def test_a_process_that_was_killed_has_flushed_everything(mount: Mount) -> None:
    nodes = await mount.writers(3)

    def killed(_: WantedFlush) -> Result:
        raise ConnectionAbortedError("the process that flushes has ended")

    mount.process.answer = killed
    await mount.flushing.flush()
    assert sorted(mount.notified.forgotten) == nodes


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NoSpace, NoSpace),
        (DeviceError, DeviceError),
        (StaleInode, None),
        (ReadOnly, None),
        (FileTooBig, None),
    ],
)
async def test_what_is_lost_page_by_page_is_told_to_nobody(
    kind: type[SnapfsError], expected: type[SnapfsError] | None, mount: Mount
) -> None:
    nodes = await mount.writers(2)
    mount.process.answer = lambda _: Result(NO_WAY)
    mount.notified.then = lambda node: (
        mount.flushing.lost(node, kind("because")) if node == nodes[1] else None
    )
    if expected is None:  # a write that nothing could have taken
        await mount.flushing.flush()
        return
    with pytest.raises(expected, match="what was written last could not be stored"):
        await mount.flushing.flush()
    mount.notified.then = lambda _: None
    await mount.flushing.flush()


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EROFS, errno.EFBIG]
)
async def test_what_closing_says_is_ignored_or_stops_those_it_does_not_concern(
    number: int, mount: Mount
) -> None:
    nodes = await mount.writers(2)
    mount.process.answer = lambda one: Result(0, number if one.node == nodes[1] else 0)
    if number in (errno.ENOSPC, errno.EIO):
        with pytest.raises(NoSpace if number == errno.ENOSPC else DeviceError):
            await mount.flushing.flush()
    else:
        await mount.flushing.flush()
    assert mount.notified.forgotten == []


async def test_names_are_used_where_handles_can_be_or_are_used_twice(mount: Mount) -> None:
    """And nobody but the process finds anything under them, nor anybody at all afterwards."""
    await mount.writers(300)
    flushing, process = mount.flushing, mount.process
    await flushing.flush()
    assert all(not one.name for batch in process.asked for one in batch)
    process.asked.clear()
    used: set[bytes] = set()

    def without_handles(one: WantedFlush) -> Result:
        if not one.name:
            return Result(errno.EPERM)
        assert flushing.node_of_alias(one.name, process.pid) == one.node
        for somebody in (0, 1, process.pid + 1):
            with pytest.raises(AccessDenied):
                flushing.node_of_alias(one.name, somebody)
        assert one.name not in used
        used.add(one.name)
        return Result(0)

    process.answer = without_handles
    for _ in range(3):
        await flushing.flush()
        assert not flushing.aliases
    assert len(used) == 900
    assert {name for _, name in mount.notified.names} == used  # the kernel would keep the inodes
    assert (
        sum(not one.name for batch in process.asked for one in batch) <= 256
    )  # once is enough to know
    assert mount.notified.forgotten == []


def test_the_process_opens_something_else(tmp_path: Path) -> None:
    """By a name: a link, a pipe, another file, another filesystem."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    top.mkdir()
    outside.write_bytes(b"")
    (top / "file").write_bytes(b"")
    (top / "other").write_bytes(b"")
    (top / "link").symlink_to(outside)
    os.mkfifo(top / "pipe")
    node, device = (top / "file").stat().st_ino, top.stat().st_dev

    def result(name: str, wanted: int = node, at: int = device) -> Result:
        (found,) = flush_all(os.fsencode(top), at, [WantedFlush(wanted, name=name.encode())])
        return found

    assert result("file") == Result(0)
    assert result("link", outside.stat().st_ino) == Result(errno.ELOOP)
    assert result("other") == Result(NO_WAY)
    assert result("pipe") == Result(NO_WAY)
    assert result("missing") == Result(errno.ENOENT)
    assert result("file", at=device + 1) == Result(NO_WAY)
