"""The crash harness for copies catches what it is there for: each test plants a defect that spoils
a copy only in a crash.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from snapfs.blocks.copy_mark import PLACE_BYTES, PLACES
from snapfs.copying import job as job_module
from snapfs.copying.before_write import CopyBeforeWrite
from snapfs.copying.copy import Copy
from snapfs.copying.job import CopyJob
from snapfs.copying.unfinished import UnfinishedCopy
from tests.crash.copy_stage import FINISHING, MARKED, CopyStage
from tests.crash.copy_states import Run, replay, tell
from tests.crash.timeline import State, Timeline

#: Tellings in which a defect has to show.
SEEDS = range(1, 7)


def caught(name: str, phase: str | None = None) -> str:
    """What the harness says of the first state that it does not like."""
    with pytest.raises(AssertionError, match="replay alone with") as found:
        for seed in SEEDS:
            Run().story(name, seed, limit=150, phase=phase)
    return str(found.value)


@pytest.mark.parametrize("name", ["copy", "copy_outside"])
def test_a_map_bit_before_its_data_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """D5: a bit is durable before the copy of its block."""
    flush = Copy._flush

    def data_last(self: Copy, what: Any, losses: int) -> None:
        if what is self.map:
            flush(self, self.map, losses)
            flush(self, self.target, losses)

    monkeypatch.setattr(Copy, "_flush", data_last)
    caught(name)


@pytest.mark.parametrize("name", ["copy", "copy_outside"])
def test_overwriting_before_the_map_bit_is_durable_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """D3: after the crash the block is read from the source, which has
    something else there by now.
    """
    flush = Copy._flush

    def data_only(self: Copy, what: Any, losses: int) -> None:
        if what is self.target:
            flush(self, what, losses)

    monkeypatch.setattr(Copy, "_flush", data_only)
    caught(name)


def test_writing_without_copying_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """D3"""
    monkeypatch.setattr(CopyBeforeWrite, "make_ready", lambda *_: None)
    monkeypatch.setattr(CopyBeforeWrite, "must_wait", lambda *_: False)
    caught("copy")


def test_a_copy_that_is_usable_before_its_source_knows_of_it_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D1, D4: after a crash nobody would go on with it, nor keep what it needs."""

    def too_late(self: CopyStage, job: CopyJob) -> None:
        job.record = self.call(job.register, self.volume)

    monkeypatch.setattr(CopyStage, "register", too_late)
    monkeypatch.setattr(CopyStage, "churn", lambda *_: None)
    assert "forgotten" in caught("copy")


def test_a_mark_that_goes_before_the_last_data_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: the target says that it is complete, and is not yet."""

    def all_is_written(self: Copy) -> bool:
        written = {
            block for start, length in self._written for block in range(start, start + length)
        }
        span = self.geometry.group_span
        left = {
            number * span + offset
            for number, bits in self._remaining.items()
            for offset in bits.search(1)
        }
        return not self._unknown and left <= written

    def finish(self: CopyJob) -> None:
        for place in PLACES:
            self.target.device.write(place, bytes(PLACE_BYTES))
        self.target.device.flush()

    monkeypatch.setattr(Copy, "complete", property(all_is_written))
    monkeypatch.setattr(CopyJob, "finish", finish)
    assert "the complete copy differs" in caught("copy", FINISHING)


def test_a_mark_that_is_cleared_as_a_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: when only its end has gone it looks damaged, and the copy, which is complete, like one
    that has failed.
    """

    def at_once(device: Any, place: int) -> None:
        device.write(place, bytes(PLACE_BYTES))
        device.flush()

    monkeypatch.setattr(job_module, "clear_mark", at_once)
    caught("copy", FINISHING)


@pytest.mark.parametrize("name", ["copy_failed", "copy_failed_outside"])
def test_a_failure_that_is_not_durable_before_what_follows_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """D7: the copy has failed, what it lacks is overwritten, and after a crash nobody knows."""
    failing = CopyJob._failing

    def without_flush(self: CopyJob, reason: str) -> None:
        assert self._fail_place is not None
        self._fail_place.flush = lambda: None  # type: ignore[method-assign]
        failing(self, reason)

    monkeypatch.setattr(CopyJob, "_failing", without_flush)
    caught(name)


@pytest.mark.parametrize("name", ["copy_failed", "copy_failed_outside"])
def test_a_reader_that_asks_the_target_alone_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """D7: the target could not be told that it has failed; its source says so."""
    monkeypatch.setattr(UnfinishedCopy, "_says_failed", lambda _: False)
    assert "taken for a point in time" in caught(name)


def test_the_mark_of_an_earlier_copy_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: the new copy is being set up, and the target says that it is the old one."""
    monkeypatch.setattr(job_module, "clear_mark", lambda _device, place: None)
    caught("copy_cancelled", MARKED)


def test_a_failing_state_of_a_copy_cannot_be_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failure prints fails again by itself, and passes without the defect; the same story
    writes the same places each time.
    """
    with monkeypatch.context() as planted:
        planted.setattr(CopyBeforeWrite, "make_ready", lambda *_: None)
        planted.setattr(CopyBeforeWrite, "must_wait", lambda *_: False)
        message = caught("copy_crashes")
        found = re.match(r"replay alone with: python -m (\S+) (\S+)\n(.*)", message)
        assert found is not None
        with pytest.raises(Exception) as again:
            replay(found[2])
        assert f"{type(again.value).__name__}: {again.value}".splitlines()[0] == found[3]
    replay("copy:1:40::")
    first, second = (tell("copy_crashes", 3).timeline for _ in range(2))
    assert places(first) == places(second)


def places(timeline: Timeline) -> list[Any]:
    return [
        (type(event), getattr(event, "device", None), getattr(event, "offset", None))
        for event in timeline.events
    ]


@pytest.mark.parametrize(
    "state", [State(0, ()), State(7, (0, 1, 5), (5, 512)), State(12, (3,), (3, -1024))]
)
def test_the_name_of_a_state_of_several_devices_stands_for_another(state: State) -> None:
    assert State.parse(str(state)) == state


def test_the_marks_lie_where_a_volume_has_something() -> None:
    """D2: what ``clear_mark`` and the tests take for granted."""
    assert all(place % 4096 == 512 for place in PLACES)
