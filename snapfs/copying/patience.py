"""Work that may never end: a device may not answer, be it that it waits for this very daemon.
Whoever waits for it can leave it alone.

A thread that waits in the kernel cannot be ended. So it is left: it may do nothing that matters
when it goes on, and what it has open is closed when it has ended, not before, for others would get
the numbers of its descriptors.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from snapfs.device.base import Buffer, Device, SoleUse
from snapfs.device.image import ImageDevice
from snapfs.errors import DeviceError

T = TypeVar("T")

#: Seconds that whoever writes to a volume waits for the target of its copy, at most. Disks are
#: given up by the kernel after 30 as well.
WAIT_SECONDS: Final = 30.0

#: And when the copy is given up, or the mount ends.
HURRIED_SECONDS: Final = 1.0


class Attempt(Generic[T]):
    """Runs ``work`` in a thread of its own, at once. ``changed`` is notified when it has ended."""

    def __init__(self, work: Callable[[], T], changed: threading.Condition | None = None) -> None:
        self.is_done = False
        self._changed = changed or threading.Condition()
        self._work = work
        self._result: list[T] = []
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, name="snapfs copy", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the result is asked for
            self._failure = exc
        with self._changed:
            self.is_done = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_done, seconds)

    def result(self) -> T:
        """What it has returned, or raises what it has raised. It has ended."""
        if self._failure is not None:
            raise self._failure
        return self._result[0]


class Abandonable(SoleUse):
    """A device that may never answer. It is closed, by a thread, when whoever uses it has ended,
    however long that takes.
    """

    def __init__(self, below: Device) -> None:
        self.path = below.path
        self.size = below.size
        self.read_only = below.read_only
        self.below = below
        self._users = 0
        self._is_given_up = False
        self._is_closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        with self._changed:
            if self._is_given_up:
                raise DeviceError(f"{self.path}: is not used any more")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                is_last = not self._users and self._nobody_comes()
            if is_last:
                self._close()

    def _nobody_comes(self) -> bool:
        return self._is_given_up

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        with self._used():
            return self.below.read(offset, length)

    def read_nowait(self, _offset: int, _length: int) -> Buffer | None:
        """See ``Device.read_nowait``: nothing is sure to come at once."""
        return None

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``."""
        with self._used():
            self.below.write(offset, data)

    def flush(self) -> None:
        """See ``Device.flush``."""
        with self._used():
            self.below.flush()

    def discard(self, offset: int, length: int) -> None:
        """See ``Device.discard``."""
        with self._used():
            self.below.discard(offset, length)

    def remove_name(self) -> bool:
        """See ``ImageDevice.remove_name``."""
        with self._used():
            return isinstance(self.below, ImageDevice) and self.below.remove_name()

    def close(self) -> None:
        """Nobody may use it any more. Never waits. Further calls do nothing."""
        with self._changed:
            is_first, self._is_given_up = not self._is_given_up, True
            closes_now = is_first and not self._users
        if closes_now:
            Attempt(self._close)

    def wait_closed(self, seconds: float) -> bool:
        """Wait until it is closed; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_closed, seconds)

    def _close(self) -> None:
        self.below.close()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
