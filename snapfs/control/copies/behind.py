"""Copying behind, in a daemon: a task that goes on with whatever copy there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import trio

from snapfs.control.copies.copying import Copying
from snapfs.control.copies.threads import Threads
from snapfs.control.socket.protocol import Result
from snapfs.errors import SnapfsError
from snapfs.fuse.driving.threads import Pool, in_thread

log = logging.getLogger("snapfs.copying")

P = ParamSpec("P")
T = TypeVar("T")


#: Seconds after which it is tried again to go on with a copy, or to end it.
AGAIN_SECONDS: Final = 1.0


class Behind:
    """The caller that a daemon is for itself; see ``caller.Caller``. Nothing of it waits when the
    copy is told that its user wants it.
    """

    def __init__(self, copying: Copying) -> None:
        self._copying = copying
        self._woken = trio.Event()
        self._told: str | None = None
        copying.wake = self.wake
        copying.apart = Threads()

    def wake(self) -> None:
        """There is something to be looked at."""
        self._woken.set()

    async def tell(self, event: Result) -> None:
        """Whoever wants to know asks."""

    async def in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """In a worker thread, which is waited for whatever happens."""
        return await in_thread(Pool.COMMANDS, lambda: function(*args, **kwargs))

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until somebody wants something else."""
        self._woken = trio.Event()
        with trio.move_on_after(seconds):
            await self._woken.wait()

    async def run(self) -> None:
        """Copy, until cancelled."""
        try:
            await self._run()
        finally:
            self._copying.hurry()

    async def _run(self) -> None:
        while True:
            woken = self._woken
            if self._copying.has_work:
                try:
                    await self._copying.go_on(self)
                except SnapfsError as exc:
                    if self._is_new(exc):
                        log.warning("copying: %s", exc)
                except Exception as exc:
                    if self._is_new(exc):
                        log.exception("copying: internal error")
                else:
                    self._told = None
                    continue
                await trio.sleep(AGAIN_SECONDS)  # nothing comes of trying again at once
                continue
            await woken.wait()
            self._woken = trio.Event() if self._woken is woken else self._woken

    def _is_new(self, exc: Exception) -> bool:
        """Whether something else has gone wrong than the last time. What stays the same is logged
        once.
        """
        words = f"{type(exc).__name__}: {exc}"
        before, self._told = self._told, words
        return words != before
