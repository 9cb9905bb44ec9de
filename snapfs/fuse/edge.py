"""The edge between the event loop and the core: runs core calls, feeds them, commits, and works in the background.

A core call changes the volume in one synchronous stretch or not at all. Where it cannot go on it says why (``NotCached``,
``CommitNeeded``), has changed nothing, and is called again when that is mended; so nothing here needs a lock on metadata. What the
kernel must be told or asked stands behind ``Kernel``; requests and their replies are the operations' business.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import trio

from snapfs import snapshots
from snapfs.errors import (
    CommitNeeded,
    CorruptBlock,
    DeviceFull,
    Interrupt,
    NoSpace,
    NotCached,
    NotReady,
    ReadOnly,
    SnapfsError,
    SnapshotBusy,
)
from snapfs.filesystem import Filesystem
from snapfs.fuse.commits import Commits, fetch
from snapfs.fuse.discarding import Discarding
from snapfs.fuse.gate import Gate
from snapfs.fuse.neighbours import Kernel, NoKernel, NoRoom, Room
from snapfs.ids import BASE_VIEW
from snapfs.snapshots import Facts, Instance, Permit, Place, RestoreResult, SetDeletion, Target

log = logging.getLogger("snapfs.fuse")

P = ParamSpec("P")
T = TypeVar("T")

#: Snapshot operations that may wait for one another. Each keeps one of the loop's tasks, and some must be left to serve the kernel.
WAITING_LIMIT: Final = 50

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


class Edge:
    """Drives one filesystem. ``run`` must be running while anything is called."""

    def __init__(self, fs: Filesystem, *, commit_seconds: float = 5.0) -> None:
        self.fs = fs
        self.volume = fs.volume
        self.kernel: Kernel = NoKernel()
        self.room: Room = NoRoom()
        #: The snapshot that somebody is restoring or making a snapshot of (0: none): no time to delete it for its space.
        self.spared = BASE_VIEW
        self.gate = Gate()
        #: Requests of the kernel by name, for ``snapfs info``.
        self.requests: Counter[str] = Counter()
        #: Requests that are being worked on.
        self.in_progress = 0
        self.discarding = Discarding(self.volume)
        self.commits = Commits(self.volume, self.discarding, self.work_soon, lambda: self.in_progress == 1)
        self.volume.became_read_only = self._became_read_only
        self._commit_seconds = commit_seconds
        self._snapshot_lock = trio.Lock()
        self._work_wanted = trio.Event()
        self._work_done = trio.Event()
        self._work_done.set()

    # --- core calls ---

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a core function that changes nothing that a snapshot would show.

        When the function's result arrives, no other task has run since it was found: callers may rely on it.
        """
        attempts = None
        try:
            while True:
                try:
                    return function(*args, **kwargs)
                except Interrupt as why:
                    attempts = attempts or _Attempts(may_reclaim=function != self.volume.allocator.reclaim)
                    await self._mend(why, attempts)  # anything may happen meanwhile: the function looks at everything anew
        except CorruptBlock as exc:
            self.volume.damaged(exc)
            raise

    async def change(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for one that changes something: waits while a snapshot is being made, or while too much waits for a commit."""
        while True:
            try:
                return await self._change(function, *args, **kwargs)
            except NoSpace:
                if not await self.room.make():  # anything may happen meanwhile
                    raise

    async def _change(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        attempts = None
        try:
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
                    if attempts.is_host_full or not (allocator.waiting or allocator.in_flight or allocator.more_to_come()):
                        raise
                    # What is about to be free has its space on the host.
                    attempts.is_host_full = True
                    await self._mend(CommitNeeded(), attempts)
        except CorruptBlock as exc:
            self.volume.damaged(exc)
            raise

    def _became_read_only(self, reason: str) -> None:
        lost = "; what was changed since the last commit is lost when it is unmounted" if self.volume.unsaved else ""
        log.critical("the volume is read-only from now on: %s%s", reason, lost)

    async def _mend(self, why: Interrupt, attempts: _Attempts) -> None:
        """Do what a core call was interrupted for. Raises ``NoSpace`` when there turns out to be none to be had."""
        if isinstance(why, NotCached):
            attempts.trusting = await fetch(self.volume, why.wants, trusting=attempts.trusting)
            return
        if isinstance(why, NotReady):
            await trio.to_thread.run_sync(self.volume.device.make_ready, why.runs)
            return
        allocator = self.volume.allocator
        steps = 0
        # Background work does the same in its own time.
        while attempts.may_reclaim and allocator.more_to_come() and steps < RECLAIM_STEPS:
            await self.call(allocator.reclaim)
            steps += 1
        discarded = await self.discarding.piece_done()
        committed = await self.commits.commit()
        attempts.commits += 1
        if (not steps and not discarded and not committed and attempts.commits > 1) or attempts.commits > COMMIT_TRIES:
            raise NoSpace("no space left on the volume")

    async def commit(self) -> None:
        """Return when everything done before the call is durable. Raises ``DeviceError``, ``ReadOnly``."""
        await self.commits.commit()

    # --- snapshots ---

    async def create_snapshot(
        self,
        name: str,
        *,
        origin: int = BASE_VIEW,
        targets: Sequence[Target] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        facts: Facts = snapshots.NO_FACTS,
    ) -> Instance:
        """Make a snapshot that has everything whose write returned before this call; durable when it returns."""
        snapshots.check_name(name)
        async with self._snapshots_alone():
            self.spared = origin
            async with self._at_moment({origin}) as go_on:
                instance = await self.change(
                    snapshots.create, self.fs, name, origin=origin, targets=targets, owner=owner, permit=permit, facts=facts
                )
                try:
                    # The snapshot is the state that is sealed.
                    await self.commits.commit(sealed=go_on)
                except SnapfsError:
                    with suppress(SnapfsError):  # of a volume that has become read-only nothing comes into being any more
                        await self.change(snapshots.abandon, self.fs, instance)
                    raise
        return instance

    @asynccontextmanager
    async def _at_moment(self, view_ids: Collection[int] | None) -> AsyncIterator[Callable[[], None]]:
        """A moment that all writes to these views (None: all) are before or after, until the context ends, or what it gives is called."""
        # Users write on during both. So there is little left for the pause, in which they wait.
        await self.kernel.flush(view_ids)
        await self.commits.commit()
        async with self.kernel.paused(view_ids) as go_on:
            yield go_on

    async def delete_snapshot(self, name: str, *, asked_by: int | None = None, permit: Permit = snapshots.anyone) -> Instance:
        """Delete a snapshot; its space comes back in the background. ``asked_by``: the ``.snap`` in which it was done, if in one."""
        deletion = await self.delete_snapshots([name], asked_by=asked_by, permit=permit)
        for refusal in deletion.refused.values():
            raise refusal
        return deletion.deleted[0]

    async def delete_snapshots(
        self, names: Sequence[str], *, asked_by: int | None = None, permit: Permit = snapshots.anyone
    ) -> SetDeletion:
        """Delete several with one commit, all that can be."""
        async with self._snapshots_alone():
            deletion = await self.change(snapshots.delete_set, self.fs, names, permit=permit)
            failure = await self._failure() if deletion.deleted else None
        self.work_soon()
        for instance in deletion.deleted:
            await self.kernel.view_ended(instance.id, asked_by=asked_by)
        if failure is not None:
            raise failure
        return deletion

    async def settle(self) -> None:
        """Have all that users have written until now on the volume, as before a snapshot, if it can be written at all."""
        if not self.volume.read_only:
            await self.kernel.flush()
            await self.commits.commit()

    async def at_rest(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that never waits at a moment when all that was written before this call is durable, and nothing is dirty."""
        if self.volume.read_only:
            return function(*args, **kwargs)
        async with self._snapshots_alone(), self._at_moment(None), self.gate.closed():
            while self.volume.unsaved:  # background work may have gone on
                await self.commits.commit()
            return function(*args, **kwargs)

    async def rename_snapshot(
        self, name: str, new_name: str, *, asked_by: int | None = None, permit: Permit = snapshots.anyone
    ) -> Instance:
        """Rename a snapshot."""
        async with self._snapshots_alone():
            instance = await self.change(snapshots.rename, self.fs, name, new_name, permit=permit)
            failure = await self._failure()
        await self.kernel.view_renamed(instance.id, asked_by=asked_by)
        if failure is not None:
            raise failure
        return instance

    async def change_facts(self, name: str, change: Callable[[Facts], Facts], *, permit: Permit = snapshots.anyone) -> Instance:
        """Say something else about a snapshot. One that becomes read-only has all that was written into it before this call."""
        async with self._snapshots_alone():
            instance = await self.call(snapshots.get, self.fs, name)
            await self.call(snapshots.check_permitted, self.fs, instance, permit)  # before anybody is made to wait for the kernel
            if snapshots.facts_after(instance, change).read_only and not instance.facts.read_only:
                await self.kernel.flush({instance.id})
            instance = await self.change(snapshots.change_facts, self.fs, name, change, permit=permit)
            failure = await self._failure()
        if failure is not None:
            raise failure
        return instance

    async def restore(self, name: str, *, paths: Sequence[str] = (), owner: int = 0, permit: Permit = snapshots.anyone) -> RestoreResult:
        """Go back to a snapshot while the volume is in use. The state from before has all that was written before this call."""
        async with self._snapshots_alone():
            instance = await self.call(snapshots.get, self.fs, name)
            self.spared = instance.id
            if not paths:
                await self.call(snapshots.check_permitted, self.fs, instance, permit)  # before anybody is made to wait for the kernel
            # Or what the kernel holds would be written over the restored state later.
            async with self._at_moment({BASE_VIEW, instance.id}), self.gate.closed():
                try:
                    result = await self.call(snapshots.restore, self.fs, name, paths=paths, owner=owner, permit=permit)
                finally:
                    snapshots.give_up_restore(self.fs)  # unless it is through
                if result.changed:
                    log.info("%s", snapshots.last_in_words(self.fs))
            failure = await self._failure()
        # Gate and lock are free: forgetting may make the kernel write, and wait for requests that wait for the lock.
        if result.changed:
            await self.kernel.restored(result)
        self.work_soon()
        if failure is not None:
            raise failure
        return result

    async def arrange(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the core that changes what is planned and nothing that shows; durable when it returns."""
        async with self._snapshots_alone():
            result = await self.change(function, *args, **kwargs)
            await self.commits.commit()
        return result

    async def purge(self, places: Sequence[Place], *, permit: Permit = snapshots.anyone) -> list[Place]:
        """Take names out of snapshots; durable when it returns. Their space comes back in the background."""
        done: list[Place] = []
        failure: SnapfsError | None = None
        async with self._snapshots_alone():
            for portion in snapshots.portions(places):
                try:
                    taken = await self.change(snapshots.take_out, self.fs, portion, permit=permit)
                    done += taken
                    with suppress(NoSpace):
                        # What is small is gone with the same commit, and need not be listed.
                        await self.call(self.fs.orphans.work_for, len(taken))
                except SnapfsError as exc:
                    failure = exc
                failure = failure or await self._failure()
                if failure is not None:
                    break
        self.work_soon()
        await self.kernel.purged(done)
        if failure is not None:
            raise failure
        log.info("purge: %d names are gone from %d snapshots", len(done), len({place.instance.id for place in done}))
        return done

    async def work(self) -> bool:
        """A step of background work, for somebody who waits for it; True while there is more."""
        return await self._step()

    async def _failure(self) -> SnapfsError | None:
        """Commit what was changed already; what went wrong with that. Whatever it was, the kernel must hear of the change."""
        try:
            await self.commits.commit()
        except SnapfsError as exc:
            return exc
        return None

    @asynccontextmanager
    async def _snapshots_alone(self) -> AsyncIterator[None]:
        if self.volume.read_only:
            raise ReadOnly(self.volume.read_only_reason or "the volume is mounted read-only: snapshots cannot be changed")
        if self._snapshot_lock.statistics().tasks_waiting >= WAITING_LIMIT:
            raise SnapshotBusy(f"{WAITING_LIMIT} snapshot operations are waiting already: try again later")
        async with self._snapshot_lock:
            try:
                yield
            finally:
                self.spared = BASE_VIEW

    # --- in the background ---

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
        """One step of background work, and a pause that leaves half of the time to users who have something to do."""
        await self.gate.passed()  # who keeps changes out may wait until nothing is dirty
        requests = self.requests.total()
        began = trio.current_time()
        more = await self.call(self.fs.work)
        took = trio.current_time() - began
        await trio.lowlevel.checkpoint()  # requests run
        if self.requests.total() != requests:
            await trio.sleep(took)
        return more

    async def finish(self, seconds: float = 2.0) -> None:
        """After the last request: work off what can be done in a moment, and commit the rest. Raises ``DeviceError``."""
        if self.volume.read_only or self.volume.read_only_reason is not None:
            return
        with trio.move_on_after(seconds):
            # Cancelled between steps only: a step has no checkpoint once it has begun to change something.
            await self._work_done.wait()
        await self.commits.commit()
        await self.discarding.finish()
