"""Work of a copy that may never end, for its target may not answer: done where it keeps nobody
waiting, and left when nobody wants it.

A command that copies an image by itself waits for it, as any program does. A daemon has threads for
it (``threads``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from snapfs.errors import CopyError

T = TypeVar("T")


class Left(CopyError):
    """What was waited for goes on without us, and may never end."""


def never() -> bool:
    """It is wanted."""
    return False


def at_once() -> bool:
    """It has only a moment."""
    return True


class Apart(Protocol):
    """Where such work is done."""

    async def run(
        self,
        work: Callable[[], T],
        *,
        over: Callable[[], bool],
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """Do it. Raises ``Left`` when ``over`` has been true for a while; ``undo`` is called with
        what comes after that.
        """

    def shielded(self) -> AbstractContextManager[object]:
        """What is awaited in it is awaited although the task is being
        cancelled; for some seconds.
        """

    @property
    def left(self) -> int:
        """How many were left and have not ended."""


class Here:
    """In this very thread. See ``Apart``."""

    left = 0

    async def run(
        self,
        work: Callable[[], T],
        *,
        over: Callable[[], bool],  # noqa: ARG002 - nothing is left here
        undo: Callable[[T], object] | None = None,  # noqa: ARG002 - as above
    ) -> T:
        """See ``Apart``."""
        return work()

    def shielded(self) -> AbstractContextManager[object]:
        """See ``Apart``."""
        return contextlib.nullcontext()
