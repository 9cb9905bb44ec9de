"""Running core calls: feeding them, committing for them, and what they leave to the background.

A core call changes the volume in one synchronous stretch or not at all. Where it cannot go on it
says why (``NotCached``, ``CommitNeeded``), has changed nothing, and is called again when that is
mended; so nothing here needs a lock on metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import trio

from snapfs.errors import (
    CorruptBlock,
    DeviceFull,
    NoSpace,
    SnapfsError,
)
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.commits import Commits
from snapfs.fuse.driving.discarding import Discarding
from snapfs.fuse.driving.fetching import fetch
from snapfs.fuse.driving.gate import Gate
from snapfs.fuse.driving.metrics import Metrics
from snapfs.fuse.driving.neighbours import NoRoom, Room
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.protocol.wire import Op
from snapfs.interrupts import (
    CommitNeeded,
    Interrupt,
    NotCached,
    NotReady,
)
from snapfs.store.commit.guard import broke_off

log = logging.getLogger("snapfs.fuse")

P = ParamSpec("P")
T = TypeVar("T")

#: Steps of background work that a change does itself when it finds no space.
RECLAIM_STEPS: Final = 16

#: How often one core call is given blocks by a commit that others then take.
COMMIT_TRIES: Final = 1000


@dataclass
class _Attempts:
    """What was tried already to get one core call through."""

    may_reclaim: bool = True
    trusting: bool = True
    commits: int = 0
    is_host_full: bool = False


class Calls:
    """Drives one filesystem. ``run`` must be running while anything is called."""

    def __init__(self, fs: Filesystem, *, commit_seconds: float = 5.0) -> None:
        self.fs = fs
        self.volume = fs.volume
        self.room: Room = NoRoom()
        self.gate = Gate()
        #: Requests of the kernel by name, for ``snapfs info``.
        self.requests = dict.fromkeys((op.name.lower() for op in Op), 0)
        self.metrics = Metrics()
        #: Requests that are being worked on.
        self.in_progress = 0
        self.discarding = Discarding(self.volume)
        self.commits = Commits(
            self.volume,
            self.discarding,
            self.metrics,
            self.work_soon,
            lambda: self.in_progress == 1,
        )
        self.volume.became_read_only = self._became_read_only
        self._commit_seconds = commit_seconds
        self._work_wanted = trio.Event()
        self._work_done = trio.Event()
        self._work_done.set()

    # --- core calls ---

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a core function that changes nothing.

        When the function's result arrives, no other task has run since it was found: callers may
        rely on it.
        """
        attempts = None
        while True:
            try:
                return function(*args, **kwargs)
            except Interrupt as why:
                attempts = attempts or _Attempts()
                await self._mend(
                    why, attempts
                )  # anything may happen meanwhile: the function looks at everything anew
            except CorruptBlock as exc:
                broke_off(self.volume, exc)
                raise

    async def change_behind(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same for one that changes what no snapshot would show, or while the caller keeps the
        gate closed. See ``change``.
        """
        attempts = None
        while True:
            try:
                return self.in_one(function, *args, **kwargs)
            except Interrupt as why:
                attempts = attempts or _Attempts(
                    may_reclaim=function != self.volume.allocator.reclaim
                )
                await self._mend(why, attempts)  # as above

    def in_one(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a core function that changes something, now. What breaks off in the middle of it ends
        writing: ``store.commit.guard``.
        """
        try:
            return function(*args, **kwargs)
        except BaseException as exc:
            broke_off(self.volume, exc)
            raise

    async def change(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for one that changes something: waits while a snapshot is being made, or while
        too much waits for a commit.
        """
        while True:
            try:
                return await self._change(function, *args, **kwargs)
            except NoSpace:
                if not await self.room.make():  # anything may happen meanwhile
                    raise

    async def _change(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        attempts = None
        while True:
            if self.volume.commit_wanted:
                await self.commits.relieve()  # anything may happen meanwhile, as in all that follow
            if self.gate.is_closed:
                await self.gate.passed()
            try:
                return function(*args, **kwargs)
            except Interrupt as why:
                attempts = attempts or _Attempts()
                await self._mend(why, attempts)
            except DeviceFull:
                allocator = self.volume.allocator
                attempts = attempts or _Attempts()
                if attempts.is_host_full or not (
                    allocator.waiting or allocator.in_flight or allocator.more_to_come()
                ):
                    raise
                # What is about to be free has its space on the host.
                attempts.is_host_full = True
                await self._mend(CommitNeeded(), attempts)
            except BaseException as exc:
                broke_off(self.volume, exc)
                raise

    def _became_read_only(self, reason: str) -> None:
        lost = (
            "; what was changed since the last commit is lost when it is unmounted"
            if self.volume.unsaved
            else ""
        )
        log.critical("the volume is read-only from now on: %s%s", reason, lost)

    async def _mend(self, why: Interrupt, attempts: _Attempts) -> None:
        """Do what a core call was interrupted for. Raises ``NoSpace`` when there turns out to be
        none to be had.
        """
        if isinstance(why, NotCached):
            try:
                attempts.trusting = await fetch(self.volume, why.wants, trusting=attempts.trusting)
            except CorruptBlock as exc:
                broke_off(self.volume, exc)
                raise
            return
        if isinstance(why, NotReady):
            await in_thread(Pool.COPIES, self.volume.device.make_ready, why.runs)
            return
        allocator = self.volume.allocator
        steps = 0
        # Background work does the same in its own time.
        while attempts.may_reclaim and allocator.more_to_come() and steps < RECLAIM_STEPS:
            await self.change_behind(allocator.reclaim)
            steps += 1
        discarded = await self.discarding.piece_done()
        committed = await self.commits.commit()
        attempts.commits += 1
        if (
            not steps and not discarded and not committed and attempts.commits > 1
        ) or attempts.commits > COMMIT_TRIES:
            raise NoSpace("no space left on the volume")

    async def commit(self) -> None:
        """Return when everything done before the call is in a durable generation. Raises
        ``DeviceError``, ``ReadOnly``.
        """
        await self.commits.commit()

    async def sync(self) -> None:
        """Return when everything done before the call is durable. Raises as ``commit``."""
        await self.commits.sync()

    # --- in the background ---

    async def work(self) -> bool:
        """A step of background work, for somebody who waits for it; True while there is more."""
        return await self._step()

    def work_soon(self) -> None:
        """There may be something to do in the background."""
        if not self.volume.read_only and self.volume.read_only_reason is None:
            self._work_done = trio.Event() if self._work_done.is_set() else self._work_done
            self._work_wanted.set()

    async def run(self) -> None:
        """Commit, and work in the background, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.commits.run)
            if not self.volume.read_only:
                nursery.start_soon(self.discarding.run)
                nursery.start_soon(self._commit_regularly)
                nursery.start_soon(self._work)
                self.work_soon()

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(self._commit_seconds)
            if self.volume.device.taken is not None:  # whoever finds that tells nobody
                self.volume.end_writing(self.volume.device.taken)
            self.commits.soon()

    async def _work(self) -> None:
        while True:
            await self._work_wanted.wait()  # idle
            self._work_wanted = trio.Event()
            try:
                while await self._step():
                    pass
            except SnapfsError as exc:
                # It is tried again after the next commit, if there can be one.
                if self.volume.read_only_reason is None:
                    log.warning("background work: %s", exc)
            except Exception:
                log.exception("background work: internal error")
            if not self._work_wanted.is_set():
                self._work_done.set()
                self.room.soon()

    async def _step(self) -> bool:
        """One step of background work, and a pause that leaves half of the time to users who have
        something to do.
        """
        await self.gate.passed()  # who keeps changes out may wait until nothing is dirty
        requests = sum(self.requests.values())
        began = trio.current_time()
        more = await self.change_behind(self.fs.work)
        took = trio.current_time() - began
        await trio.lowlevel.checkpoint()  # requests run
        if sum(self.requests.values()) != requests:
            await trio.sleep(took)
        return more

    async def finish(self, seconds: float = 2.0) -> None:
        """After the last request: work off what can be done in a moment, and commit the rest.
        Raises ``DeviceError``.
        """
        if self.volume.read_only or self.volume.read_only_reason is not None:
            return
        with trio.move_on_after(seconds):
            # Cancelled between steps only: a step has no checkpoint once it has begun to change
            # something.
            await self._work_done.wait()
        self.volume.sync_log.give_up()
        await self.commits.commit()
        await self.discarding.finish()
