"""The daemon's socket: nobody can make it stop, and nobody waits for somebody else."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from snapfs.control.socket import (
    client,
    listening,
    protocol,
    registry,
)
from snapfs.control.socket import server as serving
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.client import Client
from snapfs.control.socket.mounts import Mount
from snapfs.control.socket.protocol import (
    ControlError,
    Request,
    Result,
)
from snapfs.control.socket.server import (
    CONNECTIONS,
    OPEN,
    ControlServer,
)
from snapfs.errors import AccessDenied, NoSuchSnapshot


class Answers:
    """Knows four commands; ``wait`` is answered when ``go`` is set."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.waiting = 0

    async def handle(self, request: Request, uid: int, caller: Caller) -> Result:
        if request.command == "echo":
            return {"uid": uid, **request.arguments}
        if request.command == "wait":
            self.waiting += 1
            await self.go.wait()
            return {}
        if request.command == "work":
            for number in range(3):
                await caller.tell({"done": number})
            return {"sum": await caller.in_thread(sum, [1, 2])}
        if request.command == "flood":
            self.waiting += 1
            while True:
                await caller.tell({"big": "x" * 60_000})
        if request.command == "break":
            raise ZeroDivisionError("inside")
        raise NoSuchSnapshot(f"{request.command}: no such snapshot")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: pytest's own are too long for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="snapfs-") as directory:
        yield Path(directory)


@pytest.fixture
async def server(place: Path, nursery: trio.Nursery) -> AsyncIterator[ControlServer]:
    made = ControlServer(Answers(), str(place / "s.sock"))
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()
    made.close()


def connect(server: ControlServer) -> Client:
    found = client._first([(server.path, os.geteuid())])
    assert found is not None
    return found


async def ask(server: ControlServer, command: str, **arguments: object) -> Result:
    def once() -> Result:
        with connect(server) as one:
            return one.call(command, **arguments)

    return await trio.to_thread.run_sync(once)


async def send(server: ControlServer, data: bytes) -> bytes:
    """Send anything; all that comes back until the server hangs up or has answered."""
    stream = await trio.open_unix_socket(server.path)
    async with stream:
        with trio.fail_after(20):
            await stream.send_all(data)
            return await stream.receive_some()


async def test_a_request_is_answered_and_the_caller_known(server: ControlServer) -> None:
    assert await ask(server, "echo", a=[1, None]) == {"uid": os.geteuid(), "a": [1, None]}
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600


async def test_errors_arrive_as_themselves_and_the_connection_goes_on(
    server: ControlServer,
) -> None:
    def conversation() -> None:
        with connect(server) as one:
            for _ in range(3):
                with pytest.raises(NoSuchSnapshot, match="monday"):
                    one.call("monday")
                assert one.call("echo", n=1)["n"] == 1

    await trio.to_thread.run_sync(conversation)


async def test_what_breaks_inside_is_logged_and_does_not_end_the_daemon(
    server: ControlServer, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR, "snapfs"),
        pytest.raises(ControlError, match="internal error"),
    ):
        await ask(server, "break")
    assert "ZeroDivisionError" in caplog.text
    assert await ask(server, "echo")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"hello\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"v":1}\n',
        b"[" * 30_000 + b"\n",
        b'{"v":9,"command":"x","arguments":{}}\n',
    ],
)
async def test_garbage_is_answered_with_an_error(garbage: bytes, server: ControlServer) -> None:
    with pytest.raises(ControlError):
        protocol.decode_answer(await send(server, garbage))
    assert await ask(server, "echo")


async def test_a_line_without_an_end_is_cut_off(server: ControlServer) -> None:
    answer = await send(server, b"x" * (protocol.REQUEST_LIMIT + 1))
    assert "bytes" in json.loads(answer)["error"]["message"]
    assert await ask(server, "echo")


async def test_a_request_in_pieces_is_one_request(server: ControlServer) -> None:
    line = protocol.encode_request("echo", {"n": 1})
    async with await trio.open_unix_socket(server.path) as stream:
        for place in range(len(line)):
            await stream.send_all(line[place : place + 1])
        assert protocol.decode_answer(await stream.receive_some())["n"] == 1


