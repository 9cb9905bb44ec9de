"""The commands of full copies: begin one, tell how far it is, pause it, give it up; and the work that goes on behind (D1 to D4).

A daemon copies behind for as long as it lives. For an image that nobody has mounted the command itself copies to the end, and where it
stops another one goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from snapfs.control import copies, memory
from snapfs.control.caller import Caller
from snapfs.control.nested import refuse_nested
from snapfs.control.protocol import NO_LIMIT, Result
from snapfs.copying import (
    CANCELLED,
    COMPLETE,
    COPYING,
    FAILED_STATE,
    Job,
    Wishes,
    detach,
    give_up,
    map_file,
    resume_unregistered,
    target,
    unregister,
    without_copy,
)
from snapfs.device import RamDevice, is_memory
from snapfs.errors import CopyError, SnapfsError, UsageError
from snapfs.filesystem import Filesystem
from snapfs.printable import quoted
from snapfs.snapshots.paths import path_bytes

log = logging.getLogger("snapfs.copying")

#: What was copied is made durable when it is so much, or so old.
SETTLE_BYTES: Final = 32 << 20
SETTLE_SECONDS: Final = 1.0

#: Seconds between two looks at a copy that does not go on.
IDLE_SECONDS: Final = 1.0

#: Seconds between two events.
EVENT_SECONDS: Final = 0.25

#: Pieces of a rate's worth in a second, at least.
PIECES: Final = 8


class Engine(Protocol):
    """What of ``engine.Engine`` is needed here."""

    async def arrange(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core; durable when it returns."""

    async def at_rest(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function when everything is durable."""


class Copying:
    """The copies of one volume: one at a time. ``job`` is the one that goes on, or the last one.

    ``mount_device``: the device number of the mount of a daemon, which copies behind; None: nobody has the volume mounted.
    """

    def __init__(self, engine: Engine, fs: Filesystem, image: str, *, mount_device: int | None, job: Job | None = None) -> None:
        self._engine = engine
        self._fs = fs
        self._image = image
        self._is_live = mount_device is not None
        self._mount_device = mount_device
        self.job = job
        #: Where a copy is being set up to, and whether somebody does not want it any more.
        self._beginning: str | None = None
        self._unwanted = False
        # Is the target of the last one that could not be set up gone?
        self._removed = False
        #: Complete copies in memory by their names, which others can open as long as they are held.
        self._held: dict[str, target.Target] = {}
        #: Called when there is something to be copied behind.
        self.wake: Callable[[], None] = lambda: None

    # Commands

    async def begin(
        self,
        caller: Caller,
        destination: str,
        *,
        first: Sequence[str],
        map_outside: bool | None,
        wishes: Wishes,
        force: bool,
        owner: int,
    ) -> Result:
        """Make the target a copy of this moment. Returns when it can be used as that; without a daemon, when it is complete."""
        paths = [path_bytes(path) for path in first]
        volume = self._fs.volume
        self._check_free()
        # What nobody writes need not know of its copy, and is not changed for it.
        registered = not volume.read_only and (self._is_live or map_outside is False)
        if is_memory(destination):
            memory.check_name(destination)
            if not self._is_live:
                raise UsageError(f"{destination}: memory belongs to the daemon of a mounted volume: mount {self._image} first")
            map_outside = True
        if map_outside is False and not registered:
            raise UsageError("the volume cannot be written, so the map cannot be on it: use --map outside")
        outside = map_outside is True or not registered
        self._beginning, self._unwanted, self._removed = destination, False, False
        try:
            prepared = await caller.in_thread(self._prepare, destination, force=force)
            job: Job | None = None
            try:
                job = await self._engine.at_rest(
                    Job.begin, volume, prepared, wishes, registered=registered, source_path=self._source_place(), owner=owner
                )
                self.job = job
                await self._set_up(caller, job, paths, registered=registered, outside=outside, force=force)
            except BaseException as exc:
                await self._abandon(prepared, job, str(exc))
                raise
        finally:
            self._beginning = None
        if not self._is_live:
            await self.go_on(caller)
        self.wake()
        # What only memory has is not safe before it is copied, whatever the caller does next.
        while self._is_live and self._is_volatile and not job.target.in_memory and job.state == COPYING and job.wishes.rate != 0:
            await caller.tell(self.status())
            await caller.pause(EVENT_SECONDS)
        return self.status()

    async def _set_up(self, caller: Caller, job: Job, paths: Sequence[bytes], *, registered: bool, outside: bool, force: bool) -> None:
        await caller.in_thread(job.copy_initial_part, paths, self._check_wanted)
        if job.target.in_memory:
            job.map_file = map_file.map_in_memory(job.copy.map.size)
        elif outside:
            where = map_file.map_path(job.target)
            job.map_file = await caller.in_thread(map_file.make_map, where, job.copy.map.size, force=force, refuse=self._refuse)
        if registered and not job.target.in_memory:
            # From here on whoever opens the volume looks for the copy, and forgets it while its target does not say that it is set up.
            job.record = await self._engine.arrange(job.register, self._fs.volume)
        await caller.in_thread(job.put_map)
        self._check_wanted()
        await caller.in_thread(job.set_up)
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._unwanted:
            raise CopyError(f"{self._beginning}: the copy was cancelled")

    def _source_place(self) -> str:
        device = self._fs.volume.device
        return device.place if isinstance(device, RamDevice) else self._image

    def _prepare(self, destination: str, *, force: bool) -> target.Target:
        volume = self._fs.volume
        if is_memory(destination):
            return target.in_memory(destination, volume.geometry.size, memory.publish)
        return target.prepare(destination, without_copy(volume.device), volume.geometry.size, force=force, refuse=self._refuse)

    def _refuse(self, path: str, status: os.stat_result) -> None:
        """Raises ``UsageError`` for a place in the volume itself: whoever writes there waits for this daemon."""
        if self._mount_device is not None:
            refuse_nested(path, status, self._mount_device)

    async def _abandon(self, prepared: target.Target, job: Job | None, reason: str) -> None:
        """It could not be set up: leave nothing of it."""
        self._removed = prepared.remove()
        if job is None:
            prepared.device.close()
        else:
            with contextlib.suppress(SnapfsError):
                job.fail(reason)
            await self._release(job, FAILED_STATE)
            self.job = None

    async def resume(self, caller: Caller, destination: str | None, *, rate: int | None, owner: int) -> Result:
        """Go on with a copy that was paused or interrupted, at another rate if one is given."""
        volume = self._fs.volume
        if self._is_over and destination is not None and volume.copies.current is None:
            self.job = await caller.in_thread(resume_unregistered, volume, destination, since_ns=time.time_ns(), owner=owner)
        job = self._running()
        wished = Wishes(job.wishes.copy_first, job.wishes.rate if rate is None else None if rate == NO_LIMIT else rate)
        if job.wishes != wished:
            job.wishes = wished
            await self._remember(job)
        job.before.blocked = None
        if not self._is_live:
            await self.go_on(caller)
        self.wake()
        return self.status()

    async def pause(self) -> Result:
        """Copy nothing behind until ``resume``; what is overwritten is copied before, as always."""
        job = self._running()
        job.wishes.paused = True
        await self._remember(job)
        return self.status()

    async def cancel(self, caller: Caller, name: str | None = None) -> Result:
        """Give the copy up: its target is of no use then, and goes if it was made for the copy. Or a complete one in memory by its name."""
        if name is not None and self.give_back(name):
            return {"state": CANCELLED, "destination": name, "removed": True}
        if name is not None and name not in (self._beginning, str(self.job and self.job.target)):
            raise CopyError(f"{name}: no such copy in memory")
        if (destination := self._beginning) is not None:
            result = {**self.status(), "state": CANCELLED}
            self._unwanted = True
            while self._beginning == destination:
                await caller.pause(0.02)
            return {**result, "removed": self._removed, "moved": False}
        if not self._is_live and self.job is None and self._fs.volume.copies.current is not None:
            result = {**self.status(), "state": CANCELLED}
            return {**result, "removed": await caller.in_thread(give_up, self._fs.volume)}
        job = self._running()
        result = {**self.status(), "state": CANCELLED}
        job.unwanted = True
        self.wake()
        while self._is_live and job.ended is None:
            await caller.pause(0.02)
        if job.ended is None:
            await self._end_unwanted(caller, job)
        return {**result, "removed": self._removed, "moved": job.target.made and not self._removed}

    def status(self) -> Result:
        """How far it is, as commands are told."""
        if self.job is not None and (self._beginning is None or not self._is_over):
            return copies.of_job(self.job, self._image)
        if self._beginning is not None:
            return copies.of_preparation(self._beginning, self._image)
        record = self._fs.volume.copies.current
        return {"state": "none"} if record is None else copies.of_record(record, self._image)

    @property
    def _is_over(self) -> bool:
        return self.job is None or self.job.ended is not None

    def _running(self) -> Job:
        job, known = self.job, self._fs.volume.copies.current
        if job is not None and job.ended is None and self._beginning is None:
            return job
        if job is None and known is not None:
            where = f"{self._image}: its copy to {os.fsdecode(known.destination)}"
            raise CopyError(f"{where} is interrupted, and cannot be touched while the volume is mounted read-only")
        raise CopyError(f"{self._image}: no copy of it is running")

    def _check_free(self) -> None:
        where = None
        if self._beginning is not None or not self._is_over:
            where = self._beginning or str(self.job and self.job.target)
        elif self._fs.volume.copies.current is not None:  # the copy would think that it is of itself
            where = os.fsdecode(self._fs.volume.copies.current.destination)
        if where is not None:
            raise CopyError(f"{self._image}: a copy of it to {where} is running already: wait until it is complete, or cancel it")

    async def _remember(self, job: Job) -> None:
        if job.record is not None:
            job.record = replace(job.record, paused=job.wishes.paused, rate=job.wishes.rate)
            await self._engine.arrange(self._fs.volume.copies.put, job.record)

    def close(self) -> None:
        """The process ends. What is not copied yet is gone on with later."""
        job = self.job
        if job is not None and not self._is_over:
            if self._is_volatile and not job.target.in_memory:
                self._finish(job)
            if job.before.failed is None:
                job.settle()
            if job.target.in_memory:
                job.target.remove()
            job.close()
        for name in list(self._held):
            self.give_back(name)

    @property
    def _is_volatile(self) -> bool:
        return isinstance(without_copy(self._fs.volume.device), RamDevice)

    def _finish(self, job: Job) -> None:
        """The source is about to be gone: what is missing in the target would be lost."""
        log.info("the copy to %s is completed before the volume in memory is gone", job.target)
        job.before.blocked = None
        while job.reason is None and not job.copy.complete:
            if not job.step():
                job.settle()
        if not job.copy.complete or job.before.failed is not None or not job.finish():
            log.critical("the copy to %s is not complete, and cannot become so: %s", job.target, job.reason)

    def give_back(self, name: str) -> bool:
        """Give up a complete copy in memory; False when there is none of that name. Whoever has it open keeps it."""
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
        pace = _Pace(job)
        told = settled = time.monotonic()
        while True:
            now = time.monotonic()
            if now - told >= EVENT_SECONDS:
                told = now
                await caller.tell(self.status())
            if job.unwanted or job.before.failed is not None or (job.copy.complete and await caller.in_thread(job.finish)):
                break
            if job.wishes.paused or job.wishes.rate == 0 or job.before.blocked is not None:
                await caller.in_thread(job.settle)
                if not self._is_live and job.before.blocked is not None:
                    reason = f"{job.target.path}: the copy cannot go on: {job.before.blocked}"
                    raise CopyError(f"{reason}; when it can, run 'snapfs copy resume {quoted(job.target.path)}'")
                await caller.pause(IDLE_SECONDS)
                if job.before.blocked is not None and not job.wishes.paused:
                    await caller.in_thread(job.step)
                continue
            done = await caller.in_thread(job.step, pace.piece)
            if not done or job.copy.unsettled >= SETTLE_BYTES or now - settled >= SETTLE_SECONDS:
                await caller.in_thread(job.settle)
                settled = time.monotonic()
            if not job.copy.complete:
                await pace.keep(caller, done)
        await self._end(caller, job)
        await caller.tell(self.status())

    async def _end(self, caller: Caller, job: Job) -> None:
        if job.unwanted:
            await self._end_unwanted(caller, job)
        elif job.before.failed is not None:
            await self._release(job, FAILED_STATE)
            if self._is_live:  # else the command says so
                log.error("the copy to %s has failed: %s", job.target, job.reason)
        else:
            await self._release(job, COMPLETE)
            log.info("the copy to %s is complete", job.target)

    async def _end_unwanted(self, caller: Caller, job: Job) -> None:
        if job.before.failed is None:
            await caller.in_thread(job.fail, "it was cancelled")
        self._removed = await caller.in_thread(job.target.remove)
        await self._release(job, CANCELLED)
        log.info("the copy to %s was cancelled", job.target)

    async def _release(self, job: Job, ended: str) -> None:
        """The volume forgets it, and so do we."""
        volume = self._fs.volume
        if ended == COMPLETE and isinstance(job.target.device, RamDevice):
            self._held[str(job.target)] = job.target
        known = volume.copies.current
        if known is not None and known.id == job.mark.id:
            try:
                await self._engine.arrange(unregister, volume)
            except SnapfsError as exc:
                log.warning("the copy to %s has ended, and is looked for at the next mount: %s", job.target.path, exc)
        detach(volume)
        job.close(ended)


class _Pace:
    """Keeps a copy at the rate that is wanted."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._due = time.monotonic()

    @property
    def piece(self) -> int:
        """Bytes to copy at once."""
        rate = self._job.wishes.rate
        return 1 << 20 if rate is None else min(1 << 20, max(1, rate // PIECES))

    async def keep(self, caller: Caller, done: int) -> None:
        """Wait until ``done`` bytes were allowed."""
        rate = self._job.wishes.rate
        if not rate:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1 / PIECES) + done / rate
        if self._due > now:
            await caller.pause(min(self._due - now, IDLE_SECONDS))
