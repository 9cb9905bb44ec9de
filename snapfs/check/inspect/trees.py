"""Walking one tree pointer by pointer: which block holds the pointer to which, from the root on.

A walk reads only pointer blocks, each at most once, so that it ends whatever an image says. A block
that cannot be read is a node without words that says why.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    WRITES_MAX,
    WRITES_SHIFT,
)
from snapfs.check.scrub.frames import Frame
from snapfs.check.scrub.places import BUCKETS, Tree
from snapfs.check.walk.visited import Visited
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.store.commit.recovery import fetched
from snapfs.store.trees.block_store import check_pointer
from snapfs.store.trees.bucket import HASH_BITS
from snapfs.store.trees.buckets import TOO_DEEP

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.buckets import BucketTree

Pointer = tuple[int, int]

#: What the pointer blocks of a hostile image do to a walk that would go round in circles.
TWICE = "stands at two places of this tree: what is below it is shown at the first one"


class Step(NamedTuple):
    """One pointer: the block that holds it (0: the root of a tree does), in which slot, what it
    names, and both of its words.
    """

    holder: int
    slot: int
    level: int
    number: int
    first: int
    second: int

    @property
    def block(self) -> int:
        """The block that it names."""
        return self.first & BLOCK_MASK

    @property
    def writes(self) -> int:
        """Writes since the latest snapshot."""
        return self.first >> WRITES_SHIFT & WRITES_MAX

    @property
    def epoch(self) -> int:
        """The epoch in which the block was born."""
        return self.second & EPOCH_MASK

    @property
    def checksum(self) -> int:
        """The CRC32C that the block should have."""
        return self.second >> CHECKSUM_SHIFT


class Node(Frame):
    """Pointers that stand together: the root of a tree (``parent`` is None), or a pointer block
    that slot ``at`` of its parent names.

    ``level`` and ``base`` are those of what the first pointer names. ``problem`` is set, and
    ``words`` is empty, where the pointer block cannot be read.
    """

    __slots__ = ("at", "parent", "problem")

    def __init__(
        self,
        tree: Tree,
        level: int,
        base: int,
        words: Sequence[int],
        parent: Node | None = None,
        at: int = 0,
        problem: str = "",
    ) -> None:
        super().__init__(tree, level, base, words)
        self.parent = parent
        self.at = at
        self.problem = problem

    @property
    def block(self) -> int:
        """The block that these pointers stand in; 0 for a root."""
        return self.parent.words[2 * self.at] & BLOCK_MASK if self.parent else 0

    def leads_on(self, slot: int) -> bool:
        """Does the pointer in a slot name a pointer block?"""
        first = self.words[2 * slot]
        if not first:
            return False
        return not first & FLAG_BUCKET if self.tree.kind in BUCKETS else self.level > 0

    def step(self, slot: int) -> Step:
        """The pointer in a slot."""
        return Step(
            self.block,
            slot,
            self.level,
            self.base + slot,
            self.words[2 * slot],
            self.words[2 * slot + 1],
        )

    def way(self, slot: int) -> list[Step]:
        """All pointers from the root to the one in a slot."""
        out = [self.step(slot)]
        node = self
        while node.parent is not None:
            out.append(node.parent.step(node.at))
            node = node.parent
        return out[::-1]


def load(volume: Volume, kind: str, pointer: Pointer) -> Any:
    """The decoded block that a pointer names. Raises ``CorruptBlock``, ``DeviceError``."""
    return fetched(volume, lambda: volume.load(kind, *pointer))


def below(volume: Volume, node: Node, slot: int, visited: Visited | None = None) -> Node:
    """The pointer block that a slot of another one names; it is not read again when it has been
    ``visited``.
    """
    bits = volume.geometry.fan_bits
    is_buckets = node.tree.kind in BUCKETS
    level = node.level + 1 if is_buckets else node.level - 1
    words: Sequence[int] = ()
    problem = ""
    try:
        if is_buckets and bits * level > HASH_BITS:
            raise CorruptBlock(TOO_DEEP)
        block = check_pointer(node.words[2 * slot], volume.geometry.blocks)
        if visited is not None and not visited.claim(block, 1):
            raise CorruptBlock(f"block {block} {TWICE}")
        words = load(volume, "node", (node.words[2 * slot], node.words[2 * slot + 1]))
    except (CorruptBlock, DeviceError) as exc:
        problem = str(exc)
    return Node(node.tree, level, node.base + slot << bits, words, node, slot, problem)


def nodes(volume: Volume, tree: Tree, root: Pointer, depth: int = 0) -> Iterator[Node]:
    """The root of a tree and all its pointer blocks, in the order of what they lead to."""
    visited = Visited(volume.geometry)
    top = Node(tree, depth, 0, root)
    yield top
    stack = [(top, 0)] if top.leads_on(0) else []
    while stack:
        parent, slot = stack.pop()
        node = below(volume, parent, slot, visited)
        yield node
        stack += [(node, at) for at in range(len(node.words) // 2 - 1, -1, -1) if node.leads_on(at)]


class Leaf(NamedTuple):
    """What a tree holds at one place. ``content`` is None, and ``problem`` says why, where a block
    on the way cannot be read.
    """

    step: Step
    content: Any
    problem: str = ""


def leaves(volume: Volume, tree: Tree, root: Pointer, depth: int, kind: str) -> Iterator[Leaf]:
    """The blocks at the bottom of a tree, decoded as ``kind``, each once; and the places where the
    tree breaks off.
    """
    visited = Visited(volume.geometry)
    for node in nodes(volume, tree, root, depth):
        if node.problem and node.parent is not None:
            yield Leaf(node.parent.step(node.at), None, node.problem)
        for at in range(len(node.words) // 2):
            if not node.words[2 * at] or node.leads_on(at):
                continue
            step = node.step(at)
            try:
                check_pointer(step.first, volume.geometry.blocks)
                if not visited.claim(step.block, 1):
                    raise CorruptBlock(f"block {step.block} {TWICE}")
                leaf = Leaf(step, load(volume, kind, (step.first, step.second)))
            except (CorruptBlock, DeviceError) as exc:
                leaf = Leaf(step, None, str(exc))
            yield leaf


def descend(volume: Volume, top: Node, choose: Callable[[Node], int]) -> tuple[Node, int]:
    """Follow one pointer of each block, the one that ``choose`` gives the slot of, until it names
    no pointer block.

    The node and the slot where that ends; a node with a ``problem`` when it cannot be gone on with.
    """
    node, slot = top, choose(top)
    while not node.problem and node.leads_on(slot):
        node = below(volume, node, slot)
        if not node.problem:
            slot = choose(node)
    return node, slot


def by_index(volume: Volume, index: int) -> Callable[[Node], int]:
    """How to descend to a block of a block map. The index must be one that the depth of the map has
    room for.
    """
    bits = volume.geometry.fan_bits
    return lambda node: (index >> bits * node.level) - node.base


def by_hash(table: BucketTree, key: int) -> Callable[[Node], int]:
    """How to descend to the bucket with a key of a table. Descending may raise ``CorruptBlock``."""
    bits, hashed = table.store.geometry.fan_bits, table.hash_of(key)

    def choose(node: Node) -> int:
        if node.parent is None:
            return 0
        return table.slot_of(array("Q", node.words), node.base >> bits, node.level - 1, hashed)[0]

    return choose


def at_place(
    volume: Volume, tree: Tree, root: Pointer, depth: int, level: int, number: int
) -> Step | None:
    """The pointer at a place of a tree; None where nothing stands, or that cannot be reached."""
    bits = volume.geometry.fan_bits
    node = Node(tree, depth, 0, root)
    while True:
        slot = (number >> bits * abs(node.level - level)) - node.base
        if node.problem or not 0 <= slot < len(node.words) // 2 or not node.words[2 * slot]:
            return None
        if node.level == level:
            return node.step(slot)
        if not node.leads_on(slot):
            return None
        node = below(volume, node, slot)


def find_block(
    volume: Volume, tree: Tree, root: Pointer, depth: int, block: int
) -> list[list[Step]]:
    """The ways to all pointers of a tree that name a block."""
    out = []
    for node in nodes(volume, tree, root, depth):
        words = node.words
        out += [
            node.way(at)
            for at in range(len(words) // 2)
            if words[2 * at] and words[2 * at] & BLOCK_MASK == block
        ]
    return out
