"""Going back as users know it: it is remembered, and can be arranged for the next mount. The
exchange itself is ``snapshots.restore.whole``.

What is arranged is found by the snapshot's id, so it follows a renaming; a snapshot that it needs
cannot be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from snapfs.errors import NoSuchFact, NoSuchSnapshot, UsageError
from snapfs.ids import ROOT_INO
from snapfs.snapshots.paths import path_bytes, path_text
from snapfs.snapshots.restore.dry_run import check
from snapfs.snapshots.restore.whole import RestoreResult
from snapfs.snapshots.restore.whole import restore as exchange
from snapfs.snapshots.rights import Permit, anyone, check_permitted
from snapfs.store.commit import costs
from snapfs.store.tables.restores import (
    PATHS_BYTES_MAX,
    PATHS_MAX,
    Restored,
    Scheduled,
)

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.instances import Instance


def restore(
    fs: Filesystem,
    name: str,
    *,
    paths: Sequence[str] = (),
    now_ns: int | None = None,
    owner: int = 0,
    permit: Permit = anyone,
) -> RestoreResult:
    """Make the base what the snapshot is, and remember it in the same commit. Raises as
    ``restore.restore``.
    """
    result = exchange(fs, name, paths=paths, now_ns=now_ns, owner=owner, permit=permit)
    undo = result.undo
    if undo is not None:
        fs.volume.restores.note(
            Restored.of(
                undo.created_ns, name, map(path_bytes, paths), owner, undo.name, len(result.inodes)
            )
        )
    return result


def schedule(
    fs: Filesystem,
    name: str,
    *,
    paths: Sequence[str] = (),
    now_ns: int | None = None,
    owner: int = 0,
    permit: Permit = anyone,
) -> tuple[Scheduled, Scheduled | None]:
    """Arrange a restore for the next mount; also what was arranged before, which is dropped. The
    caller commits afterwards.

    Raises ``NoSuchSnapshot``, ``NotFound`` and ``NotDirectory`` for paths that could not be
    restored now, ``UsageError`` for too many, ``NoSpace``, ``ReadOnly``, and what ``permit``
    raises.
    """
    volume = fs.volume
    volume.check_writable()
    wanted = tuple(dict.fromkeys(map(path_bytes, paths)))
    if len(wanted) > PATHS_MAX or sum(map(len, wanted)) > PATHS_BYTES_MAX:
        raise UsageError(
            f"a restore that is scheduled has at most {PATHS_MAX} paths with "
            f"{PATHS_BYTES_MAX} bytes together: name directories"
        )
    instance = check(fs, name, paths, permit)
    volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + costs.of_commit(volume))
    before, chosen = (
        volume.restores.scheduled,
        Scheduled(instance.id, wanted, fs.now() if now_ns is None else now_ns, owner),
    )
    volume.restores.schedule(chosen)
    return chosen, before


def cancel(fs: Filesystem, *, owner: int | None = None, permit: Permit = anyone) -> Scheduled:
    """Take back what was arranged, by ``owner`` or by whoever ``permit`` lets change the snapshot.
    The caller commits afterwards.

    Raises ``NoSuchFact``, ``NoSpace``, ``ReadOnly``, and what ``permit`` raises.
    """
    volume = fs.volume
    volume.check_writable()
    chosen = volume.restores.scheduled
    if chosen is None:
        raise NoSuchFact("no restore is scheduled: there is nothing to cancel")
    instance = scheduled_snapshot(fs)
    if owner != chosen.owner:
        if instance is not None:
            check_permitted(fs, instance, permit)
        else:
            permit(fs.inode(fs.base, ROOT_INO))
    volume.allocator.prepare(0, urgency=2, metadata=volume.dirtied + costs.of_commit(volume))
    volume.restores.schedule(None)
    return chosen


def scheduled_snapshot(fs: Filesystem) -> Instance | None:
    """What the next mount goes back to. None without a schedule, and if damage has cost the
    snapshot.
    """
    chosen = fs.volume.restores.scheduled
    instance = fs.volume.instances.table.get(chosen.instance) if chosen else None
    return instance if instance is not None and not instance.going else None


def restore_scheduled(
    fs: Filesystem, permit: Callable[[int], Permit] = lambda _owner: anyone
) -> RestoreResult:
    """Do what is arranged; in the same commit it is arranged no more. ``permit`` says what the user
    may who has asked for it.

    Raises as ``restore``, and ``NoSuchSnapshot`` if damage has cost the snapshot.
    """
    chosen, instance = fs.volume.restores.scheduled, scheduled_snapshot(fs)
    if chosen is None or instance is None:
        raise NoSuchSnapshot("the snapshot does not exist any more")
    paths = [path_text(path) for path in chosen.paths]
    result = restore(
        fs, instance.name, paths=paths, owner=chosen.owner, permit=permit(chosen.owner)
    )
    fs.volume.restores.schedule(None)
    return result


def in_words(name: str, paths: Iterable[bytes], more: int = 0) -> str:
    """What was or will be restored, from what: for the log."""
    parts = [path_text(path) for path in paths] + ([f"{more} more"] if more else [])
    return f"{', '.join(parts)} from the snapshot {name}" if parts else f"the snapshot {name}"


def last_in_words(fs: Filesystem) -> str:
    """The line of the log for the restore that was done last."""
    one = fs.volume.restores.done[-1]
    undo = f"; the state from before is the snapshot {one.undo}" if one.undo else ""
    return (
        f"restored {in_words(one.name, one.paths, one.more)} for user {one.owner}: "
        f"{one.inodes} inodes differed{undo}"
    )
