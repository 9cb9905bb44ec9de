"""The commands ``diff`` and ``versions``: drive steps of the core on states that stay what they
are, and tell what is found.

Events are ``{"found": [...], "compared": how much was looked at}``; all that is found has been told
when the result comes. What is held in memory for a caller is bounded: nothing goes on while the
caller has not taken what was found before. A step is short, and between two of them others have
their turn; a caller that hangs up ends the work with the next event.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from snapfs import ids, snapshots
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import Result
from snapfs.errors import CorruptBlock, NoSuchSnapshot, ReadOnly, SnapshotBusy
from snapfs.filesystem import Filesystem
from snapfs.snapshots import (
    Deleted,
    Diff,
    Difference,
    Instance,
    Lost,
    Permit,
    RestorePlan,
    Seen,
    ShownInode,
    State,
    Version,
    Versions,
)
from snapfs.snapshots.paths import CODING, path_bytes
from snapfs.snapshots.restore.ways import covered_ways
from snapfs.store.commit.guard import broke_off
from snapfs.store.space.readers import Reader

#: Seconds between two events, at most, and between two chances for others.
EVENT_SECONDS: Final = 0.5
TURN_SECONDS: Final = 0.002

#: What is told in one event, about: things, and bytes of their names.
EVENT_THINGS: Final = 256
EVENT_BYTES: Final = 1 << 18

#: What ``stat`` calls the types of files.
TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

Steps = Generator[Any, None, None]


class Comparing:
    """Commands that read states of a volume for somebody. ``settle`` has all that was written on
    the volume.
    """

    def __init__(self, fs: Filesystem, caller: Caller, look: Permit) -> None:
        self._fs = fs
        self._caller = caller
        self._look = look

    async def diff(
        self,
        call: Callable[..., Any],
        settle: Callable[[], Any],
        old: str | None,
        new: str | None,
        paths: list[str],
    ) -> Result:
        """Tell what differs between two snapshots; None stands for the present."""
        wanted = [path_bytes(path) for path in paths]
        names = [name for name in (old, new) if name is not None]
        instances = [await call(snapshots.get, self._fs, name) for name in names]
        for part in await call(parts, self._fs, instances):
            self._look(part)
        await settle()
        self._check_settled(with_present=len(names) < 2)
        self._check_purged(instances)
        with self._fs.volume.allocator.readers.open() as reader:
            found = iter(instances)
            before, after = (
                self._state(None if name is None else next(found)) for name in (old, new)
            )
            diff = Diff(self._fs, before, after, wanted)
            counts = await self._differences(reader, diff)
        return {"old": old, "new": new, "counts": counts, "compared": diff.compared}

    async def restore_plan(
        self, call: Callable[..., Any], settle: Callable[[], Any], name: str, paths: list[str]
    ) -> Result:
        """Tell what a restore would change: the differences from the present to the snapshot, of
        what it would restore.
        """
        await settle()
        self._check_settled(with_present=True)
        instance = await call(snapshots.check_restore, self._fs, name, paths, self._look)
        # Nothing has run since the check: the plan is of the same states.
        self._check_purged([instance])
        with self._fs.volume.allocator.readers.open() as reader:
            plan = RestorePlan(self._fs, instance, covered_ways(instance, paths))
            counts = await self._differences(reader, plan)
        return {"name": name, "counts": counts, "compared": plan.compared}

    async def _differences(self, reader: Reader, work: Diff | RestorePlan) -> dict[str, int]:
        """Tell them all; how many there are of each kind."""
        counts = dict.fromkeys(("added", "removed", "changed", "retyped", "renamed"), 0)

        def encode(one: Difference) -> Result:
            counts[one.kind.value] += 1
            return difference(one)

        await self._drive(reader, work.steps(), encode, lambda: work.compared)
        return counts

    async def versions(
        self, call: Callable[..., Any], settle: Callable[[], Any], path: str, *, deleted: bool
    ) -> Result:
        """Tell the versions of the file at a path, or the names that the directory at a path has
        lost.
        """
        wanted = path_bytes(path)
        self._look(await call(self._fs.inode, self._fs.base, ids.ROOT_INO))
        await settle()
        self._check_settled(with_present=True)
        with self._fs.volume.allocator.readers.open() as reader:
            instances = snapshots.all(self._fs)
            states = [
                State(self._fs.volume.base_root),
                *(State(one.root, one.copy()) for one in reversed(instances)),
            ]
            work = (Deleted if deleted else Versions)(self._fs, states, wanted)
            await self._drive(reader, work.steps(), version, lambda: len(states))
        return {"path": path, "states": len(states)}

    def _check_settled(self, *, with_present: bool) -> None:
        """Raises ``ReadOnly`` when what is shown now has parts that were never stored, and cannot
        be.
        """
        if with_present and self._fs.volume.read_only and self._fs.base.is_dirty:
            reason = self._fs.volume.read_only_reason or "the volume is read-only"
            raise ReadOnly(
                f"{reason}; what was changed since the last commit is not on the volume "
                "and cannot be compared"
            )

    def _check_purged(self, instances: Sequence[Instance]) -> None:
        """Raises ``SnapshotBusy`` for a snapshot that has inodes which no path leads to: they are
        still being freed.
        """
        for one in instances:
            if self._fs.orphans.is_emptying(one.id):
                raise SnapshotBusy(
                    f"a purge of snapshot {one.name!r} goes on in the background, while "
                    "the volume is mounted: try again later"
                )

    def _state(self, which: Instance | None) -> State:
        """Of the snapshot that was permitted to be looked at: its name may be another's since."""
        if which is None:
            return State(self._fs.volume.base_root)
        instance = snapshots.get(self._fs, which)
        return State(
            instance.root, instance.copy()
        )  # it may be renamed, written to or deleted meanwhile

    async def _drive(
        self,
        reader: Reader,
        steps: Steps,
        encode: Callable[[Any], Result],
        compared: Callable[[], int],
    ) -> None:
        """Run steps of the core to their end; tell what they yield. Raises ``SnapshotBusy`` when
        the volume needs what is being read.

        Damage ends writing, whoever meets it: see ``store.commit.guard``.
        """
        try:
            await self._run(reader, steps, encode, compared)
        except CorruptBlock as exc:
            _check_kept(reader)  # else something was written there
            broke_off(self._fs.volume, exc)
            raise

    async def _run(
        self,
        reader: Reader,
        steps: Steps,
        encode: Callable[[Any], Result],
        compared: Callable[[], int],
    ) -> None:
        volume, found, size = self._fs.volume, list[Result](), 0
        told = turn = time.monotonic()
        step = next(steps, None)
        while step is not None:
            now = time.monotonic()
            if now - turn > TURN_SECONDS:
                await self._caller.pause(0)
                turn = time.monotonic()
            _check_kept(reader)
            if len(found) >= EVENT_THINGS or size > EVENT_BYTES or now - told > EVENT_SECONDS:
                await self._caller.tell({"found": found, "compared": compared()})
                found, size, told = [], 0, time.monotonic()
            if not isinstance(step, list):
                found.append(encode(step))
                size += sum(len(value) for value in found[-1].values() if isinstance(value, str))
            elif step:
                loaded = volume.read_wants_nowait(step)
                volume.admit(
                    await self._caller.in_thread(volume.read_wants, step)
                    if loaded is None
                    else loaded
                )
            step = next(steps, None)
        await self._caller.tell({"found": found, "compared": compared()})


