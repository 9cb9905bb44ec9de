"""Comparing two views top down (A10): equal pointers are skipped, so that the cost is that of what
differs.

A comparison can be interrupted by ``NotCached`` and goes on where it was. Trees of different depth
are laid upon each other: the deeper one's first child stands where the other's root is. A block
that has moved between two places is found on both sides.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapfs.blocks.inode import FLAG_HEIR, INODE_BYTES, LAYOUT
from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, FLAG_BUCKET
from snapfs.errors import CorruptBlock
from snapfs.filesystem.coverage import Heir
from snapfs.filesystem.inode import EMPTY_SLOT
from snapfs.ids import HIDDEN_INOS
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from snapfs.interrupts import Want
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import ViewRoot

#: Pairs that are looked at together, so that what they miss is fetched together.
BATCH = 128

Pointer = tuple[int, int]
HOLE: Pointer = (0, 0)

#: Bytes of a slot that hold the access time, and those that say when and how often a number was
#: given out.
_ATIME = slice(32, 44)
GENERATION = slice(80, 84)

# What the blocks of level 0 are.
INODES, DATA, BLOB, NAMES = "inodes", "", "blob", "names"


@dataclass(frozen=True, slots=True)
class PointerPair:
    """Two pointers at one place; each with the level of what it points at. ``ino`` is the inode
    that the tree belongs to in the base.
    """

    kind: str
    base: Pointer
    base_level: int
    view: Pointer
    view_level: int
    number: int
    ino: int
    is_attributes: bool = False


#: A pair, its blocks as far as they are descended into, and whether they are.
PairState = tuple[PointerPair, Any, Any, bool, bool]


class MapComparison:
    """The difference between some trees of two clean views: the blocks that only one of them
    reaches there, and the inodes that differ.

    ``changed`` leaves out inodes that differ in nothing but their access time or have no name.
    ``slots`` are the changed inodes of the second view.
    """

    def __init__(self, volume: Volume, pairs: Iterable[PointerPair]) -> None:
        self.volume = volume
        self.only_base: dict[int, int] = {}  # block -> epoch
        #: The inode that a block of ``only_base`` belongs to (0: the inode table), and whether it
        #: is one of its extended attributes.
        self.whose: dict[int, tuple[int, bool]] = {}
        #: Inodes of the base that have what a file has lost.
        self.heirs: dict[int, Heir] = {}
        self.only_view: dict[int, int] = {}
        #: The same of ``only_view``, with the inode that it would belong to in the base.
        self.whose_then: dict[int, tuple[int, bool]] = {}
        self.changed: set[int] = set()
        self.slots: dict[int, bytes] = {}
        self._stack = list(pairs)

    @classmethod
    def of_views(cls, volume: Volume, base: ViewRoot, view: ViewRoot) -> MapComparison:
        """All of both views: their inode tables, and what these lead to."""
        return cls(
            volume,
            [
                PointerPair(
                    INODES,
                    (base.first, base.second),
                    base.depth,
                    (view.first, view.second),
                    view.depth,
                    0,
                    0,
                )
            ],
        )

    def run(self) -> None:
        """Compare to the end. May raise ``NotCached``; then call again."""
        while self._stack:
            batch = self._stack[: -BATCH - 1 : -1]
            wants: list[Want] = []
            found: list[PairState] = []
            for pair in batch:
                try:
                    found.append(self._look(pair))
                except NotCached as exc:
                    wants += exc.wants
            if wants:
                raise NotCached(list(dict.fromkeys(wants)))
            del self._stack[-len(batch) :]
            for one in found:
                self._stack += self._differ(*one)

    def _look(self, pair: PointerPair) -> PairState:
        """Which sides of a pair to descend into, and the blocks there. May raise ``NotCached``."""
        base, view = pair.base, pair.view
        if base[0] & BLOCK_MASK == view[0] & BLOCK_MASK and pair.base_level == pair.view_level:
            return pair, None, None, False, False
        take_base = (bool(base[0]) and pair.base_level >= pair.view_level) or not view[0]
        take_view = (bool(view[0]) and pair.view_level >= pair.base_level) or not base[0]
        wants: list[Want] = []
        nodes: list[Any] = []
        for pointer, level, take in (
            (base, pair.base_level, take_base),
            (view, pair.view_level, take_view),
        ):
            node = None
            kind = self._kind(pair.kind, pointer, level)
            if take and pointer[0] and kind:
                try:
                    node = self.volume.load(kind, *pointer)
                except NotCached as exc:
                    wants += exc.wants
            nodes.append(node)
        if wants:
            raise NotCached(wants)
        return pair, nodes[0], nodes[1], take_base, take_view

    @staticmethod
    def _kind(kind: str, pointer: Pointer, level: int) -> str:
        if kind == NAMES:
            return "" if pointer[0] & FLAG_BUCKET else "node"
        if level:
            return "node"
        return "inodes" if kind == INODES else ""

    def _differ(
        self, pair: PointerPair, base_node: Any, view_node: Any, take_base: bool, take_view: bool
    ) -> Iterator[PointerPair]:
        if not take_base and not take_view:
            return iter(())
        if take_base and pair.base[0]:
            _only(self.only_base, pair.base)
            self.whose[pair.base[0] & BLOCK_MASK] = (
                pair.ino,
                pair.kind == BLOB and pair.is_attributes,
            )
        if take_view and pair.view[0]:
            _only(self.only_view, pair.view)
            self.whose_then[pair.view[0] & BLOCK_MASK] = (
                pair.ino,
                pair.kind == BLOB and pair.is_attributes,
            )
        if pair.kind == NAMES:
            return self._names(pair, base_node, view_node)
        level = max(pair.base_level if take_base else 0, pair.view_level if take_view else 0)
        if level:
            return self._children(pair, base_node, view_node, level, take_base, take_view)
        if pair.kind == INODES:
            return self._inodes(pair, base_node, view_node)
        return iter(())

    def _children(
        self,
        pair: PointerPair,
        base_node: Any,
        view_node: Any,
        level: int,
        take_base: bool,
        take_view: bool,
    ) -> Iterator[PointerPair]:
        fan_bits, fan_out = self.volume.geometry.fan_bits, self.volume.geometry.fan_out
        left, right = base_node, view_node
        for slot in range(fan_out):
            number = (pair.number << fan_bits) + slot
            base = (left[2 * slot], left[2 * slot + 1]) if left else HOLE
            view = (right[2 * slot], right[2 * slot + 1]) if right else HOLE
            base_level = view_level = level - 1
            if not take_base and slot == 0 and pair.number == 0:
                base, base_level = (
                    pair.base,
                    pair.base_level,
                )  # the shallower tree stands below the first child
            if not take_view and slot == 0 and pair.number == 0:
                view, view_level = pair.view, pair.view_level
            if base[0] or view[0]:
                yield PointerPair(
                    pair.kind,
                    base,
                    base_level,
                    view,
                    view_level,
                    number,
                    pair.ino,
                    pair.is_attributes,
                )

    def _names(self, pair: PointerPair, base_node: Any, view_node: Any) -> Iterator[PointerPair]:
        left, right = base_node, view_node
        if left is None and right is None:
            return
        for slot in range(self.volume.geometry.fan_out):
            base = (left[2 * slot], left[2 * slot + 1]) if left else HOLE
            view = (right[2 * slot], right[2 * slot + 1]) if right else HOLE
            if base[0] or view[0]:
                yield PointerPair(NAMES, base, 0, view, 0, 0, pair.ino)

    def _inodes(self, pair: PointerPair, base_leaf: Any, view_leaf: Any) -> Iterator[PointerPair]:
        per_leaf = self.volume.geometry.block_size // INODE_BYTES
        for index in range(per_leaf):
            at = index * INODE_BYTES
            left = bytes(base_leaf[at : at + INODE_BYTES]) if base_leaf else EMPTY_SLOT
            right = bytes(view_leaf[at : at + INODE_BYTES]) if view_leaf else EMPTY_SLOT
            if left == right:
                continue
            ino = pair.number * per_leaf + index
            if comparable(left) != comparable(right):
                self._note(ino, left, right)
            fields = LAYOUT.unpack_from(left)
            if fields[15] & FLAG_HEIR:
                self.heirs[ino] = Heir(fields[17], fields[14])
            yield from trees(ino, left, right)

    def _note(self, ino: int, left: bytes, right: bytes) -> None:
        named = any(
            slot[:4] != b"\0\0\0\0" and int.from_bytes(slot[12:16], "little")
            for slot in (left, right)
        )
        if named and ino not in HIDDEN_INOS:
            self.changed.add(ino)
            self.slots[ino] = right


def _only(found: dict[int, int], pointer: Pointer) -> None:
    """Note a block of one view. Raises ``CorruptBlock`` for one that this view reaches twice: what
    is below it could be endless.
    """
    block = pointer[0] & BLOCK_MASK
    if block in found:
        raise CorruptBlock(f"block {block} stands at two places of one view")
    found[block] = pointer[1] & EPOCH_MASK


def comparable(slot: bytes) -> bytes:
    """A slot without what does not count as a difference."""
    return slot[: _ATIME.start] + slot[_ATIME.stop : GENERATION.start] + slot[GENERATION.stop :]


def trees(ino: int, left: bytes, right: bytes) -> Iterator[PointerPair]:
    """The trees of an inode in both views, laid upon each other where they are of one kind."""
    one, other = LAYOUT.unpack_from(left), LAYOUT.unpack_from(right)
    kinds = [_tree_kind(fields[0]) for fields in (one, other)]
    base, view = ((one[18], one[19]), one[23]), ((other[18], other[19]), other[23])
    if kinds[0] == kinds[1] or not one[0] or not other[0]:
        kind = kinds[0] if one[0] else kinds[1]
        yield PointerPair(kind, *base, *view, 0, ino)
    else:
        yield PointerPair(kinds[0], *base, HOLE, 0, 0, ino)
        yield PointerPair(kinds[1], HOLE, 0, *view, 0, ino)
    yield PointerPair(
        BLOB,
        (one[20], one[21]),
        one[24],
        (other[20], other[21]),
        other[24],
        0,
        ino,
        is_attributes=True,
    )


def _tree_kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return NAMES
    return BLOB if stat.S_ISLNK(mode) else DATA
