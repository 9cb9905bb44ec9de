"""The rate of a copy that is made behind."""

from __future__ import annotations

import time
from typing import Final

from snapfs.control.socket.caller import Caller
from snapfs.copying import CopyJob

#: Pieces of a rate's worth in a second, at least.
PIECES: Final = 8

#: Bytes that are copied at once, at most.
PIECE_BYTES: Final = 1 << 20

#: Seconds between two looks at the rate that is wanted.
LOOK_SECONDS: Final = 1.0


class CopyPace:
    """Keeps a copy at the rate that is wanted."""

    def __init__(self, job: CopyJob) -> None:
        self._job = job
        self._due = time.monotonic()

    @property
    def piece(self) -> int:
        """Bytes to copy at once."""
        rate = self._job.wishes.rate
        return PIECE_BYTES if rate is None else min(PIECE_BYTES, max(1, rate // PIECES))

    async def keep(self, caller: Caller, done: int) -> None:
        """Wait until ``done`` bytes were allowed."""
        rate = self._job.wishes.rate
        if not rate:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1 / PIECES) + done / rate
        if self._due > now:
            await caller.pause(min(self._due - now, LOOK_SECONDS))
