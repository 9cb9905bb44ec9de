"""Blocks that are free for the volume, and kept from being given out for a while: a set of them, by
groups.

That is in memory alone: after a crash they are free. Each group that blocks are kept of is pinned
once, so that it stays loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitarray import bitarray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapfs.store.space.groups import Groups, Waiting


class KeptBlocks:
    """Blocks of freed runs, which count as in flight. They are marked as busy in their groups and
    as free for the next commit.
    """

    def __init__(self, groups: Groups) -> None:
        self._pool = groups
        self._bits: dict[int, bitarray] = {}

    def __len__(self) -> int:
        """Groups of which blocks are kept."""
        return len(self._bits)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """Keep runs whose groups are pinned once for all of them."""
        groups, waiting = self._pool.groups, list(waiting)
        for number in {number for number, _, _ in waiting}:
            if number in self._bits:
                groups[number].pinned -= 1
            else:
                self._bits[number] = bitarray(self._pool.geometry.group_span, endian="little")
                self._bits[number].setall(0)
        for number, offset, length in waiting:
            self._bits[number][offset : offset + length] = 1

    def move_to(self, other: KeptBlocks) -> None:
        """Have another set keep all of them."""
        for number, bits in self._bits.items():
            if number in other._bits:
                self._pool.groups[number].pinned -= 1
                other._bits[number] |= bits
            else:
                other._bits[number] = bits
        self._bits.clear()

    def move_one_to(self, other: KeptBlocks) -> None:
        """The same with one group, the first of which blocks came. ``other`` keeps none of it."""
        number = next(iter(self._bits))
        other._bits[number] = self._bits.pop(number)

    def runs(self) -> list[tuple[int, int]]:
        """All of them as (block, length), neighbours within a group joined."""
        out = []
        for number, bits in self._bits.items():
            first = self._pool.groups[number].start
            start = bits.find(1)
            while start >= 0:
                end = bits.find(0, start)
                end = len(bits) if end < 0 else end
                out.append((first + start, end - start))
                start = bits.find(1, end)
        return out

    def let_go(self) -> None:
        """They may be given out from now on."""
        pool = self._pool
        for number, bits in self._bits.items():
            group, count = pool.groups[number], bits.count(1)
            group.busy &= ~bits
            group.available += count
            group.pinned -= 1
            pool.available += count
            pool.in_flight -= count
        self._bits.clear()
