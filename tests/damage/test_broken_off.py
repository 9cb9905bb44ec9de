"""What nobody expects in the middle of a change is never committed (I8): in any story, at any call
of the core, whoever drives it.
"""

from __future__ import annotations

from collections import Counter
from types import CodeType

import pytest

from snapfs.store.commit import guard
from tests.damage.breaking import Breaking
from tests.damage.ordeal import STORIES
from tests.harness.effort import Effort

#: Calls of each story that are broken off by one seed, from different places.
BREAKS = 5


@pytest.mark.parametrize("name", STORIES)
def test_half_of_a_change_is_committed(name: str, effort: Effort) -> None:
    breaking = Breaking.learn(name)
    steps: Counter[str] = Counter()
    for seed in effort.seeds(1):
        with effort.sample(seed):
            steps += suffer(breaking, breaking.sample(BREAKS, seed))
    print(
        f"{name}: {breaking.calls} calls from {len(breaking.sites)} places, broken off "
        f"in {dict(steps)}"
    )


@pytest.mark.slow
def test_half_of_what_a_function_does_is_committed() -> None:
    """Each function of the core that any story calls, once."""
    known: set[CodeType] = set()
    for name in STORIES:
        breaking = Breaking.learn(name)
        suffer(breaking, breaking.of_functions(known))
    assert len(known) > 300


def suffer(breaking: Breaking, calls: list[int]) -> Counter[str]:
    """Break these calls off; in which steps that was."""
    steps: Counter[str] = Counter()
    for at in calls:
        try:
            steps[breaking.suffer(at)] += 1
        except Exception as exc:
            raise AssertionError(
                f"replay with: Breaking.learn({breaking.story.name!r}).suffer({at}): "
                f"{type(exc).__name__}: {exc}"
            ) from exc
    return steps


def test_a_guard_that_lets_writing_go_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself."""
    monkeypatch.setattr(guard, "broke_off", lambda *_: None)
    monkeypatch.setattr("snapfs.store.commit.driver.broke_off", lambda *_: None)
    breaking = Breaking.learn("rename_over")
    with pytest.raises(AssertionError, match="writing goes on"):
        suffer(breaking, breaking.sample(12, 1))  # those within a commit end writing by themselves
