"""What nobody expects in the middle of a change is never committed (I8): in any story, at any call
of the core, whoever drives it.

``SNAPFS_BREAKS=all`` breaks every call off that is made from another place, or by number as many of
each story.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from snapfs.store.commit import guard
from tests.damage.breaking import Breaking
from tests.damage.ordeal import STORIES

BREAKS = os.environ.get("SNAPFS_BREAKS", "5")


@pytest.mark.timeout(0 if "SNAPFS_BREAKS" in os.environ else 600)
@pytest.mark.parametrize("name", STORIES)
def test_half_of_a_change_is_committed(name: str) -> None:
    breaking = Breaking.learn(name)
    steps: Counter[str] = Counter()
    count = 1 << 30 if BREAKS == "all" else int(BREAKS)
    for at in breaking.sample(count):
        try:
            steps[breaking.suffer(at)] += 1
        except Exception as exc:
            raise AssertionError(
                f"replay with: Breaking.learn({name!r}).suffer({at}): {type(exc).__name__}: {exc}"
            ) from exc
    print(
        f"{name}: {breaking.calls} calls from {len(breaking.sites)} places, broken off "
        f"in {dict(steps)}"
    )


def test_a_guard_that_lets_writing_go_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself."""
    monkeypatch.setattr(guard, "broke_off", lambda *_: None)
    monkeypatch.setattr("snapfs.store.commit.driver.broke_off", lambda *_: None)
    breaking = Breaking.learn("rename_over")
    with pytest.raises(AssertionError, match="writing goes on"):
        breaking.suffer(breaking.sample(1)[0])
