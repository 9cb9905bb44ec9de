"""Which instances need a block: holder sets as bit masks, interned, so that a record names a set by
its number.

A set is one of two kinds. Without ``base_held``: the base does not reach the block, and exactly the
instances of ``mask`` do. With it: the base reaches the block, and so do the instances of ``mask``
and every live instance whose epoch is at or after ``since``. A block without a record has the
default holders: the live instances whose epoch is at or after the block's own.

Masks on the volume may still name instances that are going; ``holders`` leaves them out, and the
background deletion rewrites the sets before it gives such a bit back.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from snapfs.errors import CorruptBlock


@dataclass(slots=True)
class HolderSet:
    """One interned set; ``count`` is the number of blocks whose records name it."""

    base_held: bool
    since: int
    mask: int
    count: int = 0

    @property
    def key(self) -> tuple[bool, int, int]:
        """What makes two sets the same."""
        return self.base_held, self.since, self.mask


class HolderSets:
    """All sets that records name, in memory, with the live instances that give them meaning."""

    def __init__(self) -> None:
        self.sets: dict[int, HolderSet] = {}
        self.dirty: set[int] = set()
        self.live = 0
        self._numbers: dict[tuple[bool, int, int], int] = {}
        self._spare: list[int] = []
        self._epochs: list[int] = []
        self._suffixes: list[int] = [0]
        self._bits: dict[int, int] = {}

    def load(self, number: int, entry: HolderSet) -> None:
        """Take a set from the volume."""
        self.sets[number] = entry
        self._numbers.setdefault(entry.key, number)

    def set_instances(self, epochs: dict[int, int]) -> None:
        """Name the live instances: bit -> epoch."""
        self._bits = dict(epochs)
        ordered = sorted((epoch, bit) for bit, epoch in epochs.items())
        self._epochs = [epoch for epoch, _ in ordered]
        self._suffixes = [0] * (len(ordered) + 1)
        for index in range(len(ordered) - 1, -1, -1):
            self._suffixes[index] = self._suffixes[index + 1] | 1 << ordered[index][1]
        self.live = self._suffixes[0]

    def default(self, epoch: int) -> int:
        """The default holders of a block born in ``epoch``, as a mask."""
        return self._suffixes[bisect_left(self._epochs, epoch)]

    def oldest_epoch(self) -> int | None:
        """The smallest epoch of a live instance, None without instances."""
        return self._epochs[0] if self._epochs else None

    def get(self, number: int) -> HolderSet:
        """The set of a record. Raises ``CorruptBlock`` for a number that no set has."""
        try:
            return self.sets[number]
        except KeyError:
            raise CorruptBlock(
                f"a record names holder set {number}, which does not exist"
            ) from None

    def holders(self, number: int, uncovered: int = 0) -> int:
        """The mask of live instances that a record's set stands for now; by default not those that
        are ``uncovered``.
        """
        entry = self.get(number)
        mask = entry.mask & self.live
        return mask | self.default(entry.since) & ~uncovered if entry.base_held else mask

    def only(self, mask: int) -> int:
        """Blocks that instances of ``mask`` reach and nothing else does: what leaves with all of
        them.
        """
        others = self.live & ~mask
        return sum(
            one.count
            for one in self.sets.values()
            if not one.base_held and one.mask & mask & self.live and not one.mask & others
        )

    def alone(self) -> dict[int, int]:
        """The same for each live instance by itself, by its bit."""
        found = dict.fromkeys(self._bits, 0)
        for one in self.sets.values():
            mask = one.mask & self.live
            if mask and not one.base_held and not mask & mask - 1:
                found[mask.bit_length() - 1] += one.count
        return found

    def leaving(self) -> int:
        """Blocks that nothing live reaches any more: they wait for the background deletion."""
        return sum(
            one.count
            for one in self.sets.values()
            if not one.base_held and not one.mask & self.live
        )

    def intern(self, base_held: bool, since: int, mask: int) -> int:
        """The number of a set, new if need be."""
        key = (base_held, since if base_held else 0, mask)
        number = self._numbers.get(key)
        if number is None:
            if not self._spare:
                # Half of these at least are unused, so numbers stay small whatever a volume comes
                # with.
                self._spare = [
                    number
                    for number in range(2 * len(self.sets) + 2, 0, -1)
                    if number not in self.sets
                ]
            number = self._spare.pop()
            self.sets[number] = HolderSet(*key)
            self._numbers[key] = number
            self.dirty.add(number)
        return number

    def adjust(self, number: int, blocks: int) -> None:
        """Count ``blocks`` more (or fewer) blocks for a set; a set without blocks is forgotten."""
        entry = self.get(number)
        entry.count += blocks
        self.dirty.add(number)
        if entry.count <= 0:
            if entry.count < 0:
                raise CorruptBlock(f"holder set {number} counts fewer blocks than records name it")
            self.forget(number)

    def forget(self, number: int) -> None:
        """Drop a set that no record names."""
        entry = self.sets.pop(number)
        self.dirty.add(number)
        if self._numbers.get(entry.key) == number:
            del self._numbers[entry.key]
        self._spare.append(number)

    def join(self, source: int, new: int) -> None:
        """Instance ``new`` becomes a holder wherever ``source`` is one (a
        snapshot of a snapshot).
        """
        bit, added = 1 << source, 1 << new
        for number, entry in self.sets.items():
            if entry.mask & bit:
                self._rekey(number, entry, entry.mask | added)

    def leave(self, mask: int) -> list[int]:
        """Take the bits of ``mask`` out of every set; the numbers of sets that this leaves without
        any holder.
        """
        empty = []
        for number, entry in self.sets.items():
            if entry.mask & mask:
                self._rekey(number, entry, entry.mask & ~mask)
            if not entry.mask and not entry.base_held:
                empty.append(number)
        return empty

    def naming(self, mask: int) -> list[int]:
        """Numbers of the sets that name any bit of ``mask``."""
        return [number for number, entry in self.sets.items() if entry.mask & mask]

    def _rekey(self, number: int, entry: HolderSet, mask: int) -> None:
        if self._numbers.get(entry.key) == number:
            del self._numbers[entry.key]
        entry.mask = mask
        self._numbers.setdefault(entry.key, number)
        self.dirty.add(number)
