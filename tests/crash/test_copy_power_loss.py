"""D1 to D5, I8: after a power cut at any point of a copy, source and target are what they were said
to be, and the copy goes on to its end.

A crash loses any subset of the unflushed writes of each device by itself. A failure prints the
command that replays it alone; with ``-s``, the numbers are told by story.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from snapfs import probes
from tests.crash.copy_states import Run
from tests.crash.copy_stories import STORIES
from tests.harness.effort import Effort

#: Tellings of each story in a usual run: with another seed it is another story.
TELLINGS = 4

#: States of one telling.
STATES = 58

#: Blocks of a telling, on average, that were copied because somebody was about to overwrite them.
CONTENDED = 10


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Run]]:
    """The runs by story; told at the end."""
    runs: dict[str, Run] = {}
    began = time.monotonic()
    yield runs
    print()
    for name, run in runs.items():
        print(
            f"{run.distinct:8,}  {name}: {run.told} tellings, {run.copied_before} blocks copied "
            f"before they were overwritten; {run.recoveries} states differ for recovery"
        )
    print(
        f"{sum(run.distinct for run in runs.values()):8,}  distinct crash states of copies, "
        f"{time.monotonic() - began:.0f} s"
    )


@pytest.mark.reaches(probes.COPIED_BEFORE_WRITE, probes.COPY_WENT_ON)
@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_no_power_cut_spoils_a_copy_or_its_source(
    name: str, effort: Effort, told: dict[str, Run]
) -> None:
    """D1, D3, D4, D5, I8: the target shows its generation from when that was said, whatever a power
    cut leaves, until it is whole alone.
    """
    found = told[name] = Run()
    for seed in effort.seeds(TELLINGS):
        with effort.sample(seed):
            found.story(name, seed, limit=STATES)
    assert found.copied_before >= CONTENDED * found.told
