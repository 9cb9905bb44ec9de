"""What goes wrong in the middle of a request or a command: the kernel hears of what is done, counts
stay right, and all goes on.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from snapfs import snapshots
from snapfs.device import MemoryDevice
from snapfs.errors import CorruptData, DeviceError, DeviceFull, NoSpace
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import NOWHERE, Edge
from snapfs.fuse.driving.neighbours import NoKernel, Outdated
from snapfs.fuse.driving.threads import (
    THREADS,
    Pool,
    in_thread,
)
from snapfs.fuse.kernel.flusher import (
    NO_WAY,
    Flusher,
    Result,
    WantedFlush,
)
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.kernel.pruning import Pruning
from snapfs.fuse.mount.mounting import Ending
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import (
    KERNEL_ROOT,
    WRITER_BIT,
    Numbers,
)
from snapfs.fuse.protocol.wire import RequestCaller
from snapfs.fuse.requests import listing
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving.quick import Quick
from snapfs.ids import BASE_VIEW, ROOT_INO
from snapfs.snapshots import NameInSnapshot, RestoreResult
from snapfs.store.commit.recovery import open_volume

VIEW = 3


class Slow:
    """A kernel in which somebody holds the lock of every directory until ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.told: list[object] = []

    def expire_name(self, parent: int, name: bytes) -> None:
        assert self.go.wait(20)
        self.told.append((parent, name))

    def forget_name(self, parent: int, name: bytes) -> None:
        assert self.go.wait(20)
        self.told.append((parent, name))

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        self.told.append((node, attributes_only))


