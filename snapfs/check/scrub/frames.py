"""Pointers that stand side by side in a tree, as a walk follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.check.scrub.places import Tree, TreePlace
from snapfs.check.scrub.verifying import WantedBlocks


class Frame:
    """Pointers of one pointer block (or a root) that are still to be followed. ``level`` and
    ``base`` say what the first one names.
    """

    __slots__ = ("base", "level", "slot", "tree", "words")

    def __init__(self, tree: Tree, level: int, base: int, words: Sequence[int]) -> None:
        self.tree = tree
        self.level = level
        self.base = base
        self.words = words
        self.slot = 0

    def following(self, limit: int) -> tuple[int, int, int] | None:
        """The next blocks that lie side by side, ``limit`` at most: slot, block, number of blocks.
        None at the end.
        """
        words, slot, count = self.words, self.slot, len(self.words) // 2
        while slot < count and not words[2 * slot]:
            slot += 1
        if slot == count:
            return None
        block = words[2 * slot] & BLOCK_MASK
        end, last = slot + 1, min(count, slot + limit)
        while end < last and words[2 * end] & BLOCK_MASK == block + end - slot:
            end += 1
        self.slot = end
        return slot, block, end - slot


class Item(NamedTuple):
    """Blocks to be verified that stand side by side in a tree; ``inner`` blocks lead on."""

    place: TreePlace
    wanted: WantedBlocks
    epochs: Sequence[int]
    inner: bool
