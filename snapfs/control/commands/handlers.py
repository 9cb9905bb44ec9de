"""The commands that a volume understands, each a few calls of an engine.

An engine is what reaches the core: the daemon's ``Edge``, or ``offline.OfflineEngine`` for an image
that nobody has mounted. Handlers are written once, as coroutines, and know neither trio nor FUSE.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from snapfs import ids, snapshots
from snapfs.control.commands import figures, restores
from snapfs.control.commands.arguments import (
    check_text,
    names_in,
    needed,
    place_of,
    rate_of,
    texts,
    way,
)
from snapfs.control.commands.comparing import Comparing
from snapfs.control.commands.engine import Engine
from snapfs.control.commands.hot import Hot
from snapfs.control.commands.purging import Purging
from snapfs.control.commands.scrubbing import scrub
from snapfs.control.copies import told as copies
from snapfs.control.copies.copying import Copying
from snapfs.control.socket.caller import Alone, Caller
from snapfs.control.socket.protocol import (
    NO_LIMIT,
    Request,
    Result,
)
from snapfs.copying import CopyJob, Wishes
from snapfs.errors import NotPermitted, SnapfsError, UsageError
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Designated, Facts, Hold, Instance, Permit, Target
from snapfs.store.tables.facts import DEFAULT_HOLD


@dataclass(frozen=True)
class Live:
    """What only a daemon knows about itself. ``snapdir``: the name under which directories of its
    mount show snapshots.
    """

    mountpoint: str
    image: str
    pid: int
    since_ns: int
    requests: Callable[[], dict[str, int]]
    #: The device number of the mount.
    device: int
    in_memory: bool = False
    snapdir: str = ".snap"


@dataclass
class Handlers:
    """Answers requests about one volume. ``shown_owner``: the mount's ``uid=``, whom everything
    belongs to for its users.
    """

    engine: Engine
    fs: Filesystem
    live: Live | None = None
    shown_owner: int | None = None
    #: Why the volume could not be opened as a whole, if that was tolerated.
    trouble: str | None = None
    #: The copy that is gone on with, if the volume remembers one.
    job: CopyJob | None = None
    copying: Copying = field(init=False, repr=False)
    _commands: dict[str, tuple[dict[str, type], Callable[..., Awaitable[Result]]]] = field(
        init=False, repr=False
    )
    _long: dict[str, tuple[dict[str, type], Callable[..., Awaitable[Result]]]] = field(
        init=False, repr=False
    )

    def __post_init__(self) -> None:
        live = self.live
        image = live.image if live else os.path.abspath(self.fs.volume.device.path)
        self.copying = Copying(
            self.engine, self.fs, image, mount_device=live.device if live else None, job=self.job
        )
        # Each command's arguments and their types; a missing one is None, so that a command says
        # itself what it cannot do without.
        self._commands = {
            "hello": ({}, self.hello),
            "info": ({}, self.info),
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
                self.snapshot_create,
            ),
            "snapshot.list": ({}, self.snapshot_list),
            "snapshot.show": ({"name": str}, self.snapshot_show),
            "snapshot.rename": ({"name": str, "new_name": str}, self.snapshot_rename),
            "snapshot.delete": ({"names": list, "dry_run": bool}, self.snapshot_delete),
            "snapshot.set": (
                {"name": str, "read_only": bool, "description": str, "tags": dict, "untag": list},
                self.snapshot_set,
            ),
            "snapshot.hold": ({"name": str, "hold": str, "reason": str}, self.snapshot_hold),
            "snapshot.release": ({"name": str, "hold": str}, self.snapshot_release),
            "df": ({"names": list}, self.df),
            "restore": ({"name": str, "paths": list, "detach": bool}, self.restore),
            "restore.schedule": ({"name": str, "paths": list}, self.restore_schedule),
            "restore.cancel": ({}, self.restore_cancel),
            "copy.status": ({}, self.copy_status),
            "copy.pause": ({}, self.copy_pause),
        }
        # Those that tell their caller how it goes; they end when nobody listens.
        self._long = {
            "scrub": ({"rate": int}, self.scrub),
            "diff": ({"old": str, "new": str, "paths": list}, self.diff),
            "versions": ({"path": str, "deleted": bool}, self.versions),
            "restore.plan": ({"name": str, "paths": list}, self.restore_plan),
            "purge": ({"paths": list, "names": list, "dry_run": bool}, self.purge),
            "copy": (
                {
                    "destination": str,
                    "first": list,
                    "outside": bool,
                    "rate": int,
                    "copy_first": bool,
                    "force": bool,
                },
                self.copy_begin,
            ),
            "copy.resume": ({"destination": str, "rate": int}, self.copy_resume),
            "copy.cancel": ({"name": str}, self.copy_cancel),
            "snapshot.hot": ({"name": str, "limit": int}, self.snapshot_hot),
        }

    async def handle(self, request: Request, uid: int, caller: Caller | None = None) -> Result:
        """Run a request for the user ``uid``. Raises ``UsageError`` for a malformed one, and
        whatever the core raises.
        """
        commands = self._long if request.command in self._long else self._commands
        if request.command not in commands:
            raise UsageError(
                f"unknown command {request.command!r}: is the volume mounted by another "
                "version of snapfs?"
            )
        types, function = commands[request.command]
        check_text(request.arguments)
        for name, value in request.arguments.items():
            if name not in types or (
                value is not None and type(value) is not types[name]
            ):  # True is no number here
                raise UsageError(f"{request.command}: bad argument {name!r}")
        arguments = {name: request.arguments.get(name) for name in types}
        if commands is self._long:
            return await function(uid, caller or Alone(), **arguments)
        return await function(uid, **arguments)

    async def hello(self, _uid: int) -> Result:
        """Who answers, and for which mount."""
        live = self.live
        about = {"device": live.device, "snapdir": live.snapdir} if live else {}
        return {
            "pid": os.getpid(),
            "mounted": live and live.mountpoint,
            "image": live and live.image,
            **about,
        }

    async def info(self, _uid: int) -> Result:
        """Facts, sizes and counters of the volume and its mount."""
        volume, live = self.fs.volume, self.live
        instances = await self.engine.call(snapshots.all, self.fs)
        space = await self.engine.call(self.fs.statfs)
        return {
            "label": volume.label,
            "uuid": str(volume.uuid),
            "image": live.image if live else volume.device.path,
            "in_memory": bool(live and live.in_memory),
            "block_size": space.block_size,
            "size": space.blocks * space.block_size,
            "free": space.free * space.block_size,
            "available": space.available * space.block_size,
            "generation": volume.generation,
            "epoch": volume.epoch,
            "created_ns": volume.created_ns,
            "committed_ns": volume.committed_ns,
            "snapshots": len(instances),
            **restores.of_volume(self.fs),
            **copies.of_volume(self.fs),
            "read_only": volume.read_only_reason
            or ("as mounted" if live and volume.read_only else None),
            "discards": volume.allocator.discards.wanted,
            "mounted": live.mountpoint if live else None,
            "pid": live.pid if live else None,
            "mounted_ns": live.since_ns if live else None,
            "requests": live.requests() if live else {},
            "counters": volume.statistics(),
        }

    async def snapshot_create(
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
                if self.live
                and self.shown_owner is None
                and not snapshots.is_privileged(self.fs, uid)
                else None
            )
            policy = Designated(designated, owner)
            targets.append(policy)
        instance = await self.engine.create_snapshot(
            name, origin=of, targets=targets, owner=uid, permit=self._permit(uid), facts=facts
        )
        return {**self._with_figures([instance])[0], "left_out": policy.left_out if policy else []}

    async def snapshot_list(self, _uid: int) -> Result:
        """All snapshots, oldest first."""
        return {"snapshots": self._with_figures(await self.engine.call(snapshots.all, self.fs))}

    async def snapshot_show(self, _uid: int, name: str | None) -> Result:
        """One snapshot."""
        return self._with_figures(
            [await self.engine.call(snapshots.get, self.fs, needed("name", name))]
        )[0]

    async def snapshot_set(
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

        return self.describe(
            await self.engine.change_facts(needed("name", name), change, permit=self._permit(uid))
        )

    async def snapshot_hold(
        self, uid: int, name: str | None, hold: str | None, reason: str | None
    ) -> Result:
        """Let nobody delete a snapshot."""
        held = Hold(DEFAULT_HOLD if hold is None else hold, reason or "", time.time_ns(), uid)
        return self.describe(
            await self.engine.change_facts(
                needed("name", name), lambda facts: facts.hold(held), permit=self._permit(uid)
            )
        )

    async def snapshot_release(self, uid: int, name: str | None, hold: str | None) -> Result:
        """End a hold."""
        chosen = DEFAULT_HOLD if hold is None else hold
        return self.describe(
            await self.engine.change_facts(
                needed("name", name), lambda facts: facts.release(chosen), permit=self._permit(uid)
            )
        )

    async def snapshot_rename(self, uid: int, name: str | None, new_name: str | None) -> Result:
        """Give a snapshot another name."""
        wanted = needed("new_name", new_name)
        return self._with_figures(
            [
                await self.engine.rename_snapshot(
                    needed("name", name), wanted, permit=self._permit(uid)
                )
            ]
        )[0]

    async def snapshot_delete(
        self, uid: int, names: list[object] | None, dry_run: bool | None
    ) -> Result:
        """Delete snapshots, all that can be; or say what that would free. Their space comes back
        behind.
        """
        chosen = names_in(names)
        if not chosen:
            raise UsageError("argument 'names' is missing")
        if dry_run:
            await self._settle()
            deletion = await self.engine.call(
                snapshots.plan_set, self.fs, chosen, permit=self._permit(uid)
            )
        else:
            deletion = await self.engine.delete_snapshots(chosen, permit=self._permit(uid))
        return figures.of_deletion(self.fs, deletion)

    async def df(self, _uid: int, names: list[object] | None) -> Result:
        """Where the space of the volume is, what each snapshot has of it, and what deleting those
        of ``names`` would free.
        """
        chosen = names_in(names)
        await self._settle()
        found = [await self.engine.call(snapshots.get, self.fs, name) for name in chosen]
        shown = found or await self.engine.call(snapshots.all, self.fs)
        # All of one moment: nothing else runs from here on.
        rows = zip(shown, figures.of_snapshots(self.fs, shown), strict=True)
        return {
            "volume": figures.of_volume(self.fs),
            "snapshots": [
                {"name": one.name, "id": one.id, **_covered(one), **row} for one, row in rows
            ],
            "frees": snapshots.frees(self.fs, found) * self.fs.volume.geometry.block_size
            if found
            else None,
        }

    async def _settle(self) -> None:
        with contextlib.suppress(
            SnapfsError
        ):  # of a volume that cannot be written, the figures are those of what there is
            await self.engine.settle()

    def _with_figures(self, instances: list[Instance]) -> list[Result]:
        rows = zip(instances, figures.of_snapshots(self.fs, instances), strict=True)
        return [{**self.describe(one), **row} for one, row in rows]

    async def restore(
        self, uid: int, name: str | None, paths: list[object] | None, detach: bool | None
    ) -> Result:
        """Go back to a snapshot, to all that it covers or to what lies at ``paths``; ``detach``
        what is mounted inside, if need be.
        """
        if detach and not snapshots.is_privileged(self.fs, uid):
            raise NotPermitted("only root and who has mounted may have mounts detached")
        result = await self.engine.restore(
            needed("name", name),
            paths=names_in(paths),
            owner=uid,
            permit=self._permit(uid),
            detach=bool(detach),
        )
        undo = self.describe(result.undo) if result.undo else None
        return {"name": name, "changed": result.changed, "undo": undo}

    async def restore_schedule(
        self, uid: int, name: str | None, paths: list[object] | None
    ) -> Result:
        """Go back to a snapshot when the volume is mounted next; only one restore is arranged at a
        time.
        """
        await self._settle()  # paths are looked for in what is sealed
        wanted, before = await self.engine.arrange(
            snapshots.schedule,
            self.fs,
            needed("name", name),
            paths=names_in(paths),
            owner=uid,
            permit=self._permit(uid),
        )
        return {
            "scheduled": restores.of_scheduled(self.fs, wanted),
            "replaced": before and restores.of_scheduled(self.fs, before),
        }

    async def restore_cancel(self, uid: int) -> Result:
        """Take that back."""
        before = await self.engine.arrange(
            snapshots.cancel, self.fs, owner=uid, permit=self._permit(uid)
        )
        return {"cancelled": restores.of_scheduled(self.fs, before)}

    async def restore_plan(
        self, uid: int, caller: Caller, name: str | None, paths: list[object] | None
    ) -> Result:
        """Tell what ``restore`` would change: what differs from the present to the snapshot."""
        work = Comparing(self.fs, caller, self._permit(uid))
        return await work.restore_plan(
            self.engine.call, self.engine.settle, needed("name", name), names_in(paths)
        )

    async def scrub(self, _uid: int, caller: Caller, rate: int | None) -> Result:
        """Read and verify everything, at ``rate`` bytes a second at most. See ``scrubbing``."""
        if rate is not None and rate < 1:
            raise UsageError("scrub: a rate is at least one byte per second")
        with contextlib.suppress(
            SnapfsError
        ):  # of a volume that cannot be written, what is durable is scrubbed
            await self.engine.commit()
        return await scrub(
            self.fs, caller, rate, log_it=self.live is not None, trouble=self.trouble
        )

    async def copy_begin(
        self,
        uid: int,
        caller: Caller,
        destination: str | None,
        first: list[object] | None,
        outside: bool | None,
        rate: int | None,
        copy_first: bool | None,
        force: bool | None,
    ) -> Result:
        """Make a full copy of this moment."""
        wishes = Wishes(
            copy_first=bool(copy_first), rate=None if rate == NO_LIMIT else rate_of(rate)
        )
        return await self.copying.begin(
            caller, place_of(needed("destination", destination)), first=names_in(first, "first"),
            map_outside=outside, wishes=wishes,
            force=bool(force), owner=uid,
        )  # fmt: skip

    async def copy_status(self, _uid: int) -> Result:
        """How far the copy is."""
        return self.copying.status()

    async def copy_pause(self, _uid: int) -> Result:
        """Copy nothing behind for the time being."""
        return await self.copying.pause()

    async def copy_resume(
        self, uid: int, caller: Caller, destination: str | None, rate: int | None
    ) -> Result:
        """Go on with a copy, at another rate if one is given."""
        return await self.copying.resume(
            caller, destination and place_of(destination), rate=rate_of(rate), owner=uid
        )

    async def copy_cancel(self, _uid: int, caller: Caller, name: str | None) -> Result:
        """Give the copy up, or the one in memory of that name."""
        return await self.copying.cancel(caller, name)

    async def snapshot_hot(
        self, uid: int, caller: Caller, name: str | None, limit: int | None
    ) -> Result:
        """The files and blocks of the present that were written most since a
        snapshot. See ``hot``.
        """
        return await Hot(self.fs, caller, self._permit(uid)).hot(
            self.engine.call, self._settle, needed("name", name), limit
        )

    async def diff(
        self, uid: int, caller: Caller, old: str | None, new: str | None, paths: list[object] | None
    ) -> Result:
        """Tell what differs between two snapshots, or a snapshot and the present (None)."""
        return await self._comparing(uid, caller).diff(
            self.engine.call, self.engine.settle, old, new, names_in(paths)
        )

    async def versions(
        self, uid: int, caller: Caller, path: str | None, deleted: bool | None
    ) -> Result:
        """Tell the versions of the file at a path, or the deleted names of the directory there."""
        work = self._comparing(uid, caller)
        return await work.versions(
            self.engine.call, self.engine.settle, needed("path", path), deleted=bool(deleted)
        )

    async def purge(
        self,
        uid: int,
        caller: Caller,
        paths: list[object] | None,
        names: list[object] | None,
        dry_run: bool | None,
    ) -> Result:
        """Take paths out of the snapshots of ``names``, or out of all; or
        tell what that would do.
        """
        work = Purging(self.fs, caller, self._permit(uid))
        return await work.purge(
            self.engine,
            names_in(paths),
            None if names is None else names_in(names),
            dry_run=bool(dry_run),
        )

    def _comparing(self, uid: int, caller: Caller) -> Comparing:
        return Comparing(self.fs, caller, snapshots.may_look(uid, self.shown_owner))

    def _permit(self, uid: int) -> Permit:
        return snapshots.owner_or_root(uid, self.shown_owner)

    def describe(self, instance: Instance) -> Result:
        """An instance as commands report it; ``origin`` is the name of the snapshot that it was
        made from.
        """
        origin = self.fs.volume.instances.table.get(instance.origin)
        view, facts = self.fs.views.get(instance.id), instance.facts
        changing = view is not None and view.is_dirty
        return {
            "name": instance.name,
            "id": instance.id,
            "created_ns": instance.created_ns,
            "changed": instance.changed or changing,
            "changed_ns": self.fs.now() if changing else instance.changed_ns,
            "owner": instance.owner,
            **_covered(instance),
            "origin": origin and origin.name,
            "epoch": instance.epoch,
            "undo": instance.undo,
            "read_only": facts.read_only,
            "description": facts.description,
            "tags": dict(facts.tags),
            "holds": [
                {
                    "name": one.name,
                    "reason": one.reason,
                    "since_ns": one.since_ns,
                    "owner": one.owner,
                }
                for one in facts.holds
            ],
        }


def _covered(instance: Instance) -> Result:
    """What a snapshot covers: its path, if it has one only, and all of them."""
    return {
        "path": instance.paths[0] if len(instance.paths) == 1 else None,
        "paths": instance.paths,
    }
