"""What differs between two clean trees of one kind, found top down: equal pointers are skipped, so
the cost is that of what differs.

All kinds of difference are taken in steps of bounded work: ``next`` gives what one step found, None
at the end. It may raise ``NotCached`` and is then called again. Blocks of both trees must stay what
they are meanwhile (``store.space.readers``).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_BUCKET
from snapfs.errors import CorruptBlock
from snapfs.interrupts import NotCached
from snapfs.store.trees.bucket import HASH_BITS, Bucket

if TYPE_CHECKING:
    from snapfs.interrupts import Want
    from snapfs.store.trees.block_store import BlockStore
    from snapfs.store.trees.buckets import BucketTree

#: Pointers that one step looks at, and blocks that are fetched ahead of their use.
STEP: Final = 128
AHEAD: Final = 32

#: Items that a step finds before it ends, about.
STEP_ITEMS: Final = 512

_HASH_END: Final = 1 << HASH_BITS

Pointer = tuple[int, int]
HOLE: Final[Pointer] = (0, 0)

#: First and second word of a map's root, and its depth.
MapRoot = tuple[int, int, int]

#: Index of a block, and the pointers to it in both maps.
ChangedBlock = tuple[int, Pointer, Pointer]

#: An inode number, and its slots in both tables.
Slot = tuple[int, bytes, bytes]

_NO_SLOT: Final = bytes(INODE_BYTES)

#: A key, and its values in both trees; None without one.
Item = tuple[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two pointers at one place, each with the level of what it points at."""

    left: Pointer
    left_level: int
    right: Pointer
    right_level: int
    number: int


class MapDifference:
    """The blocks of level 0 at which two block maps differ. Trees of different depth are laid upon
    each other: the deeper one's first child stands where the other's root is, for a map that grew
    keeps its old root there.
    """

    def __init__(self, store: BlockStore, left: MapRoot, right: MapRoot) -> None:
        self._store = store
        self._stack = [_Pair(left[:2], left[2], right[:2], right[2], 0)]
        self._descents = 0

    def next(self) -> list[ChangedBlock] | None:
        """What another step finds, about in order."""
        if not self._stack:
            return None
        batch = self._stack[: -STEP - 1 : -1]
        wants: list[Want] = []
        found = []
        for pair in batch:
            try:
                found.append(self._look(pair))
            except NotCached as exc:
                wants += exc.wants
        if wants:
            raise NotCached(list(dict.fromkeys(wants)))
        del self._stack[-len(batch) :]
        out: list[ChangedBlock] = []
        below: list[_Pair] = []
        for pair, left, right, level in found:
            if level == 0:
                out.append((pair.number, pair.left, pair.right))
            elif level > 0:
                below += self._children(pair, left, right, level)
        self._stack += reversed(below)
        return out

    def _look(self, pair: _Pair) -> tuple[_Pair, Any, Any, int]:
        """The pointer blocks of a pair to descend into, and their level; 0 for two different
        blocks, -1 where nothing differs.
        """
        left, right = pair.left, pair.right
        if left[0] & BLOCK_MASK == right[0] & BLOCK_MASK and (
            pair.left_level == pair.right_level or not left[0]
        ):
            return pair, None, None, -1
        level = max(pair.left_level if left[0] else 0, pair.right_level if right[0] else 0)
        if not level:
            return pair, None, None, 0
        wants: list[Want] = []
        nodes: list[Any] = []
        for pointer, own in ((left, pair.left_level), (right, pair.right_level)):
            node = None
            if pointer[0] and own == level:
                try:
                    node = self._store.load("node", *pointer)
                except NotCached as exc:
                    wants += exc.wants
            nodes.append(node)
        if wants:
            raise NotCached(wants)
        return pair, nodes[0], nodes[1], level

    def _children(self, pair: _Pair, left: Any, right: Any, level: int) -> list[_Pair]:
        geometry = self._store.geometry
        self._descents += 1
        if self._descents > geometry.blocks:
            raise CorruptBlock("a block map reaches more blocks than the volume has")
        out = []
        for slot in range(geometry.fan_out):
            one = (left[2 * slot], left[2 * slot + 1]) if left else HOLE
            other = (right[2 * slot], right[2 * slot + 1]) if right else HOLE
            one_level = other_level = level - 1
            if slot == 0 and pair.number == 0:
                if left is None and pair.left[0]:
                    one, one_level = pair.left, pair.left_level
                if right is None and pair.right[0]:
                    other, other_level = pair.right, pair.right_level
            if one[0] & BLOCK_MASK != other[0] & BLOCK_MASK or one_level != other_level:
                out.append(
                    _Pair(
                        one,
                        one_level,
                        other,
                        other_level,
                        (pair.number << geometry.fan_bits) + slot,
                    )
                )
        return out


