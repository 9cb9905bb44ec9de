"""Whoever has asked for something that takes long: is told how it goes, and decides where the work
waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from snapfs.control.socket.protocol import Result

P = ParamSpec("P")
T = TypeVar("T")


class Caller(Protocol):
    """What a handler of a long command needs. Each of these may raise when the caller has gone;
    then the command ends.
    """

    async def tell(self, event: Result) -> None:
        """Report progress."""

    async def in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what may block, where it blocks nobody else."""

    async def pause(self, seconds: float) -> None:
        """Wait."""


class Remote(Caller, Protocol):
    """A caller that is another process."""

    async def descriptor(self) -> int:
        """An open file that it hands over next. Raises ``ControlError`` when it does not."""


class Alone:
    """The caller is this process, and nobody else is kept waiting. Never
    waits for an event loop.
    """

    def __init__(self, told: Callable[[Result], None] | None = None) -> None:
        self._told = told

    async def tell(self, event: Result) -> None:
        """See ``Caller``."""
        if self._told is not None:
            self._told(event)

    async def in_thread(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Caller``."""
        return function(*args, **kwargs)

    async def pause(self, seconds: float) -> None:
        """See ``Caller``."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop
