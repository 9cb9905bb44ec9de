"""A daemon is asked things that no client asks, by its user and by strangers: it answers, goes on,
and its volume stays whole.

``tests/fuzz/asking.py`` makes the requests; `make fuzz` goes on with them for as long as you like.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs.control.socket import (
    mounts,
    protocol,
    registry,
)
from snapfs.control.socket import server as serving
from snapfs.control.socket.server import ControlServer
from snapfs.errors import AccessDenied, SnapfsError, UsageError
from tests.fuzz import asking

STRANGER = 12_345


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="snapfs-asking-") as made:
        yield made


@pytest.mark.parametrize("owner", [None, STRANGER], ids=["owner", "stranger"])
def test_a_request_ends_in_an_internal_error_or_damages_the_volume(
    owner: int | None, directory: str
) -> None:
    @settings(max_examples=80, deadline=None, database=None)
    @given(st.binary(max_size=asking.LENGTH))
    def ask(data: bytes) -> None:
        asking.Asking(directory, owner=owner).run(data)

    ask()


def line(command: str, **arguments: Any) -> bytes:
    return json.dumps({"v": 1, "command": command, "arguments": arguments}).encode() + b"\n"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (line("copy", destination="\0"), UsageError),
        (line("copy", destination="/a\0b", force=True), UsageError),
        (line("copy", destination="\ud800"), UsageError),
        (line("copy", destination="where.img"), UsageError),
        (line("copy", destination="/proc/self/mem"), SnapfsError),
        (line("copy", destination="/proc/self/mem", force=True), SnapfsError),
        *(
            (line("copy", destination="/nowhere/x", rate=rate), UsageError)
            for rate in (-2, -(1 << 63), 1 << 63, 1 << 200, True, 0.5)
        ),
        *((line("copy.resume", rate=rate), UsageError) for rate in (-2, 1 << 200, False)),
        (line("scrub", rate=True), UsageError),
        (line("snapshot.hot", name="s", limit=True), UsageError),
        (line("snapshot.create", name=["s"]), UsageError),
        (line("snapshot.create", read_only=1), UsageError),
        (line("snapshot.create", paths=[1]), UsageError),
        (line("snapshot.create", tags={"a": 1}), UsageError),
        (line("snapshot.set", name="s", untag=[1]), UsageError),
        (line("snapshot.create", designated="\ud800"), UsageError),
        (line("snapshot.set", name="s", tags={"\ud800": ""}), UsageError),
        (line("diff", old="\ud800x"), UsageError),
        (
            line("restore", name="s", paths=["/", "/d", "\0"]),
            UsageError,
        ),  # it would be remembered, and the volume not be read again
        (line("restore.schedule", name="s", paths=["/", "a\0b"]), UsageError),
    ],
)
def test_a_value_that_cannot_be_is_stored_or_ends_in_an_internal_error(
    request_: bytes, expected: type[Exception], directory: str
) -> None:
    volume = asking.Asking(directory)
    generation = volume.fs.volume.generation
    with pytest.raises(expected):
        protocol.decode_answer(volume.ask(request_))
    assert volume.fs.volume.generation == generation
    assert volume.fs.volume.read_only_reason is None
    assert os.listdir(directory) == []


def lines(
    seed: int, commands: dict[str, dict[str, type]], directory: str, *, without: Sequence[bytes]
) -> list[bytes]:
    """Some lines, without some commands: those that keep a pace may take as long as they were told
    to.
    """
    data = random.Random(seed).randbytes(2000)
    found = asking.requests(data, directory, commands)
    return [
        each
        for each in found
        if each.strip() and not any(b'"command": "' + one in each for one in without)
    ]


@pytest.mark.parametrize("uid", [os.geteuid(), STRANGER], ids=["owner", "stranger"])
def test_a_server_ends_or_answers_strangers(
    uid: int, directory: str, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """All that is sent in one go, cut anywhere; what comes back is answers, and to strangers one
    refusal.
    """
    monkeypatch.setattr(serving, "peer", lambda _: (1, uid))
    volume = asking.Asking(directory)
    sent = lines(1, asking.commands_of(volume.handlers), directory, without=(b"copy", b"scrub"))

    async def conversation() -> None:
        with tempfile.TemporaryDirectory(prefix="snapfs-") as place:
            server = ControlServer(volume.handlers, os.path.join(place, "s.sock"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                stream = await trio.open_unix_socket(server.path)
                received = bytearray()

                async def receive() -> None:
                    try:
                        async with stream:
                            while received.count(b"\n") < len(sent) and (
                                piece := await stream.receive_some()
                            ):
                                received.extend(piece)
                    except trio.BrokenResourceError:
                        assert uid == STRANGER  # what was sent is not read

                async def send() -> None:
                    try:
                        whole = b"".join(sent)
                        chosen = random.Random(2)
                        while whole:
                            cut = chosen.choice((1, 7, 100, 5000))
                            await stream.send_all(whole[:cut])
                            whole = whole[cut:]
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        assert uid == STRANGER

                with trio.fail_after(60):
                    async with trio.open_nursery() as both:
                        both.start_soon(send)
                        both.start_soon(receive)
                nursery.cancel_scope.cancel()
            server.close()
        check(bytes(received))

    def check(received: bytes) -> None:
        replies = [answer_of(each) for each in received.splitlines()]
        if uid == STRANGER:
            assert [type(each) for each in replies] == [AccessDenied]
        else:
            assert not any("internal error" in str(each) for each in replies)

    with caplog.at_level(logging.ERROR, "snapfs"):
        trio.run(conversation)
    assert not caplog.records, caplog.text


def answer_of(reply: bytes) -> object:
    """What an answer or an event says, or its error. Raises ``ControlError`` of this side for what
    is neither.
    """
    try:
        return protocol.decode_reply(reply)
    except SnapfsError as exc:
        assert "makes no sense" not in str(exc), reply
        return exc


def test_a_daemon_dies_of_what_it_is_asked(mounted, directory: str) -> None:
    """A real one; with copies as well, whose caller goes away."""
    (mounted / "d").mkdir()
    for name in ("s", "part", "s2"):
        mounted.snapshot(name)
    pid = mounted.pid
    mount = mounts.mount_at(os.fspath(mounted.path))
    assert mount is not None
    (place,) = registry.sockets_of_mount(mount)
    commands = asking.commands_of(asking.Asking(directory).handlers)
    for seed in range(3):
        for each in lines(seed, commands, directory, without=() if seed else (b"copy",)):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(place)
                connection.sendall(each)
                if b'"copy' in each:
                    continue  # and hang up
                connection.settimeout(60)
                with connection.makefile("rb") as answers:
                    said = answer_of(
                        answers.readline()
                    )  # or an event: who has seen one hangs up, as a scrub may take days
                assert "internal error" not in str(said), (each, said)
    mounted.run("copy", "cancel", mounted.path, code=None)
    assert mounted.pid == pid
    for path in Path(directory).iterdir():
        path.unlink()