class Hearing(NoKernel):
    """Remembers what it is told; ``flush`` and ``outdated`` fail when told to."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.failure: Exception | None = None

    async def flush(self, view_ids: Collection[int] | None = None) -> None:
        if self.failure is not None:
            raise self.failure

    async def view_renamed(self, view_id: int, *, asked_by: int | None) -> None:
        self.told.append(("renamed", view_id, asked_by))

    async def outdated(self, result: RestoreResult) -> Outdated:
        raise ZeroDivisionError("a defect")

    async def restored(self, found: Outdated | None) -> None:
        self.told.append(("restored", found))

    async def purged(self, places: Collection[NameInSnapshot]) -> None:
        self.told.append(("purged", [place.name for place in places]))


class Mount:
    """A volume in memory, with all that a mount has but the kernel."""

    def __init__(self) -> None:
        device = MemoryDevice(32 << 20)
        format_volume(device)
        fs = Filesystem(open_volume(device))
        self.edge = Edge(fs, commit_seconds=3600.0)
        self.fs = fs
        numbers = Numbers(BASE_VIEW)
        self.known = Known(numbers, lambda view_id, ino: fs.hold(fs.view(view_id), ino))
        self.kernel = MountedKernel(self.edge, self.known, numbers, "/nowhere")
        self.slow = self.kernel.notices = Slow()
        self.operations = Operations(
            self.edge, self.known, numbers, self.kernel, MountOptions(), 4096
        )

    async def make(self, *names: bytes) -> None:
        for name in names:
            await self.edge.change(
                self.fs.make, self.fs.base, ROOT_INO, name, stat.S_IFREG | 0o644, 0, 0
            )


@pytest.fixture
async def mount(nursery: trio.Nursery) -> Mount:
    made = Mount()
    nursery.start_soon(made.edge.run)
    return made


@pytest.fixture
def hearing(mount: Mount) -> Hearing:
    mount.edge.kernel = kernel = Hearing()
    return kernel


async def test_closing_directories_of_snapshots_takes_what_making_a_snapshot_needs(
    nursery: trio.Nursery,
) -> None:
    """Who makes one has its ``.snap`` locked until it is made. Whoever waits for that lock must
    leave threads, and be answered.
    """
    edge = SimpleNamespace(fs=None)
    numbers = Numbers(BASE_VIEW)
    known = Known(numbers, lambda _view, _ino: None)
    kernel = MountedKernel(edge, known, numbers, "/nowhere")  # type: ignore[arg-type]
    slow = kernel.notices = Slow()
    nursery.start_soon(kernel.run)
    node, snapdir = numbers.node(VIEW, 5), numbers.snapdir(KERNEL_ROOT)
    known.add(node)
    known.show(VIEW, snapdir, b"s")
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as requests:
                for _ in range(2 * THREADS[Pool.KERNEL]):
                    requests.start_soon(kernel.passage_changed, node)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await in_thread(Pool.KERNEL, lambda: None, abandon_on_cancel=True)
        assert not slow.told
    finally:
        slow.go.set()
    with trio.fail_after(20):
        while not slow.told:
            await trio.sleep(0.001)
    assert slow.told == [(snapdir, b"s")]
    nursery.cancel_scope.cancel()


async def test_who_waits_for_the_kernel_keeps_a_daemon_from_ending(nursery: trio.Nursery) -> None:
    """Unmounting is what ends their waiting: it must not wait for a thread that they have."""
    ended: list[str] = []
    go, over = threading.Event(), trio.Event()

    async def flush() -> None:
        """Nothing is held back."""

    device = MemoryDevice(4096)
    kernel: Any = SimpleNamespace(
        _fs=SimpleNamespace(volume=SimpleNamespace(device=device)), flush=flush
    )
    mount: Any = SimpleNamespace(
        leave=lambda: ["in use"], take_away=lambda: ended.append("taken away")
    )
    server: Any = SimpleNamespace(stop=over.set)
    asked = trio.Event()
    asked.set()
    ending = Ending(mount, kernel, server, asked, lambda: 0)
    ending.over = over
    for _ in range(2 * THREADS[Pool.KERNEL]):
        nursery.start_soon(in_thread, Pool.KERNEL, lambda: go.wait(20))
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        with trio.move_on_after(5):
            await ending.watch()
        assert ended == ["taken away"]
    finally:
        go.set()


async def test_a_daemon_that_ends_waits_for_writes_that_never_come(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Fetching what the kernel holds back may wait for whom nobody ends; while writes come it goes
    on, however long it takes.
    """
    writes, stopped = [0], trio.Event()

    async def flush() -> None:
        for _ in range(3):
            await trio.sleep(15)
            writes[0] += 1
        await trio.sleep_forever()

    device = MemoryDevice(4096)
    kernel: Any = SimpleNamespace(
        _fs=SimpleNamespace(volume=SimpleNamespace(device=device)), flush=flush
    )
    mount: Any = SimpleNamespace(leave=lambda: ["in use"], take_away=lambda: None)
    server: Any = SimpleNamespace(stop=stopped.set)
    asked = trio.Event()
    asked.set()
    ending = Ending(mount, kernel, server, asked, lambda: writes[0])
    ending.over = stopped
    began = trio.current_time()
    await ending.watch()
    assert kernel.is_ending
    assert writes == [3]
    assert 45 < trio.current_time() - began < 100


async def test_names_are_looked_at_by_a_thread_while_they_change(nursery: trio.Nursery) -> None:
    seen: set[int] = set()

    class Watched(Known):
        def names(self, node: int) -> set[tuple[int, bytes]]:
            seen.add(threading.get_ident())
            return super().names(node)

    class Old(Slow):
        def prune(self, nodes: list[int]) -> None:
            raise OSError(errno.EINVAL, "what is that?")

    kernel = Old()
    kernel.go.set()
    known = Watched(Numbers(), lambda _view, _ino: None, 10)
    nursery.start_soon(Pruning(known, lambda: kernel).run)
    for node in range(100, 120):
        known.add(node)
        known.name(node, stat.S_IFREG, KERNEL_ROOT, b"%d" % node)
    with trio.fail_after(20):
        while known.crowded.is_set():
            await trio.sleep(0.001)
    assert kernel.told
    assert seen == {threading.get_ident()}
    nursery.cancel_scope.cancel()


