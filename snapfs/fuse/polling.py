"""Waiting for requests with less delay: looks for the next one for a moment before it goes to sleep.

Waking a sleeping process costs more than most requests do. pyfuse3 looks ``trio`` up through its own module, for the sake of its asyncio
support; so one function and one lock can be put in trio's place there. Nothing else of pyfuse3 or trio is touched.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any, Final

import pyfuse3
import trio

#: Seconds to look for the next request before sleeping.
PATIENCE: Final = 100e-6

#: Requests in a row after which other tasks get their turn.
IN_A_ROW: Final = 16


class _Lowlevel:
    """``trio.lowlevel``, with another ``wait_readable``."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._poll: Any = None
        self._row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, descriptor: int) -> None:
        """Return when there is something to read. Looks without sleeping first, unless other tasks have something to do."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        if self._row < IN_A_ROW and not self._is_busy():
            poll = self._poll.poll
            clock = time.perf_counter
            limit = clock() + PATIENCE
            while True:
                if poll(0):
                    self._row += 1
                    return
                if clock() > limit:
                    break
        self._row = 0
        await trio.lowlevel.wait_readable(descriptor)


class _Lock:
    """A lock that the same task can take again without letting others run, if it comes back before they do.

    pyfuse3 uses one lock: its tasks take turns in waiting for requests. trio's fair lock makes every request change the task.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._is_called = False  # one of the waiting tasks has been woken and has not run yet

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._waiting.park()  # anything may happen, and somebody else may be quicker
            self._is_called = False
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        if self._waiting and not self._is_called:
            self._is_called = True
            self._waiting.unpark()


class _Trio:
    """``trio``, with these two in it."""

    Lock = _Lock

    def __init__(self, lowlevel: _Lowlevel) -> None:
        self.lowlevel = lowlevel

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install(is_busy: Callable[[], bool]) -> None:
    """Make pyfuse3 wait this way. ``is_busy`` tells whether other tasks of the loop have something to do now.

    Does nothing on a single processor, where looking keeps away whoever would send a request.
    """
    if len(os.sched_getaffinity(0)) > 1:
        pyfuse3.trio = _Trio(_Lowlevel(is_busy))  # type: ignore[attr-defined] # the name that pyfuse3 looks trio up by, in no stub
