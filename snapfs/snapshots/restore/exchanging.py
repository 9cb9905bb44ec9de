"""Blocks change hands between the base and the instances, as ``holders_model.py`` says of restoring
(A10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from snapfs.errors import CorruptBlock
from snapfs.filesystem.coverage import is_part
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from snapfs.filesystem import Filesystem
    from snapfs.interrupts import Want
    from snapfs.snapshots.compare.comparison import MapComparison

T = TypeVar("T")


#: An inode, and whether its extended attributes are meant, with the instances that do not preserve
#: them.
Masks = dict[tuple[int, bool], int]


def uncovered(fs: Filesystem, comparison: MapComparison) -> Masks:
    """Which instances do not preserve what the base is about to lose, by the inode that it belongs
    to. Raises ``NotCached`` for all.
    """
    coverage = fs.coverage
    found: Masks = {(0, False): 0}

    def look(ino: int, is_attributes: bool) -> None:
        found[ino, is_attributes] = (
            coverage.uncovered_attributes(ino)
            if is_attributes
            else coverage.uncovered(ino, comparison.heirs.get(ino))
        )

    _ask_all(look, [key for key in set(comparison.whose.values()) if key[0] and coverage.parts])
    return found


def outside(
    fs: Filesystem, comparison: MapComparison, tops: Collection[int]
) -> list[tuple[int, bool]]:
    """What of this a snapshot of some directories and files of the base, made now, does not
    preserve. Raises ``NotCached`` for all.
    """
    found: list[tuple[int, bool]] = []
    known: dict[int, bool] = {}

    def look(ino: int, is_attributes: bool) -> None:
        if not is_part(fs.base, ino, tops, known):
            found.append((ino, is_attributes))

    _ask_all(look, [key for key in set(comparison.whose.values()) if key[0]])
    return found


def _ask_all(look: Callable[[int, bool], None], keys: Iterable[tuple[int, bool]]) -> None:
    wants: dict[Want, None] = {}
    for key in keys:
        try:
            look(*key)
        except NotCached as exc:
            wants.update(dict.fromkeys(exc.wants))
    if wants:
        raise NotCached(list(wants))


def exchange(fs: Filesystem, comparison: MapComparison, masks: Masks) -> None:
    """Move the blocks that differ between the base and the instances, as
    ``holders_model.py`` says.
    """
    volume = fs.volume
    allocator, sets = volume.allocator, volume.holders
    whose = comparison.whose
    lost = (
        (block, (epoch, masks.get(whose[block], 0)))
        for block, epoch in comparison.only_base.items()
    )
    for start, length, (epoch, mask) in _runs(lost):
        fs.base.owner.drop(start, length, epoch, mask)
    for start, length, _ in _runs(comparison.only_view.items()):
        for low, size, number in allocator.pieces(start, length):
            if number is None:
                raise CorruptBlock(
                    f"block {low}: a snapshot reaches it, the base does not, and it has no record"
                )
            allocator.record(
                low, size, sets.intern(True, volume.epoch, sets.holders(number)), held=False
            )


def keep_from_older(fs: Filesystem, blocks: Iterable[int]) -> None:
    """Blocks of the base that are another file's from now on: no instance that there is has them
    there.
    """
    volume = fs.volume
    for start, length, _ in _runs((block, None) for block in blocks):
        volume.allocator.record(
            start, length, volume.holders.intern(True, volume.epoch, 0), held=False
        )


def _runs(blocks: Iterable[tuple[int, T]]) -> list[tuple[int, int, T]]:
    """Blocks, each with a value, as runs (start, length, value)."""
    out: list[tuple[int, int, T]] = []
    for block, value in sorted(blocks, key=lambda one: one[0]):
        if out and out[-1][0] + out[-1][1] == block and out[-1][2] == value:
            out[-1] = (out[-1][0], out[-1][1] + 1, value)
        else:
            out.append((block, 1, value))
    return out
