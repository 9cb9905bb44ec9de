"""Waiting for a condition, and for the end of a process, with a limit and without a fixed sleep."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

import pytest


def wait_for(
    condition: Callable[[], object], limit: float = 10.0, what: str = "the condition"
) -> None:
    """Return as soon as ``condition()`` is true; fail after ``limit`` seconds."""
    pause = threading.Event()  # never set: its wait is the polling interval
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true within {limit:g} s")
        pause.wait(0.005)


class ProcessWatch:
    """Waits for the end of a process that need not be our child."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def wait(self, limit: float = 30.0) -> None:
        """Return when it has ended; fail after ``limit`` seconds."""
        if not select.select([self._fd], [], [], limit)[0]:
            pytest.fail(f"the process did not end within {limit:g} s")

    def close(self) -> None:
        os.close(self._fd)
