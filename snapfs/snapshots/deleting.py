"""Deleting several snapshots at once: what that frees, and doing it with one commit. Of one alone
see ``lifecycle.delete``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.errors import (
    FsError,
    SnapfsError,
    SnapshotError,
)
from snapfs.interrupts import NotCached
from snapfs.snapshots.lifecycle import deletable, leave
from snapfs.snapshots.rights import Permit, anyone
from snapfs.snapshots.space import frees
from snapfs.store.commit import costs

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.interrupts import Want
    from snapfs.store.tables.instances import Instance


@dataclass(frozen=True, slots=True)
class SetDeletion:
    """What becomes of a set of snapshots: those that are deleted, by name why others are not, and
    the blocks that this frees.
    """

    deleted: tuple[Instance, ...]
    refused: Mapping[str, SnapfsError]
    blocks: int


def plan_set(
    fs: Filesystem, names: Iterable[str | Instance], *, permit: Permit = anyone
) -> SetDeletion:
    """What ``delete_set`` would do now; nothing is changed. Each is given as to ``get``. May raise
    ``NotCached``, ``CommitNeeded``.
    """
    chosen: dict[int, Instance] = {}
    refused: dict[str, SnapfsError] = {}
    wants: list[Want] = []
    for which in names:
        try:
            instance = deletable(fs, which, permit)
            chosen[instance.id] = instance
        except NotCached as exc:  # all that is missing is fetched at once
            wants += exc.wants
        except (SnapshotError, FsError) as exc:
            refused[which if isinstance(which, str) else which.name] = exc
    if wants:
        raise NotCached(wants)
    return SetDeletion(tuple(chosen.values()), refused, frees(fs, list(chosen.values())))


def delete_set(
    fs: Filesystem, names: Iterable[str | Instance], *, permit: Permit = anyone
) -> SetDeletion:
    """Delete all of these snapshots that can be deleted, as ``lifecycle.delete`` does each; the
    caller commits afterwards.

    Raises ``NoSpace``, ``ReadOnly``.
    """
    volume = fs.volume
    volume.check_writable()
    planned = plan_set(fs, names, permit=permit)
    volume.allocator.prepare(
        0,
        urgency=2,
        metadata=volume.dirtied + costs.of_instances(volume, len(planned.deleted), grow=False),
    )
    for instance in planned.deleted:
        leave(fs, instance)
    return planned
