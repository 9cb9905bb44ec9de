"""Discards what was freed, in the background: a worker thread tells the device, the loop gives the
blocks out again afterwards.

Knows the volume and nothing of files or of the kernel. What goes wrong is logged once, and ends
discarding, nothing else.
"""

from __future__ import annotations

import logging

import trio

from snapfs.errors import DeviceError
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.store.commit.volume import Volume

log = logging.getLogger("snapfs.fuse")


class Discarding:
    """Serves ``store.space.discards`` of a volume. ``run`` must be running."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._discards = volume.allocator.discards
        self._discards.added = self._soon
        self._discards.gave_up = lambda reason: log.warning(
            "freed blocks are not discarded any more: %s", reason
        )
        self._wanted = trio.Event()
        self._piece = trio.Event()
        self._piece.set()

    def _soon(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Discard what comes, until cancelled."""
        while True:
            await self._wanted.wait()  # nothing is due, or it would be set
            self._wanted = trio.Event()
            while runs := self._discards.begin():
                self._piece = trio.Event()
                try:
                    # Anything may happen meanwhile: nobody gets these blocks before this is done.
                    failure = await in_thread(Pool.DISCARDS, self._volume.discard, runs)
                except Exception as exc:
                    log.critical("discarding failed: internal error", exc_info=exc)
                    failure = DeviceError(f"internal error: {exc}")
                self._discards.done(failure)
                self._piece.set()

    async def piece_done(self) -> bool:
        """For whoever needs blocks: wait for what is being discarded, which is available then;
        False when nothing is.
        """
        if self._piece.is_set():
            return False
        await self._piece.wait()
        return True

    async def finish(self) -> None:
        """Return when nothing is to be discarded any more."""
        while self._discards.pending:
            await self._piece.wait()
            await trio.lowlevel.checkpoint()  # the next piece begins
