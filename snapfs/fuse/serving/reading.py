"""Reading file data in the event loop, where that is quicker than a worker thread.

What the host's memory has takes no time. A device that answers in less time than two changes of the
thread take is waited for, too, as long as nobody else has a request in progress; one that is slow
is not asked again by the loop for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from snapfs.device.base import Buffer, Device
from snapfs.filesystem import ReadPlan

#: Seconds that the loop may wait for one read, on the average of the last ones, and for each MiB of
#: it.
PROMPT: Final = 1e-3
PROMPT_MIB: Final = 2e-3

#: Weight of the last read in that average, and how many times what is allowed it counts at most:
#: any device is slow once in a while.
_WEIGHT: Final = 0.2
_WORST: Final = 3.0

#: Reads that are left to threads after the device has been found slow for the first time, and at
#: most: each time twice as many. After so many reads in the loop without that, half as many.
_PAUSE: Final = 100
_LONGEST_PAUSE: Final = 100 << 10

#: Runs of a read beyond which a thread has more to do than the loop should.
_RUNS: Final = 4

#: Bytes that are asked for in advance where reads follow one another, and from what length of a
#: read on.
AHEAD: Final = 2 << 20
_AHEAD_FROM: Final = 64 << 10


class Reading:
    """Reads for one mount. ``is_alone`` tells whether no request waits for anything."""

    def __init__(
        self,
        device: Callable[[], Device],
        is_alone: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device = device
        self._is_alone = is_alone
        self._clock = clock
        self._mean = 0.0
        self._pause = 0
        self._next_pause = _PAUSE
        self._since = (
            0  # reads in the loop since the last pause, or since the next one was made shorter
        )
        self._next = -1  # where the last read ended

    def parts(self, plan: ReadPlan) -> list[Buffer] | None:
        """The bytes of a plan's runs; None for a worker thread. Raises ``DeviceError``."""
        device = self._device()
        found: list[Buffer] = []
        for offset, length in plan.runs:
            part = device.read_nowait(offset, length)
            if part is None:
                part = self._wait(device, offset, length) if len(plan.runs) <= _RUNS else None
                if part is None:
                    return None
            found.append(part)
            if length >= _AHEAD_FROM and offset == self._next:
                device.prefetch(offset + length, AHEAD)
            self._next = offset + length
        return found

    def _wait(self, device: Device, offset: int, length: int) -> bytes | None:
        if not self._is_alone():
            return None
        if self._pause:
            self._pause -= 1
            return None
        began = self._clock()
        part = device.read(offset, length)
        allowed = PROMPT + PROMPT_MIB * length / (1 << 20)
        self._mean += _WEIGHT * (min((self._clock() - began) / allowed, _WORST) - self._mean)
        self._since += 1
        if self._mean > 1:
            self._mean, self._pause, self._since = 0.0, self._next_pause, 0
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        elif self._since == _PAUSE:
            self._next_pause, self._since = max(self._next_pause // 2, _PAUSE), 0
        return part
