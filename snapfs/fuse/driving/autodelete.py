"""Deletes old snapshots of policies when space runs out (mount option ``autodelete``): below a
threshold, and before a change fails.

Which one goes is decided by ``snapshots.autodelete``; here is when. The lock of snapshot operations
is not taken: one of them may wait for the very write that waits for space here. Deleting is one
synchronous stretch, as every change; only one that somebody works with is spared.
"""

from __future__ import annotations

import logging

import trio

from snapfs.errors import SnapfsError
from snapfs.fuse.driving.edge import Edge
from snapfs.snapshots import Instance, autodelete
from snapfs.snapshots.naming import default_name

log = logging.getLogger("snapfs.fuse")


class AutoDelete:
    """Makes room on one volume; see ``neighbours.Room``. ``below`` is the percentage that shall be
    available. ``run`` must be running.
    """

    def __init__(self, edge: Edge, below: float) -> None:
        self._edge = edge
        self._below = below
        self._wanted = trio.Event()
        self._lock = trio.Lock()
        self._deleted = 0
        self._has_told = False
        self._ended, self._to_end = trio.open_memory_channel[int](float("inf"))

    def soon(self) -> None:
        """See ``neighbours.Room``."""
        self._wanted.set()

    async def make(self) -> bool:
        """See ``neighbours.Room``: True if something was deleted since the call."""
        if self._lock.statistics().owner is trio.lowlevel.current_task():
            return False  # it is the deletion itself that finds no space
        before = self._deleted
        async with self._lock:
            return self._deleted != before or await self._delete("no space is left")

    async def run(self) -> None:
        """Keep the percentage available, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_views)
            while True:
                await (
                    self._wanted.wait()
                )  # until the background has done what it had to do, that of the last deletion too
                self._wanted = trio.Event()
                try:
                    await self._keep_available()
                except SnapfsError as exc:
                    log.warning("automatic deletion: %s", exc)
                except Exception:
                    log.exception("automatic deletion: internal error")

    async def _keep_available(self) -> None:
        if self._edge.volume.read_only:
            return
        if not autodelete.is_short(self._edge.fs, self._below):
            self._has_told = self._has_told and self._edge.fs.has_work
            return
        async with self._lock:
            if (
                not await self._delete(f"less than {self._below:g}% of the volume is available")
                and not self._has_told
            ):
                self._has_told = True
                log.warning(
                    "less than %g%% of the volume is available, and no snapshot of a "
                    "policy would free anything",
                    self._below,
                )

    async def _delete(self, why: str) -> bool:
        """Delete one, if there is one to be deleted. The lock is held."""
        edge = self._edge
        instance = await edge.change(self._delete_oldest)
        if instance is None:
            return False
        made = default_name(instance.created_ns)
        policy = instance.facts.tags[autodelete.POLICY]
        log.warning(
            "snapshot %s (of the policy %s, made %s) was deleted automatically: %s",
            instance.name,
            policy,
            made,
            why,
        )
        self._deleted += 1
        self._ended.send_nowait(instance.id)
        edge.work_soon()
        return True

    def _delete_oldest(self) -> Instance | None:
        return autodelete.make_room(
            self._edge.fs, {self._edge.spared}
        )  # who is spared may change while this waits

    async def _end_views(self) -> None:
        """Tell the kernel. Not where a request waits, whose file may be in the very snapshot."""
        async for view_id in self._to_end:
            await self._edge.kernel.view_ended(view_id, asked_by=None)
