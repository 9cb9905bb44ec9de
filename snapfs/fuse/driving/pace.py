"""How long the device has lately taken for a small commit: whether the loop itself may wait for the
next one.

A worker thread costs more than such a commit takes on a quick device, and as long as whoever waits
for it is the only one, nobody else waits for the loop. Knows neither the volume nor the device.
"""

from __future__ import annotations

from typing import Final

#: The loop waits for commits that take less than this, in seconds: what a thread and its switches
#: cost on a busy machine.
QUICK: Final = 1e-3

#: Blocks of a small commit, at most; larger ones say nothing about the next small one.
SMALL: Final = 64

#: The weight of the newest commit in the mean.
WEIGHT: Final = 0.25


class Pace:
    """A moving mean of small commits. Nothing is quick before some have been; one that was slow
    counts alone.
    """

    def __init__(self) -> None:
        self._mean = 4 * QUICK

    @property
    def is_quick(self) -> bool:
        """Is the next small commit likely to be quick?"""
        return self._mean < QUICK

    def note(self, blocks: int, seconds: float) -> None:
        """A commit of so many blocks has taken so long."""
        if blocks > SMALL:
            return
        if seconds >= QUICK:
            self._mean = max(seconds, self._mean)
        else:
            self._mean += WEIGHT * (seconds - self._mean)
