"""The same story gives the same image, byte for byte, whoever tells it and with which memory.

UUID, seed of the hash and times are given by the story; the order in which sets of text are walked,
the size of the caches and the clock of the machine must not matter. So a failing state can be
replayed, and whatever differs between two runs is a defect.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snapfs import probes
from tests.crash import scenarios
from tests.crash.telling import told

SEED = int(os.environ.get("SNAPFS_CRASH_SEED", "1"))

#: Blocks of a cache that has room for a single call, and hardly more.
SMALL = 8


def tell(hash_seed: str, cache: int, groups: int, seconds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.crash.telling"]
    found: dict[str, Any] = json.loads(
        subprocess.run(
            [*command, *map(str, (SEED, cache, groups, seconds))],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
    )
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Which stories leave something else, and before which flush that begins."""
    found = []
    for name, (digests, _) in one.items():
        again = other[name][0]
        if digests != again:
            first = next(
                (n for n, (a, b) in enumerate(zip(digests, again, strict=False)) if a != b), 0
            )
            found.append(f"{name}, from flush {first} of {len(digests)} on")
    return found


def test_a_story_has_other_bytes_with_another_hash_seed_cache_or_clock() -> None:
    """Sets are walked in another order, hardly anything is cached, and the clock is years ahead."""
    usual, odd = tell("1", 0, 0, 0), tell("2", SMALL, 1, 10**9)
    assert usual["hash"] != odd["hash"]
    misses = [sum(missed for _, missed in one["stories"].values()) for one in (usual, odd)]
    assert misses[1] > 2 * misses[0], misses
    assert differences(usual["stories"], odd["stories"]) == []


@pytest.mark.reaches(probes.GROUPS_FORGOTTEN)
def test_a_group_that_was_forgotten_comes_back_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A story in two groups, of which one is in memory, leaves the same bytes."""
    monkeypatch.setattr(scenarios, "SCENARIOS", {"groups": scenarios.SCENARIOS["groups"]})
    assert differences(told(SEED, 0, 0), told(SEED, SMALL, 1)) == []


def test_a_time_that_is_not_the_storys_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison finds a single read of the clock."""
    first = told(SEED, 0, 0)

    def tick(self: scenarios.Stage) -> None:
        self.clock = time.time_ns()

    monkeypatch.setattr(scenarios.Stage, "tick", tick)
    assert len(differences(first, told(SEED, 0, 0))) == len(first)
