"""A report into the log when somebody asks for it: ``kill -USR1``, whatever the daemon is doing.

A thread waits for the signal, which is blocked in all others, so that nothing else need run for it
to be heard: neither the event loop, which may wait for a device that does not answer, nor Python's
own signal handlers, which only the main thread calls. It asks the event loop for the report, and
where that does not answer within a second, it says where that is and reports from outside.

Not seen like this is a hang within C code that keeps Python's lock; a debugger sees it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, Self

from snapfs.printable import printable

if TYPE_CHECKING:
    import trio

    from snapfs.fuse.inside.report import Report

#: What asks for a report.
SIGNAL: Final = signal.SIGUSR1

#: Seconds in which the event loop is expected to answer.
PATIENCE: Final = 1.0

#: At whatever level the daemon logs: who asks wants to see the answer.
log = logging.getLogger("snapfs.report")


class OnDemand:
    """One daemon's. To be used as a context, by the only thread that there is at that moment."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._mask: set[int] = set()
        self._is_over = False
        self._loop: tuple[trio.lowlevel.TrioToken, Report] | None = None
        log.setLevel(logging.INFO)

    def __enter__(self) -> Self:
        self._mask = {*signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        signal.pthread_kill(self._thread.ident or 0, SIGNAL)
        self._thread.join()
        # One that has come meanwhile, or comes now, would end the process with its last words.
        signal.signal(SIGNAL, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def begin(self, token: trio.lowlevel.TrioToken, report: Report) -> None:
        """From now on there is a mount to report about, and an event loop that can be asked."""
        self._loop = (token, report)

    def end(self) -> None:
        """The event loop has ended, or is about to."""
        self._loop = None

    def _run(self) -> None:
        while True:
            signal.sigwait({SIGNAL})
            if self._is_over:
                return
            for line in self._lines():
                log.info("%s", printable(line))

    def _lines(self) -> list[str]:
        """Never raises: nobody is there to be told of it."""
        loop = self._loop
        try:
            if loop is None:
                return ["report: nothing is mounted (yet, or any more)", *_all_threads()]
            return self._asked(*loop)
        except Exception:
            log.exception("a report cannot be made: internal error")
            return _all_threads()

    @staticmethod
    def _asked(token: trio.lowlevel.TrioToken, report: Report) -> list[str]:
        import trio

        done, asker = threading.Event(), threading.get_ident()
        lines: list[str] = []
        failures: list[Exception] = []

        def make() -> None:  # what came out of it would end the loop
            try:
                lines.extend(report.lines(asker))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the thread that asked says so
                failures.append(exc)
            done.set()

        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(make)
            done.wait(PATIENCE)
        if failures:
            raise failures[0]
        return lines if done.is_set() else report.from_outside()


def _all_threads() -> list[str]:
    """Where all threads are, without anything that only an event loop knows."""
    from snapfs.fuse.inside.coroutines import stack_of

    lines = []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, frame in sys._current_frames().items():
        if number != threading.get_ident() and (stack := stack_of(frame)):
            lines.append(f"  the thread {names.get(number, number)}, in")
            lines += [f"    {line}" for line in stack]
    return lines
