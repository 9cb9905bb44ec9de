"""I8: after a power cut at any point the volume shows the last durable generation or the one being
committed, whole, and is clean.

A failure prints the command that replays it alone; with ``-s``, the number of distinct states is
told by scenario, and of those that recovery can tell apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from snapfs import probes
from tests.crash.run_states import Run
from tests.crash.scenarios import SCENARIOS
from tests.harness.effort import Effort
from tests.harness.probing import reaching

#: Tellings of each story in a usual run: with another seed it is another story.
TELLINGS = 2

#: States of one telling, at most.
STATES = 800

#: Distinct states of one telling, at least: a story with fewer tells nothing.
LEAST = 150

#: The rare situations that stories are about.
REACHES = {
    "truncation": [probes.HEIR_MADE],
    "orphans": [probes.ORPHANS_FOUND],
    "interrupted_deletion": [probes.DELETION_CUT, probes.RECORD_IS_DEFAULT],
    "restoring_parts": [probes.RESTORED_UNDER_ANOTHER_NUMBER],
    "records": [probes.RECORDS_SPILLED, probes.RECORDS_RETURNED],
    "groups": [probes.GROUP_LEFT],
    "purge": [probes.DIRECTORY_EMPTIED, probes.RETURNED_BLOCK_DROPPED, probes.ORPHANS_FOUND],
    "autodeletion": [probes.SNAPSHOT_MADE_ROOM],
    "logged": [probes.LOG_STALE_TAIL, probes.LOG_FULL],
    "logged_until_full": [probes.LOG_BLOCKS_MISSING, probes.LOG_FULL, probes.LOG_GIVEN_UP],
}


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Run]]:
    """The runs by scenario; told at the end."""
    runs: dict[str, Run] = {}
    began = time.monotonic()
    yield runs
    print()
    for name, run in runs.items():
        print(f"{run.distinct:8,}  {name}, {run.recoveries} of them differ for recovery")
    print(
        f"{sum(run.distinct for run in runs.values()):8,}  distinct crash states, all whole, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", reaching(SCENARIOS, REACHES))
def test_no_power_cut_loses_what_was_promised(
    name: str, effort: Effort, told: dict[str, Run]
) -> None:
    found = told[name] = Run()
    for seed in effort.seeds(TELLINGS):
        with effort.sample(seed):
            found.scenario(name, seed, samples=60, limit=STATES)
    assert found.distinct >= LEAST, f"{name} has only {found.distinct} distinct states"
