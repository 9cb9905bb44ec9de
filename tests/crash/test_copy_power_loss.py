"""D1 to D5, I8: after a power cut at any point of a copy, source and target are what they were said
to be, and the copy goes on to its end.

A crash loses any subset of the unflushed writes of each device by itself. ``SNAPFS_CRASH_STATES``
sets how many states are run, in all crash tests; ``make crash`` uses it. A failure prints the
command that replays it alone; with ``-s``, the numbers are told by story.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from snapfs import probes
from tests.crash.copy_states import Run
from tests.crash.copy_stories import STORIES

#: States in a normal run of the tests.
TOTAL = int(os.environ.get("SNAPFS_CRASH_STATES", "21000")) // 10
SEED = int(os.environ.get("SNAPFS_CRASH_SEED", "1"))

#: States of one telling, at most, and how many tellings there are at least: the next one is another
#: story.
EACH = 120
TELLINGS = 4

#: Blocks of a telling, on average, that were copied because somebody was about to overwrite them.
CONTENDED = 10


@pytest.fixture(scope="module")
def tally() -> Iterator[dict[str, tuple[int, int, int]]]:
    counts: dict[str, tuple[int, int, int]] = {}
    began = time.monotonic()
    yield counts
    for name, (states, told, before) in counts.items():
        print(
            f"\n{states:8,}  {name}: {told} tellings, "
            f"{before} blocks copied before they were overwritten",
            end="",
        )
    print()
    print(
        f"{sum(states for states, _, _ in counts.values()):8,}  distinct crash states "
        f"of copies, {time.monotonic() - began:.0f} s"
    )


@pytest.mark.reaches(probes.COPIED_BEFORE_WRITE, probes.COPY_WENT_ON)
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", STORIES)
def test_no_power_cut_spoils_a_copy_or_its_source(
    name: str, tally: dict[str, tuple[int, int, int]]
) -> None:
    """D1, D3, D4, D5, I8: the target shows its generation from when that was said, whatever a power
    cut leaves, until it is whole alone.
    """
    goal = TOTAL // len(STORIES)
    found, seed = Run(), SEED
    while found.distinct < goal:
        found.story(name, seed, limit=min(EACH, -(-goal // TELLINGS), goal - found.distinct))
        seed += 1
    tally[name] = found.distinct, found.told, found.copied_before
    assert found.copied_before >= CONTENDED * found.told
