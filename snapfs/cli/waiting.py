"""Waiting for a daemon: who waits is told so after a while, may set a limit, and can always be
interrupted.

A daemon is asked by its socket (``control.socket.client``), and by the kernel, when a path in its
mount is looked at. What the kernel waits for it lets nobody interrupt, so such looks are a
thread's: whoever waits for that can give up, and its end comes with that of the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from snapfs.cli.exits import CommandFailed, report
from snapfs.control.socket.client import Patience

#: After so many seconds without an answer to the kernel whoever waits is told so.
SILENT_SECONDS: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")


def patience(seconds: float | None, *, hurried: bool = False) -> Patience:
    """As ``--timeout`` has it; what is waited for is said on standard error."""
    return Patience(seconds, report, hurried)


def looked(
    path: str, limit: Patience, look: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """What ``look`` finds at a path, or the exception that it raises. Raises ``CommandFailed`` when
    that takes too long.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(look(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001 - it is raised where somebody waits for it
            failed.append(exc)

    thread = threading.Thread(target=work, daemon=True, name="look")
    thread.start()
    start = time.monotonic()
    _wait(thread, start, SILENT_SECONDS, limit.timeout)
    if thread.is_alive() and (limit.timeout is None or time.monotonic() - start < limit.timeout):
        limit.say(
            f"waiting for the daemon of the mount that {path} leads to, which does not "
            "answer the kernel; Ctrl-C ends the waiting"
        )
        _wait(thread, start, None, limit.timeout)
    if thread.is_alive():
        raise CommandFailed(
            f"{path}: the daemon of this mount has not answered the kernel for "
            f"{limit.timeout:g} seconds, as --timeout allows"
        )
    if failed:
        raise failed[0]
    return found[0]


def _wait(thread: threading.Thread, start: float, *limits: float | None) -> None:
    """Return when a thread has ended, or when so many seconds have passed since ``start``."""
    least = min((limit for limit in limits if limit is not None), default=None)
    thread.join(None if least is None else max(0.0, start + least - time.monotonic()))
