"""D3, D7, I8: what fails while a volume is copied fails the copy or makes writes wait, as the user
wants, and nothing else.

``SNAPFS_FAULTS=all`` fails every operation; else a part of them.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from snapfs import probes
from snapfs.copying.before_write import CopyBeforeWrite
from snapfs.copying.copy import Copy
from snapfs.copying.unfinished import UnfinishedCopy
from tests.damage.copy_life import FAILED, NEVER, READ_ONLY, WHOLE, Life
from tests.damage.faults import Fault, Kind

TARGET_KINDS = [Kind.READ, Kind.WRITE, Kind.SHORT_WRITE, Kind.FULL, Kind.FLUSH]

#: Faults of each kind in a normal run.
SAMPLES = 25


def faults(
    life: Life, kinds: list[Kind], *, lasting: tuple[bool, ...] = (False, True)
) -> list[Fault]:
    """Every operation of a life in which nothing fails, or some of them."""
    assert life.live() == WHOLE
    counts = life.counts
    rng = random.Random(1)
    found = []
    for kind in kinds:
        every = range(1, counts[kind.operation] + 1)
        chosen = (
            every
            if os.environ.get("SNAPFS_FAULTS") == "all"
            else rng.sample(every, min(SAMPLES, len(every)))
        )
        found += [Fault(kind, at, each) for at in chosen for each in lasting]
    return found


def suffer(
    where: str,
    *,
    outside: bool,
    copy_first: bool,
    kinds: list[Kind],
    lasting: tuple[bool, ...] = (False, True),
) -> Counter[str]:
    """Live through all of them; how they ended."""
    outcomes: Counter[str] = Counter()
    for fault in faults(Life(where, outside, copy_first), kinds, lasting=lasting):
        life = Life(where, outside, copy_first, fault)
        try:
            outcomes[life.live()] += 1
        except Exception as exc:
            raise AssertionError(
                f"replay with: {life!r}.live(): {type(exc).__name__}: {exc}"
            ) from exc
        outcomes["blocked"] += life.blocked
    print(f"{where}: {dict(outcomes)}")
    return outcomes


@pytest.mark.reaches(probes.COPY_HAD_FAILED, probes.COPIED_AGAIN)
@pytest.mark.slow
@pytest.mark.parametrize(("where", "outside"), [("target", False), ("target", True), ("map", True)])
def test_a_failing_target_fails_its_source(where: str, outside: bool) -> None:
    """D7: users of the source hear nothing of it; the copy has failed, now and after a crash, or is
    right in the end.
    """
    outcomes = suffer(where, outside=outside, copy_first=False, kinds=TARGET_KINDS)
    assert outcomes[FAILED] and outcomes[NEVER] and not outcomes["blocked"]
    assert not outcomes[READ_ONLY]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "outside"), [("target", False), ("target", True), ("map", True)])
def test_a_copy_that_comes_first_fails_or_loses_a_write(where: str, outside: bool) -> None:
    """D3, D7: what must wait fails until the target works again; nothing is lost, and the copy is
    right in the end.
    """
    outcomes = suffer(
        where,
        outside=outside,
        copy_first=True,
        kinds=[kind for kind in TARGET_KINDS if kind is not Kind.READ],
    )
    assert outcomes[WHOLE] and outcomes["blocked"]


@pytest.mark.slow
@pytest.mark.parametrize("copy_first", [False, True])
def test_a_source_that_cannot_be_read_gives_a_copy_wrong_data(copy_first: bool) -> None:
    outcomes = suffer(
        "source", outside=False, copy_first=copy_first, kinds=[Kind.READ], lasting=(False,)
    )
    assert outcomes[WHOLE]


@pytest.mark.reaches(probes.COPY_WAS_NOT_SET_UP, probes.COPY_WENT_ON, probes.FLUSH_FAILED)
@pytest.mark.slow
@pytest.mark.parametrize("copy_first", [False, True])
def test_a_failed_flush_of_the_source_is_heard_by_the_copy_alone(copy_first: bool) -> None:
    """I8: whoever flushes the source first hears that writes are lost; the store must hear of it as
    well, and write nothing more.
    """
    outcomes = suffer(
        "source", outside=False, copy_first=copy_first, kinds=[Kind.FLUSH], lasting=(False,)
    )
    assert outcomes[READ_ONLY]


# The harness itself


def test_believing_a_flush_after_one_that_failed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before the flush that failed is gone, and the next one does not say so."""
    monkeypatch.setattr(Copy, "_forget_unsettled", lambda _: None)
    with pytest.raises(AssertionError, match="differs in blocks"):
        suffer("target", outside=False, copy_first=True, kinds=[Kind.FLUSH])


def test_a_flush_that_only_the_copy_hears_of_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopyBeforeWrite, "_check_not_lost", lambda _: None)
    with pytest.raises(AssertionError):
        suffer("source", outside=False, copy_first=False, kinds=[Kind.FLUSH], lasting=(False,))


def test_a_failure_that_only_the_target_could_tell_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(UnfinishedCopy, "_says_failed", lambda _: False)
    with pytest.raises(AssertionError, match="taken for one"):
        suffer("target", outside=False, copy_first=False, kinds=[Kind.WRITE], lasting=(True,))


def test_a_fault_is_another_each_time() -> None:
    first, second = (
        Life("target", outside=False, copy_first=False),
        Life("target", outside=False, copy_first=False),
    )
    assert first.live() == second.live() == WHOLE
    assert first.counts == second.counts
