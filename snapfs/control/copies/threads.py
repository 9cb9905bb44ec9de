"""Threads for work of a copy that may never end. See ``apart``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final, Protocol, TypeVar

import trio

from snapfs.control.copies.apart import Left

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Outcome(Protocol[T_co]):
    """What trio gives of a thread that has ended."""

    def unwrap(self) -> T_co:
        """What it has returned. Raises what it has raised."""


#: Seconds between two looks whether what is waited for is still wanted.
LOOK_SECONDS: Final = 0.25

#: Seconds that it gets to end by itself when it is not: a device that works needs no more.
LEAVE_SECONDS: Final = 2.0

#: Seconds that giving up a copy may take which could not be set up, in a task that is being
#: cancelled.
SHIELD_SECONDS: Final = 10.0


class Threads:
    """See ``apart.Apart``. A thread each; nobody else waits for one because all are stuck, as
    trio's own may come to be.
    """

    def __init__(self) -> None:
        self.left = 0
        self._lock = threading.Lock()

    async def run(
        self,
        work: Callable[[], T],
        *,
        over: Callable[[], bool],
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """See ``Apart``. Left as well when the task is cancelled."""
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        results: list[Outcome[T]] = []
        is_left = False

        def deliver(result: Outcome[T]) -> None:
            with self._lock:
                if not is_left:
                    results.append(result)
            if results:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(done.set)
                return
            try:
                with suppress(Exception):  # nobody is there who could be told
                    value = result.unwrap()
                    if undo is not None:
                        undo(value)
            finally:
                with self._lock:
                    self.left -= 1

        trio.lowlevel.start_thread_soon(work, deliver)
        since: float | None = None
        try:
            while not done.is_set():
                with trio.move_on_after(LOOK_SECONDS):
                    await done.wait()  # anything may happen
                now = trio.current_time()
                since = (since or now) if over() else None
                if not done.is_set() and since is not None and now - since >= LEAVE_SECONDS:
                    raise Left("the target of the copy does not answer: it is left alone")
        finally:
            with self._lock:
                is_left = not results
                self.left += is_left
        return results[0].unwrap()

    def shielded(self) -> AbstractContextManager[object]:
        """See ``Apart``."""
        return trio.move_on_after(SHIELD_SECONDS, shield=True)
