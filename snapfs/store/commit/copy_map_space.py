"""The blocks of a copy map that stands on the volume itself: taken, looked at, and given back."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from snapfs.errors import NoSpace
from snapfs.store.commit import costs
from snapfs.store.tables.copies import RUNS_MAX, Runs

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

#: So many groups are looked at for a place for a copy map: those with most room. That is more than
#: the largest map takes.
GROUPS_TRIED: Final = 64


def allocate_map(volume: Volume, blocks: int, *, urgency: int = 0) -> Runs:
    """Take ``blocks`` blocks for a copy map, in as few runs as possible, for whoever calls to write
    in place.

    ``urgency``: see ``Allocator.prepare``. Raises ``NotCached``, ``CommitNeeded`` and ``NoSpace``
    before anything has changed.
    """
    allocator = volume.allocator
    volume.check_writable()
    allocator.prepare(blocks, urgency=urgency, metadata=volume.dirtied + costs.of_copy(volume))
    rooms = ((allocator.room(number), -number) for number in range(volume.geometry.groups))
    numbers = [-number for _, number in heapq.nlargest(GROUPS_TRIED, rooms)]
    allocator.need_groups(numbers)
    found = [run for number in numbers for run in allocator.groups[number].free_runs(RUNS_MAX)]
    chosen: list[tuple[int, int]] = []
    missing = blocks
    for start, length in sorted(found, key=lambda run: (-run[1], run[0]))[:RUNS_MAX]:
        chosen.append((start, min(length, missing)))
        missing -= min(length, missing)
        if not missing:
            break
    if missing:
        raise NoSpace(
            "free space is in too many pieces for a copy map on the volume: keep it "
            "outside (--map outside)"
        )
    chosen.sort()
    allocator.take(chosen)
    for start, length in chosen:
        volume.system_owner.taken(start, length)
    return tuple(chosen)


def plan_map(volume: Volume, runs: Iterable[tuple[int, int]]) -> None:
    """Load the groups of a map's blocks. Raises ``NotCached``; ``CorruptBlock`` for blocks that the
    bitmaps do not give to a map.
    """
    allocator = volume.allocator
    runs = list(runs)
    allocator.need(runs)
    for start, length in runs:
        allocator.check_system(start, length)


def free_map(volume: Volume, runs: Iterable[tuple[int, int]]) -> None:
    """Give the blocks of a map back; nobody writes them any more. Raises as ``plan_map``, before
    anything has changed.
    """
    runs = list(runs)
    volume.check_writable()
    plan_map(volume, runs)
    for start, length in runs:
        volume.system_owner.drop(start, length, 0)
