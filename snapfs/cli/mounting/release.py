"""Waiting for a daemon's end after its mount is gone: it then has committed, closed the image and
given back its lock.

Not waited for is a filesystem that is mounted elsewhere too, whose daemon goes on for that; nor,
for longer than ``QUIET_SECONDS``, a daemon that does nothing any more.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

from snapfs.cli.exits import CommandFailed, report
from snapfs.device import is_memory, mount_users
from snapfs.device.mountinfo import Mount

#: After so many seconds whoever waits is told what for.
SILENT_SECONDS: Final = 5.0

#: A daemon that shows no sign of life for so many seconds is waited for no longer; nor one that is
#: busy for so many, unless its volume is in memory: such a one may be completing a copy, without
#: which all is lost.
QUIET_SECONDS: Final = 30.0
LIMIT_SECONDS: Final = 600.0

#: What is between two looks, at first and at last.
_SHORT: Final = 0.25
_LONG: Final = 2.0


class Daemon:
    """A daemon's process, known by a descriptor (pidfd_open(2)), so that no other one of the same
    number is waited for.

    Raises ``OSError`` when it has ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def wait(self, mount: Mount, timeout: float | None) -> None:
        """Return when it has ended, or the filesystem of ``mount`` (which is gone) turns out to be
        mounted elsewhere, which is reported.

        Raises ``CommandFailed`` when it does not end: within ``timeout`` seconds, or else as above.
        """
        start = alive = time.monotonic()
        signs, pause, told = self._signs(), _SHORT, False
        limit = float("inf") if is_memory(mount.source) else LIMIT_SECONDS
        while not self._has_ended(pause):
            pause = min(2 * pause, _LONG)
            where = mount_users.elsewhere(mount)
            if where is not None and not self._has_ended(0.0):
                report(
                    f"{mount.path}: unmounted, but the volume is mounted {where}, too: "
                    f"its daemon (process {self.pid}) keeps the image "
                    "until it is unmounted there"
                )
                return
            now = time.monotonic()
            if signs != (signs := self._signs()):
                alive = now
            if (
                (timeout is not None and now - start >= timeout)
                or now - alive >= QUIET_SECONDS
                or now - start >= limit
            ):
                raise CommandFailed(
                    f"{mount.path}: unmounted, but its daemon (process "
                    f"{self.pid}{self._stopped()}) has not ended in {now - start:.0f} "
                    "seconds, and may have the image still"
                )
            if not told and now - start >= SILENT_SECONDS:
                told = True
                report(
                    f"{mount.path}: unmounted; waiting until its daemon (process "
                    f"{self.pid}{self._stopped()}) has let go of the image"
                )

    def close(self) -> None:
        """Forget it."""
        os.close(self._descriptor)

    def _has_ended(self, seconds: float) -> bool:
        """Also when it has let go of everything, and the kernel keeps it for a thread that waits
        for a device which does not answer.
        """
        return bool(select.select([self._descriptor], [], [], seconds)[0]) or self._state() == b"Z"

    def _signs(self) -> tuple[bytes, ...]:
        """What changes while it works: the processor time that it has used, and what it has read
        and written (proc(5)).
        """
        found = []
        for name in ("stat", "io"):
            try:
                with open(f"/proc/{self.pid}/{name}", "rb") as file:
                    found.append(file.read())
            except OSError:  # another user's, or it has ended
                continue
        return tuple(found)

    def _state(self) -> bytes:
        """As ps(1) shows it (proc(5)); nothing when that cannot be known."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1]
        except OSError:
            return b""

    def _stopped(self) -> str:
        return (
            f", which is stopped: 'kill -CONT {self.pid}' lets it go on"
            if self._state() in {b"T", b"t"}
            else ""
        )
