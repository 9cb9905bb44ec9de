"""The log: which fsync it takes, what a record looks like, and what is believed of one when the
volume is opened (I4, I5, I8).
"""

from __future__ import annotations

import dataclasses
import logging
import re
import stat
import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs import probes, snapshots
from snapfs.blocks import superblock as superblocks
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import SUPERBLOCK_SLOTS
from snapfs.blocks.log_record import (
    CHECKSUM_OFFSET,
    LAYOUT,
    PAYLOAD_OFFSET,
    FileChange,
    decode_log,
    encode_record,
)
from snapfs.blocks.schema import pack
from snapfs.blocks.superblock import CLAIM, LOG
from snapfs.check import check_volume
from snapfs.check.opening import logged_changes
from snapfs.check.repair import repair_volume
from snapfs.errors import DeviceError, NoSpace, ReadOnly
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit import recovery
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import (
    commit,
    drive,
    sync,
)
from snapfs.store.commit.log_writing import RECORD_BLOCKS
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

BLOCK = 4096
FILE = stat.S_IFREG | 0o644
UUID = bytes(range(16))


class Counting(SparseDevice):
    """Counts writes and flushes; either can be made to fail."""

    writes = flushes = 0
    fails = ""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.fails == "write":
            self.fails = ""
            raise DeviceError("planted")
        self.writes += 1
        super().write(offset, data)

    def flush(self) -> None:
        if self.fails == "flush":
            raise DeviceError("planted")
        self.flushes += 1


class Logged:
    """A volume with two files and a log that is in use."""

    def __init__(self, blocks: int = 2048) -> None:
        self.device = Counting(blocks * BLOCK)
        format_volume(self.device)
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)
        self.ino, self.other = (
            drive(self.volume, self.fs.make, self.fs.base, ROOT_INO, name, FILE, 0, 0).ino
            for name in (b"f", b"g")
        )
        self.write(0, b"1" * 50_000)
        commit(self.volume)
        self.volume.sync_log.wanted = True
        self.write(0, b"2")
        commit(self.volume)
        assert self.volume.sync_log.region

    def write(self, offset: int, data: bytes, ino: int = 0) -> None:
        drive(self.volume, self.fs.write, self.fs.base, ino or self.ino, offset, data)

    def sync(self) -> bool:
        return sync(self.volume)

    def crashed(self, *, read_only: bool = False) -> Filesystem:
        return Filesystem(open_volume(self.device, read_only=read_only))

    def content(self, fs: Filesystem | None = None) -> bytes:
        fs = fs or self.fs
        return drive(fs.volume, fs.read, fs.base, self.ino, 0, 1 << 24)

    @property
    def region(self) -> tuple[int, int]:
        assert self.volume.sync_log.region
        return self.volume.sync_log.region


@pytest.fixture
def logged() -> Logged:
    return Logged()


# Which fsync


def test_fsync_takes_more_than_one_write_and_one_flush(logged: Logged) -> None:
    generation = logged.volume.generation
    for number in range(20):
        logged.write(number % 12 * BLOCK, b"%d" % number * 3000)
        logged.device.writes = logged.device.flushes = 0
        assert logged.sync()
        assert (logged.device.writes, logged.device.flushes) == (1, 1)
    assert logged.volume.generation == generation
    assert logged.content(logged.crashed()) == logged.content()


def test_fsync_without_changes_writes(logged: Logged) -> None:
    logged.write(0, b"x")
    logged.sync()
    logged.device.writes = logged.device.flushes = 0
    assert logged.sync()
    commit(logged.volume)
    logged.device.writes = logged.device.flushes = 0
    assert logged.sync()
    assert (logged.device.writes, logged.device.flushes) == (0, 0)


def times(one: Logged) -> None:
    changes = Changes(atime=5, mtime=6, ctime=7)
    drive(one.volume, one.fs.set_attributes, one.fs.base, one.ino, changes, privileged=True)


