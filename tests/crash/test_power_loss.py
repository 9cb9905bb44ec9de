"""I8: after a power cut at any point the volume shows the last durable generation or the one being committed, whole, and is clean.

``SNAPFS_CRASH_STATES`` sets how many states all scenarios together run; ``make crash`` uses it. A failure prints the call that replays it.
"""

from __future__ import annotations

import os

import pytest
from run_states import run
from scenarios import SCENARIOS

#: States in a normal run of the tests.
TOTAL = int(os.environ.get("SNAPFS_CRASH_STATES", "20800"))
SEED = int(os.environ.get("SNAPFS_CRASH_SEED", "1"))

#: Scenarios with large volumes take more time for each state, and get fewer.
FEWER = {"records": 0.25}


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_power_cut_loses_what_was_promised(name: str, record_property) -> None:
    share = TOTAL // (len(SCENARIOS) - 1)
    limit = int(share * FEWER.get(name, 1))
    seed, count = SEED, 0
    while count < limit:
        # One story has only so many states: with another seed it is another story.
        count += run(name, seed, samples=60, limit=limit - count)
        seed += 1
    record_property("states", count)
    print(f"{name}: {count} crash states, seeds {SEED} to {seed - 1}")
