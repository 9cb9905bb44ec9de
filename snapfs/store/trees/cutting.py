"""Cutting off the end of a block map, in steps of so many pointer blocks.

Everything that a step touches is brought into memory first, so that the step happens whole or not
at all.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from snapfs.blocks.pointer import BLOCK_MASK, FLAG_DIRTY, pointer_runs
from snapfs.errors import CorruptBlock
from snapfs.interrupts import NotCached, Want
from snapfs.store.trees.tree import LEVEL_SHIFT

if TYPE_CHECKING:
    from snapfs.store.trees.tree import BlockMap


def cut(tree: BlockMap, keep: int, budget: int) -> int:
    """Drop the blocks from ``keep`` on, beginning at the end, within at most ``budget`` pointer
    blocks of level 1.

    Returns the index from which nothing is left: ``keep`` when all is done. The whole of one call
    happens or nothing. Raises ``NotCached``, ``CorruptBlock``.
    """
    if not tree.root[0]:
        tree.depth = 0
        return keep
    low, nodes = _find_nodes(tree, keep, budget)
    if low < 1 << tree.store.geometry.fan_bits * tree.depth:
        _prune(tree, tree.root, 0, tree.depth, 0, low, nodes)
        tree.shrink(low)
    return low


def plan_cut(tree: BlockMap, keep: int, budget: int) -> int:
    """Make sure that ``cut`` cannot be interrupted, and say what it will return. Raises
    ``NotCached``.
    """
    return _find_nodes(tree, keep, budget)[0] if tree.root[0] else keep


def _find_nodes(tree: BlockMap, keep: int, budget: int) -> tuple[int, dict[int, Any]]:
    """Bring everything that a cut touches into memory: the index to cut at, and the pointer blocks
    by their keys.
    """
    nodes: dict[int, Any] = {}
    bits, fan_out = tree.store.geometry.fan_bits, tree.store.geometry.fan_out
    wants: list[Want] = []
    runs: list[tuple[int, int]] = []
    seen: set[int] = set()
    low = 1 << bits * tree.depth
    left = budget
    stack: list[tuple[int, int, int, int]] = [(tree.root[0], tree.root[1], tree.depth, 0)]
    while stack:
        first, second, level, number = stack.pop()
        start = number << bits * level
        if not first & FLAG_DIRTY:
            block = first & BLOCK_MASK
            if block in seen:
                raise CorruptBlock(f"block {block} stands at two places of one file")
            seen.add(block)
            runs.append((block, 1))
        if level == 0:
            low = start
            continue
        key = level << LEVEL_SHIFT | number
        try:
            node = nodes[key] = (
                tree.dirty[key] if first & FLAG_DIRTY else tree.store.load("node", first, second)
            )
        except NotCached as exc:
            wants += exc.wants
            left -= 1
            if left <= 0 or level > 1:
                break  # what is below is not known yet
            continue
        if level == 1:
            runs += [
                (block, length)
                for block, length, _ in pointer_runs(
                    node, max(0, keep - start), fan_out, BLOCK_MASK
                )
            ]
            low = max(start, keep)
            left -= 1
            if left <= 0:
                break
        else:
            for slot in range(max(0, keep - start) >> bits * (level - 1), fan_out):
                if node[2 * slot]:
                    stack.append(
                        (node[2 * slot], node[2 * slot + 1], level - 1, (number << bits) + slot)
                    )
    else:
        low = keep
    if wants:
        raise NotCached(wants)
    tree.store.allocator.need(runs)
    return max(low, keep), nodes


def _prune(
    tree: BlockMap,
    words: array[int],
    slot: int,
    level: int,
    number: int,
    low: int,
    nodes: dict[int, Any],
) -> None:
    """Drop all below a pointer from index ``low`` on.

    The pointer blocks that ``low`` divides become writable first, from the root down; from then on
    nothing can be missing.
    """
    first = words[2 * slot]
    bits, fan_out = tree.store.geometry.fan_bits, tree.store.geometry.fan_out
    start = number << bits * level
    if not first or start + (1 << bits * level) <= low:
        return
    if level == 0:
        tree.drop_child(words, slot, 0, number)
        return
    if start >= low:
        node = nodes[level << LEVEL_SHIFT | number]
        if level == 1:
            _drop_leaves(tree, node, 0, number)
        else:
            child = node[:]
            for inner in range(fan_out):
                _prune(tree, child, inner, level - 1, (number << bits) + inner, low, nodes)
        tree.drop_child(words, slot, level, number)
        return
    node = tree.writable(level, number)
    if level == 1:
        _drop_leaves(tree, node, low - start, number)
        node[2 * (low - start) :] = array("Q", bytes(16 * (fan_out - (low - start))))
    else:
        for inner in range(low - start >> bits * (level - 1), fan_out):
            _prune(tree, node, inner, level - 1, (number << bits) + inner, low, nodes)
    if not any(node):
        tree.drop_child(words, slot, level, number)


def _drop_leaves(tree: BlockMap, node: array[int], from_slot: int, number: int) -> None:
    fan_out, bits = tree.store.geometry.fan_out, tree.store.geometry.fan_bits
    for block, length, epoch in pointer_runs(node, from_slot, fan_out, BLOCK_MASK):
        tree.owner.drop(block, length, epoch)
        tree.blocks -= length
    if tree.leaf_kind:
        for slot in range(from_slot, fan_out):
            if node[2 * slot] & FLAG_DIRTY:
                del tree.dirty[(number << bits) + slot]
                tree.blocks -= 1
