"""Traces: what was recorded is found again in whatever state the file is, and nothing else is."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import snapfs
from snapfs.errors import DeviceError, UsageError
from snapfs.fuse.options import parse_options
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.observing import Observers
from snapfs.fuse.protocol.wire import Op
from snapfs.fuse.tracing.describing import describe
from snapfs.fuse.tracing.file import OLD, make_ring
from snapfs.fuse.tracing.reading import Gap, Trace
from snapfs.fuse.tracing.record import (
    HEADER_BYTES,
    MAGIC,
    RECORD,
    RECORD_MAGIC,
    SIZE_LEAST,
    VERSION,
    Header,
    Record,
)
from snapfs.fuse.tracing.ring import GATHERED, Ring
from snapfs.fuse.tracing.tracer import Tracer

SALT = 0xC0FFEE


def message(opcode: int, unique: int, body: bytes = b"") -> bytes:
    length = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(length, opcode, unique, 5, 1, 2, 3, 0, 0) + body


@pytest.fixture
def ring_in(tmp_path: Path) -> Iterator[Callable[..., tuple[Ring, Path]]]:
    made: list[Ring] = []

    def ring(size: int = SIZE_LEAST, name: str = "trace") -> tuple[Ring, Path]:
        path = tmp_path / name
        header = Header(size, SALT, 1_000, 0.0, {"has_data": False})
        made.append(make_ring(str(path), header, lambda _: None))
        return made[-1], path

    yield ring
    for one in made:
        one.close()


def found(path: Path) -> list[Record | Gap]:
    with Trace(str(path)) as trace:
        return list(trace.records())


def numbers(path: Path) -> list[int]:
    """Those of the records; of a gap, how many are missing, negative."""
    return [one.number if isinstance(one, Record) else -one.records for one in found(path)]


def fill(ring: Ring, count: int, dice: random.Random) -> None:
    for _ in range(count):
        body = dice.randbytes(dice.randrange(0, 900))
        request = message(Op.LOOKUP, ring.number, body)
        ring.append(ring.number, 0.5, 2, request, len(request), body[::-1], len(body))
    ring.flush()


def test_a_record_is_lost_or_changed_on_the_way(ring_in: Callable[..., tuple[Ring, Path]]) -> None:
    ring, path = ring_in()
    assert numbers(path) == []
    request = message(Op.WRITE, 9, bytes(40))
    ring.append(7.25, 0.5, 5, request, 99, b"reply", 77, 1, 0xABCD, 19)
    ring.flush()
    (record,) = found(path)
    assert record == Record(0, 0, 7.25, 0.5, 5, request, 99, b"reply", 77, 0xABCD, 19, False, False)
    assert isinstance(record, Record)
    assert (record.opcode, record.node, record.uid, record.gid, record.pid) == (
        Op.WRITE,
        5,
        1,
        2,
        3,
    )


@pytest.mark.parametrize("seed", range(5))
def test_going_round_loses_more_than_the_oldest(
    ring_in: Callable[..., tuple[Ring, Path]], seed: int
) -> None:
    ring, path = ring_in()
    dice = random.Random(seed)
    for _ in range(40):
        fill(ring, dice.randrange(1, 40), dice)
        there = numbers(path)
        assert there == list(range(there[0], ring.number)), "not the newest, in order"
    records = found(path)
    used = sum(len(one.request) + len(one.reply) for one in records if isinstance(one, Record))
    assert used > SIZE_LEAST * 0.7


@pytest.mark.parametrize("seed", range(20))
def test_what_is_torn_hides_what_is_whole(
    ring_in: Callable[..., tuple[Ring, Path]], seed: int
) -> None:
    ring, path = ring_in()
    dice = random.Random(seed)
    fill(ring, dice.randrange(10, 500), dice)
    before = {one.number: one for one in found(path) if isinstance(one, Record)}
    start = dice.randrange(SIZE_LEAST)
    length = dice.choice([1, 100, 4096])
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + start)
        file.write(dice.randbytes(min(length, SIZE_LEAST - start)))
    after = found(path)
    records = [one for one in after if isinstance(one, Record)]
    assert all(before[one.number] == one for one in records)
    lost = before.keys() - {one.number for one in records}
    assert len(lost) <= length // 80 + 2
    inside = [number for number in lost if records[0].number < number < records[-1].number]
    assert sum(one.records for one in after if isinstance(one, Gap)) == len(inside)


@pytest.mark.parametrize("cut", [0, 1, 7, 40, 100])
def test_a_file_that_was_cut_off_is_an_internal_error(
    ring_in: Callable[..., tuple[Ring, Path]], cut: int
) -> None:
    ring, path = ring_in()
    fill(ring, 60, random.Random(1))
    os.truncate(path, cut)
    with pytest.raises(
        UsageError, match=r"trace: is (not a trace|a trace whose header is damaged)"
    ):
        Trace(str(path))


def test_what_is_left_of_a_file_that_was_cut_off_is_not_shown(
    ring_in: Callable[..., tuple[Ring, Path]],
) -> None:
    ring, path = ring_in()
    fill(ring, 60, random.Random(1))
    os.truncate(path, HEADER_BYTES + 9_000)
    there = numbers(path)
    assert there == list(range(len(there)))
    assert len(there) > 5


def test_traced_content_that_looks_like_records_is_taken_for_requests(
    ring_in: Callable[..., tuple[Ring, Path]],
) -> None:
    ring, path = ring_in()
    fill(ring, 30, random.Random(1))
    copied = path.read_bytes()[HEADER_BYTES : HEADER_BYTES + 12_000]
    for _ in range(40):  # so that the record that had the copy is overwritten at its beginning
        ring.append(0, 0, 0, message(Op.WRITE, 0, copied), 0, b"", 0)
        fill(ring, 1, random.Random(2))
        there = numbers(path)
        assert there == list(range(there[0], ring.number))


def test_a_long_record_takes_the_whole_ring(ring_in: Callable[..., tuple[Ring, Path]]) -> None:
    ring, path = ring_in()
    request = message(Op.SETXATTR, 1, bytes(65_536))
    for _ in range(3):
        ring.append(0, 0, 0, request, len(request), bytes(70_000), 70_000)
    ring.flush()
    records = found(path)
    assert [one.is_cut for one in records if isinstance(one, Record)] == [True] * len(records)
    assert len(records) == 3
    assert describe(records[0]).arguments["cut"]


@pytest.mark.parametrize("opcode", [*Op, 47, 4096])
@settings(max_examples=15)
@given(body=st.binary(max_size=200), reply=st.binary(max_size=200))
def test_what_makes_no_sense_cannot_be_shown(opcode: int, body: bytes, reply: bytes) -> None:
    request = message(opcode, 1, body)
    for error in (0, 2, 4_000):
        record = Record(
            0, 0, 0, 0, error, request, 300, reply, 300, None, 0, has_data=False, is_cut=False
        )
        assert describe(record).operation == wire.name_of(opcode)


# --- the file -------------------------------------------------------------------------------------


def test_others_can_read_a_trace(ring_in: Callable[..., tuple[Ring, Path]]) -> None:
    _, path = ring_in()
    assert path.stat().st_mode & 0o7777 == 0o600


def test_the_trace_of_before_is_lost(ring_in: Callable[..., tuple[Ring, Path]]) -> None:
    ring, path = ring_in()
    fill(ring, 3, random.Random(1))
    ring.close()
    again, _ = ring_in()
    fill(again, 1, random.Random(1))
    assert (numbers(path), numbers(Path(f"{path}{OLD}"))) == ([0], [0, 1, 2])


def test_two_mounts_write_one_trace(ring_in: Callable[..., tuple[Ring, Path]]) -> None:
    ring, path = ring_in()
    with pytest.raises(UsageError, match="another mount writes its trace there"):
        ring_in()
    fill(ring, 2, random.Random(1))
    assert numbers(path) == [0, 1]


def test_a_file_of_somebody_is_overwritten(
    ring_in: Callable[..., tuple[Ring, Path]], tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with pytest.raises(UsageError, match="is no trace"):
        ring_in(name="precious")
    (tmp_path / "pipe").touch()
    (tmp_path / "pipe").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no file"):
        ring_in(name="pipe")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(UsageError, match="is no trace"):
        ring_in(name="link")
    if os.geteuid() == 0:
        (tmp_path / "theirs").symlink_to("made-by-link")
        os.lchown(tmp_path / "theirs", 12_345, 12_345)
        with pytest.raises(DeviceError, match="symbolic link of user 12345"):
            ring_in(name="theirs")
    with pytest.raises(UsageError, match=r"no trace can be written to .*: No such file"):
        ring_in(name="missing/trace")
    assert precious.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "precious"] + ["theirs"] * (
        os.geteuid() == 0
    )


def test_a_trace_that_cannot_have_its_space_is_left_behind(tmp_path: Path) -> None:
    def refuse(_: object) -> None:
        raise UsageError("not here")

    with pytest.raises(UsageError, match="not here"):
        make_ring(str(tmp_path / "trace"), Header(SIZE_LEAST, 1, 1, 1.0, {}), refuse)
    long = Header(SIZE_LEAST, 1, 1, 1.0, {"long": "x" * HEADER_BYTES})
    with pytest.raises(UsageError, match="too long"):
        make_ring(str(tmp_path / "trace"), long, lambda _: None)
    assert os.listdir(tmp_path) == []


# --- who records ----------------------------------------------------------------------------------


async def test_a_trace_that_cannot_be_written_ends_the_mount(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observers = Observers()
    tracer = Tracer(dict)
    tracer.watch(observers)
    path = str(tmp_path / "trace")
    tracer.begin(tracer.prepare(path, SIZE_LEAST, lambda _: None, has_data=False))
    reply = wire.refusal(1, 2)
    observers.tell(Op.LOOKUP, 1.0, message(Op.LOOKUP, 1, b"name\0"), reply)
    assert tracer.status()["requests"] == 1
    ring = tracer._ring
    assert ring is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, ring._descriptor)
    os.close(full)
    observers.tell(Op.LOOKUP, 1.0, message(Op.LOOKUP, 2, b"name\0"), reply)
    await trio.sleep(0)
    observers.tell(Op.LOOKUP, 1.0, message(Op.LOOKUP, 3, b"name\0"), reply)
    assert tracer.status()["failure"] == "No space left on device"
    assert observers.all == ()
    assert "no more requests are recorded" in caplog.text


async def test_what_users_write_is_in_a_trace(tmp_path: Path) -> None:
    secret = b"secret" * 100
    body = wire.WRITE_IN.pack(5, 0, len(secret), 0, 0, 0) + secret
    for has_data in (False, True):
        observers = Observers()
        tracer = Tracer(dict)
        path = tmp_path / f"trace-{has_data}"
        tracer.begin(tracer.prepare(str(path), SIZE_LEAST, lambda _: None, has_data=has_data))
        tracer.watch(observers)
        observers.tell(Op.WRITE, 1.0, message(Op.WRITE, 1, body), wire.reply(1, bytes(8)))
        observers.tell(Op.READ, 1.0, message(Op.READ, 1, body[:40]), wire.reply(1, secret, secret))
        tracer.end()
        assert (secret in path.read_bytes()) == has_data
        written, read = found(path)
        assert isinstance(written, Record)
        assert isinstance(read, Record)
        assert (written.length, written.has_data, read.length) == (600, has_data, 1200)
        assert written.checksum != read.checksum is not None


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("trace=", "needs a value"),
        ("trace_size=1M", "add 'trace=FILE'"),
        ("trace_data=all", "add 'trace=FILE'"),
        ("trace=t,trace_size=1K", "not a size from 64K to 64G"),
        ("trace=t,trace_size=1000001", "not a size from 64K to 64G"),
        ("trace=t,trace_size=1T", "not a size from 64K to 64G"),
        ("trace=t,trace_data=some", "must be 'checksum' or 'all'"),
    ],
)
def test_an_option_that_cannot_be_is_taken(words: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_options(words)


def test_an_option_of_traces_is_lost() -> None:
    options = parse_options("trace=/a b,trace_size=2M,trace_data=all")
    assert (options.trace, options.trace_size, options.trace_data) == ("/a b", 2 << 20, "all")


# --- the document ---------------------------------------------------------------------------------


def test_the_document_has_another_layout() -> None:
    text = (Path(snapfs.__file__).parent / "doc" / "tracing.md").read_text()
    assert RECORD.size == 68
    assert struct.calcsize("<4sIHHQQdd") == 44
    assert f"| {RECORD.size} | | the request" in text
    assert f"`{RECORD_MAGIC.hex(' ')}`" in text
    assert f"header of {HEADER_BYTES >> 10} KiB" in text
    assert MAGIC == b"snapfs trace 1\n\0"
    assert "version of the layout, 1" in text
    assert VERSION == 1
    assert GATHERED == 8
    assert "Up to eight records are written at once" in text
