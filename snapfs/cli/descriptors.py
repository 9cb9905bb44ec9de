"""Descriptors that a process is started with: the three standard ones are always there, and a
daemon keeps none of the others.

A missing standard descriptor's number goes to the next file that is opened, which may be the image:
whatever a library or a child process then writes to standard output or error would be written
there.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_STANDARD: Final = (0, 1, 2)


def complete() -> None:
    """Put ``/dev/null`` where a standard descriptor is missing. To be called before anything is
    opened.
    """
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


#: What is open under a number: the number, and the device and inode behind it.
Open = tuple[int, int, int]


def inherited() -> list[Open]:
    """What is open now besides the three."""
    return [
        found
        for number in map(int, os.listdir("/proc/self/fd"))
        if number not in _STANDARD and (found := _open(number))
    ]


def close_inherited(callers: list[Open]) -> None:
    """Close what was inherited, unless it is closed, and its number another file's, by now."""
    for each in callers:
        if _open(each[0]) == each:
            os.close(each[0])


def _open(number: int) -> Open | None:
    try:
        status = os.fstat(number)
    except OSError:  # the one that the listing was read from
        return None
    return number, status.st_dev, status.st_ino