def access(one: Logged) -> None:
    one.fs.now = lambda: 1 << 62
    drive(one.volume, one.fs.touch_atime, one.fs.base, ROOT_INO)


TOLD: list[Callable[[Logged], Any]] = [
    lambda one: one.write(7, b"part of a block"),
    lambda one: one.write(60_000, b"behind the end"),
    lambda one: one.write(1 << 30, b"far behind it"),
    lambda one: (one.write(0, b"two"), one.write(0, b"files", one.other)),
    times,
    access,
]


@pytest.mark.parametrize("number", range(len(TOLD)))
def test_what_a_record_can_tell_takes_a_commit_or_is_lost(number: int, logged: Logged) -> None:
    logged.write(0, b"before")
    logged.sync()
    TOLD[number](logged)
    assert logged.sync()
    found = logged.crashed()
    assert found.volume.sync_log.repeated == 2
    for ino in (ROOT_INO, logged.ino, logged.other):
        before, after = (drive(fs.volume, fs.inode, fs.base, ino) for fs in (logged.fs, found))
        assert (before.size, before.blocks, before.atime, before.mtime, before.ctime) == (
            after.size, after.blocks, after.atime, after.mtime, after.ctime,
        )  # fmt: skip
    assert logged.content(found) == logged.content()
    commit(found.volume)
    assert check_volume(logged.device) == []


def _base(name: str, *arguments: Any, **more: Any) -> Callable[[Logged], Any]:
    return lambda one: drive(one.volume, getattr(one.fs, name), one.fs.base, *arguments, **more)


