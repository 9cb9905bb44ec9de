"""The commands that a volume understands, each a few calls of an engine; those about snapshots and
copies are in ``snapshot_commands`` and ``copy_commands``.

An engine is what reaches the core: the daemon's ``Edge``, or ``offline.OfflineEngine`` for an image
that nobody has mounted. Handlers are written once, as coroutines, and know neither trio nor FUSE.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from snapfs import snapshots
from snapfs.control.commands import figures, restores
from snapfs.control.commands.arguments import Commands, check_text, names_in, needed
from snapfs.control.commands.comparing import Comparing
from snapfs.control.commands.copy_commands import CopyCommands
from snapfs.control.commands.describing import covered, described
from snapfs.control.commands.engine import Engine, settle
from snapfs.control.commands.purging import Purging
from snapfs.control.commands.scrubbing import scrub
from snapfs.control.commands.snapshot_commands import SnapshotCommands
from snapfs.control.copies import told as copies
from snapfs.control.copies.copying import Copying
from snapfs.control.socket.caller import Alone, Caller
from snapfs.control.socket.protocol import Request, Result
from snapfs.copying import CopyJob
from snapfs.errors import NotPermitted, SnapfsError, UsageError
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Permit


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
    _commands: Commands = field(init=False, repr=False)
    _long: Commands = field(init=False, repr=False)

    def __post_init__(self) -> None:
        live = self.live
        image = live.image if live else os.path.abspath(self.fs.volume.device.path)
        self.copying = Copying(
            self.engine, self.fs, image, mount_device=live.device if live else None, job=self.job
        )
        of_copies = CopyCommands(self.copying)
        of_snapshots = SnapshotCommands(
            self.engine, self.fs, is_live=live is not None, shown_owner=self.shown_owner
        )
        # Each command's arguments and their types; a missing one is None, so that a command says
        # itself what it cannot do without.
        self._commands = {
            "hello": ({}, self.hello),
            "info": ({}, self.info),
            "df": ({"names": list}, self.df),
            "restore": ({"name": str, "paths": list, "detach": bool}, self.restore),
            "restore.schedule": ({"name": str, "paths": list}, self.restore_schedule),
            "restore.cancel": ({}, self.restore_cancel),
            **of_snapshots.commands,
            **of_copies.commands,
        }
        # Those that tell their caller how it goes; they end when nobody listens.
        self._long = {
            "scrub": ({"rate": int}, self.scrub),
            "diff": ({"old": str, "new": str, "paths": list}, self.diff),
            "versions": ({"path": str, "deleted": bool}, self.versions),
            "restore.plan": ({"name": str, "paths": list}, self.restore_plan),
            "purge": ({"paths": list, "names": list, "dry_run": bool}, self.purge),
            **of_snapshots.long,
            **of_copies.long,
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

    async def df(self, _uid: int, names: list[object] | None) -> Result:
        """Where the space of the volume is, what each snapshot has of it, and what deleting those
        of ``names`` would free.
        """
        chosen = names_in(names)
        await settle(self.engine)
        found = [await self.engine.call(snapshots.get, self.fs, name) for name in chosen]
        shown = found or await self.engine.call(snapshots.all, self.fs)
        # All of one moment: nothing else runs from here on.
        rows = zip(shown, figures.of_snapshots(self.fs, shown), strict=True)
        return {
            "volume": figures.of_volume(self.fs),
            "snapshots": [
                {"name": one.name, "id": one.id, **covered(one), **row} for one, row in rows
            ],
            "frees": snapshots.frees(self.fs, found) * self.fs.volume.geometry.block_size
            if found
            else None,
        }

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
        undo = described(self.fs, result.undo) if result.undo else None
        return {"name": name, "changed": result.changed, "undo": undo}

    async def restore_schedule(
        self, uid: int, name: str | None, paths: list[object] | None
    ) -> Result:
        """Go back to a snapshot when the volume is mounted next; only one restore is arranged at a
        time.
        """
        await settle(self.engine)  # paths are looked for in what is sealed
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
