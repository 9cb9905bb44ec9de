"""Descriptors that a process is started with: the three standard ones are always there, and a daemon keeps none of the others.

A missing standard descriptor's number goes to the next file that is opened, which may be the image: whatever a library or a child process
then writes to standard output or error would be written there.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_STANDARD: Final = (0, 1, 2)


def complete() -> None:
    """Put ``/dev/null`` where a standard descriptor is missing. To be called before anything is opened."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, since those below are there by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def inherited() -> list[int]:
    """What is open now besides the three."""
    return [number for number in map(int, os.listdir("/proc/self/fd")) if number not in _STANDARD and _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # the one that the listing was read from
        return False
    return True
