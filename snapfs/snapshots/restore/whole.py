"""Going back to a snapshot (A10): blocks that differ change hands, roots are exchanged, nothing is
copied.

What only the base reached goes to the undo instance and to whoever else holds it; what only the
snapshot reached is held by the base from now on. The state from before becomes a snapshot of its
own.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from snapfs.errors import CorruptBlock
from snapfs.ids import BASE_VIEW, ROOT_INO
from snapfs.interrupts import CommitNeeded, Interrupt
from snapfs.snapshots.compare.comparison import MapComparison
from snapfs.snapshots.lifecycle import new_instance
from snapfs.snapshots.naming import default_name, free_name, get
from snapfs.snapshots.restore.dry_run import RestorePlan
from snapfs.snapshots.restore.exchanging import exchange, uncovered
from snapfs.snapshots.restore.part import Graft
from snapfs.snapshots.restore.ways import Way, covered_ways
from snapfs.snapshots.rights import Permit, anyone, check_permitted
from snapfs.snapshots.targets import part_at
from snapfs.store.commit import costs
from snapfs.store.commit.commit import name_live

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.instances import Instance


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Whether anything differed; the snapshot of the state from before; the numbers of the inodes
    that differ.

    ``names`` are those that changed in directories that only a part was restored in: directory,
    name.
    """

    changed: bool
    undo: Instance | None
    inodes: frozenset[int]
    names: frozenset[tuple[int, bytes]] = frozenset()


#: What was interrupted, one for each filesystem at most: a comparison of the roots of two views, or
#: the restoring of some paths.
_running: weakref.WeakKeyDictionary[Filesystem, tuple[object, MapComparison | Graft]] = (
    weakref.WeakKeyDictionary()
)


def restore(
    fs: Filesystem,
    name: str,
    *,
    paths: Sequence[str] = (),
    now_ns: int | None = None,
    owner: int = 0,
    permit: Permit = anyone,
) -> RestoreResult:
    """Make the base what the snapshot is, as far as that covers it, or some ``paths`` of it.

    The caller commits afterwards, and has nobody else change anything meanwhile. What was
    interrupted goes on where it was. Raises ``NoSuchSnapshot``, ``NotFound``, ``NotDirectory``,
    ``NoSpace``, ``ReadOnly``, and what ``permit`` raises.
    """
    fs.volume.check_writable()
    instance = get(fs, name)
    ways = covered_ways(instance, paths)
    if not paths:
        check_permitted(fs, instance, permit)
    if ways:
        return _restore_paths(
            fs, instance, ways, now_ns, owner, permit
        )  # others may have what stands at a path by now
    if paths:
        permit(fs.base.inode(ROOT_INO))
    return _restore_all(fs, instance, now_ns, owner)


def give_up(fs: Filesystem) -> None:
    """Whoever called ``restore`` does not call again after an error that came in between."""
    _, running = _running.pop(fs, (None, None))
    if isinstance(running, Graft):
        running.close()


def _restore_paths(
    fs: Filesystem,
    instance: Instance,
    ways: list[Way],
    now_ns: int | None,
    owner: int,
    permit: Permit,
) -> RestoreResult:
    key = instance.id, tuple(ways)
    running = _running.get(fs)
    graft = running[1] if running is not None and running[0] == key else None
    if not isinstance(graft, Graft):

        def make_undo() -> Instance:
            now = fs.now() if now_ns is None else now_ns
            parts = [part_at(fs, fs.base, way) for way in ways]
            return new_instance(
                fs,
                undo_name(fs, now),
                origin=BASE_VIEW,
                parts=parts,
                owner=owner,
                now_ns=now,
                urgency=2,
            )

        graft = Graft(
            fs, instance, ways, lambda: RestorePlan(fs, instance, ways).steps(), make_undo, permit
        )
        _running[fs] = key, graft
    try:
        found = graft.run()
    except Interrupt:
        raise
    except BaseException:
        del _running[fs]
        raise
    del _running[fs]
    return RestoreResult(found.undo is not None, found.undo, found.inodes, found.names)


def _restore_all(
    fs: Filesystem, instance: Instance, now_ns: int | None, owner: int
) -> RestoreResult:
    volume = fs.volume
    view = fs.view(instance.id)
    if (
        fs.base.is_dirty
        or view.is_dirty
        or volume.instances.pending
        or fs.base.orphans - fs.base.listed_orphans
    ):
        raise CommitNeeded
    if fs.orphans.is_emptying(instance.id):  # the base would have to go on with a purge
        raise CommitNeeded
    roots = volume.base_root, instance.root
    running = _running.get(fs)
    comparison = running[1] if running is not None and running[0] == roots else None
    if not isinstance(comparison, MapComparison):
        comparison = MapComparison.of_views(volume, *roots)
        _running[fs] = roots, comparison
    try:
        comparison.run()
    except CorruptBlock:
        del _running[fs]
        raise
    if not comparison.changed:
        del _running[fs]
        return RestoreResult(False, None, frozenset())
    allocator = volume.allocator
    allocator.prepare(
        0, urgency=2, metadata=volume.dirtied + costs.of_instances(volume) + costs.EXCHANGE
    )
    allocator.need((block, 1) for block in (*comparison.only_base, *comparison.only_view))
    masks = uncovered(fs, comparison)
    now = fs.now() if now_ns is None else now_ns
    undo = new_instance(
        fs, undo_name(fs, now), origin=BASE_VIEW, owner=owner, now_ns=now, urgency=2
    )
    undo.undo = True
    # Nothing can be missing from here on.
    del _running[fs]
    undo.root, undo.epoch = volume.base_root, volume.epoch
    volume.instances.add(undo)
    volume.epoch += 1
    name_live(volume)
    exchange(fs, comparison, masks)
    _take_root(fs, instance)
    return RestoreResult(True, undo, frozenset(comparison.changed))


def undo_name(fs: Filesystem, now_ns: int) -> str:
    """A name for the state from before."""
    return free_name(fs, f"before-restore-{default_name(now_ns)}")


def _take_root(fs: Filesystem, instance: Instance) -> None:
    volume, base = fs.volume, fs.base
    # Numbers that the kernel may know are not given out again before it has forgotten them.
    next_ino = max(base.next_ino, instance.root.next_ino)
    volume.base_root = replace(instance.root, next_ino=next_ino)
    base.set_root(volume.base_root)
    base.orphans.clear()
    base.listed_orphans.clear()
    fs.orphans.rescan()
