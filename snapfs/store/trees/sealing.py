"""Sealing a generation: dirty tree nodes get blocks, and give their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snapfs.store.trees.block_store import BlockStore
    from snapfs.store.trees.owners import Owner


class Sealing:
    """Gives blocks to dirty tree nodes and takes their bytes."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.blocks: dict[int, bytes] = {}

    def allocate(self, count: int, owner: Owner) -> list[int]:
        """``count`` new blocks for a tree. The seal's plan has made sure that they are there."""
        out: list[int] = []
        for start, length in self._store.allocator.allocate(count):
            owner.taken(start, length)
            out.extend(range(start, start + length))
        return out

    def put(self, kind: str, block: int, checksum: int, decoded: Any, data: bytes) -> None:
        """A block's bytes. What it holds is clean from now on."""
        self.blocks[block] = data
        self._store.cache.put(kind, block, checksum, decoded)
