"""How many samples a test looks at, and with which seeds: the fixture ``effort``.

A usual run looks at a fixed number of samples. A deep run (``SNAPFS_DEEP=SECONDS``) has only the
tests that sample, and takes about so long: every test has an equal share of the time, draws other
samples in every run, and stops by itself. ``SNAPFS_SEED`` is the first seed of a deep run.

A seed that a test has failed with is written into a file in ``.failing``, in the project's
directory. The next run of the test begins with it, and takes it out when it passes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

#: What runs have failed with.
FAILING: Final = Path(__file__).parents[2] / ".failing"

#: Seconds that a deep run takes; 0 in a usual run.
DEEP: Final = float(os.environ.get("SNAPFS_DEEP", "0"))

#: Deep runs begin with any seed below.
SEEDS: Final = 1 << 30

#: What a test that is given up for taking too long may take beyond its share of a deep run.
GRACE: Final = 600.0


def stratified(
    items: Iterable[T], kind: Callable[[T], Hashable], limit: int, rng: random.Random
) -> list[T]:
    """A sample of so many items, or of one of each kind if there are more kinds than that. Of every
    kind, one is chosen before any has its second one. The order of the items stays.
    """
    every = list(items)
    if len(every) <= limit:
        return every
    strata: dict[Hashable, list[int]] = defaultdict(list)
    for number, item in enumerate(every):
        strata[kind(item)].append(number)
    # By its rank within its kind, and by chance among equals.
    ranked = []
    for numbers in strata.values():
        rng.shuffle(numbers)
        ranked += [(rank, rng.random(), number) for rank, number in enumerate(numbers)]
    chosen = sorted(ranked)[: max(limit, len(strata))]
    return [every[number] for number in sorted(number for _, _, number in chosen)]


class Effort:
    """What one test may do. ``share``: seconds for it in a deep run, 0 in a usual one."""

    def __init__(self, test: str, share: float) -> None:
        test = test.partition("@")[0]
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in test.rpartition("::")[2])
        digest = hashlib.sha1(test.encode(), usedforsecurity=False).hexdigest()[:8]
        self.path = FAILING / f"{name[:80]}-{digest}"
        self._share = share
        self._until = time.monotonic() + share

    @property
    def is_deep(self) -> bool:
        """Is there time for large samples?"""
        return self._share > 0

    @property
    def is_over(self) -> bool:
        """Has the test had its share of a deep run?"""
        return time.monotonic() > self._until

    def known(self) -> list[int]:
        """The seeds that the test has failed with, and not passed since."""
        try:
            return [int(line) for line in self.path.read_text().split()]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def sample(self, seed: int) -> Iterator[int]:
        """One sample. If the block fails, the next run begins with its seed."""
        try:
            yield seed
        except (Exception, pytest.fail.Exception) as exc:
            self._keep({*self.known(), seed})
            exc.add_note(f"seed {seed}, with which the next run of this test begins: {self.path}")
            raise
        if seed in self.known():
            self._keep({*self.known()} - {seed})

    def _keep(self, seeds: set[int]) -> None:
        FAILING.mkdir(exist_ok=True)
        if seeds:
            self.path.write_text("".join(f"{seed}\n" for seed in sorted(seeds)))
        else:
            self.path.unlink(missing_ok=True)

    def seeds(self, usual: int) -> Iterator[int]:
        """Those that failed before; then ``usual`` ones from 1 on, or in a deep run others, until
        the test's share of the time is over. ``sample`` is for what is done with each of them.
        """
        known = self.known()
        yield from known
        if not self.is_deep:
            yield from (seed for seed in range(1, usual + 1) if seed not in known)
            return
        first = int(os.environ.get("SNAPFS_SEED") or random.SystemRandom().randrange(SEEDS))
        seed = first
        while seed == first or not self.is_over:
            yield seed
            seed += 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a deep run, leave out the tests that do not sample."""
    if not DEEP:
        return
    kept = [item for item in items if "effort" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    for item in items:
        item.add_marker(pytest.mark.timeout(DEEP + GRACE))


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """What this test may do."""
    share = 0.0
    if DEEP:
        processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        share = DEEP * processes / len(request.session.items)
    return Effort(request.node.nodeid, share)
