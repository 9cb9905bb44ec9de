"""A volume remembers the copy of itself that is running, and where that has its map (D1, D5):
nothing else is touched by either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from bitarray import bitarray

from snapfs.blocks import superblock
from snapfs.blocks.geometry import Geometry
from snapfs.check import check_volume
from snapfs.check.repair import repair_volume
from snapfs.device.base import Buffer
from snapfs.errors import (
    CorruptBlock,
    DeviceError,
    NoSpace,
    ReadOnly,
    UsageError,
)
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.interrupts import CommitNeeded
from snapfs.store.commit import recovery
from snapfs.store.commit.commit import seal
from snapfs.store.commit.copy_map_space import (
    allocate_map,
    free_map,
    plan_map,
)
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.copies import (
    PATH_MAX,
    RUNS_MAX,
    CopyBlock,
    RunningCopy,
    map_problem,
)
from tests.harness.sparse import SparseDevice

BLOCK = 4096
COPY = RunningCopy(
    b"0123456789abcdef",
    3,
    b"/elsewhere/copy.img",
    map_path=b"/elsewhere/copy.map",
    rate=0,
    paused=True,
    since_ns=-5,
    owner=7,
)


@pytest.fixture
def device() -> SparseDevice:
    device = SparseDevice(2048 * BLOCK)
    format_volume(device)
    return device


def fresh(device: Any) -> Filesystem:
    return Filesystem(open_volume(device))


def bitmaps(volume: Volume) -> list[tuple[bitarray, bitarray]]:
    drive(volume, volume.allocator.need_groups, range(volume.geometry.groups))
    groups = [volume.allocator.groups[number] for number in range(volume.geometry.groups)]
    return [(group.blocks.copy(), group.snapshot.copy()) for group in groups]


def problems(device: Any) -> list[str]:
    return [finding.message() for finding in check_volume(device)]


# What is remembered


def test_a_running_copy_is_forgotten_or_remembered_otherwise(device: SparseDevice) -> None:
    """D1: with the commit that it is put for, after any other commit, and until it is ended; then
    nothing is left of it (I10).
    """
    fs = fresh(device)
    before = bitmaps(fs.volume)
    assert fs.volume.copies.current is None
    fs.volume.copies.put(COPY)
    assert fs.volume.dirty
    commit(fs.volume)
    for step in range(3):
        fs = fresh(device)
        assert (fs.volume.copies.current, fs.volume.copies.dirty) == (COPY, False)
        assert (
            fs.volume.superblock.read_only_compatible == superblock.COPY_RUNNING | superblock.CLAIM
        )
        drive(fs.volume, fs.make, fs.base, ROOT_INO, b"%d" % step, 0o100644, 0, 0)
        commit(fs.volume)
        assert problems(device) == []
    for step in range(3):
        drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"%d" % step)
    fs.volume.copies.put(None)
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    fs = fresh(device)
    assert fs.volume.copies.current is None and fs.volume.copies.place is None
    assert fs.volume.superblock.read_only_compatible == superblock.CLAIM
    assert [[bits.count(1) for bits in group] for group in bitmaps(fs.volume)] == [
        [bits.count(1) for bits in group] for group in before
    ]
    assert problems(device) == []


def test_a_change_overwrites_what_the_durable_generation_says(device: SparseDevice) -> None:
    """I4: another description takes another block; a crash before the superblock has the one from
    before.
    """
    fs = fresh(device)
    fs.volume.copies.put(COPY)
    commit(fs.volume)
    crash = device.copy()
    first = fs.volume.copies.place
    fs.volume.copies.put(replace(COPY, paused=False, rate=None))
    sealed = seal(fs.volume)
    assert first is not None and fs.volume.copies.place is not None
    assert fs.volume.copies.place.block != first.block and first.block not in sealed.blocks
    for block, content in sealed.blocks.items():
        device.write(block * BLOCK, content)
    assert fresh(device).volume.copies.current == COPY
    sealed.write()
    assert fresh(device).volume.copies.current == replace(COPY, paused=False, rate=None)
    device.become(crash)
    assert fresh(device).volume.copies.current == COPY


def test_a_copy_that_has_not_changed_is_written_again(device: SparseDevice) -> None:
    fs = fresh(device)
    fs.volume.copies.put(COPY)
    commit(fs.volume)
    place = fs.volume.copies.place
    drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0)
    commit(fs.volume)
    assert fs.volume.copies.place == place
    assert problems(device) == []


def test_the_longest_description_does_not_fit_the_smallest_block() -> None:
    path = b"/" + b"p" * (PATH_MAX - 1)
    many = tuple((1 << 47, 1 << 47) for _ in range(RUNS_MAX))
    most = RunningCopy(
        b"\xff" * 16, (1 << 62) - 1, path, many, b"", "write", 1 << 62, True, -1 << 62, 0xFFFF_FFFF
    )
    for one in (most, replace(most, map_runs=many[:1], map_path=path)):
        data = one.checked().encode()
        assert len(data) <= BLOCK
        assert RunningCopy.decode(data) == one


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"id": bytes(16)}, "id"),
    ({"id": b"short"}, "id"),
    ({"destination": b"relative"}, "not an absolute path"),
    ({"destination": b"/nul\0"}, "not an absolute path"),
    ({"destination": b"/" + b"p" * PATH_MAX}, "too long"),
    ({"map_path": b"/" + b"p" * PATH_MAX}, "too long"),
    ({"map_path": b"relative"}, "not an absolute path"),
    ({"map_path": b""}, "map"),
    ({"map_runs": ((20, 1), (30, 1))}, "map"),
    ({"map_path": b"", "map_runs": ((20, 1),) * (RUNS_MAX + 1)}, "129 places"),
    ({"on_error": "neither"}, "neither 'copy' nor 'write'"),
]


@pytest.mark.parametrize(("change", "what"), WRONG)
def test_a_description_that_cannot_be_is_written_or_believed(
    change: dict[str, Any], what: str
) -> None:
    """One that somebody starts is refused with a line that says why; one that a volume has is
    damage.
    """
    wrong = replace(COPY, **change)
    with pytest.raises(UsageError, match=what):
        wrong.checked()
    with pytest.raises(CorruptBlock, match=what):
        RunningCopy.decode(wrong.encode())


FIELDS: list[tuple[str, Any]] = [
    ("id", "text"), ("generation", -1), ("generation", 1 << 62), ("destination", "text"), ("runs",
    {}), ("runs", [20]), ("runs", [20, -1]),
    ("runs", [b"", 1]), ("runs", [1 << 60, 1]), ("map", None), ("on_error", b"copy"), ("rate", -1),
    ("rate", True), ("rate", 1 << 63),
    ("paused", 1), ("since", 1.5), ("since", 1 << 63), ("owner", -1), ("owner", 1 << 32),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_field_of_another_kind_is_believed(field: str, value: Any) -> None:
    found = msgpack.unpackb(COPY.encode())
    for wrong in (
        {**found, field: value},
        {key: one for key, one in found.items() if key != field},
    ):
        if "rate" in wrong or field != "rate":  # without one there is no limit
            with pytest.raises(CorruptBlock):
                RunningCopy.decode(msgpack.packb(wrong))
    assert RunningCopy.decode(msgpack.packb({**found, "later": 1})) == COPY


@pytest.mark.parametrize(
    "value",
    [
        1,
        [20, 30],
        [0, 1, 1],
        [2048, 1, 1],
        [7, 1, 1],
        [2047, 1, 1],
        [20, 0, 1],
        [20, 4097, 1],
        [20, 1, 1 << 32],
    ],
)
def test_a_root_record_names_an_impossible_block(value: Any) -> None:
    """Nothing fixed is given away: a description that changes frees the block that it was in."""
    with pytest.raises(CorruptBlock, match="root record"):
        CopyBlock.decode(value, Geometry(BLOCK, 2048))


# What follows from damage


def damage(device: SparseDevice) -> CopyBlock:
    fs = fresh(device)
    fs.volume.copies.put(COPY)
    commit(fs.volume)
    place = fs.volume.copies.place
    assert place is not None
    device.flip(place.block * BLOCK + 3000)
    return place


def test_a_volume_is_written_though_nobody_knows_what_its_copy_needs(device: SparseDevice) -> None:
    """D3: a description that is damaged leaves a volume that is read, says why it is not written,
    and is mended by ending the copy.
    """
    damage(device)
    fs = fresh(device)
    assert fs.volume.copies.current is None and fs.volume.read_only
    with pytest.raises(ReadOnly, match=r"copy that is running.*checksum.*check --repair"):
        drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0)
        commit(fs.volume)
    assert [finding.rule for finding in check_volume(device)] == ["running-copy"]
    result = repair_volume(device)
    assert result.after == [] and any("start it again" in action for action in result.actions)
    fs = fresh(device)
    assert not fs.volume.read_only and fs.volume.copies.place is None
    drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0)
    commit(fs.volume)
    assert problems(device) == []


def test_a_device_that_fails_there_makes_the_volume_unreadable(device: SparseDevice) -> None:
    place = damage(device)
    below: Callable[[int, int], bytes] = device.read

    def read(offset: int, length: int) -> bytes:
        if offset == place.block * BLOCK:
            raise DeviceError("cannot be read")
        return below(offset, length)

    device.read = read  # type: ignore[method-assign]
    assert fresh(device).volume.read_only_reason is not None
    assert [finding.rule for finding in check_volume(device)] == ["running-copy"]


def test_a_snapfs_that_knows_no_copies_writes(
    device: SparseDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fresh(device)
    fs.volume.copies.put(COPY)
    commit(fs.volume)
    monkeypatch.setattr(recovery, "KNOWN_READ_ONLY_COMPATIBLE", 0)
    assert "use a newer one" in (fresh(device).volume.read_only_reason or "")


class Watching:
    """A device that notes what is written, and dies after some writes."""

    def __init__(self, below: SparseDevice, writes: int) -> None:
        self._below, self._left = below, writes
        self.done: list[tuple[int | None, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def write(self, offset: int, data: Buffer) -> None:
        if len(self.done) >= self._left:
            raise DeviceError("the device is gone")
        self.done.append((offset, bytes(data)))
        self._below.write(offset, data)

    def flush(self) -> None:
        self.done.append((None, b""))


def test_a_repair_spoils_a_copy_that_goes_on(device: SparseDevice) -> None:
    """D3: repair writes past the copy, so it ends it first; cut off at any write after that, the
    volume is not written by others.
    """
    fs = fresh(device)
    fs.volume.copies.put(COPY)
    commit(fs.volume)
    place = fs.volume.copies.place
    assert place is not None
    drive(fs.volume, fs.volume.allocator.prepare, 1)
    fs.volume.allocator.allocate(1)  # is leaked
    commit(fs.volume)
    before = device.copy()
    assert [finding.rule for finding in check_volume(device)] == ["leaked"]
    for writes in range(1, 1000):
        device.become(before)
        watching = Watching(device, writes)
        try:
            result = repair_volume(watching)  # type: ignore[arg-type]
        except DeviceError:
            assert fresh(device).volume.copies.current is None
        else:
            break
    assert watching.done[:2] == [(place.block * BLOCK, bytes(BLOCK)), (None, b"")]
    assert writes > 3 and result.after == []
    assert result.actions == [
        (
            "the copy to '/elsewhere/copy.img' that was running has ended, it would lack "
            "what is mended now: start it again"
        )
    ]
    assert fresh(device).volume.copies.place is None


# The map on the volume


def test_the_map_of_a_copy_touches_anything_else(device: SparseDevice) -> None:
    """D5, I10: its blocks are marked, in no snapshot, clean for the checker with any content, and
    free when it is given back.
    """
    fs = fresh(device)
    before = bitmaps(fs.volume)
    generation = fs.volume.generation
    ((start, length),) = runs = drive(fs.volume, allocate_map, fs.volume, 9)
    assert (fs.volume.generation, length, fs.volume.dirty) == (generation, 9, True)
    fs.volume.copies.put(replace(COPY, map_path=b"", map_runs=runs))
    sealed = seal(fs.volume)
    assert not set(sealed.blocks) & set(range(start, start + length))
    sealed.write()
    fs.volume.committed(sealed)
    device.write(start * BLOCK, b"map!" * 9 * (BLOCK // 4))
    fs = fresh(device)
    ((blocks, snapshot),) = bitmaps(fs.volume)
    assert blocks[start : start + length].all() and not snapshot.any()
    assert problems(device) == []
    drive(fs.volume, plan_map, fs.volume, runs)
    fs.volume.copies.put(None)
    drive(fs.volume, free_map, fs.volume, runs)
    commit(fs.volume)
    assert [bits.count(1) for bits in bitmaps(fresh(device).volume)[0]] == [
        bits.count(1) for bits in before[0]
    ]
    assert problems(device) == []


def test_a_map_is_larger_than_a_group() -> None:
    device = SparseDevice((3 * 32768 + 1000) * BLOCK)
    format_volume(device)
    fs = fresh(device)
    runs = drive(fs.volume, allocate_map, fs.volume, 40_000)
    assert sum(length for _, length in runs) == 40_000 and len(runs) == 2
    fs.volume.copies.put(replace(COPY, map_path=b"", map_runs=runs))
    commit(fs.volume)
    assert problems(device) == []
    fs = fresh(device)
    assert fs.volume.copies.current is not None and fs.volume.copies.current.map_runs == runs
    fs.volume.copies.put(None)
    drive(fs.volume, free_map, fs.volume, runs)
    commit(fs.volume)
    assert problems(device) == []


def scatter(fs: Filesystem, gap: int, pieces: int) -> None:
    """Take all free blocks, and give back some: ``pieces`` runs of ``gap`` blocks, and one more of
    three times as many.
    """
    allocator = fs.volume.allocator
    allocator.reserve = 0
    drive(fs.volume, allocator.prepare, allocator.available, urgency=2)
    ((start, _),) = allocator.allocate(allocator.available)
    for number in range(pieces):
        allocator.free_run(start + number * 3 * gap, gap)
    allocator.free_run(start + pieces * 3 * gap, 3 * gap)


def test_a_map_is_cut_into_more_pieces_than_need_be(device: SparseDevice) -> None:
    fs = fresh(device)
    scatter(fs, 2, 200)
    runs = drive(fs.volume, allocate_map, fs.volume, 6)
    assert [length for _, length in runs] == [6]
    runs = drive(fs.volume, allocate_map, fs.volume, 7)
    assert sorted(length for _, length in runs) == [1, 2, 2, 2]
    assert list(runs) == sorted(runs)


def test_a_map_in_too_many_pieces_is_taken(device: SparseDevice) -> None:
    """Nothing has changed then, and the line says what to do."""
    fs = fresh(device)
    scatter(fs, 1, 200)
    available, bits = fs.volume.allocator.available, bitmaps(fs.volume)
    with pytest.raises(NoSpace, match="--map outside"):
        drive(fs.volume, allocate_map, fs.volume, RUNS_MAX + 3)
    assert (fs.volume.allocator.available, bitmaps(fs.volume)) == (available, bits)
    assert len(drive(fs.volume, allocate_map, fs.volume, RUNS_MAX + 2)) == RUNS_MAX


def test_a_map_takes_blocks_that_wait_for_a_commit_or_the_reserve(device: SparseDevice) -> None:
    """I5: there is no room but in what is being freed: a commit comes first. And there must be room
    for the next one.
    """
    fs = fresh(device)
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, 0, bytes(1800 * BLOCK))
    commit(fs.volume)
    with pytest.raises(NoSpace):
        drive(fs.volume, allocate_map, fs.volume, 250)
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    while drive(fs.volume, fs.work):
        pass
    with pytest.raises(CommitNeeded):
        allocate_map(fs.volume, 250)
    assert sum(length for _, length in drive(fs.volume, allocate_map, fs.volume, 250)) == 250


def test_blocks_that_are_no_map_are_given_back(device: SparseDevice) -> None:
    """A map's blocks come from a volume: what is free, fixed, or a snapshot's is not freed."""
    fs = fresh(device)
    group = fs.volume.allocator
    drive(fs.volume, group.prepare, 4)
    ((start, _),) = group.allocate(4)
    group.record(start, 1, None, held=True)
    group.record(start + 1, 1, fs.volume.holders.intern(False, 0, 2), held=False)
    free = group.groups[0].busy.find(0, start)
    for runs in (
        [(start, 4)],
        [(start + 1, 1)],
        [(free, 1)],
        [(start + 2, 1), (2, 3)],
        [(2045, 8)],
    ):
        bits = bitmaps(fs.volume)
        with pytest.raises(CorruptBlock, match="are named by"):
            free_map(fs.volume, runs)
        assert bitmaps(fs.volume) == bits
    free_map(fs.volume, [(start + 2, 2)])


@pytest.mark.parametrize(
    ("runs", "what"),
    [
        ([(20, 5)], None),
        ([(20, 5), (30, 2)], None),
        ([(32768 + 10, 9), (20, 5)], None),
        ([(20, 0)], "outside"),
        ([(40000, 1)], "outside"),
        ([(39000, 5000)], "outside"),
        ([(5, 20)], "fixed"),
        ([(32760, 20)], "fixed"),
        ([(39990, 10)], "fixed"),
        ([(30, 5), (20, 11)], "block 30 twice"),
        ([(95, 10)], "describes the copy"),
    ],
)
def test_a_map_is_believed_to_be_where_it_would_destroy_something(
    runs: list[tuple[int, int]], what: str | None
) -> None:
    """I4: it is written in place."""
    found = map_problem(
        replace(COPY, map_path=b"", map_runs=tuple(runs)),
        CopyBlock(100, 50, 0),
        Geometry(BLOCK, 40000),
    )
    assert found is None if what is None else found is not None and what in found
