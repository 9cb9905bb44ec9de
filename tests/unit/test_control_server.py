"""The daemon's socket: nobody can make it stop, and nobody waits for somebody else."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from snapfs.control import client, protocol
from snapfs.control.caller import Caller
from snapfs.control.client import Client
from snapfs.control.protocol import ControlError, Request, Result
from snapfs.control.server import CONNECTIONS, ControlServer
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


async def test_errors_arrive_as_themselves_and_the_connection_goes_on(server: ControlServer) -> None:
    def conversation() -> None:
        with connect(server) as one:
            for _ in range(3):
                with pytest.raises(NoSuchSnapshot, match="monday"):
                    one.call("monday")
                assert one.call("echo", n=1)["n"] == 1

    await trio.to_thread.run_sync(conversation)


async def test_what_breaks_inside_is_logged_and_does_not_end_the_daemon(server: ControlServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "snapfs"), pytest.raises(ControlError, match="internal error"):
        await ask(server, "break")
    assert "ZeroDivisionError" in caplog.text
    assert await ask(server, "echo")


@pytest.mark.parametrize(
    "garbage", [b"\n", b"hello\n", b"\xff\xfe\n", b"{}\n", b'{"v":1}\n', b"[" * 30_000 + b"\n", b'{"v":9,"command":"x","arguments":{}}\n']
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
            nursery.start_soon(lambda: trio.to_thread.run_sync(lambda: connect(server).close(), limiter=limiter))
        nursery.start_soon(ask, server, "echo")


async def test_strangers_are_turned_away(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapfs.control.server.peer", lambda _: (1, os.geteuid() + 1))
    with pytest.raises(AccessDenied):
        protocol.decode_answer(await send(server, b""))


async def test_closing_removes_the_socket_and_a_new_daemon_takes_the_place_of_a_dead_one(place: Path) -> None:
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
