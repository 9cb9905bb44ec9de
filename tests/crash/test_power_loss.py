"""I8: after a power cut at any point the volume shows the last durable generation or the one being
committed, whole, and is clean.

``SNAPFS_CRASH_STATES`` sets how many states all scenarios together run; ``make crash`` uses it. A
failure prints the command that replays it alone; with ``-s``, the number of distinct states is told
by scenario.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from snapfs import probes
from tests.crash.run_states import Run
from tests.crash.scenarios import SCENARIOS
from tests.harness.probing import reaching

#: States in a normal run of the tests.
TOTAL = int(os.environ.get("SNAPFS_CRASH_STATES", "21000"))
SEED = int(os.environ.get("SNAPFS_CRASH_SEED", "1"))

#: Scenarios with large volumes take more time for each state, and get fewer.
FEWER = {"records": 0.25, "groups": 0.05}

#: The rare situations that stories are about.
REACHES = {
    "truncation": [probes.HEIR_MADE],
    "orphans": [probes.ORPHANS_FOUND],
    "interrupted_deletion": [probes.DELETION_CUT, probes.RECORD_IS_DEFAULT],
    "records": [probes.RECORDS_SPILLED, probes.RECORDS_RETURNED],
    "groups": [probes.GROUP_LEFT],
    "purge": [probes.DIRECTORY_EMPTIED, probes.RETURNED_BLOCK_DROPPED, probes.ORPHANS_FOUND],
    "logged": [probes.LOG_STALE_TAIL, probes.LOG_FULL],
    "logged_until_full": [probes.LOG_BLOCKS_MISSING, probes.LOG_FULL, probes.LOG_GIVEN_UP],
}

#: Tellings of a story without a state that is new, before it is taken to have no more.
BARREN = 3


@pytest.fixture(scope="module")
def tally() -> Iterator[dict[str, int]]:
    """Distinct states by scenario; told at the end."""
    counts: dict[str, int] = {}
    began = time.monotonic()
    yield counts
    print("".join(f"\n{count:8,}  {name}" for name, count in counts.items()))
    print(
        f"{sum(counts.values()):8,}  distinct crash states, all whole, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", reaching(SCENARIOS, REACHES))
def test_no_power_cut_loses_what_was_promised(
    name: str, record_property, tally: dict[str, int]
) -> None:
    weight = FEWER.get(name, 1) / sum(FEWER.get(each, 1) for each in SCENARIOS)
    goal = round(TOTAL * weight)
    found = Run()
    seed, barren = SEED, 0
    while found.distinct < goal and barren < BARREN:
        # One story has only so many states: with another seed it is another story.
        before = found.distinct
        found.scenario(name, seed, samples=60, limit=goal - before)
        barren = 0 if found.distinct > before else barren + 1
        seed += 1
    record_property("states", found.distinct)
    tally[name] = found.distinct
    assert found.distinct >= goal, f"{name} has only {found.distinct} distinct states"
