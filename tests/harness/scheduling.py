"""The order of tests, and which of them run side by side, in a run of several processes (xdist).

Tests of a module that mounts run in one process, one after another, beside those of other modules.
Of other modules, every process takes what comes next. Tests that compare times (the marker
``alone``, of a whole module) come last, and run while no other test does, in any process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Where the tests are that mount and unmount.
MOUNTING = (
    "tests/mounted/",
    "tests/compatibility/",
    "tests/crash/test_kill.py",
    "tests/damage/test_device_errors_mounted.py",
    "tests/damage/test_scrub.py",
    "tests/model/test_mounted_model.py",
    "tests/model/test_warm_kernel.py",
)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Modules that mount are for one process each."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(MOUNTING) else nodeid


def order(items: list[pytest.Item]) -> None:
    """Sort tests as they are to be given out. The order within a module stays."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    """Modules come before single tests, long ones before short ones: who began one of these last
    would be waited for.
    """
    if item.get_closest_marker("alone"):
        return 3
    if item.nodeid.startswith(MOUNTING):
        return 0
    return 1 if item.get_closest_marker("slow") else 2


@contextlib.contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Lasts as long as a test runs, and begins when no test runs that it must not run beside."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = item.get_closest_marker("alone") is not None
    with open(__file__, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
