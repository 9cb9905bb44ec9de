"""The loop that serves requests, with a socket in the place of the kernel: every request is
answered, whatever becomes of another.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import trio
import trio.testing

from snapfs import probes, snapshots
from snapfs.check import check_volume
from snapfs.device.base import Buffer
from snapfs.errors import DeviceError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.kernel.pause import VALID
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol import connection as connection_module
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.connection import Connection
from snapfs.fuse.protocol.numbers import KERNEL_ROOT, Numbers
from snapfs.fuse.protocol.wire import Op, Set
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving.loop import Loop
from snapfs.ids import BASE_VIEW, ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

#: Bytes that fit into one message of a socket whatever the system's limits are.
BIG = 64 << 10

LIMIT = 4


class TestDevice(SparseDevice):
    """Its flushes wait for ``go``; its writes fail when told to, and are counted then."""

    __test__ = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.go = threading.Event()
        self.go.set()
        self.failure: DeviceError | None = None
        self.refused = 0

    def write(self, offset: int, data: Buffer) -> None:
        if self.failure is not None:
            self.refused += 1
            raise self.failure
        super().write(offset, data)

    def flush(self) -> None:
        assert self.go.wait(20)


class Kernel:
    """The other side: sends requests, and takes answers as (error, data) by
    the request's number.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._number = 0
        self._answers: dict[int, tuple[int, bytes]] = {}
        self.order: list[int] = []

    def send(self, opcode: int, node: int, body: bytes = b"") -> int:
        self._number += 1
        header = wire.IN_HEADER.pack(
            wire.IN_HEADER.size + len(body), opcode, self._number, node, 0, 0, 1, 0, 0
        )
        self._end.send(header + body)
        return self._number

    async def answer(self, number: int) -> tuple[int, bytes]:
        with trio.fail_after(20):
            while number not in self._answers:
                await trio.lowlevel.wait_readable(self._end)
                self.take()
        return self._answers.pop(number)

    def take(self) -> list[int]:
        """Take what is there; the numbers of all that has been answered and
        was not asked for yet.
        """
        while True:
            try:
                message = self._end.recv(2 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return list(self._answers)
            length, error, unique = wire.OUT_HEADER.unpack_from(message)
            assert length == len(message)
            assert unique not in self._answers, "two answers to one request"
            self._answers[unique] = -error, message[wire.OUT_HEADER.size :]
            self.order.append(unique)

    async def ask(self, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        return await self.answer(self.send(opcode, node, body))

    async def create(self, name: bytes) -> tuple[int, int]:
        """Node and handle of a new file."""
        error, data = await self.ask(
            Op.CREATE,
            KERNEL_ROOT,
            wire.CREATE_IN.pack(os.O_RDWR, stat.S_IFREG | 0o644, 0, 0) + name + b"\0",
        )
        assert not error
        return struct.unpack_from("<Q", data)[0], wire.OPEN_OUT.unpack_from(
            data, wire.ENTRY_OUT.size
        )[0]

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        error, data = await self.ask(
            Op.READ, KERNEL_ROOT, wire.READ_IN.pack(handle, offset, size, 0, 0, 0)
        )
        assert not error
        return data

    def end(self) -> None:
        self._end.close()


def writing(handle: int, offset: int, data: bytes) -> bytes:
    return wire.WRITE_IN.pack(handle, offset, len(data), 0, 0, 0) + data


def syncing(handle: int) -> bytes:
    return wire.FSYNC_IN.pack(handle, 0)


class Mount:
    """A loop that serves, and all that it needs."""

    def __init__(self, device: TestDevice, descriptor: int) -> None:
        self.edge = Edge(Filesystem(open_volume(device)), commit_seconds=3600.0)
        fs = self.edge.fs
        numbers = Numbers(BASE_VIEW)
        known = Known(numbers, lambda view_id, ino: fs.hold(fs.view(view_id), ino))
        options = MountOptions()
        kernel = MountedKernel(self.edge, known, numbers, "/nowhere")
        self.operations = Operations(self.edge, known, numbers, kernel, options, 4096)
        self.connection = Connection(descriptor, lambda: self.edge.in_progress > 0)
        self.loop = Loop(self.connection, self.operations, LIMIT)
        self.ended = trio.Event()

    async def run(self) -> None:
        await self.loop.run()
        self.ended.set()

    async def end(self) -> None:
        with trio.fail_after(20):
            await self.ended.wait()


@pytest.fixture
def device() -> TestDevice:
    made = TestDevice(32 << 20)
    format_volume(made)
    return made


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BIG)
    return ours, theirs


@pytest.fixture
async def mount(
    device: TestDevice, ends: tuple[socket.socket, socket.socket], nursery: trio.Nursery
) -> AsyncIterator[Mount]:
    made = Mount(device, ends[1].fileno())
    nursery.start_soon(made.edge.run)
    nursery.start_soon(made.run)
    yield made
    device.go.set()
    made.loop.stop()
    await made.end()
    nursery.cancel_scope.cancel()
    for end in ends:
        end.close()


@pytest.fixture
def kernel(ends: tuple[socket.socket, socket.socket], mount: Mount) -> Kernel:
    return Kernel(ends[0])


async def settled(kernel: Kernel) -> list[int]:
    """What has been answered when nothing goes on without something from outside."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    return kernel.take()


# --- waiting --------------------------------------------------------------------------------------


async def test_a_request_that_waits_keeps_later_ones_from_being_answered(
    kernel: Kernel, device: TestDevice
) -> None:
    node, handle = await kernel.create(b"file")
    device.go.clear()
    waiting = kernel.send(Op.FSYNC, node, syncing(handle))
    for _ in range(20):
        error, data = await kernel.ask(Op.GETATTR, node, bytes(16))
        assert (error, len(data)) == (0, wire.ATTR_OUT.size)
        assert (await kernel.ask(Op.STATFS, KERNEL_ROOT))[0] == 0
    assert waiting not in await settled(kernel)
    device.go.set()
    assert await kernel.answer(waiting) == (0, b"")


async def test_whoever_is_about_to_write_does_not_wait_for_the_end_of_a_pause(
    kernel: Kernel, mount: Mount
) -> None:
    """A2; or others do wait, or the kernel is told that it may believe what
    it is told meanwhile.
    """
    node, handle = await kernel.create(b"file")
    pause = mount.operations.kernel.pause
    pause.begin({BASE_VIEW})
    writer = kernel.send(Op.GETATTR, node, wire.GETATTR_IN.pack(wire.GETATTR_FH, handle))
    for body in (wire.GETATTR_IN.pack(0, 0), wire.GETATTR_IN.pack(wire.GETATTR_FH, node)):
        error, data = await kernel.ask(Op.GETATTR, node, body)
        assert (error, wire.ATTR_OUT.unpack(data)[0]) == (0, 0)
    error, data = await kernel.ask(Op.LOOKUP, KERNEL_ROOT, b"file\0")
    assert (error, wire.ENTRY_OUT.unpack(data)[3]) == (0, 0)
    assert writer not in await settled(kernel)
    pause.end()
    error, data = await kernel.answer(writer)
    assert (error, wire.ATTR_OUT.unpack(data)[0]) == (0, VALID)
    assert not pause.let_go


async def test_a_pause_holds_up_those_who_write_elsewhere(kernel: Kernel, mount: Mount) -> None:
    node, handle = await kernel.create(b"file")
    mount.operations.kernel.pause.begin({7})
    assert (await kernel.ask(Op.GETATTR, node, wire.GETATTR_IN.pack(wire.GETATTR_FH, handle)))[
        0
    ] == 0


@pytest.mark.reaches(probes.PAUSE_GAVE_WAY)
async def test_a_pause_waits_for_ever_for_somebody_who_waits_for_it(
    kernel: Kernel, mount: Mount, nursery: trio.Nursery
) -> None:
    node, handle = await kernel.create(b"file")
    pause = mount.operations.kernel.pause
    nursery.start_soon(pause.watch)
    pause.begin({BASE_VIEW})
    with pause.fetching():
        error, data = await kernel.ask(
            Op.GETATTR, node, wire.GETATTR_IN.pack(wire.GETATTR_FH, handle)
        )
    assert (error, wire.ATTR_OUT.unpack(data)[0]) == (0, 0)
    assert pause.let_go == 1


async def test_a_pause_that_does_not_end_says_nothing(
    kernel: Kernel,
    mount: Mount,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pages are fetched, and the commit takes for ever."""
    monkeypatch.setattr("snapfs.fuse.kernel.pause.SECONDS", 0.02)
    node, handle = await kernel.create(b"file")
    pause = mount.operations.kernel.pause
    nursery.start_soon(pause.watch)
    pause.begin({BASE_VIEW})
    assert (await kernel.ask(Op.GETATTR, node, wire.GETATTR_IN.pack(wire.GETATTR_FH, handle)))[
        0
    ] == 0
    assert [record.message for record in caplog.records] == [
        (
            "programs that write have waited 0.02 s for a snapshot, and go on: it may have "
            "their writes in another order"
        )
    ]


async def test_a_write_that_waits_is_overwritten_by_those_that_come_after(
    kernel: Kernel, mount: Mount
) -> None:
    node, handle = await kernel.create(b"file")
    contents = [bytes([index + 1]) * size for index, size in enumerate((BIG, BIG, 100))]
    async with mount.edge.gate.closed():
        numbers = [
            kernel.send(Op.WRITE, node, writing(handle, index * BIG, content))
            for index, content in enumerate(contents)
        ]
        assert not await settled(kernel)
        for _ in range(5):  # they come into buffers, too
            body = wire.SETXATTR_IN.pack(10 << 10, 0) + b"user.other\0" + b"\xff" * (10 << 10)
            assert (await kernel.ask(Op.GETXATTR, node, wire.GETXATTR_IN.pack(0) + b"user.none\0"))[
                0
            ] == errno.ENODATA
            assert (await kernel.ask(99, node, body))[0] == errno.ENOSYS
        assert not await settled(kernel)
    for number, content in zip(numbers, contents, strict=True):
        assert await kernel.answer(number) == (0, wire.WRITE_OUT.pack(len(content)))
    for index, content in enumerate(contents):
        assert await kernel.read(handle, index * BIG, len(content)) == content


async def test_buffers_that_were_given_back_are_still_looked_into(
    kernel: Kernel, mount: Mount
) -> None:
    node, handle = await kernel.create(b"file")
    for turn in range(5):
        contents = [bytes([turn * 10 + index + 1]) * BIG for index in range(LIMIT - 1)]
        async with mount.edge.gate.closed():
            numbers = [
                kernel.send(Op.WRITE, node, writing(handle, index * BIG, content))
                for index, content in enumerate(contents)
            ]
            assert not await settled(kernel)
        for number in numbers:
            assert (await kernel.answer(number))[0] == 0
        for index, content in enumerate(contents):
            assert await kernel.read(handle, index * BIG, BIG) == content


async def test_whoever_renames_a_file_again_and_again_fills_the_memory(
    kernel: Kernel, mount: Mount
) -> None:
    node, _ = await kernel.create(b"file0")
    other, _ = await kernel.create(b"other")
    known = mount.operations.known
    new = wire.RENAME2_IN.pack(KERNEL_ROOT, 0)
    for turn in range(100):
        assert (
            await kernel.ask(Op.RENAME2, KERNEL_ROOT, new + b"file%d\0file%d\0" % (turn, turn + 1))
        )[0] == 0
    assert known.names(node) == {(KERNEL_ROOT, b"file100")}
    exchange = wire.RENAME2_IN.pack(KERNEL_ROOT, 2)
    assert (await kernel.ask(Op.RENAME2, KERNEL_ROOT, exchange + b"file100\0other\0"))[0] == 0
    assert (known.names(node), known.names(other)) == (
        {(KERNEL_ROOT, b"other")},
        {(KERNEL_ROOT, b"file100")},
    )
    for turn in range(100):
        assert (
            await kernel.ask(Op.LINK, KERNEL_ROOT, wire.LINK_IN.pack(node) + b"link%d\0" % turn)
        )[0] == 0
        if turn % 2:
            assert (await kernel.ask(Op.UNLINK, KERNEL_ROOT, b"link%d\0" % turn))[0] == 0
        else:
            assert (
                await kernel.ask(Op.RENAME2, KERNEL_ROOT, new + b"link%d\0moved%d\0" % (turn, turn))
            )[0] == 0
            assert (await kernel.ask(Op.RENAME2, KERNEL_ROOT, new + b"moved%d\0other\0" % turn))[
                0
            ] == 0
    assert known.names(node) == {
        (KERNEL_ROOT, b"other"),
        *((KERNEL_ROOT, b"moved%d" % turn) for turn in range(0, 100, 2)),
    }


async def test_requests_that_wait_keep_the_buffers_that_they_came_in(
    kernel: Kernel, mount: Mount, device: TestDevice
) -> None:
    """Two hundred kept 225 MB for 80 bytes each. A write keeps its own: it has what is to be
    written.
    """
    node, handle = await kernel.create(b"file")
    buffer = mount.connection.buffer
    device.go.clear()
    waiting = [kernel.send(Op.FSYNC, node, syncing(handle)) for _ in range(LIMIT - 1)]
    assert not await settled(kernel)
    assert mount.edge.in_progress == LIMIT - 1
    assert mount.connection.buffer is buffer
    device.go.set()
    for number in waiting:
        assert await kernel.answer(number) == (0, b"")
    async with mount.edge.gate.closed():
        number = kernel.send(Op.WRITE, node, writing(handle, 0, b"x" * BIG))
        assert not await settled(kernel)
        assert mount.connection.buffer is not buffer
    assert (await kernel.answer(number))[0] == 0


async def test_more_requests_are_worked_on_at_once_than_the_limit_says(
    kernel: Kernel, mount: Mount, device: TestDevice
) -> None:
    node, handle = await kernel.create(b"file")
    device.go.clear()
    waiting = [kernel.send(Op.FSYNC, node, syncing(handle)) for _ in range(LIMIT + 3)]
    behind = kernel.send(Op.GETATTR, node, bytes(16))
    assert not await settled(kernel)
    assert mount.edge.in_progress == LIMIT
    device.go.set()
    for number in waiting:
        assert await kernel.answer(number) == (0, b"")
    assert (await kernel.answer(behind))[0] == 0
    assert mount.edge.in_progress == 0


async def test_after_many_have_waited_the_loop_serves_on(
    kernel: Kernel, device: TestDevice
) -> None:
    node, handle = await kernel.create(b"file")
    for turn in range(10):
        device.go.clear()
        waiting = []
        for index in range(LIMIT - 1):
            assert (await kernel.ask(Op.WRITE, node, writing(handle, 0, b"%d" % turn)))[0] == 0
            waiting.append(kernel.send(Op.FSYNC, node, syncing(handle)))
            await settled(kernel)
            assert (await kernel.ask(Op.GETATTR, node, bytes(16)))[0] == 0, f"{turn} {index}"
        device.go.set()
        for number in waiting:
            assert await kernel.answer(number) == (0, b"")


# --- what goes wrong ------------------------------------------------------------------------------


async def test_a_defect_in_a_handler_ends_the_loop(
    kernel: Kernel, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a defect, for the test")

    monkeypatch.setattr(mount.operations, "statfs", broken)
    assert await kernel.ask(Op.STATFS, KERNEL_ROOT) == (errno.EIO, b"")
    assert "internal error" in caplog.text
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


async def test_a_defect_behind_a_quick_answer_ends_the_loop(
    kernel: Kernel, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a defect, for the test")

    monkeypatch.setattr(mount.edge.fs, "lookup", broken)
    assert await kernel.ask(Op.LOOKUP, KERNEL_ROOT, b"name\0") == (errno.EIO, b"")
    assert "lookup: internal error" in caplog.text
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    assert mount.edge.volume.read_only_reason is None, "nothing was being changed"


async def test_what_nobody_waits_for_is_answered_when_it_fails(
    kernel: Kernel, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a defect, for the test")

    monkeypatch.setattr(mount.operations.known, "drop", broken)
    kernel.send(Op.FORGET, 77, wire.FORGET_IN.pack(1))
    kernel.send(Op.BATCH_FORGET, 0, wire.BATCH_FORGET_IN.pack(1, 0) + wire.FORGET_ONE.pack(77, 1))
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    assert await settled(kernel) == [], "an answer to a request that takes none"
    lines = [record.getMessage().split("\n")[0] for record in caplog.records]
    assert lines == [
        "forget: internal error: a defect, for the test",
        "batch_forget: internal error",
    ]


# --- observers ------------------------------------------------------------------------------------


class Seen:
    """What an observer was told: by the number of the request, its opcode and errno, and length."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int, int | None, int]] = []

    def __call__(
        self, opcode: int, began: float, message: wire.Piece, reply: Sequence[wire.Piece]
    ) -> None:
        assert 0 < began <= time.perf_counter()
        length, named, unique, *_ = wire.IN_HEADER.unpack_from(message)
        assert (named, length) == (opcode, len(message))
        error = None
        if reply:
            size, error, answered = wire.OUT_HEADER.unpack_from(reply[0])
            assert (answered, size) == (unique, sum(map(len, reply)))
        self.requests.append((unique, opcode, error and -error, length))


async def test_a_request_is_not_observed_or_observed_twice(
    kernel: Kernel, mount: Mount, device: TestDevice
) -> None:
    unseen = await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16))
    seen = Seen()
    mount.loop.observers.add(seen)
    node, handle = await kernel.create(b"file")
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[1] != unseen[1]
    assert (await kernel.ask(Op.WRITE, node, writing(handle, 0, bytes(BIG))))[0] == 0
    assert (await kernel.ask(Op.RMDIR, KERNEL_ROOT, b"file\0"))[0] == errno.ENOTDIR
    assert (await kernel.ask(999, KERNEL_ROOT))[0] == errno.ENOSYS
    device.go.clear()
    waiting = kernel.send(Op.FSYNC, node, syncing(handle))
    await settled(kernel)
    assert [request[1] for request in seen.requests] == [
        Op.CREATE, Op.GETATTR, Op.WRITE, Op.RMDIR, 999,
    ]  # fmt: skip
    kernel.send(Op.INTERRUPT, 0, bytes(8))
    kernel.send(Op.FORGET, node, wire.FORGET_IN.pack(1))
    await settled(kernel)
    device.go.set()
    assert await kernel.answer(waiting) == (0, b"")
    header = wire.IN_HEADER.size
    assert [request[1:] for request in seen.requests] == [
        (Op.CREATE, 0, header + wire.CREATE_IN.size + 5),
        (Op.GETATTR, 0, header + 16),
        (Op.WRITE, 0, header + wire.WRITE_IN.size + BIG),
        (Op.RMDIR, errno.ENOTDIR, header + 5),
        (999, errno.ENOSYS, header),
        (Op.INTERRUPT, None, header + 8),
        (Op.FORGET, None, header + 8),
        (Op.FSYNC, 0, header + 16),
    ]
    mount.loop.observers.remove(seen)
    await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16))
    assert len(seen.requests) == 8


async def test_a_request_that_a_pause_keeps_back_is_observed_when_it_is_answered(
    kernel: Kernel, mount: Mount
) -> None:
    node, handle = await kernel.create(b"file")
    seen = Seen()
    mount.loop.observers.add(seen)
    pause = mount.operations.kernel.pause
    pause.begin(None)
    asked = kernel.send(Op.GETATTR, node, wire.GETATTR_IN.pack(wire.GETATTR_FH, handle))
    await settled(kernel)
    pause.end()
    assert (await kernel.answer(asked))[0] == 0
    assert [(unique, error) for unique, _, error, _ in seen.requests] == [(asked, None), (asked, 0)]


async def test_a_defect_in_an_observer_ends_the_loop(
    kernel: Kernel, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a defect, for the test")

    mount.loop.observers.add(broken)
    for _ in range(2):
        assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "an observer of requests is told no more of them: internal error"
    ]


# --- what breaks off ------------------------------------------------------------------------------


def broken(*_: object, **__: object) -> None:
    raise MemoryError("for the test")


def durable(device: TestDevice) -> dict[bytes, int]:
    """The names in the root, with how many each inode counts, as they are after a crash; the
    checker finds nothing.
    """
    assert [finding.message() for finding in check_volume(device)] == []
    volume = open_volume(device)
    fs = Filesystem(volume)
    found = drive(volume, fs.entries, fs.base, ROOT_INO, 0, 100)
    return {entry.name: drive(volume, fs.inode, fs.base, entry.ino).nlink for entry in found}


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("opcode", [Op.RENAME, Op.UNLINK])
async def test_a_change_that_a_defect_has_broken_off_is_committed(
    opcode: Op,
    is_quick: bool,
    kernel: Kernel,
    mount: Mount,
    device: TestDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I8: memory has half of it, which nothing may make durable; what can be read is read."""
    node, handle = await kernel.create(b"one")
    await kernel.create(b"two")
    assert (await kernel.ask(Op.FSYNC, node, syncing(handle)))[0] == 0
    if not is_quick:
        mount.loop._quick.clear()
    monkeypatch.setattr("snapfs.filesystem.orphans.orphans.Orphans.release", broken)
    body = wire.RENAME_IN.pack(KERNEL_ROOT) + b"one\0two\0" if opcode == Op.RENAME else b"two\0"
    assert await kernel.ask(opcode, KERNEL_ROOT, body) == (errno.EIO, b"")
    assert mount.edge.volume.read_only_reason == "a change broke off: MemoryError: for the test"
    assert await kernel.ask(Op.FSYNC, node, syncing(handle)) == (errno.EROFS, b"")
    assert await kernel.ask(Op.UNLINK, KERNEL_ROOT, b"one\0") == (errno.EROFS, b"")
    assert (await kernel.ask(Op.GETATTR, node, bytes(16)))[0] == 0
    assert durable(device) == {b"one": 1, b"two": 1}


async def test_a_defect_after_a_change_undoes_half_of_it(
    kernel: Kernel, mount: Mount, device: TestDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core has done it; whoever asked is told of the defect, and finds that it has happened."""
    node, handle = await kernel.create(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(mount.operations, "learned", broken)
        patch.setattr(mount.operations, "unlinked", broken)
        assert await kernel.ask(Op.MKDIR, KERNEL_ROOT, wire.MKDIR_IN.pack(0o755, 0) + b"dir\0") == (
            errno.EIO,
            b"",
        )
        assert await kernel.ask(Op.UNLINK, KERNEL_ROOT, b"one\0") == (errno.EIO, b"")
    assert mount.edge.volume.read_only_reason is None
    assert (await kernel.ask(Op.FSYNC, node, syncing(handle)))[0] == 0
    assert durable(device) == {b"dir": 2}


async def test_a_write_that_the_device_refuses_is_tried_again(
    kernel: Kernel, device: TestDevice, caplog: pytest.LogCaptureFixture
) -> None:
    node, handle = await kernel.create(b"file")
    device.failure = DeviceError("it is worn out, for the test")
    assert await kernel.ask(Op.WRITE, node, writing(handle, 0, b"x" * 8192)) == (errno.EIO, b"")
    assert device.refused == 1
    assert caplog.text.count("it is worn out") == 1
    device.failure = None
    assert (await kernel.ask(Op.WRITE, node, writing(handle, 0, b"y" * 8192)))[0] == 0
    assert await kernel.read(handle, 0, 8192) == b"y" * 8192


@pytest.mark.parametrize("opcode", [28, 31, 34, 37, 39, 40, 43, 46, 47, 50, 51, 52, 4096])
async def test_what_is_not_understood_gets_no_answer(opcode: int, kernel: Kernel) -> None:
    assert await kernel.ask(opcode, KERNEL_ROOT, bytes(64)) == (errno.ENOSYS, b"")


async def test_what_expects_no_answer_gets_one(kernel: Kernel) -> None:
    node, _ = await kernel.create(b"file")
    silent = [
        kernel.send(Op.INTERRUPT, 0, struct.pack("<Q", 1)),
        kernel.send(Op.FORGET, node, wire.FORGET_IN.pack(1)),
        kernel.send(
            Op.BATCH_FORGET,
            0,
            wire.BATCH_FORGET_IN.pack(1, 0) + wire.FORGET_ONE.pack(KERNEL_ROOT, 0),
        ),
    ]
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    assert not set(silent) & set(await settled(kernel))


#: Requests that are nothing without a body of some length. (GETXATTR needs its own only where there
#: is an attribute.)
WITH_BODY = sorted(
    set(Op)
    - {
        Op.LOOKUP,
        Op.GETATTR,
        Op.READLINK,
        Op.UNLINK,
        Op.RMDIR,
        Op.STATFS,
        Op.OPENDIR,
        Op.GETXATTR,
        Op.REMOVEXATTR,
    }
    - {Op.DESTROY, Op.INTERRUPT, Op.FORGET, Op.BATCH_FORGET}
)


@pytest.mark.parametrize("opcode", WITH_BODY, ids=lambda opcode: opcode.name.lower())
@pytest.mark.parametrize("length", [0, 3])
async def test_a_request_that_is_too_short_ends_the_mount(
    opcode: Op, length: int, kernel: Kernel
) -> None:
    assert await kernel.ask(opcode, KERNEL_ROOT, b"\1" * length) == (errno.EIO, b"")
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


@pytest.mark.parametrize(
    "opcode", sorted(set(Op) - {Op.INTERRUPT}), ids=lambda opcode: opcode.name.lower()
)
async def test_nonsense_ends_the_mount(opcode: Op, kernel: Kernel) -> None:
    for body in (b"", b"\0", b"\xff" * 7, b"\xff" * 300, b"x" * 40 + b"\0", bytes(300)):
        for node in (0, KERNEL_ROOT, 0xFFFF_FFFF_FFFF_FFFF, 1 << 62):
            kernel.send(opcode, node, body)
        await settled(kernel)
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


# --- beginning and end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel_minor", "ours"), [(33, 33), (wire.MINOR, wire.MINOR), (45, wire.MINOR)]
)
async def test_the_older_protocol_is_not_spoken(
    kernel_minor: int, ours: int, kernel: Kernel
) -> None:
    offered = 0xFFFF_FFFF & ~wire.Init.POSIX_ACL
    error, data = await kernel.ask(
        Op.INIT, 0, struct.pack("<IIIII44x", 7, kernel_minor, 1 << 17, offered, 0)
    )
    assert not error
    major, minor, read_ahead, flags, _, _, max_write, granularity, max_pages, _, _ = (
        wire.INIT_OUT.unpack(data)
    )
    assert (major, minor, read_ahead, max_write, granularity, max_pages) == (
        7,
        ours,
        1 << 17,
        wire.MAX_WRITE,
        1,
        256,
    )
    assert flags & ~offered == 0
    wanted = (
        wire.Init.WRITEBACK_CACHE
        | wire.Init.DO_READDIRPLUS
        | wire.Init.HANDLE_KILLPRIV_V2
        | wire.Init.PARALLEL_DIROPS
    )
    assert flags & wanted == wanted


async def test_destroy_is_not_answered(kernel: Kernel) -> None:
    assert await kernel.ask(Op.DESTROY, 0) == (0, b"")


async def test_stopping_leaves_the_loop_running(kernel: Kernel, mount: Mount) -> None:
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    mount.loop.stop()
    await mount.end()
    kernel.send(Op.GETATTR, KERNEL_ROOT, bytes(16))
    assert not await settled(kernel)


async def test_stopping_leaves_what_is_in_progress_undone(
    kernel: Kernel, mount: Mount, device: TestDevice
) -> None:
    node, handle = await kernel.create(b"file")
    device.go.clear()
    waiting = [kernel.send(Op.FSYNC, node, syncing(handle)) for _ in range(LIMIT - 1)]
    await settled(kernel)
    mount.loop.stop()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not mount.ended.is_set()
    device.go.set()
    await mount.end()
    for number in waiting:
        assert await kernel.answer(number) == (0, b"")


async def test_the_end_of_the_mount_leaves_the_loop_running(kernel: Kernel, mount: Mount) -> None:
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0
    kernel.end()
    await mount.end()


async def test_the_end_of_the_mount_is_waited_for_by_what_is_in_progress(
    kernel: Kernel, mount: Mount, device: TestDevice
) -> None:
    node, handle = await kernel.create(b"file")
    device.go.clear()
    for _ in range(2 * LIMIT):
        kernel.send(Op.FSYNC, node, syncing(handle))
    await settled(kernel)
    device.go.set()
    kernel.end()
    await mount.end()


async def test_a_request_that_was_taken_back_blocks_the_loop(
    kernel: Kernel, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bytes] = []

    def readv(descriptor: int, buffers: list[bytearray]) -> int:
        if not taken:  # whoever asked is killed after the loop has seen that there is something
            taken.append(ends[1].recv(BIG, socket.MSG_DONTWAIT))
        return os_readv(descriptor, buffers)

    os_readv: Callable[[int, list[bytearray]], int] = os.readv
    monkeypatch.setattr(connection_module.os, "readv", readv)
    kernel.send(Op.GETATTR, KERNEL_ROOT, bytes(16))
    assert not await settled(kernel)
    assert taken
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


async def test_an_answer_that_nobody_waits_for_any_more_ends_the_loop(
    kernel: Kernel, mount: Mount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def writev(_: int, __: list[bytes]) -> int:
        raise OSError(next(errors), "for the test")

    errors = iter([errno.ENOENT, errno.EINVAL, errno.ENOENT])
    with monkeypatch.context() as patched:
        patched.setattr(connection_module.os, "writev", writev)
        kernel.send(Op.GETATTR, KERNEL_ROOT, bytes(16))
        await settled(kernel)
        assert not caplog.text  # the usual thing
        kernel.send(Op.STATFS, KERNEL_ROOT)
        await settled(kernel)
        assert "does not take an answer" in caplog.text
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


async def test_whoever_asked_for_what_the_kernel_does_not_take_waits_for_ever(
    kernel: Kernel, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    refused = iter([True])

    def writev(descriptor: int, pieces: list[bytes]) -> int:
        if next(refused, False):
            raise OSError(errno.EINVAL, "for the test")
        return real(descriptor, pieces)

    monkeypatch.setattr(connection_module.os, "writev", writev)
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == errno.EIO
    assert (await kernel.ask(Op.GETATTR, KERNEL_ROOT, bytes(16)))[0] == 0


# --- quick answers and those of handlers ----------------------------------------------------------


async def test_quick_answers_differ_from_those_of_the_handlers(
    kernel: Kernel, mount: Mount
) -> None:
    node, handle = await kernel.create(b"file")
    assert (await kernel.ask(Op.WRITE, node, writing(handle, 0, b"content")))[0] == 0
    questions = [
        (Op.LOOKUP, KERNEL_ROOT, b"file\0"),
        (Op.LOOKUP, KERNEL_ROOT, b"missing\0"),
        (Op.LOOKUP, node, b"below\0"),
        (Op.LOOKUP, 0xFFFF, b"stale\0"),
        (Op.LOOKUP, KERNEL_ROOT, b"n" * 256 + b"\0"),
        (Op.GETATTR, node, bytes(16)),
        (Op.GETATTR, 0xFFFF, bytes(16)),
        (Op.GETATTR, 99 << 48 | 7, bytes(16)),
        (Op.GETXATTR, node, wire.GETXATTR_IN.pack(10) + b"user.none\0"),
        (Op.OPEN, node, wire.OPEN_IN.pack(os.O_RDONLY, 0)),
        (Op.OPEN, 99 << 48 | 7, wire.OPEN_IN.pack(os.O_RDONLY, 0)),
        (Op.READ, node, wire.READ_IN.pack(handle, 2, 100, 0, 0, 0)),
        (Op.READ, node, wire.READ_IN.pack(handle, 1000, 100, 0, 0, 0)),
        (Op.READ, node, wire.READ_IN.pack(KERNEL_ROOT, 0, 100, 0, 0, 0)),
        (
            Op.SETATTR,
            node,
            wire.SETATTR_IN.pack(
                Set.ATIME | Set.MTIME | Set.CTIME, 0, 0, 0, -5, 6, 7, 8, 9, 10, 0, 0, 0
            ),
        ),
        (Op.RENAME, KERNEL_ROOT, wire.RENAME_IN.pack(KERNEL_ROOT) + b"missing\0other\0"),
        (Op.RENAME2, KERNEL_ROOT, wire.RENAME2_IN.pack(KERNEL_ROOT, 1) + b"file\0file\0"),
        (Op.RENAME2, KERNEL_ROOT, wire.RENAME2_IN.pack(KERNEL_ROOT, 4) + b"file\0other\0"),
        (Op.UNLINK, KERNEL_ROOT, b"missing\0"),
        (Op.CREATE, KERNEL_ROOT, wire.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"file\0"),
    ]
    for question in questions:  # so that times have been renewed
        await kernel.ask(*question)
    quick = [await kernel.ask(*question) for question in questions]
    mount.loop._quick.clear()
    for question, (error, data) in zip(questions, quick, strict=True):
        found = await kernel.ask(*question)
        # Of a name that is missing, nothing counts but that and for how long.
        size = 24 if question[0] == Op.LOOKUP and data[:8] == bytes(8) else len(data)
        assert (found[0], found[1][:size]) == (error, data[:size]), question


@pytest.mark.parametrize("is_quick", [True, False])
async def test_renaming_goes_wrong(is_quick: bool, kernel: Kernel, mount: Mount) -> None:
    if not is_quick:
        mount.loop._quick.clear()
    node, _ = await kernel.create(b"a")
    other, _ = await kernel.create(b"b")

    async def found(name: bytes) -> int:
        error, data = await kernel.ask(Op.LOOKUP, KERNEL_ROOT, name + b"\0")
        assert not error
        return int(struct.unpack_from("<Q", data)[0])

    plain = wire.RENAME_IN.pack(KERNEL_ROOT)
    assert (await kernel.ask(Op.RENAME, KERNEL_ROOT, plain + b"a\0c\0"))[0] == 0
    assert (await found(b"a"), await found(b"c")) == (0, node)
    flagged = [wire.RENAME2_IN.pack(KERNEL_ROOT, flags) for flags in range(4)]
    assert (await kernel.ask(Op.RENAME2, KERNEL_ROOT, flagged[2] + b"b\0c\0"))[0] == 0
    assert (await found(b"b"), await found(b"c")) == (node, other)
    assert (await kernel.ask(Op.RENAME2, KERNEL_ROOT, flagged[1] + b"b\0c\0"))[0] == errno.EEXIST
    assert (await kernel.ask(Op.RENAME2, KERNEL_ROOT, flagged[1] + b"b\0d\0"))[0] == 0
    assert (await kernel.ask(Op.RENAME, KERNEL_ROOT, plain + b"d\0c\0"))[0] == 0
    assert (await found(b"d"), await found(b"c")) == (0, node)
    assert (await kernel.ask(Op.RENAME, KERNEL_ROOT, plain + b"c\0.snap\0"))[0] == errno.EPERM


# --- what was deleted -----------------------------------------------------------------------------


async def test_a_handle_opens_a_file_without_a_name(kernel: Kernel) -> None:
    """It is there as long as somebody has it open; who comes by a handle is somebody new."""
    node, _ = await kernel.create(b"file")
    assert (await kernel.ask(Op.LOOKUP, node, b".\0"))[0] == 0
    assert (await kernel.ask(Op.UNLINK, KERNEL_ROOT, b"file\0"))[0] == 0
    assert (await kernel.ask(Op.GETATTR, node, bytes(16)))[0] == 0
    assert (await kernel.ask(Op.LOOKUP, node, b".\0"))[0] == errno.ESTALE


async def test_a_handle_opens_what_is_still_being_purged(kernel: Kernel, mount: Mount) -> None:
    fs = mount.edge.fs
    inos = [ROOT_INO]
    for name, mode in (
        (b"d", stat.S_IFDIR | 0o755),
        (b"e", stat.S_IFDIR | 0o755),
        (b"f", stat.S_IFREG | 0o644),
    ):
        inos.append((await mount.edge.change(fs.make, fs.base, inos[-1], name, mode, 0, 0)).ino)
    instance = await mount.edge.create_snapshot("s")
    nodes = [mount.operations.numbers.node(instance.id, ino) for ino in inos]
    found = await mount.edge.call(snapshots.find_places, fs, "s", snapshots.check_paths([b"d"]))
    assert [(await kernel.ask(Op.LOOKUP, node, b".\0"))[0] for node in nodes] == [0] * 4
    assert await mount.edge.change(snapshots.take_out, fs, found.places)
    assert fs.orphans.is_emptying(instance.id), "or the test proves nothing"
    assert [(await kernel.ask(Op.LOOKUP, node, b".\0"))[0] for node in nodes] == [
        0,
        *[errno.ESTALE] * 3,
    ]
