"""The commands of full copies: begin one, tell how far it is, pause it, give it up (D1 to D4). What
goes on behind is in ``filling``.

A daemon copies behind for as long as it lives. For an image that nobody has mounted the command
itself copies to the end, and where it stops another one goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from snapfs.control.copies import memory
from snapfs.control.copies.apart import Left, never
from snapfs.control.copies.filling import Beginning, Filling
from snapfs.control.copies.nested import refuse_nested
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import NO_LIMIT, Result
from snapfs.copying import (
    CANCELLED,
    COPYING,
    FAILED_STATE,
    CopyJob,
    Wishes,
    detach,
    give_up,
    map_file,
    resume_unregistered,
    target,
    without_copy,
)
from snapfs.device import RamDevice, is_memory
from snapfs.errors import CopyError, UsageError
from snapfs.snapshots.paths import path_bytes

log = logging.getLogger("snapfs.copying")

#: Seconds between two events.
EVENT_SECONDS: Final = 0.25

#: Threads that may be waiting for targets of earlier copies which do not answer: each keeps a
#: target open.
LEFT_MAX: Final = 8


class Copying(Filling):
    """The commands. See ``Filling``."""

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
        """Make the target a copy of this moment. Returns when it can be used as that; without a
        daemon, when it is complete.
        """
        paths = [path_bytes(path) for path in first]
        volume = self._fs.volume
        self._check_free()
        # What nobody writes need not know of its copy, and is not changed for it.
        registered = not volume.read_only and (self._is_live or map_outside is False)
        if is_memory(destination):
            memory.check_name(destination)
            if not self._is_live:
                raise UsageError(
                    f"{destination}: memory belongs to the daemon of a mounted volume: "
                    f"mount {self._image} first"
                )
            map_outside = True
        if map_outside is False and not registered:
            raise UsageError(
                "the volume cannot be written, so the map cannot be on it: use --map outside"
            )
        outside = map_outside is True or not registered
        if self.apart.left >= LEFT_MAX:
            raise CopyError(
                f"{destination}: the targets of {self.apart.left} earlier copies do not "
                "answer: nothing more is tried before they do"
            )
        self._beginning = beginning = Beginning(destination)
        try:
            prepared = await self.apart.run(
                lambda: self._prepare(destination, force=force),
                over=lambda: beginning.unwanted,
                undo=_give_back,
            )
            job: CopyJob | None = None
            try:
                job = await self._engine.at_rest(
                    CopyJob.begin,
                    volume,
                    prepared,
                    wishes,
                    registered=registered,
                    source_path=self._source_place(),
                    owner=owner,
                )
                self.job = job
                await self._set_up(job, paths, registered=registered, outside=outside, force=force)
            except BaseException as exc:
                reason = job and job.before.failed
                await self._abandon(
                    beginning, prepared, job, str(exc), is_left=isinstance(exc, Left)
                )
                if isinstance(exc, Left) and reason is not None:
                    raise CopyError(f"{destination}: the copy has failed: {reason}") from exc
                raise
        except Left as exc:
            raise CopyError(
                f"{destination}: the copy was cancelled; its target does not answer"
            ) from exc
        finally:
            self._beginning, beginning.is_over = None, True
            self.wake()  # what could not be given up is tried again
        if not self._is_live:
            await self.go_on(caller)
        # What only memory has is not safe before it is copied, whatever the caller does next.
        while (
            self._is_live
            and self._is_volatile
            and not job.target.in_memory
            and job.state == COPYING
            and job.wishes.rate != 0
            and not job.unwanted
        ):
            await caller.tell(self.status())
            await caller.pause(EVENT_SECONDS)
        return self.status()

    async def _set_up(
        self, job: CopyJob, paths: Sequence[bytes], *, registered: bool, outside: bool, force: bool
    ) -> None:
        await self._apart(job, lambda: job.copy_initial_part(paths, self._check_wanted))
        if job.target.in_memory:
            job.map_file = map_file.map_in_memory(job.copy.map.size)
        elif outside:
            where = map_file.map_path(job.target)
            job.map_file = await self._apart(
                job,
                lambda: map_file.make_map(
                    where, job.copy.map.size, force=force, refuse=self._refuse
                ),
                undo=map_file.discard,
            )
        if registered and not job.target.in_memory:
            # From here on whoever opens the volume looks for the copy, and forgets it while its
            # target does not say that it is set up.
            job.record = await self._engine.arrange(job.register, self._fs.volume)
        await self._apart(job, job.put_map)
        self._check_wanted()
        await self._apart(job, job.set_up)
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._beginning is not None and self._beginning.unwanted:
            raise CopyError(f"{self._beginning.destination}: the copy was cancelled")

    def _source_place(self) -> str:
        device = self._fs.volume.device
        return device.place if isinstance(device, RamDevice) else self._image

    def _prepare(self, destination: str, *, force: bool) -> target.CopyTarget:
        volume = self._fs.volume
        if is_memory(destination):
            return target.in_memory(destination, volume.geometry.size, memory.publish)
        return target.prepare(
            destination,
            without_copy(volume.device),
            volume.geometry.size,
            force=force,
            refuse=self._refuse,
        )

    def _refuse(self, path: str, status: os.stat_result) -> None:
        """Raises ``UsageError`` for a place in the volume itself: whoever writes there waits for
        this daemon.
        """
        if self._mount_device is not None:
            refuse_nested(path, status, self._mount_device)

    async def _abandon(
        self,
        beginning: Beginning,
        prepared: target.CopyTarget,
        job: CopyJob | None,
        reason: str,
        *,
        is_left: bool,
    ) -> None:
        """It could not be set up: leave nothing of it, also when the task is being cancelled.

        What says that it is the copy, and cannot be made to say that it is not, stays one, which is
        given up behind.
        """
        with self.apart.shielded():
            if job is None:
                beginning.removed = bool(await self._in_a_moment(prepared.remove))
                await self._in_a_moment(prepared.device.close)
                return
            if is_left:
                job.before.hurry()
            try:
                try:
                    await self._fail(job, reason)
                except CopyError as exc:
                    if job.seems_whole:
                        log.warning("%s; it is tried again", exc)
                beginning.removed = not job.seems_whole and bool(
                    await self._in_a_moment(job.remove_target)
                )
                if not job.seems_whole:
                    await self._release(job, FAILED_STATE)
            finally:
                if job.seems_whole:
                    job.unwanted = True
                else:
                    job.ended = FAILED_STATE
                    detach(self._fs.volume)
                    self.job = None

    async def resume(
        self, caller: Caller, destination: str | None, *, rate: int | None, owner: int
    ) -> Result:
        """Go on with a copy that was paused or interrupted, at another rate if one is given."""
        volume = self._fs.volume
        if self._is_over and destination is not None and volume.copies.current is None:
            where = destination
            resumed = await self.apart.run(
                lambda: resume_unregistered(volume, where, since_ns=time.time_ns(), owner=owner),
                over=never,
                undo=CopyJob.close,
            )
            # A daemon may have begun something else meanwhile, or have written before the copy
            # stood before its device.
            if (
                self.has_work
                or self._beginning is not None
                or volume.generation != resumed.mark.generation
                or volume.unsaved
            ):
                if volume.device is resumed.before:
                    detach(volume)
                await self._in_a_moment(resumed.close)
                raise CopyError(
                    f"{where}: its source {self._image} is being changed: unmount it, "
                    "and go on with the copy then"
                )
            self.job = resumed
        job = self._running()
        wished = Wishes(
            job.wishes.copy_first,
            job.wishes.rate if rate is None else None if rate == NO_LIMIT else rate,
        )
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
        """Give the copy up: its target is of no use then, and goes if it was made for the copy. Or
        a complete one in memory by its name.
        """
        if name is not None and self.give_back(name):
            return {"state": CANCELLED, "destination": name, "removed": True}
        beginning = self._beginning
        if name is not None and name not in (
            beginning and beginning.destination,
            str(self.job and self.job.target),
        ):
            raise CopyError(f"{name}: no such copy in memory")
        if beginning is not None:
            result = {**self.status(), "state": CANCELLED}
            beginning.unwanted = True
            while not beginning.is_over:
                await caller.pause(0.02)
            return {**result, "removed": beginning.removed, "moved": False}
        if not self._is_live and self.job is None and self._fs.volume.copies.current is not None:
            result = {**self.status(), "state": CANCELLED}
            return {**result, "removed": await caller.in_thread(give_up, self._fs.volume)}
        job = self._running()
        result = {**self.status(), "state": CANCELLED}
        job.unwanted = True
        tries = job.tries
        self.wake()
        while self._is_live and job.ended is None:
            if job.tries > tries:
                raise CopyError(f"{job.hindrance}; it is tried again until it works")
            await caller.pause(0.02)
        if job.ended is None:
            await self._end_unwanted(job)
        return {**result, "removed": job.removed, "moved": job.target.made and not job.removed}

    def _check_free(self) -> None:
        where = None
        if self._beginning is not None or not self._is_over:
            where = (
                self._beginning.destination
                if self._beginning is not None
                else str(self.job and self.job.target)
            )
        elif (
            self._fs.volume.copies.current is not None
        ):  # the copy would think that it is of itself
            where = os.fsdecode(self._fs.volume.copies.current.destination)
        if where is not None:
            raise CopyError(
                f"{self._image}: a copy of it to {where} is running already: wait until "
                "it is complete, or cancel it"
            )

    async def _remember(self, job: CopyJob) -> None:
        if job.record is not None:
            job.record = replace(job.record, paused=job.wishes.paused, rate=job.wishes.rate)
            await self._engine.arrange(self._fs.volume.copies.put, job.record)


def _give_back(prepared: target.CopyTarget) -> None:
    """Nobody wants what was prepared."""
    prepared.remove()
    prepared.device.close()