async def test_hanging_up_early_harms_nobody(server: ControlServer) -> None:
    for _ in range(50):
        stream = await trio.open_unix_socket(server.path)
        await stream.send_all(protocol.encode_request("echo", {"big": "x" * 60_000}))
        await stream.aclose()
    assert await ask(server, "echo")


async def test_events_are_lost_or_taken_for_the_answer(server: ControlServer) -> None:
    def conversation() -> None:
        with connect(server) as one:
            for told in ([], None):
                result = one.call("work", told=told.append if told is not None else None)
                assert result == {"sum": 3}
                assert told in (None, [{"done": 0}, {"done": 1}, {"done": 2}])

    await trio.to_thread.run_sync(conversation)


async def test_a_slow_request_does_not_delay_others(server: ControlServer) -> None:
    answers = server.handlers
    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS - 1):
            nursery.start_soon(ask, server, "wait")
        while answers.waiting < CONNECTIONS - 1:
            await trio.lowlevel.checkpoint()
        with trio.fail_after(20):
            assert await ask(server, "echo")
        answers.go.set()


async def test_more_connections_than_are_served_wait_their_turn(server: ControlServer) -> None:
    async with trio.open_nursery() as nursery:
        limiter = trio.CapacityLimiter(3 * CONNECTIONS)
        for _ in range(2 * CONNECTIONS):
            nursery.start_soon(
                lambda: trio.to_thread.run_sync(lambda: connect(server).close(), limiter=limiter)
            )
        nursery.start_soon(ask, server, "echo")


async def test_strangers_are_turned_away(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapfs.control.socket.server.peer", lambda _: (1, os.geteuid() + 1))
    with pytest.raises(AccessDenied):
        protocol.decode_answer(await send(server, b""))


async def test_closing_removes_the_socket_and_a_new_daemon_takes_the_place_of_a_dead_one(
    place: Path,
) -> None:
    first = ControlServer(Answers(), str(place / "s.sock"))
    second = ControlServer(Answers(), str(place / "t.sock"))
    assert {path.name for path in place.iterdir()} == {"s.sock", "t.sock"}
    second._listener.socket.close()  # dies without a word
    third = ControlServer(Answers(), str(place / "t.sock"))
    first.close()
    third.close()
    assert list(place.iterdir()) == []


async def test_a_daemon_that_ends_in_the_middle_is_an_error(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place / "s.sock"))
        listener.listen()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(place / "s.sock"))
        with Client(connection, 77) as one:
            other, _ = listener.accept()
            other.send(b'{"v":1,')
            other.close()
            with pytest.raises(ControlError, match="process 77"):
                one.call("echo")
    assert client.of_image(str(place / "s.sock")) is None