def _check_kept(reader: Reader) -> None:
    """Raises ``SnapshotBusy`` when what is being compared may be overwritten."""
    if reader.lost:
        raise SnapshotBusy(
            "the volume is so full that writers needed what was being compared: free "
            "some space, and try again"
        )


def parts(fs: Filesystem, instances: Sequence[Instance]) -> list[Any]:
    """What is compared, as it is now: what snapshots of parts cover, else the root."""
    covering = [one for one in instances if one.parts]
    if not covering:
        return [fs.inode(fs.base, ids.ROOT_INO)]
    found = []
    for one in covering:
        try:
            found += snapshots.covered(fs, one)
        except NoSuchSnapshot:  # the one that it was made of is gone
            found.append(fs.inode(fs.base, ids.ROOT_INO))
    return found


def difference(one: Difference) -> Result:
    """A difference, as it is told. Paths are text, with lone surrogates for bytes that are not
    UTF-8.
    """
    return {
        "kind": one.kind.value,
        "path": as_text(one.path),
        "old_path": as_text(one.old_path),
        "data": one.change.data,
        "attributes": one.change.attributes,
        "old": one.old and of_shown(one.old),
        "new": one.new and of_shown(one.new),
    }


def version(one: Version | Seen | Lost) -> Result:
    """What ``Versions`` and ``Deleted`` yield, as it is told."""
    if isinstance(one, Version):
        return {
            "version": one.number,
            "file": one.file,
            "data": one.data,
            "attributes": one.attributes,
            "shown": of_shown(one.shown),
        }
    if isinstance(one, Seen):
        return {"seen": one.version, "snapshot": one.snapshot, "created_ns": one.created_ns}
    return {
        "name": one.name.decode(*CODING),
        "snapshot": one.snapshot,
        "created_ns": one.created_ns,
        "shown": of_shown(one.shown),
    }


def as_text(path: bytes | None) -> str | None:
    """A path, as it is told."""
    return None if path is None else path.decode(*CODING)


def of_shown(one: ShownInode) -> Result:
    """What a state shows, as it is told."""
    kind = stat.S_IFMT(one.mode)
    return {
        "type": TYPES.get(kind, "unknown"),
        "size": one.size if kind in (stat.S_IFREG, stat.S_IFLNK) else None,
        "mode": stat.S_IMODE(one.mode),
        "uid": one.uid,
        "gid": one.gid,
        "mtime_ns": one.mtime,
        "inode": one.ino,
        "links": one.links,
    }
