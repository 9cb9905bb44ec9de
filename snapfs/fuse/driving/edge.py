"""The edge between the event loop and the core: what is done with snapshots while the volume is in
use.

What the kernel must be told or asked stands behind ``Kernel``; requests and their replies are the
operations' business.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, ParamSpec, TypeVar

import trio

from snapfs import snapshots
from snapfs.errors import NoSpace, ReadOnly, SnapfsError, SnapshotBusy
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.allowance import Allowance
from snapfs.fuse.driving.calls import Calls
from snapfs.fuse.driving.neighbours import Kernel, NoKernel
from snapfs.fuse.driving.restoring import check_mounts, find_outdated
from snapfs.ids import BASE_VIEW
from snapfs.snapshots import (
    Facts,
    Instance,
    NameInSnapshot,
    Permit,
    RestoreResult,
    SetDeletion,
    Target,
)

log = logging.getLogger("snapfs.fuse")

P = ParamSpec("P")
T = TypeVar("T")

#: As the ``.snap`` that a renaming was asked for in: none of which the kernel would know of the
#: renaming by itself.
NOWHERE: Final = -1

#: Snapshot operations that may wait for one another. Each keeps one of the loop's tasks, and some
#: must be left to serve the kernel.
WAITING_LIMIT: Final = 50


class Edge(Calls):
    """Drives one mounted filesystem. ``run`` must be running while anything is called."""

    def __init__(self, fs: Filesystem, *, commit_seconds: float = 5.0) -> None:
        super().__init__(fs, commit_seconds=commit_seconds)
        self.kernel: Kernel = NoKernel()
        #: The snapshot that somebody is restoring or making a snapshot of (0: none): no time to
        #: delete it for its space.
        self.spared = BASE_VIEW
        self._snapshot_lock = trio.Lock()
        self._allowance = Allowance()
        #: Called before anything is done with snapshots: whoever knows of something that is over
        #: says so.
        self.look: Callable[[], None] = lambda: None

    async def create_snapshot(
        self,
        name: str | None,
        *,
        origin: int | Instance = BASE_VIEW,
        targets: Sequence[Target] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        facts: Facts = snapshots.NO_FACTS,
    ) -> Instance:
        """Make a snapshot that has everything whose write returned before this call; durable when
        it returns. See ``snapshots.create``.
        """
        if name is not None:
            snapshots.check_name(name)
        view_id = origin if isinstance(origin, int) else origin.id
        is_privileged = snapshots.is_privileged(self.fs, owner)
        if not is_privileged:
            self._allowance.take(owner)
        moved = None
        try:
            async with self._snapshots_alone():
                moved = await self._make_way(name) if is_privileged and name is not None else None
                self.spared = view_id
                async with self._at_moment({view_id}) as go_on:
                    instance = await self.change(
                        snapshots.create,
                        self.fs,
                        name,
                        origin=origin,
                        targets=targets,
                        owner=owner,
                        permit=permit,
                        facts=facts,
                    )
                    try:
                        # The snapshot is the state that is sealed.
                        await self.commits.commit(sealed=go_on)
                    except SnapfsError:
                        with suppress(
                            SnapfsError
                            # of a volume that has become read-only nothing comes into being any
                            # more
                        ):
                            await self.change(snapshots.abandon, self.fs, instance)
                        raise
        finally:
            if (
                moved is not None
            ):  # it may be a request that made the snapshot: nobody waits for long
                await self.kernel.view_renamed(moved.id, asked_by=NOWHERE)
        return instance

    async def _make_way(self, name: str) -> Instance | None:
        """Have a snapshot of another user leave a name to who comes first: it gets the user's
        number behind its own.
        """
        instance = self.fs.volume.instances.by_name(name)
        if instance is None or snapshots.is_privileged(self.fs, instance.owner):
            return None
        free = snapshots.free_name(self.fs, f"{name}~{instance.owner}")
        await self.change(snapshots.rename, self.fs, name, free)
        log.warning(
            "the snapshot %s of user %d is named %s now: its name was needed",
            name,
            instance.owner,
            free,
        )
        return instance

    @asynccontextmanager
    async def _at_moment(
        self, view_ids: Collection[int] | None
    ) -> AsyncIterator[Callable[[], None]]:
        """A moment that all writes to these views (None: all) are before or after, until the
        context ends, or what it gives is called.
        """
        # Users write on during both. So there is little left for the pause, in which they wait.
        await self.kernel.flush(view_ids)
        await self.commits.commit()
        async with self.kernel.paused(view_ids) as go_on:
            yield go_on

    async def delete_snapshot(
        self,
        which: str | Instance,
        *,
        asked_by: int | None = None,
        permit: Permit = snapshots.anyone,
    ) -> Instance:
        """Delete a snapshot; its space comes back in the background. ``asked_by``: the ``.snap`` in
        which it was done, if in one.

        ``which``: its name, or the instance, where that was looked up before.
        """
        deletion = await self.delete_snapshots([which], asked_by=asked_by, permit=permit)
        for refusal in deletion.refused.values():
            raise refusal
        return deletion.deleted[0]

    async def delete_snapshots(
        self,
        names: Sequence[str | Instance],
        *,
        asked_by: int | None = None,
        permit: Permit = snapshots.anyone,
    ) -> SetDeletion:
        """Delete several with one commit, all that can be."""
        async with self._snapshots_alone():
            found = [self._id_of(which) for which in names]
            self.fs.rules.carriers = await self.kernel.carriers(
                [one for one in found if one is not None], is_used=asked_by is not None
            )
            try:
                deletion = await self.change(snapshots.delete_set, self.fs, names, permit=permit)
            finally:
                self.fs.rules.carriers = {}
            failure = await self._failure() if deletion.deleted else None
        self.work_soon()
        for instance in deletion.deleted:
            await self.kernel.view_ended(instance.id, asked_by=asked_by)
        if failure is not None:
            raise failure
        return deletion

    def _id_of(self, which: str | Instance) -> int | None:
        if isinstance(which, str):
            instance = self.fs.volume.instances.by_name(which)
            return None if instance is None else instance.id
        return which.id

    async def settle(self) -> None:
        """Have all that users have written until now on the volume, as before a snapshot, if it can
        be written at all.
        """
        if not self.volume.read_only:
            await self.kernel.flush()
            await self.commits.commit()

    async def at_rest(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that never waits, when all that was written before this call is durable,
        nothing is dirty, and there is no log.
        """
        if self.volume.read_only:
            return self.in_one(function, *args, **kwargs)
        async with self._snapshots_alone(), self._at_moment(None), self.gate.closed():
            self.volume.sync_log.give_up()
            while self.volume.unsaved:  # background work may have gone on
                await self.commits.commit()
            return self.in_one(function, *args, **kwargs)

    async def rename_snapshot(
        self,
        which: str | Instance,
        new_name: str,
        *,
        asked_by: int | None = None,
        permit: Permit = snapshots.anyone,
    ) -> Instance:
        """Rename a snapshot, as for ``delete_snapshot``."""
        async with self._snapshots_alone():
            instance = await self.change(snapshots.rename, self.fs, which, new_name, permit=permit)
            failure = await self._failure()
        # The kernel does not rename by itself what it is told has failed.
        await self.kernel.view_renamed(
            instance.id, asked_by=asked_by if failure is None else NOWHERE
        )
        if failure is not None:
            raise failure
        return instance

    async def change_facts(
        self, name: str, change: Callable[[Facts], Facts], *, permit: Permit = snapshots.anyone
    ) -> Instance:
        """Say something else about a snapshot. One that becomes read-only has all that was written
        into it before this call.
        """
        async with self._snapshots_alone():
            instance = await self.call(snapshots.get, self.fs, name)
            await self.call(
                snapshots.check_permitted, self.fs, instance, permit
            )  # before anybody is made to wait for the kernel
            if snapshots.facts_after(instance, change).read_only and not instance.facts.read_only:
                await self.kernel.flush({instance.id})
            instance = await self.change(
                snapshots.change_facts, self.fs, name, change, permit=permit
            )
            failure = await self._failure()
        if failure is not None:
            raise failure
        return instance

    async def fix(self, name: str) -> Instance:
        """Let nobody change or delete a snapshot until ``unfix``. It has all that was written into
        it before this call.
        """
        if self.volume.read_only:
            instance = await self.call(snapshots.get, self.fs, name)
            self.fs.rules.fixed[instance.id] += 1
            return instance
        async with self._snapshots_alone():
            instance = await self.call(snapshots.get, self.fs, name)
            self.spared = instance.id
            await self.kernel.flush({instance.id})
            self.fs.rules.fixed[instance.id] += 1
        return instance

    def unfix(self, view_id: int) -> None:
        """Take one ``fix`` back."""
        self.fs.rules.fixed[view_id] -= 1
        if not self.fs.rules.fixed[view_id]:
            del self.fs.rules.fixed[view_id]

    async def restore(
        self,
        name: str,
        *,
        paths: Sequence[str] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        detach: bool = False,
    ) -> RestoreResult:
        """Go back to a snapshot while the volume is in use. The state from before has all that was
        written before this call.

        Raises ``MountsInside`` where something is mounted on what would not stay in its place,
        unless it shall be detached.
        """
        async with self._snapshots_alone():
            instance = await self.call(snapshots.get, self.fs, name)
            self.spared = instance.id
            if not paths:
                await self.call(
                    snapshots.check_permitted, self.fs, instance, permit
                )  # before anybody is made to wait for the kernel
            if not detach:
                await check_mounts(self, self.kernel, instance, paths)
            # Or what the kernel holds would be written over the restored state later.
            async with self._at_moment({BASE_VIEW, instance.id}):
                async with self.gate.closed():
                    try:
                        result = await self.change_behind(
                            snapshots.restore,
                            self.fs,
                            name,
                            paths=paths,
                            owner=owner,
                            permit=permit,
                        )
                    finally:
                        snapshots.give_up_restore(self.fs)  # unless it is through
                    if result.changed:
                        self.kernel.came_back(result)
                        log.info("%s", snapshots.last_in_words(self.fs))
                    outdated = await find_outdated(self.kernel, result)
                if result.changed:
                    # Writers wait still, or they would go on from sizes that are no more. Requests
                    # are served: forgetting can make the kernel write. It can wait for the lock of
                    # a directory, and nobody who has one waits for this.
                    await self.kernel.restored(outdated)
            failure = await self._failure()
        self.work_soon()
        if failure is not None:
            raise failure
        return result

    async def arrange(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the core that changes what is planned and nothing that shows; durable
        when it returns.
        """
        async with self._snapshots_alone():
            result = await self.change(function, *args, **kwargs)
            await self.commits.commit()
        return result

    async def purge(
        self, places: Sequence[NameInSnapshot], *, permit: Permit = snapshots.anyone
    ) -> list[NameInSnapshot]:
        """Take names out of snapshots; durable when it returns. Their space comes back in the
        background.
        """
        done: list[NameInSnapshot] = []
        failure: Exception | None = None
        async with self._snapshots_alone():
            for portion in snapshots.portions(places):
                try:
                    taken = await self.change(snapshots.take_out, self.fs, portion, permit=permit)
                    done += taken
                    with suppress(NoSpace):
                        # What is small is gone with the same commit, and need not be listed.
                        await self.change_behind(self.fs.orphans.work_for, len(taken))
                except Exception as exc:  # noqa: BLE001 - whatever it is, the kernel must hear of what is done
                    failure = exc
                failure = failure or await self._failure()
                if failure is not None:
                    break
        self.work_soon()
        await self.kernel.purged(done)
        if failure is not None:
            raise failure
        log.info(
            "purge: %d names are gone from %d snapshots",
            len(done),
            len({place.instance.id for place in done}),
        )
        return done

    async def _failure(self) -> SnapfsError | None:
        """Commit what was changed already; what went wrong with that. Whatever it was, the kernel
        must hear of the change.
        """
        try:
            await self.commits.commit()
        except SnapfsError as exc:
            return exc
        return None

    @asynccontextmanager
    async def _snapshots_alone(self) -> AsyncIterator[None]:
        self.look()
        if self.volume.read_only:
            raise ReadOnly(
                self.volume.read_only_reason
                or "the volume is mounted read-only: snapshots cannot be changed"
            )
        if self._snapshot_lock.statistics().tasks_waiting >= WAITING_LIMIT:
            raise SnapshotBusy(
                f"{WAITING_LIMIT} snapshot operations are waiting already: try again later"
            )
        async with self._snapshot_lock:
            try:
                yield
            finally:
                self.spared = BASE_VIEW