# What one connection can do to the others


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_a_connection_whose_peer_cannot_be_known_ends_the_daemon(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> tuple[int, int]:
        raise OSError(errno.ENOBUFS, "no buffer space")

    with monkeypatch.context() as patch:
        patch.setattr(serving, "peer", fail)
        assert await send(server, b"") == b""
        patch.setattr(serving, "peer", lambda _: 1 // 0)
        assert await send(server, b"") == b""
    assert "no buffer space" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert await ask(server, "echo")
    await until(lambda: not server._open and not server._unknown)


async def test_the_daemon_stops_to_listen_when_it_cannot_accept(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failures = trio.SocketListener.accept, [errno.EPERM, errno.EMFILE]

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise OSError(code := failures.pop(), os.strerror(code))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    monkeypatch.setattr(serving, "TRY_SECONDS", 0)
    for _ in range(3):  # the first is still accepted by what was called before
        assert await ask(server, "echo")
    assert not failures
    assert "Too many open files" in caplog.text


async def test_idle_connections_keep_commands_waiting(server: ControlServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        idle = [
            await stack.enter_async_context(await trio.open_unix_socket(server.path))
            for _ in range(OPEN)
        ]
        await until(lambda: len(server._idle) == OPEN)
        await idle[-1].send_all(b"{")  # a request that never ends is none
        with trio.fail_after(20):
            assert await ask(server, "echo")
            assert await idle[0].receive_some() == b""  # the oldest has made room
        assert len(server._idle) < OPEN


async def test_callers_who_do_not_read_keep_commands_waiting(server: ControlServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS + 1):
            stream = await stack.enter_async_context(await trio.open_unix_socket(server.path))
            await stream.send_all(protocol.encode_request("flood", {}))
        await until(lambda: server.handlers.waiting == CONNECTIONS + 1)
        with trio.fail_after(20):
            assert await ask(server, "echo")
        assert server._limit.borrowed_tokens == 0


async def test_more_callers_than_can_be_open_are_told_so(server: ControlServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(OPEN):
            stream = await stack.enter_async_context(await trio.open_unix_socket(server.path))
            await stream.send_all(protocol.encode_request("flood", {}))
        await until(lambda: server.handlers.waiting == OPEN)
        with pytest.raises(ControlError, match="try again later"):
            await ask(server, "echo")
    await until(lambda: not server._open)
    assert await ask(server, "echo")


async def test_strangers_keep_commands_waiting(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch, autojump_clock: None
) -> None:
    """A stranger who does not read what he is told costs a second, and
    there are not many at once.
    """
    whose = [os.geteuid() + 1]
    monkeypatch.setattr(serving, "peer", lambda _: (1, whose[0]))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2 * serving.UNKNOWN):
            await stack.enter_async_context(await trio.open_unix_socket(server.path))
        await until(lambda: not server._unknown)
        assert server._open == 0
        whose[0] = os.geteuid()
        stream = await stack.enter_async_context(await trio.open_unix_socket(server.path))
        await stream.send_all(protocol.encode_request("echo", {}))
        assert protocol.decode_answer(await stream.receive_some())


# The places where it listens


@pytest.fixture
def named(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, os.stat_result]]:
    """A directory where commands look for daemons, and an image."""
    directory = place / "sockets"
    monkeypatch.setattr(
        registry, "directories", lambda uid: [str(directory)] if uid == os.geteuid() else []
    )
    image = place / "a.img"
    image.touch()
    return directory, image.stat()


async def ask_here(server: ControlServer) -> Result:
    """In the loop: a clock that jumps does so while a thread waits."""
    async with await trio.open_unix_socket(server.path) as stream:
        await stream.send_all(protocol.encode_request("echo", {"n": 1}))
        return protocol.decode_answer(await stream.receive_some())


class Anew:
    """A server in a directory that others remove, which looks for its socket all the time."""

    def __init__(self, named: tuple[Path, os.stat_result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "LOOK_SECONDS", 0.001)
        self.directory, self._status = named
        self.tries = 0
        self.server = ControlServer(Answers(), self._place(), anew=self._place, key="key")

    def _place(self) -> str:
        self.tries += 1
        return registry.new_socket_path(self._status, 7)

    async def found(self) -> None:
        """It listens, and is at rest."""
        path = self.server.path
        assert path is not None
        await until(lambda: listening.identity(path) == self.server._identity is not None)


@pytest.fixture
async def anew(
    named: tuple[Path, os.stat_result], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Anew]:
    made = Anew(named, monkeypatch)
    nursery.start_soon(made.server.run)
    await made.found()
    yield made
    nursery.cancel_scope.cancel()
    made.server.close()


async def test_who_reached_a_socket_that_is_replaced_is_turned_away(
    place: Path, nursery: trio.Nursery
) -> None:
    """A connection that waits to be accepted when the daemon listens elsewhere."""
    server = ControlServer(Answers(), str(place / "old"))  # nobody accepts: it does not run
    old = server._listener
    assert old is not None
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(place / "old"))
        caller.sendall(protocol.encode_request("echo", {"n": 1}))
        server._take_waiting(old, nursery)
        old.socket.close()
        caller.settimeout(30)
        answer = await trio.to_thread.run_sync(caller.recv, 1 << 16)
        assert protocol.decode_answer(answer) is not None
    server.close()


async def test_a_socket_that_is_removed_is_missed_for_ever(
    anew: Anew, caplog: pytest.LogCaptureFixture
) -> None:
    directory = anew.directory
    for _ in range(2):
        shutil.rmtree(directory)
        await anew.found()
        assert await ask_here(anew.server)
        assert [path.name for path in directory.iterdir()] == [os.path.basename(anew.server.path)]
    # A file that has taken its place, and a place that nobody can have: said once.
    shutil.rmtree(directory)
    directory.write_text("")
    tries = anew.tries
    with caplog.at_level(logging.WARNING, "snapfs"):
        await until(lambda: anew.tries > tries + 10)
    assert len([one for one in caplog.records if "cannot be used" in one.message]) == 1
    directory.unlink()
    await anew.found()
    assert await ask_here(anew.server)
    anew.server.close()
    assert list(directory.iterdir()) == []


async def test_nobody_is_answered_while_another_daemon_keeps_the_directory(
    anew: Anew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be stopped while it makes its own socket there."""
    is_waiting, may_go_on = threading.Event(), threading.Event()

    def locked(_: int) -> bool:
        is_waiting.set()
        assert may_go_on.wait(10), "the loop stands still"
        return True

    monkeypatch.setattr(listening, "_locked", locked)
    shutil.rmtree(anew.directory)
    await until(is_waiting.is_set)
    (name,) = registry._names(os.geteuid(), lambda key: key == "key")
    async with await trio.open_unix_socket(name) as stream:
        await stream.send_all(protocol.encode_request("echo", {"n": 1}))
        assert protocol.decode_answer(await stream.receive_some())
    may_go_on.set()
    await anew.found()


async def test_without_its_directory_a_daemon_is_not_found(
    named: tuple[Path, os.stat_result], nursery: trio.Nursery
) -> None:
    """As after the end of a session, whose /run/user/UID goes with it."""
    directory, status = named
    key = registry.socket_key(status, 0x77)
    made = ControlServer(Answers(), registry.new_socket_path(status, 0x77), key=key)
    nursery.start_soon(made.run)
    shutil.rmtree(directory)
    mount = Mount(1, 1, 0x77, "/", "/mnt", "fuse.snapfs", "x.img", frozenset(), os.geteuid())

    def conversation() -> None:
        for found in (client.of_mount(mount), client.of_image(str(directory.parent / "a.img"))):
            assert found is not None
            with found:
                assert found.call("echo", n=1)["n"] == 1
        with pytest.raises(ControlError):
            client.of_mount(dataclasses.replace(mount, device=0x7))
        with pytest.raises((ControlError, AccessDenied)):  # the owner's only, root included
            client.of_mount(dataclasses.replace(mount, owner=os.geteuid() + 1))

    await trio.to_thread.run_sync(conversation)
    made.close()
    assert not [name for name in registry._abstract_names() if key in name]
    nursery.cancel_scope.cancel()


async def test_a_crowd_of_strangers_keeps_the_user_out(
    named: tuple[Path, os.stat_result], nursery: trio.Nursery
) -> None:
    """They come by the abstract name, and are turned away there when they are too many; the
    directory is closed to them.
    """
    _, status = named
    key = registry.socket_key(status, 0x76)
    made = ControlServer(Answers(), registry.new_socket_path(status, 0x76), key=key)
    nursery.start_soon(made.run)
    made._unknown = serving.UNKNOWN
    assert await ask(made, "echo")
    (name,) = (name for name in registry._abstract_names() if key in name)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(name)
        stranger.settimeout(20)
        assert await trio.to_thread.run_sync(stranger.recv, 1) == b""
    made._unknown = 0
    nursery.cancel_scope.cancel()
    made.close()


async def test_a_stranger_with_the_abstract_name_is_asked(
    named: tuple[Path, os.stat_result], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, status = named
    key = registry.socket_key(status, 0x78)
    mount = Mount(1, 1, 0x78, "/", "/mnt", "fuse.snapfs", "x.img", frozenset(), os.geteuid())
    with listening.by_name(key) as stranger, monkeypatch.context() as patch:
        patch.setattr(client, "peer", lambda _: (1, os.geteuid() + 1))
        with pytest.raises(ControlError, match="does not answer"):
            client.of_mount(mount)
        stranger.setblocking(False)
        connection, _ = stranger.accept()
        with connection:
            assert connection.recv(1) == b""  # not a word was said
    # Neither do many strangers whose queues are full delay anybody for long, nor hide the right
    # one.
    monkeypatch.setattr(client, "CONNECT_SECONDS", 0)
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(listening, "BACKLOG", 0)
        for _ in range(5):
            full = stack.enter_context(listening.by_name(key))
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(full.getsockname())
        assert (
            client._first(
                [(name, os.geteuid()) for name in registry._abstract_names() if key in name]
            )
            is None
        )
        monkeypatch.setattr(listening, "BACKLOG", 5)
        stack.enter_context(listening.by_name(key))
        stack.enter_context(client.of_mount(mount))


def test_a_server_is_closed_in_its_event_loop_only(
    named: tuple[Path, os.stat_result], caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon closes it when the loop has ended: whatever fails then keeps the volume from being
    closed.
    """
    directory, status = named
    servers: list[ControlServer] = []

    async def live() -> None:
        servers.append(
            ControlServer(
                Answers(),
                registry.new_socket_path(status, 0x79),
                key=registry.socket_key(status, 0x79),
            )
        )
        with trio.move_on_after(0):
            await servers[0].run()

    trio.run(live)
    servers[0].close()
    assert list(directory.iterdir()) == []
    assert not [
        name for name in registry._abstract_names() if registry.socket_key(status, 0x79) in name
    ]


def test_a_daemon_that_starts_removes_the_socket_of_another_one_that_is_made(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of making a socket another daemon may look for dead ones."""
    steps: list[str] = []

    def another(step: str) -> None:
        steps.append(step)
        before = set(place.iterdir())
        with listening.alone(str(place)) as is_alone:
            if is_alone:
                registry.remove_stale(str(place))
        assert set(place.iterdir()) == before, step
        # Whoever looks for daemons sees no socket that does not listen.
        for path in place.glob("*.sock"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))

    class Watched(socket.socket):
        def bind(self, address: str) -> None:
            super().bind(address)
            another("bind")

        def listen(self, backlog: int = 0) -> None:
            super().listen(backlog)
            another("listen")

    monkeypatch.setattr(listening, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(listening.socket, "socket", Watched)
    rename = os.rename
    monkeypatch.setattr(
        os, "rename", lambda old, new: (another("before"), rename(old, new), another("after"))
    )
    with listening.at_path(str(place / "a.sock")), listening.at_path(str(place / "b.sock")):
        assert {path.name for path in place.iterdir()} == {"a.sock", "b.sock"}
    assert steps == ["bind", "listen", "before", "after"] * 2


def test_a_daemon_tidies_up_while_another_one_is_stopped_in_the_middle(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it for ever, and nothing of it is removed."""
    monkeypatch.setattr(listening, "ALONE_SECONDS", 0.0)
    with listening.alone(str(place)), socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / ".1234"))
        with listening.at_path(str(place / "a.sock")):
            assert {path.name for path in place.iterdir()} == {"a.sock", ".1234"}
    with listening.at_path(str(place / "a.sock")):
        assert {path.name for path in place.iterdir()} == {"a.sock"}


def test_the_socket_of_a_daemon_that_came_later_is_removed(place: Path) -> None:
    path = str(place / "a.sock")
    with listening.at_path(path):
        first = listening.identity(path)
    with listening.at_path(path):
        listening.remove(path, first)
        assert os.path.exists(path)
        listening.remove(path, listening.identity(path))
        assert not os.path.exists(path)


def test_what_a_daemon_leaves_that_died_while_it_began_to_listen_stays(place: Path) -> None:
    for name in (".1234", "dead.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / name))
    (place / "kept.mem").touch()
    with listening.at_path(str(place / "a.sock")):
        assert {path.name for path in place.iterdir()} == {"a.sock", "kept.mem"}
