"""Purging: a path goes from snapshots, and its blocks with it, where nothing else needs them.

In front of the user a name is taken out of its directory in each view, all at once: a file that has
no other becomes an orphan, a directory does with all that is in it. Both are freed in the
background (``filesystem.orphans``), as every file is. It is a deletion, so whoever may delete a
snapshot may purge it, read-only or not, and nobody may while it is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from snapfs.errors import (
    CorruptBlock,
    FsError,
    NoSpace,
    NotFound,
    SnapfsError,
    SnapshotError,
    StaleInode,
    UsageError,
)
from snapfs.filesystem import names
from snapfs.ids import ROOT_INO
from snapfs.interrupts import NotCached
from snapfs.snapshots.lifecycle import deletable
from snapfs.snapshots.naming import get
from snapfs.snapshots.rights import Permit, anyone
from snapfs.store.commit import costs
from snapfs.store.tables.instances import Instance

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode, View
    from snapfs.interrupts import Want

#: Snapshots that are purged in one synchronous stretch, and thus at once.
TOGETHER: Final = 500


@dataclass(frozen=True, slots=True)
class NameInSnapshot:
    """A name in a snapshot's view: the directory that has it, and the inode that it leads to.
    ``path`` is from the root of the volume.
    """

    instance: Instance
    path: bytes
    parent: int
    name: bytes
    ino: int
    generation: int


@dataclass(frozen=True, slots=True)
class NamesInSnapshot:
    """What one snapshot has of the paths, and why it must stay as it is, if it must."""

    instance: Instance
    places: tuple[NameInSnapshot, ...]
    refusal: SnapfsError | None = None


def check_paths(paths: Iterable[bytes]) -> list[bytes]:
    """The paths without those that lie in others of them. Raises ``UsageError`` for the root, and
    for none.
    """
    wanted = list(dict.fromkeys(paths))
    if not wanted:
        raise UsageError("no path to purge was given")
    if b"" in wanted:
        raise UsageError(
            "the root directory cannot be purged from a snapshot: delete the snapshot instead"
        )
    return [path for path in wanted if not any(path.startswith(other + b"/") for other in wanted)]


def find_places(
    fs: Filesystem, which: str | Instance, paths: Sequence[bytes], *, permit: Permit = anyone
) -> NamesInSnapshot:
    """Look paths up in a snapshot, as it is now. ``which`` is as for ``get``. Symbolic links are
    not followed.

    May raise ``NotCached``, ``CommitNeeded``; raises ``NoSuchSnapshot``.
    """
    instance = get(fs, which)
    view = fs.view(instance.id)
    places: list[NameInSnapshot] = []
    covered = None
    for path in paths:
        place = _look(view, instance, path)
        if place is not None:
            places.append(place)
            if place.parent in view.above:
                covered = path
    if not places:
        return NamesInSnapshot(instance, ())
    if covered is not None:
        what = f"/{covered.decode(errors='replace')}"
        text = (
            f"snapshot {instance.name!r} covers {what} or a part of it, and nothing would "
            "be left: delete the snapshot"
        )
        return NamesInSnapshot(instance, tuple(places), UsageError(text))
    try:
        deletable(fs, instance, permit)
    except (SnapshotError, FsError) as exc:
        return NamesInSnapshot(instance, tuple(places), exc)
    return NamesInSnapshot(instance, tuple(places))


def _look(view: View, instance: Instance, path: bytes) -> NameInSnapshot | None:
    *way, name = path.split(b"/")
    try:
        parent = names.directory(view, ROOT_INO)
        for above in way:
            parent = names.directory(view, names.named(view, parent, above).ino)
        inode = names.named(view, parent, name)
        return NameInSnapshot(instance, path, parent.ino, name, inode.ino, inode.generation)
    except StaleInode as exc:
        raise CorruptBlock(f"snapshot {instance.name!r} has no root directory") from exc
    except FsError:
        return None  # no such name, or something on the way is no directory


def portions(places: Iterable[NameInSnapshot]) -> list[list[NameInSnapshot]]:
    """Cut them up so that not too much happens at once: all that one
    snapshot has stays together.
    """
    of_each: dict[int, list[NameInSnapshot]] = {}
    for place in places:
        of_each.setdefault(place.instance.id, []).append(place)
    every = list(of_each.values())
    return [
        list(chain(*every[first : first + TOGETHER])) for first in range(0, len(every), TOGETHER)
    ]


def take_out(
    fs: Filesystem, places: Iterable[NameInSnapshot], *, permit: Permit = anyone
) -> list[NameInSnapshot]:
    """Take names out of their views, all of them or none. What they led to is freed in the
    background. The caller commits afterwards.

    Returns those that were still there. Raises ``SnapshotHeld``, ``NoSpace``, ``ReadOnly``, and
    what ``permit`` raises; may raise ``NotCached``, ``CommitNeeded``.
    """
    volume = fs.volume
    volume.check_writable()
    live = [
        place for place in places if volume.instances.by_name(place.instance.name) is place.instance
    ]
    for name in dict.fromkeys(place.instance.name for place in live):
        deletable(fs, name, permit)
    try:
        volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.TAKE_OUT * len(live))
    except NoSpace:
        raise NoSpace(
            "too little space is left to purge that at once: purge it from fewer "
            "snapshots at a time, or delete one"
        ) from None
    planned: list[tuple[NameInSnapshot, Inode, Inode]] = []
    wants: dict[Want, None] = {}
    for place in live:
        try:
            found = _plan(fs.view(place.instance.id), place)
        except NotCached as exc:
            wants.update(dict.fromkeys(exc.wants))
            continue
        if found is not None:
            planned.append((place, *found))
    if wants:
        raise NotCached(list(wants))
    designated = fs.designations.plan_forget(*(inode for _, _, inode in planned))
    volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.TAKE_OUT)
    # Nothing can be missing from here on. Times stay: the snapshot is of then.
    for place, parent, inode in planned:
        parent.names.pop(place.name)
        parent.count_size()
        if inode.is_directory:
            parent.nlink -= 1
            inode.nlink = 0
        else:
            inode.nlink -= 1
        if not inode.nlink:
            fs.orphans.leave(inode)
    fs.designations.forget(designated)
    return [place for place, _, _ in planned]


def _plan(view: View, place: NameInSnapshot) -> tuple[Inode, Inode] | None:
    """Make the directory and the inode of a place ready to be changed; None if the name is there no
    more.
    """
    try:
        parent = view.inode(place.parent)
        if (
            not parent.is_directory
            or not parent.nlink
            or names.find(view, parent, place.name) != place.ino
        ):
            return None
    except (NotFound, StaleInode):
        return None
    inode = names.named(view, parent, place.name)
    if inode.generation != place.generation:
        return None
    view.change(parent)
    parent.names.touch(place.name)
    view.change(inode)
    return parent, inode
