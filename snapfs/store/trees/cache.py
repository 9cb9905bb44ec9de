"""The block cache: decoded metadata blocks by block number, clean ones only.

A clean block never changes: dirty copies live in the trees that changed them and come here when a
generation is sealed. What a block number stands for changes only when the block is freed, and
freeing forgets it here; an entry that a slow fetch brings after that is recognised by its checksum.
The two generations of the cache cost one dictionary look-up for a hit and keep what was used
recently.
"""

from __future__ import annotations

from typing import Any

from snapfs.errors import CorruptBlock

Entry = tuple[int, str, Any]  # checksum, kind, decoded


class BlockCache:
    """Holds at least ``capacity`` and at most twice as many decoded blocks."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._young: dict[int, Entry] = {}
        self._old: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, kind: str, block: int, checksum: int) -> Any:
        """The decoded block, None when it is not here. Raises ``CorruptBlock`` for one that is here
        as something else.

        Whoever needed both would otherwise fetch each again and again, because the other had taken
        its place.
        """
        found = self._young.get(block)
        if found is None:
            found = self._old.pop(block, None)
            if found is not None:
                self._keep(block, found)
        if found is None or found[0] != checksum or found[1] != kind:
            self.misses += 1
            if found is not None and found[0] == checksum:
                raise CorruptBlock(
                    f"block {block} is in use for two things: {found[1] or 'data'} and "
                    f"{kind or 'data'}"
                )
            return None
        self.hits += 1
        return found[2]

    def put(self, kind: str, block: int, checksum: int, decoded: Any) -> None:
        """Keep a decoded block."""
        self._keep(block, (checksum, kind, decoded))

    def _keep(self, block: int, entry: Entry) -> None:
        self._young[block] = entry
        if len(self._young) > self.capacity:
            self._old = self._young
            self._young = {}

    def forget(self, start: int, length: int) -> None:
        """The blocks are free: whatever they held is history."""
        young, old = self._young, self._old
        if length == 1:
            young.pop(start, None)
            old.pop(start, None)
        elif length > len(young) + len(old):
            end = start + length
            for blocks in (young, old):
                for block in [block for block in blocks if start <= block < end]:
                    del blocks[block]
        else:
            for block in range(start, start + length):
                young.pop(block, None)
                old.pop(block, None)

    def clear(self) -> None:
        """Forget everything."""
        self._young = {}
        self._old = {}
