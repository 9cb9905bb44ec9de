"""A group in memory: both bitmaps, the records of its blocks, and what must not be allocated yet.

``blocks`` is the block bitmap as the next commit writes it. ``busy`` is what allocation goes by:
the same, and also blocks that were freed in a generation that is not durable yet (I5). ``fresh``
marks blocks allocated in the open generation: no durable generation reaches them, so they may be
overwritten in place and used again at once. Offsets are relative to the group.
"""

from __future__ import annotations

import heapq

from bitarray import bitarray
from bitarray.util import intervals

from snapfs.blocks.geometry import Geometry
from snapfs.errors import CorruptBlock
from snapfs.store.space.runs import RunMap


class Group:
    """One loaded group. ``free`` counts zeros of ``blocks``, ``available`` zeros of ``busy``."""

    __slots__ = (
        "available",
        "blocks",
        "busy",
        "changed",
        "cursor",
        "encoded",
        "encoded_bytes",
        "first",
        "free",
        "fresh",
        "fresh_count",
        "last",
        "number",
        "pinned",
        "records",
        "records_dirty",
        "slot",
        "snapshot",
        "snapshot_count",
        "spill",
        "start",
    )

    def __init__(
        self,
        geometry: Geometry,
        number: int,
        blocks: bitarray,
        snapshot: bitarray,
        records: RunMap,
        slot: int,
        spill: tuple[tuple[int, int], ...],
    ) -> None:
        self.number = number
        self.start = geometry.group_start(number)
        self.first, self.last = geometry.usable_range(number)
        self.blocks = blocks
        self.busy = blocks.copy()
        self.snapshot = snapshot
        self.records = records
        self.fresh = bitarray(endian="little")
        self.fresh_count = 0
        self.free = blocks.count(0)
        self.available = self.free
        self.snapshot_count = snapshot.count(1)
        self.slot = slot  # the slot that holds the newest sealed state
        # where the newest sealed state keeps its records, when they do not fit the header
        self.spill = spill
        self.encoded = b""  # or what stands in the header
        self.encoded_bytes = 0
        self.cursor = 0
        self.changed: set[int] = (
            set()
        )  # the numbers of dirty groups: the allocator's set, once it has the group
        self.records_dirty = False
        self.pinned = 0  # generations in flight that hold blocks of this group back

    @classmethod
    def empty(cls, geometry: Geometry, number: int) -> Group:
        """A group that was never written: only its fixed metadata is allocated."""
        blocks = bitarray(geometry.group_span, endian="little")
        blocks.setall(0)
        for start, end in geometry.fixed_ranges(number):
            blocks[start:end] = 1
        snapshot = bitarray(geometry.group_span, endian="little")
        snapshot.setall(0)
        return cls(geometry, number, blocks, snapshot, RunMap(), 1, ())

    @property
    def dirty(self) -> bool:
        """Must the next commit write it?"""
        return self.number in self.changed

    @dirty.setter
    def dirty(self, value: bool) -> None:
        if value:
            self.changed.add(self.number)
        else:
            self.changed.discard(self.number)

    @property
    def guards_fixed(self) -> bool:
        """Is what is fixed metadata, or behind the end of the volume, marked as in use? Else it
        would be given out and overwritten.
        """
        fixed = self.first + len(self.blocks) - self.last
        return (
            self.blocks.count(1, 0, self.first) + self.blocks.count(1, self.last, len(self.blocks))
            == fixed
        )

    def check_in_use(self, start: int, end: int) -> None:
        """Raises ``CorruptBlock`` for blocks that nobody can have: free
        ones, and fixed metadata.
        """
        if start < self.first or end > self.last or self.blocks.count(1, start, end) != end - start:
            first, last = self.start + start, self.start + end - 1
            raise CorruptBlock(
                f"blocks {first} to {last} are named by something, and are free or fixed metadata"
            )

    def take(self, limit: int) -> tuple[int, int]:
        """Allocate the next free run of at most ``limit`` blocks after the cursor; (offset,
        length). ``available`` must not be 0.
        """
        busy = self.busy
        start = busy.find(0, self.cursor)
        if start < 0:
            start = busy.find(0)
        stop = min(start + limit, len(busy))
        end = busy.find(1, start, stop) if stop - start > 1 else -1
        if end < 0:
            end = stop
        self.occupy(start, end)
        self.cursor = end
        return start, end - start

    def occupy(self, start: int, end: int) -> None:
        """Allocate these blocks, all of which are free."""
        self.busy[start:end] = 1
        self.blocks[start:end] = 1
        if not self.fresh:
            self.fresh = bitarray(len(self.busy), endian="little")
            self.fresh.setall(0)
        self.fresh[start:end] = 1
        length = end - start
        self.fresh_count += length
        self.free -= length
        self.available -= length
        self.changed.add(self.number)

    def free_runs(self, limit: int) -> list[tuple[int, int]]:
        """The longest runs of blocks that can be allocated, ``limit`` of them at most: (block,
        length), the longest first.
        """
        runs = (
            (self.start + low, high - low) for value, low, high in intervals(self.busy) if not value
        )
        return heapq.nlargest(limit, runs, key=lambda run: run[1])

    def is_fresh(self, start: int, end: int) -> bool:
        """Were all these blocks allocated in the open generation?"""
        return bool(self.fresh_count) and self.fresh.count(1, start, end) == end - start

    def keep(self, start: int, end: int) -> None:
        """These blocks are to stay as they are until the next commit, although that has not reached
        them yet.
        """
        if self.fresh_count:
            self.fresh_count -= self.fresh.count(1, start, end)
            self.fresh[start:end] = 0

    def release(self, start: int, end: int, *, reuse: bool = True) -> list[tuple[int, int]]:
        """Clear blocks in the block bitmap; returns the runs (offset, length) that must wait for
        the commit.

        Fresh ones need not, and are available at once, unless not to ``reuse`` them.
        """
        length = end - start
        self.blocks[start:end] = 0
        self.free += length
        self.changed.add(self.number)
        if not self.fresh_count:
            return [(start, length)]
        fresh = self.fresh.count(1, start, end)
        if not reuse:
            self.fresh[start:end] = 0
            self.fresh_count -= fresh
            fresh = 0
        if not fresh:
            return [(start, length)]
        if fresh == length:
            self._reuse(start, end)
            return []
        waiting = []
        position = start
        while position < end:
            value = self.fresh[position]
            stop = self.fresh.find(not value, position, end)
            stop = end if stop < 0 else stop
            if value:
                self._reuse(position, stop)
            else:
                waiting.append((position, stop - position))
            position = stop
        return waiting

    def _reuse(self, start: int, end: int) -> None:
        self.busy[start:end] = 0
        self.fresh[start:end] = 0
        self.fresh_count -= end - start
        self.available += end - start

    def mark_snapshot(self, start: int, end: int, value: int) -> None:
        """Set or clear bits of the snapshot bitmap."""
        held = self.snapshot.count(1, start, end)
        self.snapshot[start:end] = value
        self.snapshot_count += (end - start if value else 0) - held
        self.changed.add(self.number)

    def sealed(self) -> None:
        """The open generation was sealed: what it allocated is no longer to be overwritten."""
        if self.fresh_count:
            self.fresh.setall(0)
            self.fresh_count = 0
        self.records_dirty = False
        self.changed.discard(self.number)
