"""The clock that the kernel stamps files with.

With its writeback cache the kernel stamps what is written, and the daemon what is made. By another
clock, what is made first could look newer, and make(1) would build again what it has built.

Until Linux 6.13 that clock is CLOCK_REALTIME_COARSE. Since then it also runs ahead of that, to the
latest fine stamp that any filesystem of the host has taken (multigrain timestamps), and no system
call tells it. So the daemon has a file in memory stamped, and looks: whatever the kernel stamps
later is not older, and what it has stamped before is not newer.
"""

from __future__ import annotations

import os
import time
import weakref
from typing import Final

#: linux/time.h
_CLOCK_REALTIME_COARSE: Final = 5


class KernelClock:
    """Tells the time in nanoseconds. Raises ``OSError`` when there is no memory for its file."""

    def __init__(self) -> None:
        self._file = os.memfd_create("snapfs-clock", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def now(self) -> int:
        """The time that the kernel would stamp a file with: 1.6 us, for which operations that
        change something have time.
        """
        os.utime(self._file)
        return os.fstat(self._file).st_ctime_ns

    @staticmethod
    def about_now() -> int:
        """The same, up to a tick (10 ms at most) too early: 0.1 us."""
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
