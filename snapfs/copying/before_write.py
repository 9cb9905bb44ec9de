"""The copy-before-write device: stands between the store and the device while a copy runs (D3).
Nothing else in the store knows of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.copying.patience import HURRIED_SECONDS, WAIT_SECONDS, Attempt
from snapfs.errors import CopyBlocked, CopyError, CorruptBlock, DeviceError

if TYPE_CHECKING:
    from snapfs.copying.copy import Copy
    from snapfs.device import Device
    from snapfs.device.base import Buffer


class CopyBeforeWrite:
    """The device of ``copy.source``, which gives away nothing that the copy still needs.

    Who fails when the target does is the user's choice (D7): the copy, or with ``copy_first`` the
    write. A copy fails once and for good: ``failing`` is called with the reason, makes durable that
    it has failed before it returns, and raises ``DeviceError`` when it cannot.
    """

    def __init__(self, copy: Copy, *, copy_first: bool, failing: Callable[[str], None]) -> None:
        self.copy = copy
        self.copy_first = copy_first
        #: Why the copy has failed.
        self.failed: str | None = None
        #: Why it does not go on at the moment.
        self.blocked: str | None = None
        self.below = copy.source
        self.path = self.below.path
        self.size = self.below.size
        self.read_only = self.below.read_only
        #: A flush of the source has failed: nobody knows what it has by now, and nothing is written
        #: to it any more.
        self.lost: str | None = None
        #: Seconds that whoever writes waits for the target.
        self.patience = WAIT_SECONDS
        #: Nothing may be written to the map any more: its blocks are somebody else's.
        self.is_over = False
        self.map_lock = threading.Lock()
        # Notified when a wait for the target may be over.
        self._changed = threading.Condition()
        # What the target has not answered in time, and may never answer.
        self._unanswered: Attempt[None] | None = None
        self._flush_lock = threading.Lock()
        self._failing = failing
        self._fail_lock = threading.Lock()
        self._block_size = copy.geometry.block_size

    @property
    def taken(self) -> str | None:
        """See ``Device.taken``."""
        return self.below.taken

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        return self.below.read(offset, length)

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """See ``Device.read_nowait``."""
        return self.below.read_nowait(offset, length)

    def prefetch(self, offset: int, length: int) -> None:
        """See ``Device.prefetch``."""
        self.below.prefetch(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """Write, when what was there before is copied."""
        if data:
            self.make_ready([(offset, len(data))])
        self._check_not_lost()
        self.below.write(offset, data)

    def discard(self, offset: int, length: int) -> None:
        """See ``Device.discard``. What the copy needs and cannot have now is left as it is: nobody
        fails for a discard.
        """
        try:
            self.make_ready([(offset, length)])
            self._check_not_lost()
        except DeviceError:
            return
        self.below.discard(offset, length)

    def must_wait(self, runs: Sequence[tuple[int, int]]) -> bool:
        """See ``Device.must_wait``."""
        return self.failed is None and self.copy.must_wait(self._blocks(runs))

    def make_ready(self, runs: Sequence[tuple[int, int]]) -> None:
        """Copy what writing these runs would destroy. Raises ``CopyBlocked``, or what ``failing``
        raises.

        The target is waited for as long as ``patience`` says: it may be waiting for whoever waits
        here.
        """
        blocks = self._blocks(runs)
        if self.failed is not None or not self.copy.must_wait(blocks):
            return
        try:
            self._ensure(blocks)
        except (DeviceError, CorruptBlock) as exc:
            self._check_not_lost()
            self.trouble(exc)
            if self.failed is None:
                raise CopyBlocked(f"the copy comes first, and cannot go on: {exc}") from exc
        else:
            self.blocked = None

    def _ensure(self, blocks: list[tuple[int, int]]) -> None:
        """The same, or the copy has failed meanwhile. Raises ``DeviceError``, also for a target
        that does not answer.
        """
        before = self._unanswered
        if before is None or before.is_done:
            self._unanswered = None
            attempt = Attempt(lambda: self.copy.ensure(blocks), self._changed)
            began = time.monotonic()
            with self._changed:
                while (
                    not attempt.is_done
                    and self.failed is None
                    and (left := began + self.patience - time.monotonic()) > 0
                ):
                    self._changed.wait(left)
            if attempt.is_done:
                attempt.result()
                return
            if self.failed is not None:
                return
            self._unanswered = attempt
            if not self.copy_first:
                self.hurry()  # the copy fails, and its target has had its time
        probes.COPY_TARGET_SILENT.hit()
        raise DeviceError(
            f"{self.copy.target.path}: does not answer, and somebody waits for it to "
            "write to the volume"
        )

    def hurry(self) -> None:
        """Wait for the target for a moment only, whoever waits for it now as well."""
        with self._changed:
            self.patience = min(self.patience, HURRIED_SECONDS)
            self._changed.notify_all()

    def trouble(self, exc: DeviceError | CorruptBlock) -> None:
        """The copy cannot go on, now or at all."""
        if self.copy_first and isinstance(exc, DeviceError):
            self.blocked = str(exc)
        else:
            self.fail(str(exc))

    def fail(self, reason: str) -> None:
        """The copy has failed: nothing waits for it from now on. Raises ``DeviceError`` when that
        cannot be made durable.
        """
        with self._fail_lock:
            if self.failed is None:
                self._failing(reason)
                self.end()
                with self._changed:
                    self.failed = reason
                    self._changed.notify_all()

    def end(self) -> None:
        """Nothing is written to the map from now on, whoever is still at it."""
        with self.map_lock:
            self.is_over = True

    def flush(self) -> None:
        """See ``Device.flush``. Whoever hears of a failure, the store or the copy for its map: it
        concerns both.
        """
        with self._flush_lock:
            self._check_not_lost()
            try:
                self.below.flush()
            except DeviceError as exc:
                self.lost = str(exc)
                raise

    def _check_not_lost(self) -> None:
        if self.lost is not None:
            raise DeviceError(self.lost)

    def close(self) -> None:
        """See ``Device.close``."""
        self.below.close()

    def _blocks(self, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        size = self._block_size
        return [
            (offset // size, -(-(offset + length) // size) - offset // size)
            for offset, length in runs
            if length
        ]


class Beneath:
    """The source for the copy's own map there: written in place, and flushed together with
    everything else.
    """

    def __init__(self, before: CopyBeforeWrite) -> None:
        self.path = before.path
        self.read = before.below.read
        self.flush = before.flush
        self._before = before

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``. Raises ``DeviceError`` when the copy has ended: a thread that was
        left may go on at any time.
        """
        with self._before.map_lock:
            if self._before.is_over:
                probes.COPY_ENDED_BENEATH.hit()
                raise DeviceError(f"{self.path}: the copy has ended")
            self._before.below.write(offset, data)

    def close(self) -> None:
        """The source is the store's."""


def without_copy(device: Device) -> Device:
    """The device itself, whatever stands before it."""
    return device.below if isinstance(device, CopyBeforeWrite) else device


def hurry(device: Device) -> None:
    """Let nobody wait for long for the target of a copy that stands before a device: the mount
    ends.
    """
    if isinstance(device, CopyBeforeWrite):
        device.hurry()


def check_not_failed(device: CopyBeforeWrite) -> None:
    """Raises ``CopyError``."""
    if device.failed is not None:
        raise CopyError(f"the copy has failed: {device.failed}")
