"""D3, D7, I8: what fails while a volume is copied fails the copy or makes writes wait, as the user
wants, and nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from snapfs import probes
from snapfs.copying.before_write import CopyBeforeWrite
from snapfs.copying.copy import Copy
from snapfs.copying.unfinished import UnfinishedCopy
from tests.damage.copy_life import FAILED, NEVER, READ_ONLY, WHOLE, Life
from tests.damage.faults import Fault, Kind, Site
from tests.harness.effort import Effort, stratified

TARGET_KINDS = [Kind.READ, Kind.WRITE, Kind.SHORT_WRITE, Kind.FULL, Kind.FLUSH]

#: Faults of one sample: of every way to fail, some wherever the operations of the device come from.
FAULTS = 70


def faults(
    life: Life, kinds: list[Kind], lasting: tuple[bool, ...], limit: int, seed: int
) -> list[Fault]:
    """A sample of all faults that a life can have."""
    assert life.live() == WHOLE
    every = [
        Fault(kind, at, each)
        for kind in kinds
        for each in lasting
        for at in range(1, len(life.operations.get(kind.operation, ())) + 1)
    ]

    def kind_of(fault: Fault) -> tuple[Kind, bool, Site]:
        return fault.kind, fault.lasting, life.operations[fault.kind.operation][fault.at - 1]

    return stratified(every, kind_of, limit, random.Random(seed))


def suffer(
    where: str,
    *,
    outside: bool,
    copy_first: bool,
    kinds: list[Kind],
    lasting: tuple[bool, ...] = (False, True),
    limit: int = 1 << 30,
    seed: int = 1,
) -> Counter[str]:
    """Live through a sample of the faults, or all of them; how the lives ended."""
    outcomes: Counter[str] = Counter()
    for fault in faults(Life(where, outside, copy_first), kinds, lasting, limit, seed):
        life = Life(where, outside, copy_first, fault)
        try:
            outcomes[life.live()] += 1
        except Exception as exc:
            raise AssertionError(
                f"replay with: {life!r}.live(): {type(exc).__name__}: {exc}"
            ) from exc
        outcomes["blocked"] += life.blocked
    return outcomes


def suffer_samples(effort: Effort, where: str, **how: Any) -> Counter[str]:
    """The same for every seed of a run."""
    outcomes: Counter[str] = Counter()
    for seed in effort.seeds(1):
        with effort.sample(seed):
            outcomes += suffer(where, limit=FAULTS, seed=seed, **how)
    print(f"{where}: {dict(outcomes)}")
    return outcomes


@pytest.mark.reaches(probes.COPY_HAD_FAILED, probes.COPIED_AGAIN)
@pytest.mark.slow
@pytest.mark.parametrize(("where", "outside"), [("target", False), ("target", True), ("map", True)])
def test_a_failing_target_fails_its_source(where: str, outside: bool, effort: Effort) -> None:
    """D7: users of the source hear nothing of it; the copy has failed, now and after a crash, or is
    right in the end.
    """
    outcomes = suffer_samples(effort, where, outside=outside, copy_first=False, kinds=TARGET_KINDS)
    assert outcomes[FAILED] and outcomes[NEVER] and not outcomes["blocked"]
    assert not outcomes[READ_ONLY]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "outside"), [("target", False), ("target", True), ("map", True)])
def test_a_copy_that_comes_first_fails_or_loses_a_write(
    where: str, outside: bool, effort: Effort
) -> None:
    """D3, D7: what must wait fails until the target works again; nothing is lost, and the copy is
    right in the end.
    """
    outcomes = suffer_samples(
        effort,
        where,
        outside=outside,
        copy_first=True,
        kinds=[kind for kind in TARGET_KINDS if kind is not Kind.READ],
    )
    assert outcomes[WHOLE] and outcomes["blocked"]


@pytest.mark.slow
@pytest.mark.parametrize("copy_first", [False, True])
def test_a_source_that_cannot_be_read_gives_a_copy_wrong_data(
    copy_first: bool, effort: Effort
) -> None:
    outcomes = suffer_samples(
        effort, "source", outside=False, copy_first=copy_first, kinds=[Kind.READ], lasting=(False,)
    )
    assert outcomes[WHOLE]


@pytest.mark.reaches(probes.COPY_WAS_NOT_SET_UP, probes.COPY_WENT_ON, probes.FLUSH_FAILED)
@pytest.mark.slow
@pytest.mark.parametrize("copy_first", [False, True])
def test_a_failed_flush_of_the_source_is_heard_by_the_copy_alone(
    copy_first: bool, effort: Effort
) -> None:
    """I8: whoever flushes the source first hears that writes are lost; the store must hear of it as
    well, and write nothing more.
    """
    outcomes = suffer_samples(
        effort, "source", outside=False, copy_first=copy_first, kinds=[Kind.FLUSH], lasting=(False,)
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