UNTOLD: dict[str, Callable[[Logged], Any]] = {
    "make": _base("make", ROOT_INO, b"new", FILE, 0, 0),
    "unlink": _base("unlink", ROOT_INO, b"g"),
    "rename": _base("rename", ROOT_INO, b"g", ROOT_INO, b"h"),
    "link": _base("link", 16, ROOT_INO, b"h"),
    "truncate": _base("set_attributes", 16, Changes(size=100), privileged=True),
    "extend": _base("set_attributes", 16, Changes(size=1 << 20), privileged=True),
    "chmod": _base("set_attributes", 16, Changes(mode=0o600), privileged=True),
    "chown": _base("set_attributes", 16, Changes(uid=5), privileged=True),
    "xattr": _base("xattr_set", 16, b"user.x", b"y"),
    "snapshot": lambda one: drive(one.volume, snapshots.create, one.fs, "one"),
    "much": lambda one: one.write(0, bytes(RECORD_BLOCKS * BLOCK // 16 * BLOCK)),
    "set-id": lambda one: drive(
        one.volume, one.fs.write, one.fs.base, one.other, 0, b"x", kill_setid=True
    ),
}


@pytest.mark.parametrize("what", UNTOLD)
def test_what_no_record_tells_is_lost(what: str) -> None:
    """It takes a commit, and so does what comes after it."""
    logged = Logged(16_384)
    drive(
        logged.volume,
        logged.fs.set_attributes,
        logged.fs.base,
        logged.other,
        Changes(mode=0o4755),
        privileged=True,
    )
    commit(logged.volume)
    logged.write(0, b"before")
    assert logged.sync()
    UNTOLD[what](logged)
    logged.write(0, b"after")
    generation = logged.volume.generation
    assert not logged.sync()
    assert logged.volume.generation == generation + 1
    logged.write(0, b"then")
    assert logged.sync()
    assert logged.content(logged.crashed()) == logged.content()


def test_a_full_log_loses_what_comes_then(logged: Logged) -> None:
    generation = logged.volume.generation
    _, length = logged.region
    for number in range(length):
        logged.write(0, b"%d" % number)
        assert logged.sync()
    logged.write(0, b"one more")
    assert not logged.sync()
    assert logged.volume.generation == generation + 1
    assert logged.region


# Where it is


def test_the_log_is_taken_for_data(logged: Logged) -> None:
    """Free in the bitmaps, and not given out, until a generation without it is durable."""
    start, length = logged.region
    taken: set[int] = set()
    logged.volume.allocator.watchers.append(
        lambda runs: taken.update(
            block for first, count in runs for block in range(first, first + count)
        )
    )
    group = logged.volume.allocator.groups[0]
    with pytest.raises(NoSpace):
        for number in range(2048):
            logged.write(number * BLOCK, b"x" * BLOCK)
            assert logged.volume.sync_log.region is None or not group.blocks.count(
                1, start, start + length
            )
    assert taken >= set(range(start, start + length)), (
        "the log was not given up for the last blocks"
    )
    commit(logged.volume)
    assert check_volume(logged.device) == []


def test_a_log_that_is_given_up_is_overwritten_before_that_is_durable(logged: Logged) -> None:
    """I5."""
    start, length = logged.region
    group = logged.volume.allocator.groups[0]
    logged.write(0, b"x")
    logged.sync()
    assert logged.volume.sync_log.give_up()
    assert group.busy.count(1, start, start + length) == length
    sealed = drive(logged.volume, seal, logged.volume)
    assert group.busy.count(1, start, start + length) == length
    sealed.write()
    logged.volume.committed(sealed)
    assert not group.busy.count(1, start, start + length)
    assert not open_volume(logged.device).superblock.log_blocks


def test_a_volume_with_little_space_has_a_log() -> None:
    logged = Logged(600)
    logged.write(0, b"x" * 400 * BLOCK)
    logged.volume.sync_log.give_up()
    commit(logged.volume)
    logged.write(0, b"x")
    logged.sync()
    logged.write(0, b"x")
    logged.sync()
    assert logged.volume.sync_log.region is None


def test_what_was_there_before_passes_for_a_record() -> None:
    """Somebody has filled the free space with records that name his own blocks."""
    logged = Logged()
    start, length = logged.region
    logged.volume.sync_log.give_up()
    commit(logged.volume)
    data, _ = encode_record(
        logged.volume.superblock.uuid,
        logged.volume.generation + 1,
        0,
        0,
        [planted(logged, times=0)],
    )
    for block in range(start, start + length):
        logged.device.write(block * BLOCK, data.ljust(BLOCK, b"\0"))
    logged.volume.sync_log.wanted = True
    logged.write(0, b"x")
    commit(logged.volume)
    assert logged.region == (start, length)
    assert not logged.crashed().volume.sync_log.pending


def test_software_that_knows_no_log_writes_to_the_volume(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged.volume.superblock.read_only_compatible == LOG | CLAIM
    monkeypatch.setattr(recovery, "KNOWN_READ_ONLY_COMPATIBLE", superblocks.COPY_RUNNING | CLAIM)
    found = open_volume(logged.device)
    assert found.read_only and "features 0x2" in str(found.read_only_reason)


# Opening


def test_reading_does_not_show_what_was_synced_or_writes(logged: Logged) -> None:
    logged.write(3, b"synced")
    logged.sync()
    before = logged.device.copy().pages
    fs = logged.crashed(read_only=True)
    assert logged.content(fs) == logged.content()
    assert logged_changes(logged.device) == 1
    assert check_volume(logged.device) == []
    with pytest.raises(ReadOnly):
        commit(fs.volume)
    assert logged.device.pages == before


def test_a_device_that_cannot_be_read_loses_what_was_synced(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who would write, and give it up, is told; who reads gets what there is."""
    logged.write(0, b"x" * BLOCK)
    logged.sync()
    read = SparseDevice.read
    start, length = logged.region

    def failing(self: SparseDevice, offset: int, size: int) -> bytes:
        if start * BLOCK <= offset < (start + length) * BLOCK:
            raise DeviceError("planted")
        return read(self, offset, size)

    monkeypatch.setattr(SparseDevice, "read", failing)
    with pytest.raises(DeviceError, match="planted"):
        logged.crashed()
    assert logged.content(logged.crashed(read_only=True))[1:] == logged.content()[1:].replace(
        b"x", b"1"
    )


def test_repair_drops_what_was_synced(logged: Logged) -> None:
    """It takes it over first; a volume without other findings is left as it is."""
    logged.write(0, b"synced")
    logged.sync()
    expected = logged.content()
    assert repair_volume(logged.device).actions == []
    assert logged_changes(logged.device) == 1
    front, _ = logged.volume.geometry.slot_offsets()
    logged.device.write(front[(logged.volume.generation - 2) % SUPERBLOCK_SLOTS] + 100, b"damage")
    result = repair_volume(logged.device)
    assert any("taken over from the log" in action for action in result.actions), result.actions
    assert not result.after and logged.content(logged.crashed()) == expected
    assert logged_changes(logged.device) == 0


# Devices that fail


@pytest.mark.reaches(probes.LOG_WRITE_FAILED)
def test_a_record_that_cannot_be_written_is_an_error(logged: Logged) -> None:
    """A commit does."""
    logged.write(0, b"x")
    logged.device.fails = "write"
    assert not logged.sync()
    assert logged.content(logged.crashed()) == logged.content()
    logged.write(0, b"y")
    assert logged.sync()


@pytest.mark.reaches(probes.FLUSH_FAILED)
def test_a_failed_flush_is_no_error(logged: Logged) -> None:
    logged.write(0, b"x")
    logged.device.fails = "flush"
    with pytest.raises(DeviceError, match="planted"):
        logged.sync()
    with pytest.raises(ReadOnly, match="could not be flushed"):
        logged.sync()


# Records


def change(ino: int = 20, runs: tuple[tuple[int, array[int]], ...] = ()) -> FileChange:
    return FileChange(ino, 3, 1 << 40, -5, 1 << 62, 7, runs)


def written(*records: list[FileChange], generation: int = 9) -> bytes:
    out, previous = b"", 0
    for number, changes in enumerate(records):
        data, previous = encode_record(UUID, generation, number, previous, changes)
        out += data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")
    return out


POINTERS = array("Q", [77 | 3 << 48, 5 | 0xDEADBEEF << 32, 78 | 1 << 48, 5 | 1 << 32])


def test_a_record_says_something_else_when_it_is_read() -> None:
    first, second = (
        [change(), change(21, ((4, POINTERS), (1 << 40, POINTERS[:2])))],
        [change(runs=((0, POINTERS),))],
    )
    found, reason = decode_log(written(first, second) + bytes(BLOCK), BLOCK, UUID, 9)
    assert [list(one.changes) for one in found] == [first, second] and reason is None
    assert [one.number for one in found] == [0, 1]


def test_a_record_of_another_time_counts() -> None:
    log = written([change()], [change()], [change()])
    assert len(decode_log(log, BLOCK, UUID, 9)[0]) == 3
    assert decode_log(log, BLOCK, UUID, 10)[0] == decode_log(log, BLOCK, UUID[::-1], 9)[0] == []
    assert decode_log(log[BLOCK:], BLOCK, UUID, 9)[0] == []
    assert len(decode_log(log[:BLOCK] + log[2 * BLOCK :], BLOCK, UUID, 9)[0]) == 1
    # The second one of an older log, behind a new first one.
    other = written([change(22)])
    assert len(decode_log(other + log[BLOCK:], BLOCK, UUID, 9)[0]) == 1


@pytest.mark.reaches(probes.LOG_TORN_RECORD)
def test_a_torn_record_counts() -> None:
    log = written([change()], [change(number, ((0, POINTERS * 20),)) for number in range(20, 40)])
    assert len(log) > 3 * BLOCK
    end = PAYLOAD_OFFSET + LAYOUT.unpack_from(log, BLOCK)[1]
    for cut in range(BLOCK, len(log), 512):
        count = 2 if cut >= BLOCK + end else 1
        for rest in (bytes(len(log) - cut), b"\xdb" * (len(log) - cut)):
            assert len(decode_log(log[:cut] + rest, BLOCK, UUID, 9)[0]) == count


@given(data=st.binary(max_size=3000), place=st.integers(0, BLOCK - 1), value=st.integers(0, 255))
@settings(deadline=None, database=None)
def test_bytes_make_the_decoder_raise(data: bytes, place: int, value: int) -> None:
    decode_log(data, BLOCK, UUID, 9)
    log = bytearray(written([change(runs=((0, POINTERS),))]))
    log[place] = value
    decode_log(bytes(log), BLOCK, UUID, 9)
    assert decode_log(forged(data), BLOCK, UUID, 9)[0] is not None


def forged(payload: bytes, uuid: bytes = UUID, generation: int = 9) -> bytes:
    """A first record whose checksum is right."""
    head = LAYOUT.pack(b"SLog", len(payload), uuid, generation, 0, 0)
    assert len(head) == CHECKSUM_OFFSET
    return head + struct.pack("<I", crc32c(head + payload)) + payload


def planted(logged: Logged, **other: Any) -> FileChange:
    """A change that fits, in but what is ``other``: block 300 becomes block 3 of the file."""
    content = b"h" * BLOCK
    logged.device.write(300 * BLOCK, content)
    inode = drive(logged.volume, logged.fs.inode, logged.fs.base, other.get("ino", logged.ino))
    epoch = other.get("epoch", logged.volume.epoch)
    pointer = array(
        "Q", [other.get("block", 300), other.get("checksum", crc32c(content)) << 32 | epoch]
    )
    pointers = pointer * other.get("times", 1)
    runs = ((other.get("index", 3), pointers),) if pointers else ()
    return FileChange(
        inode.ino,
        other.get("generation", inode.generation),
        other.get("size", inode.size),
        1,
        2,
        3,
        runs,
    )


def opened_with(logged: Logged, *records: list[FileChange]) -> Filesystem:
    start, _ = logged.region
    previous = 0
    for number, changes_of_one in enumerate(records):
        data, previous = encode_record(
            logged.volume.superblock.uuid,
            logged.volume.generation,
            number,
            previous,
            changes_of_one,
        )
        logged.device.write((start + number) * BLOCK, data.ljust(BLOCK, b"\0"))
    return logged.crashed()


def test_nothing_that_is_planted_fits(logged: Logged) -> None:
    """Or the tests below prove nothing."""
    fs = opened_with(logged, [planted(logged)])
    assert fs.volume.sync_log.repeated == 1
    assert drive(fs.volume, fs.read, fs.base, logged.ino, 3 * BLOCK, BLOCK) == b"h" * BLOCK
    commit(fs.volume)
    assert check_volume(logged.device) == []


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"block": 8}, "in use"),  # a group header
        ({"block": 2047}, "in use"),  # the superblocks at the end
        ({"block": 2010}, "in use"),  # the log itself
        ({"block": 40}, "in use"),
        ({"block": 1 << 40}, "outside"),
        ({"block": 2049}, "in use"),
        ({"block": 1 << 56 | 300}, "not decodable|flags|none of this generation"),
        ({"block": 1 << 48}, "none of this generation"),
        ({"epoch": 2}, "none of this generation"),
        ({"times": 2}, "twice"),
        ({"generation": 77}, "another file"),
        ({"size": 1000}, "cannot have the size"),
        ({"size": 1 << 63}, "cannot have the size"),
        ({"index": 13}, "behind its end"),
        ({"ino": ROOT_INO}, "no file"),
        ({"ino": ROOT_INO, "times": 0, "size": 4 << 20}, "no file"),
    ],
)
def test_a_record_that_cannot_be_is_believed(
    other: dict[str, int], reason: str, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, nothing of it happens, nor of what comes after it."""
    before = logged.content()
    fs = opened_with(logged, [planted(logged, **other)], [planted(logged, times=0)])
    assert fs.volume.sync_log.repeated == 0
    assert re.search(reason, caplog.text), caplog.text
    assert logged.content(fs) == before
    commit(fs.volume)
    assert check_volume(logged.device) == []


@pytest.mark.parametrize(
    ("start", "length", "opens"),
    [(40, 8, True), (0, 8, False), (2040, 8, False), (2000, 1000, False), (1 << 60, 8, False)],
)
def test_a_log_over_what_is_in_use_is_written(
    start: int, length: int, opens: bool, logged: Logged
) -> None:
    """What a superblock says is believed only between what is fixed, and where nothing is."""
    front, tail = logged.volume.geometry.slot_offsets()
    slot = logged.volume.generation % len(front)
    generation = logged.volume.generation
    named = dataclasses.replace(
        logged.volume.superblock, log_block=start, log_blocks=length
    ).encode()
    for offset in (front[slot], tail[slot]):
        logged.device.write(offset, named)
    fs = logged.crashed()
    assert fs.volume.generation == (generation if opens else generation - 1)
    fs.volume.sync_log.wanted = True
    for _ in range(3):
        drive(fs.volume, fs.write, fs.base, logged.ino, 0, b"after")
        sync(fs.volume)
    assert fs.volume.sync_log.region not in (None, (start, length))
    assert logged.content(logged.crashed()) == logged.content(fs)
    if opens:
        assert check_volume(logged.device) == []


def test_blocks_without_their_data_are_believed(
    logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    fs = opened_with(logged, [planted(logged, checksum=1)], [planted(logged, times=0)])
    assert fs.volume.sync_log.repeated == 0 and "is not on the device" in caplog.text


numbers = st.one_of(
    st.integers(0, 3000),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([1, 2, 16, 17, 50_000, 1 << 40]),
)
words = st.lists(
    st.one_of(
        st.integers(0, 2100),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, 2100).map(lambda n: n << 48 | n),
    ),
    max_size=12,
)
runs = st.lists(
    st.tuples(numbers, words.map(lambda found: array("Q", found[: len(found) // 2 * 2]).tobytes())),
    max_size=3,
).map(lambda found: [value for pair in found for value in pair])
changes = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([16, 17, 1, 2, 99]),
            st.sampled_from([0, 1, 2, 3, 4]),
            numbers,
            numbers,
            numbers,
            numbers,
            runs,
        ).map(list),
        numbers,
    ),
    max_size=4,
)


@given(payload=changes, good=st.booleans())
@settings(deadline=None, database=None, max_examples=150)
def test_a_hostile_log_raises_or_does_harm(payload: list[Any], good: bool) -> None:
    """Checksums are right, data is what anybody likes: no write leaves its place, and the volume is
    clean afterwards.
    """
    logging.disable(logging.CRITICAL)
    try:
        logged = Logged(600)
        inode = drive(logged.volume, logged.fs.inode, logged.fs.base, logged.ino)
        if good and payload and isinstance(payload[0], list):
            # All but one thing is as it should be: blocks that are free and hold what is said, or
            # the file itself.
            content = b"h" * BLOCK
            logged.device.write(300 * BLOCK, content)
            pointer = array("Q", [300, crc32c(content) << 32 | logged.volume.epoch]).tobytes()
            payload[0][:3] = [logged.ino, inode.generation, max(inode.size, 13 * BLOCK)]
            payload[0][3:6] = [1, 2, 3]
            payload[0][6] = [3, pointer, *payload[0][6]]
        start, length = logged.region
        data = forged(pack(payload), logged.volume.superblock.uuid, logged.volume.generation)
        logged.device.write(start * BLOCK, data[: length * BLOCK])
        fs = logged.crashed()
        drive(fs.volume, fs.read, fs.base, logged.ino, 0, 1 << 20)
        if not fs.volume.read_only:
            drive(fs.volume, fs.write, fs.base, logged.ino, 0, b"after")
            commit(fs.volume)
            assert check_volume(logged.device) == []
    finally:
        logging.disable(logging.NOTSET)
