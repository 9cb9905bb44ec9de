"""The background part of deleting snapshots (A9): their bits leave the records, and what nobody
else holds is freed.

It works on the groups that have records, one after the other, for all instances that are going at
the start of a pass. Nothing is remembered on the volume but that they are going: after a crash the
pass begins anew, and finds nothing to do where it has been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.store.commit import costs
from snapfs.store.commit.commit import name_live

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

#: Record runs that one step looks at.
STEP_RUNS = 1000


class Deletion:
    """One pass over the records after another, until no instance is going."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._leaving: list[int] = []
        self._group = 0
        self._offset = 0

    @property
    def pending(self) -> bool:
        """Is there anything to do?"""
        if self._volume.read_only:
            return False
        return bool(self._leaving) or self._volume.instances.any_going

    def work(self) -> bool:
        """One bounded step; True while there is more. May raise ``NotCached``, ``CommitNeeded``."""
        volume = self._volume
        allocator = volume.allocator
        if not self._leaving:
            self._leaving = [one.id for one in volume.instances.going()]
            self._group = self._offset = 0
            if not self._leaving:
                return False
        while self._group < len(allocator.entries):
            group = allocator.groups.get(self._group)
            if group.records if group else allocator.entries[self._group].runs:
                allocator.need_groups([self._group])
                self._step()
                return True
            self._group += 1
            self._offset = 0
        self._finish()
        return self.pending

    def _step(self) -> None:
        """Look at some runs of a group."""
        volume = self._volume
        allocator, sets = volume.allocator, volume.holders
        allocator.prepare(0, urgency=2, metadata=volume.dirtied + costs.of_deletion(volume))
        group = allocator.groups[self._group]
        oldest = sets.oldest_epoch()
        runs = group.records.after(self._offset, STEP_RUNS)
        for offset, length, number in runs:
            entry = sets.get(number)
            start = group.start + offset
            mask = entry.mask & sets.live
            if entry.base_held:
                if oldest is None or oldest >= entry.since:
                    # Every instance holds it: that is the default, and needs no record.
                    probes.RECORD_IS_DEFAULT.hit()
                    allocator.record(start, length, None, held=False)
                elif mask != entry.mask:
                    allocator.record(
                        start, length, sets.intern(True, entry.since, mask), held=False
                    )
            elif not mask:
                allocator.free_run(start, length)
            elif mask != entry.mask:
                allocator.record(start, length, sets.intern(False, 0, mask), held=True)
        volume.dirtied += costs.RECORDS
        if len(runs) < STEP_RUNS:
            self._group += 1
            self._offset = 0
        else:
            probes.DELETION_CUT.hit()
            self._offset = runs[-1][0] + runs[-1][1]

    def _finish(self) -> None:
        """All records are through: the bits are free (A4), unless the kernel still knows inodes of
        a view.
        """
        volume = self._volume
        mask = sum(1 << number for number in self._leaving)
        volume.holders.leave(mask)
        for number in self._leaving:
            volume.instances.remove(number)
        self._leaving = []
        name_live(volume)
