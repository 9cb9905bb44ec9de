"""The command ``purge``: looks for paths in snapshots, tells what they have there, takes it out,
and waits until it is freed.

Events are ``{"found": [...]}`` for what snapshots have, then ``{"purged": how many snapshots}``
when it is gone, durably and from all of them, then ``{"freed": bytes, about}``. From ``purged`` on
nothing depends on the caller: the rest is freed in the background.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from snapfs import snapshots
from snapfs.control.commands.comparing import (
    EVENT_SECONDS,
    Comparing,
    as_text,
    of_shown,
)
from snapfs.control.socket.protocol import Result
from snapfs.errors import NotFound, SnapfsError, SnapshotBusy, SnapshotError, SnapshotHeld
from snapfs.snapshots import Had, Instance, NameInSnapshot, NamesInSnapshot, Permit, PurgeSpace
from snapfs.snapshots.paths import path_bytes


class PurgingEngine(Protocol):
    """What of ``engine.Engine`` is needed here."""

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core."""

    async def commit(self) -> None:
        """Make everything durable."""

    async def settle(self) -> None:
        """Have all that was written on the volume."""

    async def purge(
        self, places: Sequence[NameInSnapshot], *, permit: Permit = snapshots.anyone
    ) -> list[NameInSnapshot]:
        """Take names out of their views."""

    async def work(self) -> bool:
        """One step of background work."""


class Purging(Comparing):
    """One purge. ``look`` decides who may: as for deleting a snapshot."""

    async def purge(
        self,
        engine: PurgingEngine,
        paths: Sequence[str],
        names: Sequence[str] | None,
        *,
        dry_run: bool,
    ) -> Result:
        """Purge paths from the snapshots of these names (None: from all that have them), or only
        tell what that would do.
        """
        wanted = snapshots.check_paths(path_bytes(path) for path in paths)
        with contextlib.suppress(
            SnapfsError
        ):  # of a volume that cannot be written, what is durable is told
            await engine.settle()
        found, refused = await self._find(engine, wanted, names)
        chosen = [one for one in found if one.refusal is None]
        space = PurgeSpace(self._fs, chosen)
        with self._fs.volume.allocator.readers.open() as reader:
            try:
                await self._drive(reader, space.steps(), _had, lambda: space.visited)
            except SnapshotBusy:  # the volume is so full that others need what is being looked at
                if dry_run:
                    raise
                space.give_up()
        # Who is not asked about a snapshot by its name does not expect those that are held to
        # change.
        left_out = [one for one in found if names is None and isinstance(one.refusal, SnapshotHeld)]
        refused |= {
            one.instance.name: one.refusal
            for one in found
            if one.refusal is not None and one not in left_out
        }
        size = self._fs.volume.geometry.block_size
        result = {
            "paths": [as_text(path) for path in wanted],
            "dry_run": dry_run,
            "snapshots": len(chosen),
            "frees": space.blocks * size,
            "exact": space.exact,
            "left_out": [
                {"name": one.instance.name, "reason": str(one.refusal)} for one in left_out
            ],
            "refused": [{"name": name, "reason": str(reason)} for name, reason in refused.items()],
        }
        if not dry_run and chosen:
            before = self._fs.volume.allocator.free
            places = [place for one in chosen for place in one.places]
            done = {place.instance.id for place in await engine.purge(places, permit=self._look)}
            result["snapshots"] = len(done)
            await self._caller.tell({"purged": len(done)})
            await self._wait(engine, done, before, space.blocks)
        return result

    async def _find(
        self, engine: PurgingEngine, wanted: Sequence[bytes], names: Sequence[str] | None
    ) -> tuple[list[NamesInSnapshot], dict[str, SnapfsError]]:
        """What snapshots have, those that have something. Raises ``NotFound`` for a path that none
        has.
        """
        found: list[NamesInSnapshot] = []
        refused: dict[str, SnapfsError] = {}
        every: list[Instance] | list[str] = (
            # Not their names: one that is renamed meanwhile would be left out.
            await engine.call(snapshots.all, self._fs)
            if names is None
            else list(dict.fromkeys(names))
        )
        for which in every:
            try:
                one = await engine.call(
                    snapshots.find_places, self._fs, which, wanted, permit=self._look
                )
            except SnapshotError as exc:
                if isinstance(which, str):  # else it has gone meanwhile
                    refused[which] = exc
                continue
            if one.places:
                found.append(one)
        there = {place.path for one in found for place in one.places}
        for path in wanted:
            if path not in there and not refused:
                whose = "no snapshot has it" if names is None else "none of these snapshots has it"
                raise NotFound(f"/{as_text(path)}: {whose}; nothing was purged")
        return found, refused

    async def _wait(self, engine: PurgingEngine, views: set[int], before: int, blocks: int) -> None:
        """Return when all is freed but what somebody has open."""
        volume = self._fs.volume
        told = time.monotonic()
        while self._fs.orphans.is_busy(views):
            volume.check_writable()
            await engine.work()
            if time.monotonic() - told > EVENT_SECONDS:
                told = time.monotonic()
                await self._caller.tell(
                    {
                        "freed": min(max(0, volume.allocator.free - before), blocks)
                        * volume.geometry.block_size
                    }
                )
        await engine.commit()


def _had(one: Had) -> Result:
    return {
        "snapshot": one.snapshot,
        "created_ns": one.created_ns,
        "path": as_text(one.path),
        "shown": of_shown(one.shown),
    }
