"""One bucket of a bucket tree: a msgpack map in a block. ``doc/format.md``, directories."""

from __future__ import annotations

from typing import Any

from snapfs.blocks.schema import pack, unpack
from snapfs.errors import CorruptBlock

HASH_BITS = 64

#: A msgpack map's own header, at most.
MAP_HEADER = 5


class Bucket:
    """A bucket's items and the bytes that they take at most."""

    __slots__ = ("items", "size")

    def __init__(self, items: dict[Any, Any], size: int) -> None:
        self.items = items
        self.size = size

    def copy(self) -> Bucket:
        """A bucket that may be changed."""
        return Bucket(dict(self.items), self.size)

    def encode(self, block_size: int) -> bytes:
        """The block's bytes: the length of the map, then the map."""
        body = pack(self.items)
        return (len(body).to_bytes(4, "little") + body).ljust(block_size, b"\0")

    @classmethod
    def decode_names(cls, data: bytes) -> Bucket:
        """Decode a verified block of a directory: names and numbers. Raises ``CorruptBlock``."""
        bucket = cls._decode(data)
        if not all(
            type(key) is bytes and type(value) is int for key, value in bucket.items.items()
        ):
            raise CorruptBlock("a bucket of names has something else in it")
        return bucket

    @classmethod
    def decode_table(cls, data: bytes) -> Bucket:
        """Decode a verified block of a table: numbers, each with a value of any kind. Raises
        ``CorruptBlock``.
        """
        bucket = cls._decode(data)
        if not all(type(key) is int and 0 <= key < 1 << HASH_BITS for key in bucket.items):
            raise CorruptBlock("a bucket of a table has a key that is no number")
        return bucket

    @classmethod
    def _decode(cls, data: bytes) -> Bucket:
        size = int.from_bytes(data[:4], "little")
        if size > len(data) - 4:
            raise CorruptBlock("a bucket is longer than its block")
        items = unpack(memoryview(data)[4 : 4 + size], "bucket")
        if type(items) is not dict or not items:
            raise CorruptBlock("a bucket is not a map, or has no items")
        return cls(items, sum(item_size(key, value) for key, value in items.items()))


def item_size(key: Any, value: Any) -> int:
    """Bytes of one item."""
    if type(key) is bytes and type(value) is int:
        return len(key) + (2 if len(key) < 256 else 5) + 9
    return len(pack(key)) + len(pack(value))
