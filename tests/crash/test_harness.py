"""The crash harness catches what it is there for: each test plants a defect that loses data only in
a crash.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from snapfs.blocks.log_record import LAYOUT, MAGIC, decode_log
from snapfs.filesystem import replay as replay_log
from snapfs.store.commit import commit, sync_log
from snapfs.store.commit.sync_log import LogWrite
from snapfs.store.commit.volume import Volume
from snapfs.store.space.account import Account
from snapfs.store.space.allocator import Allocator
from snapfs.store.space.groups import Waiting
from snapfs.store.trees.sealed import Sealed
from tests.crash import scenarios
from tests.crash.recording import State
from tests.crash.run_states import replay, run, tell


def test_a_missing_flush_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The superblock overtakes what it names."""
    flush_last = Sealed.write

    def write(self: Sealed) -> None:
        device = self.device
        flush = device.flush
        calls = []

        def second_only() -> None:
            calls.append(1)
            if len(calls) > 1:
                flush()

        device.flush = second_only  # type: ignore[method-assign]
        try:
            flush_last(self)
        finally:
            device.flush = flush  # type: ignore[method-assign]

    monkeypatch.setattr(Sealed, "write", write)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("files", 1, samples=60)


def test_reuse_of_freed_blocks_before_the_commit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: what the durable generation still reaches is overwritten."""
    free_run = Allocator.free_run

    def free_at_once(self: Allocator, start: int, length: int) -> None:
        free_run(self, start, length)
        for number, offset, size in self.waiting:
            self.groups[number].busy[offset : offset + size] = 0
            self.groups[number].available += size
            self.groups[number].cursor = 0
            self.available += size
        self.waiting.clear()

    monkeypatch.setattr(Allocator, "free_run", free_at_once)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("rename_over", 1, samples=60)


def test_a_map_that_is_used_again_while_its_copy_counts_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I5: a copy has ended, and its map's blocks are given out before that is durable."""

    def give_out_at_once(volume: Volume, runs: Iterable[tuple[int, int]]) -> None:
        for start, length in runs:
            group = volume.allocator.groups[0]
            group.busy[start : start + length] = 0
            group.blocks[start : start + length] = 0
            group.free += length
            group.available += length
            group.cursor = 0
            volume.allocator.free += length
            volume.allocator.available += length

    monkeypatch.setattr(scenarios, "free_map", give_out_at_once)
    with pytest.raises(AssertionError, match=r"replay alone with[^$]*the map in blocks"):
        run("running_copy", 1, samples=60)


def test_the_story_of_discards_discards_nothing() -> None:
    """Of what it frees nearly all is discarded in the end."""
    assert tell("discarding", 1).device.discarded > 150_000


def test_discards_before_the_commit_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: what the durable generation still reaches is discarded; the
    volume itself never notices.
    """
    due: list[tuple[int, int]] = []
    seal, write = Allocator.seal, Sealed.write

    def discard_at_once(self: Allocator) -> list[Waiting]:
        waiting = seal(self)
        for number, offset, length in waiting:
            due.append((self.groups[number].start + offset, length))
        return waiting

    def discard_first(self: Sealed) -> None:
        for start, length in due:
            self.device.discard(start * self.block_size, length * self.block_size)
        due.clear()
        write(self)

    monkeypatch.setattr(Allocator, "seal", discard_at_once)
    monkeypatch.setattr(Sealed, "write", discard_first)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("discarding", 1, samples=60)


def test_a_header_slot_that_does_not_turn_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: the header of the durable generation is overwritten."""
    write_header = commit.write_header

    def same_slot(volume: Volume, sealing, group, generation):  # type: ignore[no-untyped-def]
        if volume.generation > 1:
            group.slot ^= 1
        return write_header(volume, sealing, group, generation)

    monkeypatch.setattr(commit, "write_header", same_slot)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("files", 1, samples=60)


def test_a_promise_before_the_last_flush_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation is acknowledged, and its superblock is still on the way."""

    def write(self: Sealed) -> None:
        for block in sorted(self.blocks):
            self.device.write(block * self.block_size, self.blocks[block])
        self.device.flush()
        data, offsets = self.superblock
        for offset in offsets:
            self.device.write(offset, data)

    monkeypatch.setattr(Sealed, "write", write)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("files", 1, samples=60)


def test_a_log_without_its_flush_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync is answered, and neither the record nor the blocks that it names are on the medium."""
    monkeypatch.setattr(LogWrite, "write", lambda self: self.device.write(self.offset, self.data))
    with pytest.raises(AssertionError, match="replay alone with"):
        run("logged", 1, samples=60)


def test_overwriting_in_place_what_a_record_names_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I4: a block is fresh until the commit, and a record of the log needs it as it is."""
    monkeypatch.setattr(Allocator, "keep", lambda _self, _runs: None)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("logged", 1, samples=60)


def test_a_log_of_another_generation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged before a commit is no part of what comes after it."""
    decode = decode_log

    def any_generation(region: bytes, block_size: int, uuid: bytes, generation: int) -> object:
        found = LAYOUT.unpack_from(region)[3] if region[:4] == MAGIC else generation
        return decode(region, block_size, uuid, found)

    monkeypatch.setattr(sync_log, "decode_log", any_generation)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("logged", 1, samples=60)


def test_a_record_whose_blocks_did_not_arrive_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was told that it is durable; but it must not count."""
    monkeypatch.setattr(replay_log, "_verify", lambda _volume, _step: None)
    with pytest.raises(AssertionError, match="replay alone with"):
        run("logged", 1, samples=60)


def test_a_log_that_leaves_something_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is written although something else has happened, which it cannot tell."""
    monkeypatch.setattr(Account, "is_told", property(lambda _self: True))
    with pytest.raises(AssertionError, match="replay alone with"):
        run("logged", 1, samples=60)


def test_a_failing_state_cannot_be_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failure prints fails again by itself, and passes without the defect; the same story
    has the same blocks each time.
    """
    with monkeypatch.context() as planted:

        def write(self: Sealed) -> None:
            for block in sorted(self.blocks):
                self.device.write(block * self.block_size, self.blocks[block])
            data, offsets = self.superblock
            for offset in offsets:
                self.device.write(offset, data)
            self.device.flush()

        planted.setattr(Sealed, "write", write)
        with pytest.raises(AssertionError) as caught:
            run("directories", 3, samples=60)
        found = re.match(r"replay alone with: python -m (\S+) (\S+)\n(.*)", str(caught.value))
        assert found is not None
        with pytest.raises(Exception) as again:
            replay(found[2])
        assert f"{type(again.value).__name__}: {again.value}".splitlines()[0] == found[3]
    result = subprocess.run(
        [sys.executable, "-m", found[1], "directories:3:0::"],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    first, second = (
        [each.writes for each in tell("directories", 3).device.segments] for _ in range(2)
    )
    assert [[place for place, _ in writes] for writes in first] == [
        [place for place, _ in writes] for writes in second
    ]


@pytest.mark.parametrize(
    "state", [State(0, ()), State(7, (0, 1, 2, 5, 9, 10), (10, 512)), State(12, (3,))]
)
def test_the_name_of_a_state_stands_for_another(state: State) -> None:
    assert State.parse(str(state)) == state
