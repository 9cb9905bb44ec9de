"""Block maps: the pointer tree of one file, sparse, copied on write. ``doc/format.md`` section 5.

A map of depth 0 is one pointer to one block; a map of depth d has pointer blocks at the levels d to
1. The pointer block ``(level, number)`` covers the file's blocks from ``number * fan_out**level``
on. What was changed since the last seal is in ``dirty``; everything else is on the device and comes
through the volume's cache. A pointer to a dirty block has only ``FLAG_DIRTY`` set.

Making a block dirty changes nothing that anyone can see, so a call that is interrupted after it can
simply be repeated.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_DIRTY,
    encode_pointers,
)
from snapfs.interrupts import NotCached, Want

if TYPE_CHECKING:
    from snapfs.store.trees.block_store import BlockStore
    from snapfs.store.trees.owners import Owner
    from snapfs.store.trees.sealing import Sealing

#: Keys of dirty blocks are ``level << LEVEL_SHIFT | number``.
LEVEL_SHIFT = 56


class BlockMap:
    """The map of a file. ``blocks`` counts every block that it reaches, its own pointer blocks
    among them.

    With a ``leaf_kind`` the blocks of level 0 are decoded by the cache and may be dirty as well
    (tables); without, they are data that the caller reads and writes itself (files).
    """

    __slots__ = ("blocks", "depth", "dirty", "leaf_kind", "owner", "root", "store")

    def __init__(
        self,
        store: BlockStore,
        owner: Owner,
        root: tuple[int, int] = (0, 0),
        depth: int = 0,
        blocks: int = 0,
        leaf_kind: str = "",
    ) -> None:
        self.store = store
        self.owner = owner
        self.root = array("Q", root)
        self.depth = depth
        self.blocks = blocks
        self.leaf_kind = leaf_kind
        self.dirty: dict[int, Any] = {}

    @property
    def root_words(self) -> tuple[int, int]:
        """The two words of the root pointer."""
        return self.root[0], self.root[1]

    def levels_for(self, count: int) -> int:
        """The depth that a map of ``count`` blocks needs."""
        return self.store.geometry.depth_for(count)

    # Reading

    def _slot(self, level: int, number: int) -> tuple[array[int] | None, int]:
        """The words and the slot that hold the pointer to ``(level, number)``."""
        if level >= self.depth:
            return (self.root, 0) if level == self.depth and not number else (None, 0)
        bits = self.store.geometry.fan_bits
        return self.node(level + 1, number >> bits), number & (1 << bits) - 1

    def _kind(self, level: int) -> str:
        return "node" if level else self.leaf_kind

    def node(self, level: int, number: int) -> Any:
        """The pointer block (or leaf) at a place, None for a hole. Raises ``NotCached``."""
        found = self.dirty.get(level << LEVEL_SHIFT | number)
        if found is not None:
            return found
        words, slot = self._slot(level, number)
        if words is None or not words[2 * slot]:
            return None
        return self.store.load(self._kind(level), words[2 * slot], words[2 * slot + 1])

    def pointers(self, index: int) -> tuple[array[int] | None, int]:
        """The words that hold the pointer to block ``index``, and its slot there; None within a
        hole.
        """
        return self._slot(0, index)

    def spans(self, index: int, count: int) -> list[tuple[int, array[int] | None, int, int]]:
        """Cut ``count`` blocks from ``index`` by pointer blocks: (index, words or None, first slot,
        blocks).

        Raises ``NotCached`` for all that it misses.
        """
        bits = self.store.geometry.fan_bits
        out: list[tuple[int, array[int] | None, int, int]] = []
        wants: list[Want] = []
        end = index + count
        while index < end:
            if self.depth == 0:
                step = 1 if index == 0 else end - index
            elif index >> bits * self.depth:
                step = end - index
            else:
                step = min((1 << bits) - (index & (1 << bits) - 1), end - index)
            try:
                words, slot = self._slot(0, index)
                out.append((index, words, slot, step))
            except NotCached as exc:
                wants += exc.wants
            index += step
        if wants:
            raise NotCached(list(dict.fromkeys(wants)))
        return out

    # Making blocks writable

    def grow(self, count: int) -> None:
        """Make the map deep enough for ``count`` blocks."""
        fan_out = self.store.geometry.fan_out
        for level in range(self.depth + 1, self.levels_for(count) + 1):
            if self.root[0]:
                node = array("Q", bytes(16 * fan_out))
                node[0], node[1] = self.root
                self._adopt(level, 0, node)
                self.blocks += 1
                self.root[0], self.root[1] = FLAG_DIRTY, 0
            self.depth = level

    def _adopt(self, level: int, number: int, node: Any) -> None:
        self.dirty[level << LEVEL_SHIFT | number] = node
        self.store.dirtied += 1

    def writable(self, level: int, number: int) -> Any:
        """The pointer block (or leaf) at a place, dirty from now on; made if there is none. The map
        must be deep enough.
        """
        found = self.dirty.get(level << LEVEL_SHIFT | number)
        if found is not None:
            return found
        if level == self.depth:
            words, slot = self.root, 0
        else:
            bits = self.store.geometry.fan_bits
            words, slot = self.writable(level + 1, number >> bits), number & (1 << bits) - 1
        first = words[2 * slot]
        if first:
            second = words[2 * slot + 1]
            clean = self.store.load(self._kind(level), first, second)
            block = first & BLOCK_MASK
            self.store.allocator.need_block(block)
            self.owner.drop(block, 1, second & EPOCH_MASK)
            node = clean[:] if level else bytearray(clean)
        else:
            node = (
                array("Q", bytes(16 * self.store.geometry.fan_out))
                if level
                else bytearray(self.store.geometry.block_size)
            )
            self.blocks += 1
        self._adopt(
            level, number, node
        )  # first: whatever breaks off in between, the pointer leads to something
        words[2 * slot], words[2 * slot + 1] = FLAG_DIRTY, 0
        return node

    def writable_pointers(self, index: int) -> tuple[array[int], int]:
        """As ``pointers``, in words that may be changed."""
        if self.depth == 0:
            return self.root, 0
        bits = self.store.geometry.fan_bits
        return self.writable(1, index >> bits), index & (1 << bits) - 1

    # Removing

    def remove(self, index: int) -> None:
        """Drop one block, and the pointer blocks that this leaves empty.
        Does nothing for a hole.
        """
        words, slot = self._slot(0, index)
        if words is None or not words[2 * slot]:
            return
        if not words[2 * slot] & FLAG_DIRTY:
            self.store.allocator.need_block(words[2 * slot] & BLOCK_MASK)
        words, slot = self.writable_pointers(index)
        self.drop_child(words, slot, 0, index)
        self.trim(index)

    def trim(self, index: int) -> None:
        """Remove the dirty pointer blocks above ``index`` that are empty."""
        bits = self.store.geometry.fan_bits
        for level in range(1, self.depth + 1):
            number = index >> bits * level
            node = self.dirty.get(level << LEVEL_SHIFT | number)
            if node is None or any(node):
                return
            if level == self.depth:
                words, slot = self.root, 0
            else:
                words, slot = (
                    self.dirty[level + 1 << LEVEL_SHIFT | number >> bits],
                    number & (1 << bits) - 1,
                )
            self.drop_child(words, slot, level, number)
        if not self.root[0]:
            self.depth = 0

    def shrink(self, count: int = 1) -> None:
        """Give up levels that ``count`` blocks do not need, and that hold nothing but their first
        child. Only what is dirty is looked at.
        """
        if not self.root[0]:
            self.depth = 0
            return
        for level in range(self.depth, self.levels_for(count), -1):
            node = self.dirty.get(level << LEVEL_SHIFT)
            if node is None or any(node[2:]):
                return
            first, second = node[0], node[1]
            del self.dirty[level << LEVEL_SHIFT]
            self.blocks -= 1
            self.root[0], self.root[1] = first, second
            self.depth = level - 1

    def drop_child(self, words: array[int], slot: int, level: int, number: int) -> None:
        """Drop the block ``(level, number)``, which this slot of writable words points to."""
        first, second = words[2 * slot], words[2 * slot + 1]
        if first & FLAG_DIRTY:
            del self.dirty[level << LEVEL_SHIFT | number]
        else:
            self.owner.drop(first & BLOCK_MASK, 1, second & EPOCH_MASK)
        words[2 * slot] = words[2 * slot + 1] = 0
        self.blocks -= 1

    # Commit

    def seal(self, sealing: Sealing, places: list[int] | None = None) -> None:
        """Give every dirty block a place (of ``places``, if given) and its bytes; nothing is dirty
        afterwards.
        """
        dirty = self.dirty
        if not dirty:
            return
        bits = self.store.geometry.fan_bits
        mask = (1 << bits) - 1
        if places is None:
            places = sealing.allocate(len(dirty), self.owner)
        epoch = self.store.epoch
        number_mask = (1 << LEVEL_SHIFT) - 1
        for key, block in zip(sorted(dirty), places, strict=True):
            level, number = key >> LEVEL_SHIFT, key & number_mask
            node = dirty[key]
            data = encode_pointers(node) if level else bytes(node)
            checksum = crc32c(data)
            if level == self.depth:
                words, slot = self.root, 0
            else:
                words, slot = dirty[level + 1 << LEVEL_SHIFT | number >> bits], number & mask
            words[2 * slot] = block
            words[2 * slot + 1] = checksum << CHECKSUM_SHIFT | epoch
            sealing.put(self._kind(level), block, checksum, node if level else data, data)
        self.dirty = {}
