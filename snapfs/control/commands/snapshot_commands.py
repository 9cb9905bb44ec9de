"""The commands about snapshots themselves: making, listing, renaming, deleting, holding them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from snapfs import ids, snapshots
from snapfs.control.commands import figures
from snapfs.control.commands.arguments import Commands, names_in, needed, texts, way
from snapfs.control.commands.describing import described, with_figures
from snapfs.control.commands.engine import Engine, settle
from snapfs.control.commands.hot import Hot
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import Result
from snapfs.errors import UsageError
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Designated, Facts, Hold, Permit, Target
from snapfs.store.tables.facts import DEFAULT_HOLD


@dataclass(frozen=True)
class SnapshotCommands:
    """Answers requests about the snapshots of a volume. ``is_live``: a daemon answers;
    ``shown_owner`` as for ``Handlers``.
    """

    engine: Engine
    fs: Filesystem
    is_live: bool
    shown_owner: int | None

    @property
    def commands(self) -> Commands:
        """Those that are answered at once."""
        return {
            "snapshot.create": (
                {
                    "name": str,
                    "paths": list,
                    "designated": str,
                    "origin": str,
                    "read_only": bool,
                    "description": str,
                    "tags": dict,
                },
                self.create,
            ),
            "snapshot.list": ({}, self.list_all),
            "snapshot.show": ({"name": str}, self.show),
            "snapshot.rename": ({"name": str, "new_name": str}, self.rename),
            "snapshot.delete": ({"names": list, "dry_run": bool}, self.delete),
            "snapshot.set": (
                {"name": str, "read_only": bool, "description": str, "tags": dict, "untag": list},
                self.set_facts,
            ),
            "snapshot.hold": ({"name": str, "hold": str, "reason": str}, self.hold),
            "snapshot.release": ({"name": str, "hold": str}, self.release),
        }

    @property
    def long(self) -> Commands:
        """Those that tell their caller how it goes."""
        return {"snapshot.hot": ({"name": str, "limit": int}, self.hot)}

    async def create(
        self,
        uid: int,
        name: str | None,
        paths: list[object] | None,
        designated: str | None,
        origin: str | None,
        read_only: bool | None,
        description: str | None,
        tags: dict[str, object] | None,
    ) -> Result:
        """Make a snapshot of the whole volume, of what is at ``paths`` and of what is designated:
        as it is, or as ``origin`` shows it.
        """
        facts = snapshots.NO_FACTS.changed(
            read_only=read_only, description=description, tags=texts(tags)
        )
        of = (
            ids.BASE_VIEW
            if origin is None
            else await self.engine.call(snapshots.get, self.fs, origin)
        )
        targets: list[Target] = [way(path) for path in names_in(paths, "paths")]
        policy = None
        if designated is not None:
            # Who is not root, and owns not all that a mount shows, makes snapshots of what is
            # theirs.
            owner = (
                uid
                if self.is_live
                and self.shown_owner is None
                and not snapshots.is_privileged(self.fs, uid)
                else None
            )
            policy = Designated(designated, owner)
            targets.append(policy)
        instance = await self.engine.create_snapshot(
            name, origin=of, targets=targets, owner=uid, permit=self._permit(uid), facts=facts
        )
        return {
            **with_figures(self.fs, [instance])[0],
            "left_out": policy.left_out if policy else [],
        }

    async def list_all(self, _uid: int) -> Result:
        """All snapshots, oldest first."""
        return {"snapshots": with_figures(self.fs, await self.engine.call(snapshots.all, self.fs))}

    async def show(self, _uid: int, name: str | None) -> Result:
        """One snapshot."""
        return with_figures(
            self.fs, [await self.engine.call(snapshots.get, self.fs, needed("name", name))]
        )[0]

    async def set_facts(
        self,
        uid: int,
        name: str | None,
        read_only: bool | None,
        description: str | None,
        tags: dict[str, object] | None,
        untag: list[object] | None,
    ) -> Result:
        """Make a snapshot read-only or writable, describe it, tag it."""
        given, gone = texts(tags), names_in(untag, "untag")

        def change(facts: Facts) -> Facts:
            return facts.changed(
                read_only=read_only, description=description, tags=given, untag=gone
            )

        return described(
            self.fs,
            await self.engine.change_facts(needed("name", name), change, permit=self._permit(uid)),
        )

    async def hold(
        self, uid: int, name: str | None, hold: str | None, reason: str | None
    ) -> Result:
        """Let nobody delete a snapshot."""
        held = Hold(DEFAULT_HOLD if hold is None else hold, reason or "", time.time_ns(), uid)
        return described(
            self.fs,
            await self.engine.change_facts(
                needed("name", name), lambda facts: facts.hold(held), permit=self._permit(uid)
            ),
        )

    async def release(self, uid: int, name: str | None, hold: str | None) -> Result:
        """End a hold."""
        chosen = DEFAULT_HOLD if hold is None else hold
        return described(
            self.fs,
            await self.engine.change_facts(
                needed("name", name), lambda facts: facts.release(chosen), permit=self._permit(uid)
            ),
        )

    async def rename(self, uid: int, name: str | None, new_name: str | None) -> Result:
        """Give a snapshot another name."""
        wanted = needed("new_name", new_name)
        return with_figures(
            self.fs,
            [
                await self.engine.rename_snapshot(
                    needed("name", name), wanted, permit=self._permit(uid)
                )
            ],
        )[0]

    async def delete(self, uid: int, names: list[object] | None, dry_run: bool | None) -> Result:
        """Delete snapshots, all that can be; or say what that would free. Their space comes back
        behind.
        """
        chosen = names_in(names)
        if not chosen:
            raise UsageError("argument 'names' is missing")
        if dry_run:
            await settle(self.engine)
            deletion = await self.engine.call(
                snapshots.plan_set, self.fs, chosen, permit=self._permit(uid)
            )
        else:
            deletion = await self.engine.delete_snapshots(chosen, permit=self._permit(uid))
        return figures.of_deletion(self.fs, deletion)

    async def hot(self, uid: int, caller: Caller, name: str | None, limit: int | None) -> Result:
        """The files and blocks of the present that were written most since a
        snapshot. See ``hot``.
        """
        return await Hot(self.fs, caller, self._permit(uid)).hot(
            self.engine.call, lambda: settle(self.engine), needed("name", name), limit
        )

    def _permit(self, uid: int) -> Permit:
        return snapshots.owner_or_root(uid, self.shown_owner)