class SlotDifference:
    """The slots that differ between two inode tables: number, bytes in one and in the other; a slot
    that is not there is all zeros.
    """

    def __init__(self, store: BlockStore, left: MapRoot, right: MapRoot) -> None:
        self._store = store
        self._leaves = MapDifference(store, left, right)
        self._found: list[ChangedBlock] = []

    def next(self) -> list[Slot] | None:
        """What another step finds."""
        if not self._found:
            found = self._leaves.next()
            if found is None:
                return None
            self._found = found
        wants: list[Want] = []
        leaves: list[Any] = []
        for _, *pointers in self._found:
            for pointer in pointers:
                try:
                    leaves.append(self._store.load("inodes", *pointer) if pointer[0] else None)
                except NotCached as exc:
                    wants += exc.wants
        if wants:
            raise NotCached(list(dict.fromkeys(wants)))
        out: list[Slot] = []
        for (index, _, _), left, right in zip(self._found, leaves[::2], leaves[1::2], strict=True):
            for at in range(0, self._store.geometry.block_size, INODE_BYTES):
                one = bytes(left[at : at + INODE_BYTES]) if left else _NO_SLOT
                other = bytes(right[at : at + INODE_BYTES]) if right else _NO_SLOT
                if one != other:
                    out.append(
                        ((index * self._store.geometry.block_size + at) // INODE_BYTES, one, other)
                    )
        self._found = []
        return out


@dataclass(slots=True)
class _Spot:
    """A pointer on the way to a hash: where it stands, and the range of hashes that it leads to."""

    tree: BucketTree | None
    words: array[int] | None
    slot: int
    prefix: int
    depth: int
    end: int

    @property
    def first(self) -> int:
        return self.words[2 * self.slot] if self.words is not None else 0

    @property
    def start(self) -> int:
        return (
            self.prefix << HASH_BITS - self.tree.store.geometry.fan_bits * self.depth
            if self.tree
            else 0
        )

    def load(self) -> Any:
        if self.tree is None or self.words is None or not self.first:
            return None
        kind = self.tree.kind if self.first & FLAG_BUCKET else "node"
        return self.tree.store.load(kind, self.first, self.words[2 * self.slot + 1])

    def enter(self, node: array[int], value: int) -> None:
        """Go on to the pointer block's slot for a hash."""
        tree = self.tree
        assert tree is not None  # noqa: S101 - it has a pointer block
        self.slot, self.end = tree.slot_of(node, self.prefix, self.depth, value)
        self.words = node
        self.depth += 1
        self.prefix = (self.prefix << tree.store.geometry.fan_bits) + self.slot


class BucketDifference:
    """The items at which two bucket trees with one hash differ, by ranges of hashes; a tree may be
    None. ``whole``: equal ones as well.
    """

    def __init__(
        self, left: BucketTree | None, right: BucketTree | None, *, whole: bool = False
    ) -> None:
        self._trees = left, right
        self._whole = whole
        self._at = 0

    def next(self) -> list[Item] | None:
        """What another step finds, in no order within a range."""
        if self._at >= _HASH_END:
            return None
        out: list[Item] = []
        for _ in range(STEP):
            try:
                found, self._at = self._range(self._at)
            except NotCached:
                if out:
                    break
                raise
            out += found
            if self._at >= _HASH_END or len(out) >= STEP_ITEMS:
                break
        return out

    def _range(self, at: int) -> tuple[list[Item], int]:
        """What differs from a hash on, up to the end of a range that is returned too."""
        left, right = (
            _Spot(tree, tree.root if tree else None, 0, 0, 0, _HASH_END) for tree in self._trees
        )
        while True:
            if (
                left.first
                and left.first & BLOCK_MASK == right.first & BLOCK_MASK
                and not self._whole
            ):
                return [], min(left.end, right.end)
            wants: list[Want] = []
            nodes: list[Any] = []
            for spot, other in ((left, right), (right, left)):
                try:
                    nodes.append(spot.load())
                except NotCached:
                    wants += self._ahead(spot, other)
            if wants:
                raise NotCached(list(dict.fromkeys(wants)))
            if not any(type(node) is array for node in nodes):
                end = min(left.end, right.end)
                return self._items((left, nodes[0]), (right, nodes[1]), at, end), end
            for spot, node in zip((left, right), nodes, strict=True):
                if type(node) is array:
                    spot.enter(node, at)

    def _ahead(self, spot: _Spot, other: _Spot) -> list[Want]:
        """A block that is missing, and those beside it that will be."""
        wants: list[Want] = []
        words, beside = spot.words, other.words
        assert words is not None  # noqa: S101 - something is missing
        is_beside = beside is not None and (spot.depth, spot.prefix - spot.slot) == (
            other.depth,
            other.prefix - other.slot,
        )
        for slot in range(spot.slot, len(words) // 2):
            if len(wants) >= AHEAD:
                break
            same = (
                is_beside
                and beside is not None
                and words[2 * slot] & BLOCK_MASK == beside[2 * slot] & BLOCK_MASK
            )
            if words[2 * slot] and (self._whole or not same):
                try:
                    _Spot(spot.tree, words, slot, 0, 0, 0).load()
                except NotCached as exc:
                    wants += exc.wants
        return wants

    def _items(
        self,
        left: tuple[_Spot, Bucket | None],
        right: tuple[_Spot, Bucket | None],
        at: int,
        end: int,
    ) -> list[Item]:
        """The items of two buckets that differ, as far as they have hashes of a range."""
        _check(*left)
        _check(*right)
        tree = left[0].tree or right[0].tree
        if tree is None:
            return []
        one: dict[Any, Any] = left[1].items if left[1] else {}
        other: dict[Any, Any] = right[1].items if right[1] else {}
        found = [
            (key, value, other.get(key))
            for key, value in one.items()
            if self._whole or other.get(key) != value
        ]
        found += [(key, None, value) for key, value in other.items() if key not in one]
        hash_of = tree.hash_of
        return [item for item in found if at <= hash_of(item[0]) < end]


def _check(spot: _Spot, bucket: Bucket | None) -> None:
    """Raises ``CorruptBlock`` for a bucket without an item of its range: pointers to one from many
    places could be endless.
    """
    if bucket is None or spot.tree is None:
        return
    start, end, hash_of = spot.start, spot.end, spot.tree.hash_of
    if not any(start <= hash_of(key) < end for key in bucket.items):
        raise CorruptBlock("a bucket holds no item of its range")
