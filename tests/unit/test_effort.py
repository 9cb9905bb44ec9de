"""Samples: every kind is among them, seeds that failed come first, and deep runs end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.harness import effort as efforts
from tests.harness.effort import Effort, stratified


@pytest.fixture(autouse=True)
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(efforts, "FAILING", tmp_path / "failing")
    return tmp_path / "failing"


def test_a_rare_kind_is_never_sampled() -> None:
    items = [("often", number) for number in range(1000)] + [("seldom", 1), ("once", 2)]
    for seed in range(50):
        chosen = stratified(items, lambda item: item[0], 5, random.Random(seed))
        assert {kind for kind, _ in chosen} == {"often", "seldom", "once"}
        assert len(chosen) == 5 and chosen == sorted(chosen, key=items.index)


def test_more_kinds_than_the_limit_are_left_out() -> None:
    chosen = stratified(range(9), lambda item: item % 4, 2, random.Random(1))
    assert sorted(item % 4 for item in chosen) == [0, 1, 2, 3]


def fail(effort: Effort, seed: int) -> None:
    with pytest.raises(AssertionError, match="planted"), effort.sample(seed):
        raise AssertionError("planted")


def test_a_seed_that_failed_is_forgotten(failing: Path) -> None:
    """The next run begins with it, until it has passed; other tests do not."""
    fail(Effort("tests/a.py::test[one]", 0), 77)
    fail(Effort("tests/a.py::test[one]", 0), 2)
    assert list(Effort("tests/a.py::test[two]", 0).seeds(3)) == [1, 2, 3]
    again = Effort("tests/a.py::test[one]", 0)
    assert list(again.seeds(3)) == [2, 77, 1, 3]
    with again.sample(77):
        pass
    with again.sample(1):
        pass
    assert list(Effort("tests/a.py::test[one]", 0).seeds(3)) == [2, 1, 3]
    with again.sample(2):
        pass
    assert list(failing.iterdir()) == []


def test_a_test_that_runs_alone_has_other_seeds() -> None:
    assert Effort("a.py::test@alone", 0).path == Effort("a.py::test", 0).path


def test_a_deep_run_does_not_end_or_repeats_the_usual_one() -> None:
    fail(Effort("a.py::test", 0), 5)
    seeds = list(Effort("a.py::test", 0.0001).seeds(3))
    assert seeds[0] == 5 and len(seeds) >= 2
    assert set(seeds[1:]).isdisjoint({1, 2, 3})


def test_the_first_seed_of_a_deep_run_is_not_the_one_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNAPFS_SEED", "123")
    assert next(Effort("a.py::test", 0.0001).seeds(3)) == 123
