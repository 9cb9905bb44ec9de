"""Which groups of a volume are in memory, and how they come there.

Whoever is going to change something about blocks first says which (``need``). What is missing is
asked for with ``NotCached``; what came stays until whoever asked has been able to use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.group_header import ENTRY_SLOT, ENTRY_WRITTEN, GroupEntry
from snapfs.errors import CorruptBlock
from snapfs.interrupts import NotCached, Want
from snapfs.store.space.group import Group

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry

Waiting = tuple[int, int, int]
"""Freed blocks that wait for a commit: group, offset, length."""

#: Clean groups kept in memory beyond those in use.
GROUPS_KEPT = 256

#: So many calls that needed groups are remembered: an operation makes fewer before it uses them.
RECENT_NEEDS = 64


class Groups:
    """``entries`` says of every group what the group table has of it; ``groups`` are those in
    memory, by number.
    """

    def __init__(self, geometry: Geometry, entries: list[GroupEntry]) -> None:
        self.geometry = geometry
        self.entries = entries
        self.groups: dict[int, Group] = {}
        #: Blocks that can be given out now, and those that wait for sealed generations to be
        #: durable. Whoever keeps freed blocks from being given out accounts for it here.
        self.available = 0
        self.in_flight = 0
        #: The numbers of those that the next commit must write: what is fresh, freed or recorded in
        #: the open generation is in them.
        self.changed: set[int] = set()
        self._window: list[int] = []
        self._needed: deque[Collection[int]] = deque(maxlen=RECENT_NEEDS)
        self._shift = geometry.group_span.bit_length() - 1
        self._mask = geometry.group_span - 1

    @property
    def window(self) -> list[int]:
        """The groups that allocation draws from."""
        return self._window

    def want(self, group: int) -> Want:
        """What to fetch to load a group."""
        return Want("group", group, self.entries[group].checksum)

    def need(self, runs: Iterable[tuple[int, int]]) -> None:
        """Make sure that the groups of these (block, length) runs are loaded."""
        shift = self._shift
        numbers: set[int] = set()
        for start, length in runs:
            first, last = start >> shift, start + length - 1 >> shift
            numbers.add(first)
            if last > first:
                numbers.update(range(first + 1, last + 1))
        self._need_named(numbers)

    def need_blocks(self, blocks: Iterable[int]) -> None:
        """The same for single blocks."""
        shift = self._shift
        self._need_named({block >> shift for block in blocks})

    def _need_named(self, numbers: set[int]) -> None:
        self._needed.append(numbers)
        missing = numbers.difference(self.groups)
        if missing:
            self._load_named(missing)

    def need_block(self, block: int) -> None:
        """The same for one block."""
        number = block >> self._shift
        self._needed.append((number,))
        if number not in self.groups:
            self._load_named({number})

    def need_groups(self, numbers: Iterable[int]) -> None:
        """The same for groups by their numbers."""
        numbers = set(numbers)
        self._needed.append(numbers)
        missing = {number for number in numbers if number not in self.groups}
        if missing:
            self._load(missing)

    def _load_named(self, missing: set[int]) -> None:
        """Load groups that pointers name blocks of. A group that was never written and is not in
        memory has none.

        A pointer costs 16 bytes of an image; what it makes us load must have cost as much as it
        takes.
        """
        for number in missing:
            if not 0 <= number < len(self.entries):
                raise CorruptBlock(
                    f"a pointer names block {number << self._shift}, which is outside the volume"
                )
            if not self.entries[number].flags & ENTRY_WRITTEN:
                raise CorruptBlock(
                    f"a pointer names a block in group {number}, of which no block is in use"
                )
        self._load(missing)

    def _load(self, missing: set[int]) -> None:
        self._make_room(len(missing))
        wants = []
        for number in sorted(missing):
            if self.entries[number].flags & ENTRY_WRITTEN:
                wants.append(self.want(number))
            else:
                self.admit(Group.empty(self.geometry, number))
        if wants:
            raise NotCached(wants)

    def _make_room(self, count: int) -> None:
        """Forget clean groups, those first that were loaded first; what the last few calls needed
        stays, however much it is.
        """
        surplus = len(self.groups) + count - GROUPS_KEPT
        if surplus <= 0:
            return
        needed = set(self._window).union(*self._needed)
        idle = [
            n
            for n, group in self.groups.items()
            if not (n in self.changed or group.pinned or n in needed)
        ]
        probes.GROUPS_FORGOTTEN.hit()
        for number in idle[:surplus]:
            del self.groups[number]

    def admit(self, group: Group) -> None:
        """A group was loaded."""
        if group.number in self.groups:
            return
        entry = self.entries[group.number]
        if entry.flags & ENTRY_WRITTEN:
            group.slot = entry.flags & ENTRY_SLOT
        self.adopt(group)

    def adopt(self, group: Group) -> None:
        """Have a group that is not loaded yet, as it is."""
        if group.dirty:
            self.changed.add(group.number)
        group.changed = self.changed
        self.groups[group.number] = group

    def forget_all(self) -> None:
        """Have no group any more, whatever was changed in them."""
        self.groups.clear()
        self.changed.clear()
        self._window.clear()
