"""Which views and tables reach each block, found by walking them: the truth that bitmaps and records are held against.

A set of views is a mask with bit 0 for the base and an instance's id for the others. Two more bits stand for the volume's tables
and for the storage of records. Masks are interned; a group that something reaches takes 8 bytes a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final

from snapfs.blocks.geometry import Geometry
from snapfs.check.findings import Findings
from snapfs.ids import MAX_INSTANCES

BASE: Final = 1
SYSTEM: Final = 1 << MAX_INSTANCES + 1
RECORDS: Final = 1 << MAX_INSTANCES + 2

#: Says where something is, in words, for the views of a mask.
Where = Callable[[int], str]


def everywhere(place: str) -> Where:
    """One place for all views."""
    return lambda _mask: place


class Reach:
    """Masks and epochs by block."""

    def __init__(self, geometry: Geometry, findings: Findings) -> None:
        self._geometry = geometry
        self._findings = findings
        self._masks: list[int] = [0]
        self._ids: dict[int, int] = {0: 0}
        self._groups: dict[int, tuple[array[int], array[int]]] = {}
        self._fixed = {}
        for group in range(geometry.groups):
            if group in (0, geometry.groups - 1):
                self._fixed[group] = geometry.fixed_ranges(group)
        self._fixed_elsewhere = geometry.fixed_ranges(1) if geometry.groups > 2 else []

    def _id(self, mask: int) -> int:
        number = self._ids.get(mask)
        if number is None:
            number = self._ids[mask] = len(self._masks)
            self._masks.append(mask)
        return number

    def _arrays(self, group: int) -> tuple[array[int], array[int]]:
        found = self._groups.get(group)
        if found is None:
            span = self._geometry.group_span
            found = self._groups[group] = (array("I", bytes(4 * span)), array("I", bytes(4 * span)))
        return found

    @property
    def groups(self) -> set[int]:
        """Groups that anything reaches."""
        return set(self._groups)

    def claim(self, start: int, length: int, mask: int, epoch: int, where: Where) -> int:
        """Views reach these blocks at a place. The views among them that do so for the first time: none when the place is impossible.

        Whoever walks on from there does it for these only: pointers that lead back, or to one place many times, end so.
        """
        geometry = self._geometry
        if start < 1 or start + length > geometry.blocks:
            self._findings.add(
                "format", "pointer-range", where(mask), f"it names blocks {start} to {start + length - 1}, outside the volume"
            )
            return 0
        new = mask
        end = start + length
        while start < end:
            group, low = divmod(start, geometry.group_span)
            high = min(geometry.group_span, low + end - start)
            for first, last in self._fixed.get(group, self._fixed_elsewhere):
                if low < last and high > first:
                    self._findings.add(
                        "I4", "pointer-into-fixed", where(mask), f"it names block {start}, which belongs to the volume's fixed metadata"
                    )
                    new = 0
            if new:
                new &= self._claim(group, low, high, mask, epoch, where)
            start += high - low
        return new

    def _claim(self, group: int, low: int, high: int, mask: int, epoch: int, where: Where) -> int:
        masks, epochs = self._arrays(group)
        if not any(masks[low:high]):
            masks[low:high] = array("I", [self._id(mask)]) * (high - low)
            epochs[low:high] = array("I", [epoch]) * (high - low)
            return mask
        new = mask
        start = self._geometry.group_start(group)
        for offset in range(low, high):
            old = self._masks[masks[offset]]
            if old & mask:
                self._findings.add(
                    "I4", "reached-twice", where(mask), f"block {start + offset} is reached at another place of the same view as well"
                )
                new &= ~old
            if old and epochs[offset] != epoch:
                self._findings.add(
                    "format",
                    "epoch-differs",
                    where(mask),
                    f"block {start + offset} is said to be born in epoch {epoch} and in {epochs[offset]}",
                )
            masks[offset] = self._id(old | mask)
            epochs[offset] = epoch
        return new

    def of_group(self, group: int) -> tuple[list[int], array[int], array[int]] | None:
        """The interned masks, and for each block of a group the number of its mask and its epoch; None if nothing reaches the group."""
        found = self._groups.get(group)
        return None if found is None else (self._masks, *found)