async def test_a_write_that_damaged_data_refuse_counts_as_stored(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot whose files are fetched page by page asks what was lost: the answer without a
    handler tells as the handler does.
    """
    await mount.make(b"file")
    ino = mount.fs.lookup(mount.fs.base, ROOT_INO, b"file").ino
    damage = CorruptData("block 7: checksum")

    def write(*_arguments: object, **_more: object) -> int:
        raise damage

    monkeypatch.setattr(mount.fs, "write", write)
    mount.kernel._lost = {ino: None}
    body = memoryview(wire.WRITE_IN.pack(ino | WRITER_BIT, 0, 1, 0, 0, 0) + b"x")
    with pytest.raises(CorruptData):
        Quick(mount.operations).work[wire.Op.WRITE](1, ino, body, 0, 0)
    assert mount.kernel._lost == {ino: damage}
    assert not mount.edge.volume.read_only


def test_a_process_that_somebody_has_ended_is_asked_for_ever() -> None:
    flusher = Flusher()
    wanted = [WantedFlush(1, 1)]
    try:
        assert flusher.flush(b"/nowhere", 0, wanted) == [Result(NO_WAY)]
        process = flusher._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
        assert flusher.flush(b"/nowhere", 0, wanted) == [Result(NO_WAY)]
        # It ends in the very moment, so that it is not seen to have ended before.
        assert flusher._process is not None
        flusher._process.kill()
        os.waitid(os.P_PID, flusher.pid, os.WEXITED | os.WNOWAIT)
        flusher._process.poll = lambda: None  # type: ignore[method-assign]
        with pytest.raises(ConnectionAbortedError):
            flusher.flush(b"/nowhere", 0, wanted)
        assert flusher.flush(b"/nowhere", 0, wanted) == [Result(NO_WAY)]
    finally:
        flusher.close()


async def test_a_listing_that_breaks_off_leaves_inodes_counted(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted must be in the reply, or the kernel never gives it back. The trouble is met
    where it goes on.
    """
    await mount.make(*(b"%04d" % number for number in range(1000)))
    entries = mount.fs.entries
    good = iter(range(1))

    def failing(*arguments: Any) -> Any:
        if next(good, None) is None:
            raise DeviceError("a bad sector")
        return entries(*arguments)

    class Rows(wire.Rows):
        """Remembers what the kernel will count."""

        def add_packed(self, name: bytes, entry: bytes, node: int, mode: int, cookie: int) -> bool:
            if name not in (b".", b".."):
                counted.append(node)
            return super().add_packed(name, entry, node, mode, cookie)

    counted: list[int] = []
    monkeypatch.setattr(mount.fs, "entries", failing)
    await mount.operations.readdir(KERNEL_ROOT, 0, Rows(1 << 20))
    assert 0 < len(counted) < 1000
    assert len(mount.known) == len(counted)
    for after in (0, listing.DOTDOT_COOKIE, listing.FIRST_COOKIE):
        with pytest.raises(pyfuse3.FUSEError):
            await mount.operations.readdir(KERNEL_ROOT, after, Rows(1 << 20))
    assert len(mount.known) == len(counted)


async def test_a_defect_after_a_restore_leaves_the_kernel_with_what_was_before(
    mount: Mount, hearing: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    await mount.edge.create_snapshot("s")
    await mount.make(b"new")
    await mount.edge.restore("s")
    assert hearing.told == [("restored", None)]
    assert "ZeroDivisionError" in caplog.text


async def test_the_root_is_forgotten_when_all_is_looked_up_again(mount: Mount) -> None:
    assert KERNEL_ROOT in mount.kernel._everything().nodes


async def test_a_directory_that_cannot_be_read_keeps_purged_names_believed(
    mount: Mount, nursery: trio.Nursery
) -> None:
    await mount.make(b"file")
    instance = await mount.edge.create_snapshot("s")
    view = mount.fs.view(instance.id)
    numbers = Numbers(BASE_VIEW)
    node, snapdir = numbers.node(instance.id, ROOT_INO), numbers.snapdir(KERNEL_ROOT)
    mount.known.add(node)
    mount.known.show(instance.id, snapdir, b"s")
    ino = mount.fs.lookup(view, ROOT_INO, b"file").ino

    async def call(*_: object) -> None:
        raise DeviceError("a bad sector")

    mount.kernel._edge = SimpleNamespace(call=call)  # type: ignore[assignment]
    mount.slow.go.set()
    nursery.start_soon(mount.kernel.run)
    (found,) = [
        one
        for one in snapshots.find_places(mount.fs, "s", [b"file"], permit=snapshots.anyone).places
        if one.ino == ino
    ]
    with trio.fail_after(20):
        await mount.kernel.purged([found])
    assert {(node, b"file"), (snapdir, b"s")} <= set(mount.slow.told)
    nursery.cancel_scope.cancel()


async def test_a_name_that_was_needed_in_vain_stays_where_it_was_shown(
    mount: Mount, hearing: Hearing
) -> None:
    mount.fs.privileged = {0}
    other = await mount.edge.create_snapshot("nightly", owner=1001)
    hearing.failure = NoSpace("what was written last could not be stored")
    with pytest.raises(NoSpace):
        await mount.edge.create_snapshot("nightly", owner=0)
    assert mount.fs.volume.instances.table[other.id].name == "nightly~1001"
    assert hearing.told == [("renamed", other.id, NOWHERE)]


async def test_a_rename_that_is_not_durable_stays_in_the_directory_that_asked(
    mount: Mount, hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = await mount.edge.create_snapshot("s")

    async def full(*_: object) -> bool:
        raise DeviceFull("the host is full")

    monkeypatch.setattr(mount.edge.commits, "commit", full)
    with pytest.raises(DeviceFull):
        await mount.edge.rename_snapshot(instance, "t", asked_by=7)
    assert hearing.told == [("renamed", instance.id, NOWHERE)]


async def test_a_defect_in_a_purge_leaves_what_is_purged_to_be_seen(
    mount: Mount, hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mount.make(b"one", b"two")
    await mount.edge.create_snapshot("s")
    places = snapshots.find_places(mount.fs, "s", [b"one", b"two"], permit=snapshots.anyone).places
    work_for = mount.fs.orphans.work_for

    def portions(wanted: list[NameInSnapshot]) -> Iterator[list[NameInSnapshot]]:
        for one in wanted:
            yield [one]

    def failing(number: int) -> object:
        if done:
            raise ZeroDivisionError("a defect")
        done.append(number)
        return work_for(number)

    done: list[int] = []
    monkeypatch.setattr(snapshots, "portions", portions)
    monkeypatch.setattr(mount.fs.orphans, "work_for", failing)
    with pytest.raises(ZeroDivisionError):
        await mount.edge.purge(places)
    assert hearing.told == [("purged", [b"one", b"two"])]
    assert mount.edge.volume.read_only_reason is not None


async def test_what_could_not_be_stored_at_once_is_counted_for_ever(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gets an error instead of the inode: it knows none that it could give back."""
    options = MountOptions(kernel=frozenset({"sync"}))
    operations = Operations(
        mount.edge, mount.known, Numbers(BASE_VIEW), mount.kernel, options, 4096
    )
    ctx: Any = RequestCaller(0, 0, 0)

    async def full() -> bool:
        raise DeviceFull("the host is full")

    monkeypatch.setattr(mount.edge.commits, "sync", full)
    for attempt in (
        lambda: operations.create(KERNEL_ROOT, b"file", 0o644, os.O_RDWR, ctx),
        lambda: operations.mkdir(KERNEL_ROOT, b"directory", stat.S_IFDIR | 0o755, ctx),
    ):
        with pytest.raises(pyfuse3.FUSEError):
            await attempt()
    assert len(mount.known) == 0
    assert mount.known.written() == []
    assert mount.known.views_in_use() == set()


async def test_who_waits_for_a_commit_that_is_broken_off_takes_it_for_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edge = Mount().edge
    monkeypatch.setattr(edge.commits, "_seal", trio.sleep_forever)
    await edge.change(edge.fs.make, edge.fs.base, ROOT_INO, b"file", stat.S_IFREG | 0o644, 0, 0)
    told: list[str] = []

    async def wait() -> None:
        with pytest.raises(DeviceError, match="broken off"):
            await edge.commit()
        told.append("broken off")

    async with trio.open_nursery() as others, trio.open_nursery() as running:
        running.start_soon(edge.commits.run)
        others.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        running.cancel_scope.cancel()
    assert told
