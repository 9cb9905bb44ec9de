"""Sets of views, as masks with a bit for each: an inode as it is in some of them, and cutting a set
by others.
"""

from __future__ import annotations

from dataclasses import dataclass

from snapfs.filesystem import Inode


@dataclass(frozen=True, slots=True)
class InodeVersion:
    """An inode as it is in the views of ``mask``."""

    inode: Inode
    mask: int


def without(found: list[InodeVersion], views: int) -> list[InodeVersion]:
    """The versions in all views but some."""
    return (
        [InodeVersion(one.inode, one.mask & ~views) for one in found if one.mask & ~views]
        if views
        else found
    )


def partition(masks: list[int], whole: int) -> list[tuple[int, int]]:
    """Cut the views of ``whole`` by how many of the masks they are in: (count, views)."""
    counts = {0: whole}
    for mask in masks:
        if not mask & whole:
            continue
        moved: dict[int, int] = {}
        for count, views in counts.items():
            if views & mask:
                moved[count + 1] = moved.get(count + 1, 0) | views & mask
            if views & ~mask:
                moved[count] = moved.get(count, 0) | views & ~mask
        counts = moved
    return list(counts.items())
