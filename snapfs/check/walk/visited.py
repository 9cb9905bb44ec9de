"""Which blocks of a volume have been looked at: one bit each, in memory for those groups that have
any.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitarray import bitarray

from snapfs.blocks.geometry import Geometry

Run = tuple[int, int]  # block, length


class Visited:
    """A set of blocks. All of them must lie within the volume."""

    def __init__(self, geometry: Geometry) -> None:
        self._span = geometry.group_span
        self._groups: dict[int, bitarray] = {}

    def claim(self, start: int, length: int) -> list[Run]:
        """Add blocks; those that were not in it, as runs."""
        out: list[Run] = []
        for group, low, high in self._split(start, length):
            bits = self._groups.get(group)
            if bits is None:
                bits = self._groups[group] = bitarray(self._span, endian="little")
                bits.setall(0)
            first = group * self._span
            position = bits.find(0, low, high)
            while position >= 0:
                end = bits.find(1, position, high)
                end = high if end < 0 else end
                out.append((first + position, end - position))
                position = bits.find(0, end, high)
            bits[low:high] = 1
        return out

    def __contains__(self, block: int) -> bool:
        group, offset = divmod(block, self._span)
        return group in self._groups and bool(self._groups[group][offset])

    def forget(self, runs: Iterable[Run]) -> None:
        """Remove blocks: what they hold is something else now."""
        for start, length in runs:
            for group, low, high in self._split(start, length):
                if group in self._groups:
                    self._groups[group][low:high] = 0

    def _split(self, start: int, length: int) -> Iterable[tuple[int, int, int]]:
        end = start + length
        while start < end:
            group, low = divmod(start, self._span)
            high = min(self._span, low + end - start)
            yield group, low, high
            start += high - low
