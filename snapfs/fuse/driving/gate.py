"""The write gate: while the base is exchanged for another state nothing may change, so whoever
wants to change something waits here.

The gate is closed for core calls, reads from the device and commits only, none of which ever waits
at it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio


class Gate:
    """Open, unless somebody is within ``closed``."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None

    @property
    def is_closed(self) -> bool:
        """Whether changes have to wait now."""
        return self._opened is not None

    async def passed(self) -> None:
        """Return when the gate is open: at once, without letting anything else run, when it is open
        now.
        """
        while self._opened is not None:
            # Everything may happen but changes; whoever comes back from here must look at
            # everything anew.
            await self._opened.wait()

    @contextlib.asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Keep changes out. One at a time: the caller holds a lock of its own."""
        opened = trio.Event()
        self._opened = opened
        try:
            yield
        finally:
            self._opened = None
            opened.set()
