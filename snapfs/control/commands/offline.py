"""The engine for an image that nobody has mounted: the core, driven synchronously in this process.

It has the daemon's interface, so that the same handlers serve both. Its coroutines never wait, so
``run`` needs no event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from snapfs import snapshots
from snapfs.check.opening import open_damaged
from snapfs.control.commands.handlers import Handlers
from snapfs.copying import attach, open_image
from snapfs.filesystem import Filesystem
from snapfs.snapshots import (
    Facts,
    Instance,
    NameInSnapshot,
    Permit,
    RestoreResult,
    SetDeletion,
    Target,
)
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

T = TypeVar("T")


class OfflineEngine:
    """See ``engine.Engine``. Every change is committed before its call returns."""

    def __init__(self, fs: Filesystem) -> None:
        self.fs = fs

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core."""
        return drive(self.fs.volume, function, *args, **kwargs)

    async def commit(self) -> None:
        """Every change is durable already."""

    async def create_snapshot(
        self,
        name: str | None,
        *,
        origin: int | Instance = 0,
        targets: Sequence[Target] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        facts: Facts = snapshots.NO_FACTS,
    ) -> Instance:
        """Make a snapshot."""
        return self._durable(
            snapshots.create,
            name,
            origin=origin,
            targets=targets,
            owner=owner,
            permit=permit,
            facts=facts,
        )

    async def settle(self) -> None:
        """Every write is durable already."""

    async def at_rest(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Everything is durable already, unless a log has it."""
        if self.fs.volume.sync_log.dirty:
            commit(self.fs.volume)
        return function(*args, **kwargs)

    async def delete_snapshots(
        self, names: Sequence[str], *, permit: Permit = snapshots.anyone
    ) -> SetDeletion:
        """Delete snapshots and take their space back at once: there is no daemon that could do it
        later.
        """
        deletion = self._durable(snapshots.delete_set, names, permit=permit)
        if deletion.deleted:
            while drive(self.fs.volume, self.fs.work):
                pass
            commit(self.fs.volume)
        return deletion

    async def rename_snapshot(
        self, name: str, new_name: str, *, permit: Permit = snapshots.anyone
    ) -> Instance:
        """Rename a snapshot."""
        return self._durable(snapshots.rename, name, new_name, permit=permit)

    async def change_facts(
        self, name: str, change: Callable[[Facts], Facts], *, permit: Permit = snapshots.anyone
    ) -> Instance:
        """Say something else about a snapshot."""
        return self._durable(snapshots.change_facts, name, change, permit=permit)

    async def restore(
        self,
        name: str,
        *,
        paths: Sequence[str] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        detach: bool = False,  # noqa: ARG002 - nothing is mounted in what is not
    ) -> RestoreResult:
        """Go back to a snapshot."""
        return self._durable(snapshots.restore, name, paths=paths, owner=owner, permit=permit)

    async def arrange(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core that changes what is planned."""
        result = drive(self.fs.volume, function, *args, **kwargs)
        commit(self.fs.volume)
        return result

    async def purge(
        self, places: Sequence[NameInSnapshot], *, permit: Permit = snapshots.anyone
    ) -> list[NameInSnapshot]:
        """Take names out of snapshots."""
        done: list[NameInSnapshot] = []
        for portion in snapshots.portions(places):
            taken = drive(self.fs.volume, snapshots.take_out, self.fs, portion, permit=permit)
            drive(self.fs.volume, self.fs.orphans.work_for, len(taken))
            commit(self.fs.volume)
            done += taken
        return done

    async def work(self) -> bool:
        """A step of background work; all of it is durable with the last one."""
        more = drive(self.fs.volume, self.fs.work)
        if not more:
            commit(self.fs.volume)
        return more

    def _durable(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        result: T = drive(self.fs.volume, function, self.fs, *args, **kwargs)
        commit(self.fs.volume)
        return result


@contextlib.contextmanager
def opened(
    path: str, *, write: bool, damaged: bool = False, go_on: bool = True
) -> Iterator[Handlers]:
    """Handlers for the volume in an image, which is locked meanwhile. Raises ``VolumeBusy``,
    ``VolumeError``, ``DeviceError``.

    A copy that the volume remembers is gone on with, as far as what is written needs it; without
    ``go_on`` nothing may be written before it is given up. With ``damaged`` also for one that has
    lost some of its tables, as far as they can be read.
    """
    device = open_image(path, read_only=not write)
    try:
        volume, trouble = (
            open_damaged(device) if damaged else (open_volume(device, read_only=not write), None)
        )
        job = attach(volume) if write and go_on else None
        fs = Filesystem(volume)
        handlers = Handlers(OfflineEngine(fs), fs, trouble=trouble, job=job)
        try:
            yield handlers
        finally:
            handlers.copying.close()
        volume.close()
    finally:
        device.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("an offline engine has nothing to wait for")
