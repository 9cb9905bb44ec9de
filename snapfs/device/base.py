"""The interface between the store and what stores its bytes."""

# ruff: noqa: ARG002 - what a device has nothing to do for still has its arguments

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final, Protocol

from snapfs.errors import DeviceError

Buffer = bytes | bytearray | memoryview

#: How a volume in memory is named, instead of a path, before its size.
MEMORY_PREFIX: Final = "mem:"

#: What to say to whoever gives such a name where a path is wanted.
NO_PATH: Final = "a volume in memory has no path: name its mount point"


def is_memory(path: str) -> bool:
    """Does this name a volume in memory? A file of such a name is given as ``./mem:...``."""
    return path.startswith(MEMORY_PREFIX)


def lasting_path(path: str) -> str:
    """The absolute path by which an image is remembered.

    Links to files are followed. Those to block devices are not, for what they lead to has another
    name after the next boot; nor those into /proc, which lead to no path.
    """
    found = os.path.realpath(path)
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return found  # it is going to be made
    return os.path.abspath(path) if is_device or not os.path.exists(found) else found


class Guard(Protocol):
    """Knows whether a device may still be written by this process."""

    #: Why it may not, any more.
    lost: str | None

    def check(self) -> None:
        """Before each write. Raises ``DeviceError`` when it may not."""
        ...

    def release(self) -> None:
        """The device is about to be closed, or given up."""
        ...


class Device(Protocol):
    """A range of ``size`` bytes.

    Reads and writes are exact: a short transfer is a ``DeviceError``. A write may be lost by a
    power cut until ``flush`` has returned, and two unflushed writes may reach the medium in either
    order.
    """

    path: str
    size: int
    read_only: bool

    @property
    def taken(self) -> str | None:
        """Why nothing may be written any more, because somebody else has the device now; None:
        nobody has, as far as is known.
        """
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read ``length`` bytes at ``offset``; may block. Raises ``DeviceError``."""
        ...

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """The same when no medium has to be waited for, else None."""
        ...

    def prefetch(self, offset: int, length: int) -> None:
        """These bytes are likely to be read next, as far as there are so many. Never blocks, never
        fails, and may do nothing.
        """
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` at ``offset``. Raises ``DeviceError``, ``DeviceFull``."""
        ...

    def must_wait(self, runs: Sequence[tuple[int, int]]) -> bool:
        """Would writing these runs, (offset, length), wait for another device first? Then
        ``make_ready`` is for a worker thread.
        """
        ...

    def make_ready(self, runs: Sequence[tuple[int, int]]) -> None:
        """Do that waiting. Raises ``DeviceError``."""
        ...

    def flush(self) -> None:
        """Return when everything written before is durable. Raises ``DeviceError``."""
        ...

    def discard(self, offset: int, length: int) -> None:
        """Nobody wants these bytes any more: until they are written again they may be anything.

        May block. Raises ``DeviceError``, also where the device knows no discards; nothing is lost
        then.
        """
        ...

    def close(self) -> None:
        """Give the device and its lock back."""
        ...


class SoleUse:
    """Of a device whose writes wait for no other, which fetches nothing in advance, and which
    nobody can take away.
    """

    @property
    def taken(self) -> str | None:
        """See ``Device.taken``."""
        return None

    def prefetch(self, offset: int, length: int) -> None:
        """See ``Device.prefetch``."""

    def must_wait(self, runs: Sequence[tuple[int, int]]) -> bool:
        """See ``Device.must_wait``."""
        return False

    def make_ready(self, runs: Sequence[tuple[int, int]]) -> None:
        """See ``Device.make_ready``."""


class Unwritable(SoleUse):
    """Of a device that can only be read, and never at once: what it reads may have to be got from
    somewhere.
    """

    path: str
    read_only = True

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """See ``Device.read_nowait``."""
        return None

    def write(self, offset: int, data: Buffer) -> None:
        """Raises ``DeviceError``."""
        raise DeviceError(f"{self.path}: can only be read")

    def discard(self, offset: int, length: int) -> None:
        """As ``write``."""
        self.write(offset, b"")

    def flush(self) -> None:
        """Nothing was written."""
