"""Which views and tables reach each block, found by walking them: the truth that bitmaps and
records are held against.

A set of views is a mask with bit 0 for the base and an instance's id for the others. Three more
bits stand for the volume's tables, for the storage of records, and for what a running copy has.
Masks are interned; a group of which much is reached takes 8 bytes a block.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final, TypeAlias

from snapfs.blocks.geometry import Geometry
from snapfs.check.findings import Findings, Mend, Subject
from snapfs.ids import MAX_INSTANCES

BASE: Final = 1
SYSTEM: Final = 1 << MAX_INSTANCES + 1
RECORDS: Final = 1 << MAX_INSTANCES + 2
COPY: Final = 1 << MAX_INSTANCES + 3

#: What no view has.
VOLUME: Final = SYSTEM | RECORDS | COPY


#: Of a group, one block in 64 and fewer are few: they are kept one by one. A pointer costs 16 bytes
#: of an image, and may name a group of which no other block is in use.
FEW_SHIFT: Final = 6


class _Few(dict[int, int]):
    """Numbers by offset, 0 where there is none."""

    def __missing__(self, offset: int) -> int:
        return 0


Marks: TypeAlias = "array[int] | _Few"


@dataclass(frozen=True, slots=True)
class Objection:
    """A pointer to ``block`` cannot stand as it is in the views of ``mask``: it is to be dropped,
    or to have the epoch ``epoch``.
    """

    block: int
    mask: int
    mend: Mend
    epoch: int = 0


def allowed(mask: int, objections: list[Objection]) -> int:
    """The views of ``mask`` whose pointer to a block leads on: none where it is impossible, or
    leads where another one has led.
    """
    for one in objections:
        if one.mend is Mend.DROP_POINTER:
            mask &= ~one.mask
    return mask


class Reach:
    """Masks and epochs by block. ``epoch`` is the volume's, which no block's can be above."""

    def __init__(self, geometry: Geometry, findings: Findings, epoch: int) -> None:
        self._epoch = epoch
        self._geometry = geometry
        self._findings = findings
        self._masks: list[int] = [0]
        self._ids: dict[int, int] = {0: 0}
        #: Blocks whose pointers disagree on their epoch: the default rule cannot be trusted for
        #: them.
        self.disputed: set[int] = set()
        self._groups: dict[int, tuple[Marks, Marks]] = {}
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

    def _marks(self, group: int, more: int) -> tuple[Marks, Marks]:
        """The numbers of masks, and the epochs, by offset in a group, with room for some more."""
        masks, epochs = self._groups.get(group) or (_Few(), _Few())
        if isinstance(masks, _Few) and len(masks) + more > self._geometry.group_span >> FEW_SHIFT:
            masks, epochs = self._whole(masks), self._whole(epochs)
        self._groups[group] = masks, epochs
        return masks, epochs

    def _whole(self, marks: Marks) -> array[int]:
        if isinstance(marks, array):
            return marks
        whole = array("I", bytes(4 * self._geometry.group_span))
        for offset, number in marks.items():
            whole[offset] = number
        return whole

    @property
    def groups(self) -> set[int]:
        """Groups that anything reaches."""
        return set(self._groups)

    def claim(
        self, start: int, length: int, mask: int, epoch: int, where: Subject
    ) -> list[Objection]:
        """Views reach these blocks at a place. What is wrong with that, besides being noted.

        Whoever walks on from there does it for the views that are ``allowed`` only: pointers that
        lead back, or to one place many times, end so.
        """
        geometry = self._geometry
        if start < 1 or start + length > geometry.blocks:
            self._findings.add(
                "format",
                "pointer-range",
                where.words(mask),
                f"it names blocks {start} to {start + length - 1}, outside the volume",
            )
            return [
                Objection(block, mask, Mend.DROP_POINTER) for block in range(start, start + length)
            ]
        objections = []
        if epoch > self._epoch:
            self._findings.add(
                "I3",
                "future-epoch",
                where.words(mask),
                f"block {start} is said to be born in epoch {epoch}, the volume is at "
                f"{self._epoch}",
            )
            epoch = self._epoch
            objections += [
                Objection(block, mask, Mend.RENEW_POINTER, epoch)
                for block in range(start, start + length)
            ]
        end = start + length
        while start < end:
            group, low = divmod(start, geometry.group_span)
            high = min(geometry.group_span, low + end - start)
            objections += self._claim_within(group, low, high, mask, epoch, where)
            start += high - low
        return objections

    def _claim_within(
        self, group: int, low: int, high: int, mask: int, epoch: int, where: Subject
    ) -> list[Objection]:
        objections: list[Objection] = []
        start = self._geometry.group_start(group)
        for first, last in self._fixed.get(group, self._fixed_elsewhere):
            if low < last and high > first:
                self._findings.add(
                    "I4",
                    "pointer-into-fixed",
                    where.words(mask),
                    f"it names block {start + max(low, first)}, which belongs to the "
                    "volume's fixed metadata",
                )
                fixed = range(max(low, first), min(high, last))
                objections += [
                    Objection(start + offset, mask, Mend.DROP_POINTER) for offset in fixed
                ]
                if low < first:
                    objections += self._claim_within(group, low, first, mask, epoch, where)
                if high > last:
                    objections += self._claim_within(group, last, high, mask, epoch, where)
                return objections
        masks, epochs = self._marks(group, high - low)
        if isinstance(masks, array) and isinstance(epochs, array) and not any(masks[low:high]):
            masks[low:high] = array("I", [self._id(mask)]) * (high - low)
            epochs[low:high] = array("I", [epoch]) * (high - low)
            return objections
        for offset in range(low, high):
            old = self._masks[masks[offset]]
            if old & mask:
                self._findings.add(
                    "I4",
                    "reached-twice",
                    where.words(mask),
                    f"block {start + offset} is reached at another place of the same view as well",
                )
                objections.append(Objection(start + offset, old & mask, Mend.DROP_POINTER))
            if not old:
                epochs[offset] = epoch
            elif epochs[offset] != epoch and not mask & COPY:  # what a copy has knows no epochs
                self._findings.add(
                    "format",
                    "epoch-differs",
                    where.words(mask),
                    f"block {start + offset} is said to be born in epoch {epoch} and in "
                    f"{epochs[offset]}",
                )
                objections.append(
                    Objection(start + offset, mask & ~old, Mend.RENEW_POINTER, epochs[offset])
                )
                self.disputed.add(start + offset)
            masks[offset] = self._id(old | mask)
        return objections

    def mask(self, block: int) -> int:
        """What reaches a block of the volume."""
        group, offset = divmod(block, self._geometry.group_span)
        marks = self._groups.get(group)
        return self._masks[marks[0][offset]] if marks else 0

    def of_group(self, group: int) -> tuple[list[int], array[int], array[int]]:
        """The interned masks, and for each block of a group the number of
        its mask and its epoch.
        """
        masks, epochs = self._groups.get(group) or (_Few(), _Few())
        return self._masks, self._whole(masks), self._whole(epochs)

    def few_of_group(self, group: int) -> list[tuple[int, int, int]] | None:
        """Offset, mask and epoch of all blocks of a group that are reached, in order; None when
        they are many.
        """
        masks, epochs = self._groups.get(group) or (_Few(), _Few())
        if isinstance(masks, array):
            return None
        return [
            (offset, self._masks[number], epochs[offset])
            for offset, number in sorted(masks.items())
        ]
