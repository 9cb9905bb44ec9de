"""Bucket trees: maps from keys to small values, in hash order: directories, the instance table, the
holder sets. ``doc/format.md`` section 7.

A bucket is one block with a msgpack map. A small map is one bucket; a larger one has pointer blocks
above, each of which consumes as many bits of the hash, from the top, as it has slots. Within a
pointer block, a bucket at slot ``s`` holds the hashes of ``s`` and of the empty slots after it; a
pointer block holds those of its own slot. A full bucket gives half of its slots to a new one; one
that has a single slot becomes a pointer block. An empty map has no block at all.

As in block maps, making something dirty changes nothing that anyone can see.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    FLAG_DIRTY,
    encode_pointers,
)
from snapfs.errors import CorruptBlock, NoSpace
from snapfs.store.trees.bucket import HASH_BITS, MAP_HEADER, Bucket, item_size

if TYPE_CHECKING:
    from snapfs.store.trees.block_store import BlockStore
    from snapfs.store.trees.owners import Owner
    from snapfs.store.trees.sealing import Sealing

TOO_DEEP = "a bucket tree is deeper than its hashes"

#: Keys of dirty blocks are ``prefix << DEPTH_BITS | depth``.
DEPTH_BITS = 4


def _slot_before(words: array[int], digit: int) -> int:
    """The slot that holds the hashes of an empty one, or would."""
    slot = digit
    while slot > 0 and not words[2 * slot]:
        slot -= 1
    if slot < digit and words[2 * slot] and not words[2 * slot] & FLAG_BUCKET:
        slot += 1  # the pointer block before it holds its own slot only
    return slot


class BucketTree:
    """A map whose ``hash_of(key)`` gives 64 bits. ``blocks`` counts all its blocks, ``dirty`` holds
    what the next seal writes.

    ``kind`` says what its buckets hold: "names" and their numbers, or numbers and what a "table"
    says about them.
    """

    __slots__ = ("blocks", "dirty", "hash_of", "kind", "owner", "root", "store")

    def __init__(
        self,
        store: BlockStore,
        owner: Owner,
        kind: Literal["names", "table"],
        hash_of: Callable[[Any], int],
        root: tuple[int, int] = (0, 0),
        blocks: int = 0,
    ) -> None:
        self.store = store
        self.owner = owner
        self.kind = kind
        self.hash_of = hash_of
        self.root = array("Q", root)
        self.blocks = blocks
        self.dirty: dict[int, Any] = {}

    @property
    def root_words(self) -> tuple[int, int]:
        """The two words of the root pointer."""
        return self.root[0], self.root[1]

    def _load(self, words: array[int], slot: int, key: int) -> Any:
        first = words[2 * slot]
        if first & FLAG_DIRTY:
            return self.dirty[key]
        return self.store.load(
            self.kind if first & FLAG_BUCKET else "node", first, words[2 * slot + 1]
        )

    def _digit(self, value: int, depth: int) -> int:
        bits = self.store.geometry.fan_bits
        shift = HASH_BITS - bits * (depth + 1)
        if shift < 0:
            raise CorruptBlock(TOO_DEEP)
        return value >> shift & (1 << bits) - 1

    def _find(self, value: int) -> tuple[array[int], int, int, int, Bucket | None, bool]:
        """Where a hash belongs: words, slot, prefix, depth, the bucket there (None: none yet), and
        whether all on the way is dirty.
        """
        # Every change and every look-up comes here several times, so it calls as little as it can.
        words, slot, prefix, depth, is_dirty = self.root, 0, 0, 0, True
        dirty = self.dirty
        bits, shift = self.store.geometry.fan_bits, HASH_BITS
        while first := words[2 * slot]:
            if first & FLAG_DIRTY:
                found = dirty[prefix << DEPTH_BITS | depth]
            else:
                is_dirty = False
                found = self.store.load(
                    self.kind if first & FLAG_BUCKET else "node", first, words[2 * slot + 1]
                )
            if type(found) is Bucket:
                return words, slot, prefix, depth, found, is_dirty
            shift -= bits
            if shift < 0:
                raise CorruptBlock(TOO_DEEP)
            words = found
            slot = value >> shift & (1 << bits) - 1
            if not words[2 * slot]:
                slot = _slot_before(words, slot)
            prefix = (prefix << bits) + slot
            depth += 1
        return words, slot, prefix, depth, None, is_dirty

    def _end(self, words: array[int], prefix: int, depth: int, value: int) -> int:
        """The first hash after the range of a place that ``_find`` gave. Raises ``CorruptBlock``
        for a pointer block without pointers.
        """
        return (
            self.slot_of(words, prefix >> self.store.geometry.fan_bits, depth - 1, value)[1]
            if depth
            else 1 << HASH_BITS
        )

    def slot_of(self, words: array[int], prefix: int, depth: int, value: int) -> tuple[int, int]:
        """In a pointer block: the slot in which a hash is, or would be, and the first hash after
        the range of that slot.
        """
        bits, fan_out = self.store.geometry.fan_bits, self.store.geometry.fan_out
        digit = self._digit(value, depth)
        slot = digit if words[2 * digit] else _slot_before(words, digit)
        after = digit + 1
        if not words[2 * slot] or words[2 * slot] & FLAG_BUCKET:
            while after < fan_out and not words[2 * after]:
                after += 1
            if after == fan_out and not slot and not words[0]:
                raise CorruptBlock("a pointer block of a bucket tree points nowhere")
        return slot, (prefix << bits) + after << HASH_BITS - bits * (depth + 1)

    # Reading

    def get(self, key: Any) -> Any:
        """The value of a key, None without one. Raises ``NotCached``."""
        if not self.root[0]:
            return None
        bucket = self._find(self.hash_of(key))[4]
        return bucket.items.get(key) if bucket is not None else None

    def scan(self, start: int, limit: int) -> list[tuple[int, Any, Any]]:
        """Items (hash, key, value) in hash order from hash ``start`` on: at least ``limit`` while
        there are more, whole buckets.

        Raises ``NotCached``, and ``CorruptBlock`` for a bucket that none of its range's hashes are
        in: pointer blocks of a hostile image may name one bucket from so many places that walking
        them would never end.
        """
        out: list[tuple[int, Any, Any]] = []
        hash_of = self.hash_of
        first = start
        while start < 1 << HASH_BITS and len(out) < limit and self.root[0]:
            words, _, prefix, depth, bucket, _ = self._find(start)
            end = self._end(words, prefix, depth, start)
            if bucket:
                some = [(hash_of(key), key, value) for key, value in bucket.items.items()]
                some = sorted(
                    (item for item in some if start <= item[0] < end), key=lambda item: item[:2]
                )
                if not some and start != first:
                    raise CorruptBlock("a bucket holds no item of its range")
                out += some
            start = end
        return out

    def is_empty(self) -> bool:
        """No items at all?"""
        return not self.root[0]

    # Changing

    def touch(self, key: Any, *, beside: bool = False) -> None:
        """Make everything writable that ``put`` or ``pop`` of this key may change. Raises
        ``NotCached``.

        Before several keys are put in a row, ``beside`` must be given: a bucket that splits may
        leave a part of its range to the bucket before it, and with it keys that are still to come.
        """
        _, slot, prefix, depth, _ = self._writable(self.hash_of(key))
        if beside and depth and slot:
            words = self.dirty[prefix >> self.store.geometry.fan_bits << DEPTH_BITS | depth - 1]
            before = next((place for place in range(slot - 1, -1, -1) if words[2 * place]), -1)
            if before >= 0 and words[2 * before] & FLAG_BUCKET:
                self._dirty_path(prefix - slot + before, depth)

    def _writable(self, value: int) -> tuple[array[int], int, int, int, Bucket | None]:
        while True:
            words, slot, prefix, depth, bucket, is_dirty = self._find(value)
            if bucket is None:
                self._end(words, prefix, depth, value)
            if is_dirty:
                return words, slot, prefix, depth, bucket
            self._dirty_path(prefix, depth)

    def _dirty_path(self, prefix: int, depth: int) -> None:
        bits = self.store.geometry.fan_bits
        words, slot = self.root, 0
        for level in range(depth + 1):
            first, second = words[2 * slot], words[2 * slot + 1]
            if not first:
                return
            key = prefix >> bits * (depth - level) << DEPTH_BITS | level
            if not first & FLAG_DIRTY:
                clean = self._load(words, slot, key)
                self.store.allocator.need_block(first & BLOCK_MASK)
                self.owner.drop(first & BLOCK_MASK, 1, second & EPOCH_MASK)
                self._adopt(key, clean.copy() if first & FLAG_BUCKET else clean[:])
                words[2 * slot], words[2 * slot + 1] = FLAG_DIRTY | first & FLAG_BUCKET, 0
            if level < depth:
                words = self.dirty[key]
                slot = prefix >> bits * (depth - level - 1) & (1 << bits) - 1

    def _adopt(self, key: int, found: Any) -> None:
        self.dirty[key] = found
        self.store.dirtied += 1

    def put(self, key: Any, value: Any) -> None:
        """Give a key a value. Raises ``NotCached`` unless it was touched, ``NoSpace`` when too many
        hashes collide.
        """
        hashed = self.hash_of(key)
        words, slot, prefix, depth, bucket = self._writable(hashed)
        size = item_size(key, value)
        room = self.store.geometry.block_size - 4 - MAP_HEADER
        if bucket is None:
            bucket = Bucket({}, 0)
            self._place(words, slot, prefix, depth, bucket)
        old = bucket.items.get(key)
        if old is not None:
            bucket.size -= item_size(key, old)
        if old is not None and bucket.size + size > room:
            del bucket.items[key]
        while bucket.size + size > room:
            if not bucket.items:
                raise NoSpace("an item does not fit a block")
            self._split(words, slot, prefix, depth, bucket, hashed)
            words, slot, prefix, depth, found = self._writable(hashed)
            if found is None:
                found = Bucket({}, 0)
                self._place(words, slot, prefix, depth, found)
            bucket = found
        bucket.items[key] = value
        bucket.size += size

    def _place(self, words: array[int], slot: int, prefix: int, depth: int, bucket: Bucket) -> None:
        words[2 * slot], words[2 * slot + 1] = FLAG_DIRTY | FLAG_BUCKET, 0
        self._adopt(prefix << DEPTH_BITS | depth, bucket)
        self.blocks += 1

    def _split(
        self, words: array[int], slot: int, prefix: int, depth: int, bucket: Bucket, hashed: int
    ) -> None:
        """Make room for a key with this hash: the upper half of a bucket goes to a new one, or all
        of it below a pointer block.

        One half may be empty afterwards: the key belongs there then.
        """
        bits = self.store.geometry.fan_bits
        digits = [0]
        if depth:
            self._check_range(words, slot, prefix, depth, bucket)
            digits = sorted(
                {self._digit(one, depth - 1) for one in (hashed, *map(self.hash_of, bucket.items))}
            )
        if len(digits) == 1:
            if bits * (depth + 1) > HASH_BITS:
                raise NoSpace("too many names with one hash")
            self._unplace(words, slot, prefix, depth)
            prefix += digits[0] - slot
            node = array("Q", bytes(16 * self.store.geometry.fan_out))
            words[2 * digits[0]], words[2 * digits[0] + 1] = FLAG_DIRTY, 0
            self._adopt(prefix << DEPTH_BITS | depth, node)
            self.blocks += 1
            self._place(node, 0, prefix << bits, depth + 1, bucket)
            return
        middle = digits[len(digits) // 2]
        upper = Bucket({}, 0)
        for key in [
            key for key in bucket.items if self._digit(self.hash_of(key), depth - 1) >= middle
        ]:
            value = upper.items[key] = bucket.items.pop(key)
            size = item_size(key, value)
            upper.size += size
            bucket.size -= size
        self._place(words, middle, prefix - slot + middle, depth, upper)

    def _check_range(
        self, words: array[int], slot: int, prefix: int, depth: int, bucket: Bucket
    ) -> None:
        """Raises ``CorruptBlock`` for a bucket with items that are not of its range: split, they
        would take places that others have.
        """
        fan_out, shift = (
            self.store.geometry.fan_out,
            HASH_BITS - self.store.geometry.fan_bits * depth,
        )
        after = next((place for place in range(slot + 1, fan_out) if words[2 * place]), fan_out)
        if not all(
            prefix <= self.hash_of(key) >> shift < prefix - slot + after for key in bucket.items
        ):
            raise CorruptBlock("a bucket has items that are not of its range")

    def _unplace(self, words: array[int], slot: int, prefix: int, depth: int) -> None:
        words[2 * slot] = words[2 * slot + 1] = 0
        del self.dirty[prefix << DEPTH_BITS | depth]
        self.blocks -= 1

    def pop(self, key: Any) -> Any:
        """Remove a key and return its value, None without one. Raises ``NotCached`` unless it was
        touched.
        """
        if not self.root[0]:
            return None
        words, slot, prefix, depth, bucket = self._writable(self.hash_of(key))
        if bucket is None:
            return None
        value = bucket.items.pop(key, None)
        if value is not None:
            bucket.size -= item_size(key, value)
        if not bucket.items:
            self._unplace(words, slot, prefix, depth)
            self._trim(prefix, depth)
        return value

    def pop_all(self, keys: Iterable[Any]) -> None:
        """Remove those of some touched keys that are there. Cannot fail.

        Which ones are there is asked first: once a pop has removed a bucket, its hashes belong to a
        neighbour that nobody has touched.
        """
        for key in [key for key in keys if self.get(key) is not None]:
            self.pop(key)

    def _trim(self, prefix: int, depth: int) -> None:
        """Remove pointer blocks that have become empty."""
        bits = self.store.geometry.fan_bits
        while depth:
            prefix, depth = prefix >> bits, depth - 1
            if any(self.dirty[prefix << DEPTH_BITS | depth]):
                return
            if depth:
                parent = self.dirty[prefix >> bits << DEPTH_BITS | depth - 1]
                self._unplace(parent, prefix & (1 << bits) - 1, prefix, depth)
            else:
                self._unplace(self.root, 0, 0, 0)

    # Commit

    def seal(self, sealing: Sealing) -> None:
        """Give every dirty block a place and its bytes; nothing is dirty afterwards."""
        dirty = self.dirty
        if not dirty:
            return
        bits, block_size = self.store.geometry.fan_bits, self.store.geometry.block_size
        depth_mask = (1 << DEPTH_BITS) - 1
        epoch = self.store.epoch
        places = sealing.allocate(len(dirty), self.owner)
        for key, block in zip(
            sorted(dirty, key=lambda key: -(key & depth_mask)), places, strict=True
        ):
            prefix, depth = key >> DEPTH_BITS, key & depth_mask
            found = dirty[key]
            kind, flag = (self.kind, FLAG_BUCKET) if type(found) is Bucket else ("node", 0)
            data = found.encode(block_size) if flag else encode_pointers(found)
            checksum = crc32c(data)
            if depth:
                words, slot = (
                    dirty[prefix >> bits << DEPTH_BITS | depth - 1],
                    prefix & (1 << bits) - 1,
                )
            else:
                words, slot = self.root, 0
            words[2 * slot] = block | flag
            words[2 * slot + 1] = checksum << CHECKSUM_SHIFT | epoch
            sealing.put(kind, block, checksum, found, data)
        self.dirty = {}
