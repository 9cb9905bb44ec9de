"""A copy that goes on: what is done behind, how it ends, and how it is let go of when the process
ends (D4).

Whatever waits for the target is done ``apart``, and left when nobody wants the copy any more: the
target may never answer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from snapfs.control.copies import memory
from snapfs.control.copies import told as copies
from snapfs.control.copies.apart import (
    Apart,
    Here,
    Left,
    at_once,
)
from snapfs.control.copies.pace import CopyPace
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import Result
from snapfs.copying import (
    CANCELLED,
    COMPLETE,
    FAILED_STATE,
    CopyJob,
    detach,
    target,
    unregister,
    without_copy,
)
from snapfs.copying.patience import WAIT_SECONDS, Attempt
from snapfs.device import RamDevice
from snapfs.errors import CopyError, DeviceError, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.printable import quoted

log = logging.getLogger("snapfs.copying")

T = TypeVar("T")

#: What was copied is made durable when it is so much, or so old.
SETTLE_BYTES: Final = 32 << 20
SETTLE_SECONDS: Final = 1.0

#: Seconds between two looks at a copy that does not go on.
IDLE_SECONDS: Final = 1.0

#: Seconds between two events.
EVENT_SECONDS: Final = 0.25

#: Seconds that a target gets to make the last things durable when the process ends.
END_SECONDS: Final = 5.0


@dataclass(eq=False)
class Beginning:
    """A copy that is being set up. The next one may go to the same place, and is another."""

    destination: str
    #: Somebody does not want it any more.
    unwanted: bool = False
    #: It was given up, and its target is gone.
    removed: bool = False
    is_over: bool = False


class CopyingEngine(Protocol):
    """What of ``engine.Engine`` is needed here."""

    async def arrange(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core; durable when it returns."""

    async def at_rest(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function when everything is durable."""


class Filling:
    """The copies of one volume: one at a time. ``job`` is the one that goes on, or the last one.

    ``mount_device``: the device number of the mount of a daemon, which copies behind; None: nobody
    has the volume mounted.
    """

    def __init__(
        self,
        engine: CopyingEngine,
        fs: Filesystem,
        image: str,
        *,
        mount_device: int | None,
        job: CopyJob | None = None,
    ) -> None:
        self._engine = engine
        self._fs = fs
        self._image = image
        self._is_live = mount_device is not None
        self._mount_device = mount_device
        self.job = job
        self._beginning: Beginning | None = None
        #: Complete copies in memory by their names, which others can open as long as they are held.
        self._held: dict[str, target.CopyTarget] = {}
        #: Called when there is something to be copied behind.
        self.wake: Callable[[], None] = lambda: None
        #: Where the target is waited for.
        self.apart: Apart = Here()

    def status(self) -> Result:
        """How far it is, as commands are told."""
        if self.job is not None and (self._beginning is None or not self._is_over):
            return copies.of_job(self.job, self._image)
        if self._beginning is not None:
            return copies.of_preparation(self._beginning.destination, self._image)
        record = self._fs.volume.copies.current
        return {"state": "none"} if record is None else copies.of_record(record, self._image)

    def _running(self) -> CopyJob:
        job, known = self.job, self._fs.volume.copies.current
        if job is not None and job.ended is None and self._beginning is None:
            return job
        if job is None and known is not None:
            where = f"{self._image}: its copy to {os.fsdecode(known.destination)}"
            raise CopyError(
                f"{where} is interrupted, and cannot be touched while the volume is "
                "mounted read-only"
            )
        raise CopyError(f"{self._image}: no copy of it is running")

    @property
    def _is_over(self) -> bool:
        return self.job is None or self.job.ended is not None

    async def _apart(
        self, job: CopyJob, work: Callable[[], T], undo: Callable[[T], object] | None = None
    ) -> T:
        """Do what waits for the target, as long as somebody wants the copy. Raises ``Left``."""
        beginning = self._beginning

        def over() -> bool:
            return (
                job.unwanted
                or job.before.failed is not None
                or (beginning is not None and beginning.unwanted)
            )

        return await self.apart.run(work, over=over, undo=undo)

    async def _in_a_moment(self, work: Callable[[], T]) -> T | None:
        """Do what is left to be done when a copy has ended; None when its
        target does not answer.
        """
        try:
            return await self.apart.run(work, over=at_once)
        except Left:
            return None

    # When the process ends

    def hurry(self) -> None:
        """The mount ends: nobody waits for long for a target any more."""
        if self.job is not None:
            self.job.before.hurry()

    def close(self) -> None:
        """The process ends. What is not copied yet is gone on with later."""
        job = self.job
        if job is not None and not self._is_over:
            if self._is_volatile and not job.target.in_memory:
                self._finish(job)
            if job.before.failed is None and not Attempt(job.settle).wait(END_SECONDS):
                log.warning(
                    "the target of the copy to %s does not answer: some of it is copied "
                    "again later",
                    job.target,
                )
                self.hurry()
            if job.target.in_memory:
                job.target.remove()
            Attempt(job.close).wait(END_SECONDS)
        for name in list(self._held):
            self.give_back(name)

    @property
    def _is_volatile(self) -> bool:
        return isinstance(without_copy(self._fs.volume.device), RamDevice)

    def _finish(self, job: CopyJob) -> None:
        """The source is about to be gone: what is missing in the target would be lost."""
        log.info("the copy to %s is completed before the volume in memory is gone", job.target)
        job.before.blocked = None
        while job.reason is None and not job.copy.complete:
            if not _answered(job.step):
                _answered(job.settle)
        if not job.copy.complete or job.before.failed is not None or not _answered(job.finish):
            log.critical(
                "the copy to %s is not complete, and cannot become so: %s", job.target, job.reason
            )

    def publish_again(self) -> None:
        """Let copies in memory be found by their names when the directory with those has gone, as
        at the end of a session.
        """
        running = [self.job.target] if self.job is not None and not self._is_over else []
        for one in (*self._held.values(), *running):
            if isinstance(one.device, RamDevice) and memory.find(str(one)) is None:
                with contextlib.suppress(
                    SnapfsError, OSError
                ):  # as for the socket: whoever looks for it is told that it is not there
                    memory.publish(str(one), one.device.place)

    def give_back(self, name: str) -> bool:
        """Give up a complete copy in memory; False when there is none of that name. Whoever has it
        open keeps it.
        """
        held = self._held.pop(name, None)
        if held is None:
            return False
        held.remove()
        held.device.close()
        return True

    # Behind

    @property
    def has_work(self) -> bool:
        """Is there a copy that somebody has to go on with?"""
        return not self._is_over and self._beginning is None

    async def go_on(self, caller: Caller) -> None:
        """Copy until the copy has ended. Ends with whatever ``caller`` raises."""
        job = self._running()
        try:
            await self._copy(caller, job)
        except Left:
            if not job.unwanted and job.before.failed is None:
                raise
            job.before.hurry()
        try:
            await self._end(job)
        except Exception as exc:
            job.tries, job.hindrance = job.tries + 1, str(exc)
            raise
        await caller.tell(self.status())

    async def _copy(self, caller: Caller, job: CopyJob) -> None:
        """Copy until nothing is left, or nobody wants it."""
        pace = CopyPace(job)
        told = settled = time.monotonic()
        while True:
            now = time.monotonic()
            if now - told >= EVENT_SECONDS:
                told = now
                await caller.tell(self.status())
            if (
                job.unwanted
                or job.before.failed is not None
                or (job.copy.complete and await self._apart(job, job.finish))
            ):
                return
            if job.wishes.paused or job.wishes.rate == 0 or job.before.blocked is not None:
                await self._apart(job, job.settle)
                if not self._is_live and job.before.blocked is not None:
                    reason = f"{job.target.path}: the copy cannot go on: {job.before.blocked}"
                    raise CopyError(
                        f"{reason}; when it can, run 'snapfs copy resume {quoted(job.target.path)}'"
                    )
                await caller.pause(IDLE_SECONDS)
                if job.before.blocked is not None and not job.wishes.paused:
                    await self._apart(job, job.step)
                continue
            done = await self._apart(job, functools.partial(job.step, pace.piece))
            if not done or job.copy.unsettled >= SETTLE_BYTES or now - settled >= SETTLE_SECONDS:
                await self._apart(job, job.settle)
                settled = time.monotonic()
            if not job.copy.complete:
                await pace.keep(caller, done)

    async def _end(self, job: CopyJob) -> None:
        if job.unwanted:
            await self._end_unwanted(job)
        elif job.before.failed is not None:
            await self._release(job, FAILED_STATE)
            if self._is_live:  # else the command says so
                log.error("the copy to %s has failed: %s", job.target, job.reason)
        else:
            await self._release(job, COMPLETE)
            log.info("the copy to %s is complete", job.target)

    async def _end_unwanted(self, job: CopyJob) -> None:
        await self._fail(job, "it was cancelled")
        job.removed = bool(await self._in_a_moment(job.remove_target))
        await self._release(job, CANCELLED)
        log.info("the copy to %s was cancelled", job.target)

    async def _fail(self, job: CopyJob, reason: str) -> None:
        """Let a copy fail. Raises ``CopyError`` when it has not, and nothing may be overwritten
        before it is copied.
        """
        trouble = "it does not answer"
        if job.before.failed is None:
            try:
                await self._in_a_moment(lambda: job.fail(reason))
            except DeviceError as exc:
                trouble = str(exc)
        if job.before.failed is None:
            raise CopyError(
                f"{self._image}: the copy to {job.target} cannot be given up now: {trouble}"
            )

    async def _release(self, job: CopyJob, ended: str) -> None:
        """The volume forgets it, and so do we."""
        volume = self._fs.volume
        if ended == COMPLETE and isinstance(job.target.device, RamDevice):
            self._held[str(job.target)] = job.target
        known = volume.copies.current
        if known is not None and known.id == job.mark.id:
            try:
                await self._engine.arrange(unregister, volume)
            except SnapfsError as exc:
                log.warning(
                    "the copy to %s has ended, and is looked for at the next mount: %s",
                    job.target.path,
                    exc,
                )
        detach(volume)
        await self._in_a_moment(lambda: job.close(ended))
        job.ended = job.ended or ended


def _answered(work: Callable[[], T]) -> T:
    """What work on a copy gives. Raises ``CopyError`` when its target does not answer for long."""
    attempt = Attempt(work)
    if not attempt.wait(WAIT_SECONDS):
        raise CopyError("its target does not answer")
    return attempt.result()
