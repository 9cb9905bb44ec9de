"""Going back to a snapshot (A10): blocks that differ change hands, roots are exchanged, nothing is copied.

What only the base reached goes to the undo instance and to whoever else holds it; what only the snapshot reached is held by the base
from now on. The state from before becomes a snapshot of its own.
"""

from __future__ import annotations

import stat
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from snapfs.errors import CommitNeeded, CorruptBlock, NotCached, SnapshotBusy
from snapfs.filesystem import Inode
from snapfs.ids import BASE_VIEW
from snapfs.snapshots.comparison import Comparison
from snapfs.snapshots.lifecycle import new_instance
from snapfs.snapshots.naming import default_name, get
from snapfs.snapshots.rights import Permit, anyone, check_permitted
from snapfs.store.commit import name_live

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.cache import Want
    from snapfs.store.instances import Instance


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Whether anything differed; the snapshot of the state from before; the numbers of the inodes that differ."""

    changed: bool
    undo: Instance | None
    inodes: frozenset[int]


#: Comparisons that were interrupted, one for each filesystem at most.
_running: weakref.WeakKeyDictionary[Filesystem, Comparison] = weakref.WeakKeyDictionary()


def restore(fs: Filesystem, name: str, *, now_ns: int | None = None, owner: int = 0, permit: Permit = anyone) -> RestoreResult:
    """Make the base what the snapshot is. The caller commits afterwards, and has nobody else change anything meanwhile.

    The comparison goes on where ``NotCached`` interrupted it; if the base was changed after that, it begins anew.
    Raises ``NoSuchSnapshot``, ``SnapshotBusy``, ``NoSpace``, ``ReadOnly``.
    """
    volume = fs.volume
    volume.check_writable()
    instance = get(fs, name)
    check_permitted(fs, instance, permit)
    if instance.parts:
        raise SnapshotBusy(
            f"snapshot {name!r} covers only {instance.path}; a part of the volume cannot be restored yet: copy from it what you need"
        )
    view = fs.view(instance.id)
    if fs.base.is_dirty or view.is_dirty or volume.instances.pending or fs.base.orphans - fs.base.listed_orphans:
        raise CommitNeeded
    comparison = _running.get(fs)
    if comparison is None or comparison.roots != (volume.base_root, instance.root):
        comparison = _running[fs] = Comparison(volume, volume.base_root, instance.root)
    try:
        comparison.run()
    except CorruptBlock:
        del _running[fs]
        raise
    if not comparison.changed:
        del _running[fs]
        return RestoreResult(False, None, frozenset())
    allocator = volume.allocator
    allocator.prepare(0, urgency=2, metadata=volume.dirtied + 16)
    allocator.need((block, 1) for block in (*comparison.only_base, *comparison.only_view))
    uncovered = _uncovered(fs, comparison)
    now = fs.now() if now_ns is None else now_ns
    undo = new_instance(fs, undo_name(fs, now), origin=BASE_VIEW, owner=owner, now_ns=now, urgency=2)
    undo.undo = True
    # Nothing can be missing from here on.
    del _running[fs]
    undo.root, undo.epoch = volume.base_root, volume.epoch
    volume.instances.add(undo)
    volume.epoch += 1
    name_live(volume)
    exchange(fs, comparison, uncovered)
    _take_root(fs, instance, comparison)
    return RestoreResult(True, undo, frozenset(comparison.changed))


def undo_name(fs: Filesystem, now_ns: int) -> str:
    """A name for the state from before."""
    name = wanted = f"before-restore-{default_name(now_ns)}"
    number = 1
    while fs.volume.instances.by_name(name) is not None:
        number += 1
        name = f"{wanted}-{number}"
    return name


def _uncovered(fs: Filesystem, comparison: Comparison) -> dict[tuple[int, bool], int]:
    """Which instances do not preserve what the base is about to lose, by the inode that it belongs to. Raises ``NotCached`` for all."""
    coverage = fs.coverage
    found: dict[tuple[int, bool], int] = {(0, False): 0}
    wants: dict[Want, None] = {}
    for ino, is_attributes in set(comparison.whose.values()) if coverage.parts else ():
        if ino:
            try:
                mask = coverage.uncovered_attributes(ino) if is_attributes else coverage.uncovered(ino)
            except NotCached as exc:
                wants.update(dict.fromkeys(exc.wants))
            else:
                found[ino, is_attributes] = mask
    if wants:
        raise NotCached(list(wants))
    return found


def exchange(fs: Filesystem, comparison: Comparison, uncovered: dict[tuple[int, bool], int]) -> None:
    """Move the blocks that differ between the base and the instances, as ``holders_model.py`` says."""
    volume = fs.volume
    allocator, sets = volume.allocator, volume.holders
    whose = comparison.whose
    lost = ((block, (epoch, uncovered.get(whose[block], 0))) for block, epoch in comparison.only_base.items())
    for start, length, (epoch, mask) in _runs(lost):
        fs.base.owner.drop(start, length, epoch, mask)
    for start, length, _ in _runs(comparison.only_view.items()):
        for low, size, number in allocator.pieces(start, length):
            if number is None:
                raise CorruptBlock(f"block {low}: a snapshot reaches it, the base does not, and it has no record")
            allocator.record(low, size, sets.intern(True, volume.epoch, sets.holders(number)), held=False)


def _runs(blocks: Iterable[tuple[int, T]]) -> list[tuple[int, int, T]]:
    """Blocks, each with a value, as runs (start, length, value)."""
    out: list[tuple[int, int, T]] = []
    for block, value in sorted(blocks, key=lambda one: one[0]):
        if out and out[-1][0] + out[-1][1] == block and out[-1][2] == value:
            out[-1] = (out[-1][0], out[-1][1] + 1, value)
        else:
            out.append((block, 1, value))
    return out


def _take_root(fs: Filesystem, instance: Instance, comparison: Comparison) -> None:
    volume, base = fs.volume, fs.base
    # Files that the kernel knows get another generation: it would keep the sizes that it has cached for them.
    known = [ino for ino in comparison.changed if ino in base.known and stat.S_ISREG(int.from_bytes(comparison.slots[ino][:4], "little"))]
    # Numbers that the kernel may know are not given out again before it has forgotten them.
    next_ino = max(base.next_ino, instance.root.next_ino)
    volume.base_root = replace(instance.root, next_ino=next_ino)
    base.set_root(volume.base_root)
    base.orphans.clear()
    base.listed_orphans.clear()
    fs.orphans.rescan()
    for ino in known:
        inode = Inode.decode(base, ino, comparison.slots[ino])
        if inode is not None:
            base.change(inode)
            inode.generation = volume.next_inode_generation & 0xFFFF_FFFF
            volume.next_inode_generation += 1
