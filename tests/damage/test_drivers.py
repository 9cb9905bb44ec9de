"""Whoever drives the core treats damage alike: offline commands, the handlers of requests, and the
answers without a handler (I1, I7).

The same requests are made of a damaged volume by each of them; each must give the same answers, and
end writing with the same request.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from snapfs.errors import NoSuchSnapshot, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.connection import Connection
from snapfs.fuse.protocol.errno import errno_of
from snapfs.fuse.protocol.numbers import WRITER_BIT, Numbers
from snapfs.fuse.protocol.wire import Op, Set
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving.loop import Loop
from snapfs.ids import BASE_VIEW
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.damage.cases import CASES, Case
from tests.damage.planting import BLOCK, Planted, planted
from tests.harness.sparse import SparseDevice

#: Files, by the snapshots that show them; and directories.
FILES = {
    "": [
        "plain",
        "twice",
        "dir/sub/deep",
        "sparse",
        "large",
        "dir/other/youngest",
        "many/" + "7".rjust(100, "0"),
    ],
    "one": ["plain"],
    "copy": ["dir/sub/deep"],
}
DIRECTORIES = ["", "dir", "many"]


@dataclass(frozen=True)
class Request:
    """What is asked of an inode of a view."""

    what: str
    view: int
    ino: int
    name: bytes = b""
    offset: int = 0


def requests() -> list[Request]:
    """What everybody asks for, with numbers that were looked up before there was any damage."""
    p = planted()
    out: list[Request] = []
    places = []
    for snapshot, paths in FILES.items():
        view = p.view(snapshot) if snapshot else p.base
        for path in paths:
            parent, _, name = path.rpartition("/")
            places.append(
                (view.id, p.find(parent, view).ino, name.encode(), p.find(path, view).ino)
            )
    for view_id, parent, name, ino in places:
        out += [
            Request("lookup", view_id, parent, name),
            Request("getattr", view_id, ino),
            Request("read", view_id, ino),
        ]
        out += [
            Request("setattr", view_id, ino),
            Request("write", view_id, ino, offset=BLOCK * (ino % 2)),
        ]
    out += [Request("create", BASE_VIEW, p.find(path).ino, b"made here") for path in DIRECTORIES]
    out += [Request("rename", view_id, parent, name) for view_id, parent, name, _ in places[::2]]
    out += [Request("unlink", view_id, parent, name) for view_id, parent, name, _ in places[1::2]]
    return out


REQUESTS = requests()


def opened(device: SparseDevice) -> Filesystem:
    fs = Filesystem(open_volume(device))
    fs.now = lambda: 1_900_000_000_000_000_000
    return fs


# One after the other: as offline commands do it


def ask_offline(fs: Filesystem) -> list[int]:
    return [_ask_offline(fs, one) for one in REQUESTS]


def _ask_offline(fs: Filesystem, one: Request) -> int:
    def do(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(fs.volume, function, view, *args, **kwargs)

    try:
        view = fs.view(one.view)
    except NoSuchSnapshot:
        return errno.ESTALE
    try:
        if one.what == "lookup":
            fs.hold(view, do(fs.lookup, one.ino, one.name).ino)
        elif one.what == "create":
            fs.hold(view, do(fs.make, one.ino, one.name, stat.S_IFREG | 0o644, 0, 0).ino)
        elif one.what == "getattr":
            do(fs.inode, one.ino)
        elif one.what == "read":
            do(fs.read, one.ino, 0, 2 * BLOCK)
            do(fs.touch_atime, one.ino)
        elif one.what == "setattr":
            do(fs.set_times, one.ino, mtime=1)
        elif one.what == "write":
            do(fs.write, one.ino, one.offset, b"w" * BLOCK)
        elif one.what == "rename":
            do(fs.rename, one.ino, one.name, one.ino, b"renamed " + one.name[:5])
        else:
            do(fs.unlink, one.ino, one.name)
    except SnapfsError as exc:
        return errno_of(exc, None)
    return 0


# Through the loop of a mount


class Asked:
    """A loop with a socket in the place of the kernel. ``quick``: are there answers without a
    handler?
    """

    def __init__(self, fs: Filesystem, descriptor: int, *, quick: bool) -> None:
        edge = Edge(fs, commit_seconds=3600.0)
        self.numbers = Numbers(BASE_VIEW)
        known = Known(self.numbers, lambda view_id, ino: fs.hold(fs.view(view_id), ino))
        operations = Operations(
            edge,
            known,
            self.numbers,
            MountedKernel(edge, known, self.numbers, "/nowhere"),
            MountOptions(),
            BLOCK,
        )
        self.loop = Loop(Connection(descriptor, lambda: True), operations, 4)
        if not quick:
            self.loop._quick.clear()

    def encode(self, one: Request) -> tuple[int, int, bytes]:
        node = self.numbers.node(one.view, one.ino)
        name = one.name + b"\0"
        bodies: dict[str, Callable[[], tuple[int, bytes]]] = {
            "lookup": lambda: (Op.LOOKUP, name),
            "create": lambda: (
                Op.CREATE,
                wire.CREATE_IN.pack(os.O_RDWR, stat.S_IFREG | 0o644, 0, 0) + name,
            ),
            "getattr": lambda: (Op.GETATTR, bytes(16)),
            "read": lambda: (Op.READ, wire.READ_IN.pack(node, 0, 2 * BLOCK, 0, 0, 0)),
            "setattr": lambda: (
                Op.SETATTR,
                wire.SETATTR_IN.pack(Set.MTIME, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
            ),
            "write": lambda: (
                Op.WRITE,
                wire.WRITE_IN.pack(node | WRITER_BIT, one.offset, BLOCK, 0, 0, 0) + b"w" * BLOCK,
            ),
            "rename": lambda: (
                Op.RENAME,
                wire.RENAME_IN.pack(node) + name + b"renamed " + one.name[:5] + b"\0",
            ),
            "unlink": lambda: (Op.UNLINK, name),
        }
        opcode, body = bodies[one.what]()
        return opcode, node, body


@contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


async def ask_loop(fs: Filesystem, *, quick: bool) -> list[int]:
    out = []
    with socket_pair() as (ours, theirs), trio.fail_after(60):
        asked = Asked(fs, theirs.fileno(), quick=quick)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.loop.run)
            for number, one in enumerate(REQUESTS, 1):
                opcode, node, body = asked.encode(one)
                ours.send(
                    wire.IN_HEADER.pack(
                        wire.IN_HEADER.size + len(body), opcode, number, node, 0, 0, 1, 0, 0
                    )
                    + body
                )
                await trio.lowlevel.wait_readable(ours)
                answer = ours.recv(1 << 16, socket.MSG_DONTWAIT)
                _, error, unique = wire.OUT_HEADER.unpack_from(answer)
                assert unique == number, "two answers to one request"
                missing = (
                    one.what == "lookup"
                    and not error
                    and not wire.ENTRY_OUT.unpack_from(answer, wire.OUT_HEADER.size)[0]
                )
                out.append(errno.ENOENT if missing else -error)
            asked.loop.stop()
    return out


DRIVERS: dict[str, Callable[[Filesystem], Awaitable[list[int]]]] = {
    "handlers": lambda fs: ask_loop(fs, quick=False),
    "without handlers": lambda fs: ask_loop(fs, quick=True),
}


def verdict(fs: Filesystem, device: SparseDevice) -> tuple[Any, ...]:
    """Why it is read-only now; and what the checker finds after a commit, if there can be one."""
    volume = fs.volume
    if not volume.read_only:
        try:
            commit(volume)
        except SnapfsError as exc:
            return type(exc), volume.read_only_reason
    return volume.read_only_reason, sorted(
        {finding.rule for finding in Planted(device.copy()).check()}
    )


def damaged(p: Planted) -> SparseDevice:
    """What a case has damaged, once more."""
    copied: SparseDevice = p.device.copy()
    return copied


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.plant.__name__}")
async def test_damage_is_written_on_by_one_who_drives_the_core(case: Case) -> None:
    """I1, I7: what is damaged ends writing with the same request, whoever makes it, and nobody asks
    again what broke off.
    """
    p = planted()
    case.plant(p)
    if not p.is_written:
        p.commit()
    try:
        fs = opened(device := damaged(p))
    except SnapfsError:
        return  # nobody drives it
    expected = ask_offline(fs), verdict(fs, device)
    for name, ask in DRIVERS.items():
        fs = opened(device := damaged(p))
        answers = await ask(fs)
        differences = [
            (one, got, wanted)
            for one, got, wanted in zip(REQUESTS, answers, expected[0], strict=True)
            if got != wanted
        ]
        assert not differences, name
        assert verdict(fs, device) == expected[1], name
