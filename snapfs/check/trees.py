"""Walking block maps and bucket trees of many views at once: what they share is read and looked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, FLAG_BUCKET
from snapfs.check.findings import Findings
from snapfs.check.reach import Reach, Where
from snapfs.errors import CorruptBlock, DeviceError, NotCached
from snapfs.store.allocator import pointer_runs
from snapfs.store.buckets import HASH_BITS, Bucket

if TYPE_CHECKING:
    from snapfs.store.volume import Volume

Pointer = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Root:
    """The root of a tree in the views of ``mask``."""

    pointer: Pointer
    depth: int
    mask: int


class Walker:
    """Reads blocks through the volume, and turns what cannot be read into findings."""

    def __init__(self, volume: Volume, reach: Reach, findings: Findings) -> None:
        self.volume = volume
        self.reach = reach
        self.findings = findings

    def load(self, kind: str, pointer: Pointer, mask: int, where: Where) -> Any:
        """A decoded block, None (and a finding) if it cannot be read."""
        try:
            return self.volume.load(kind, *pointer)
        except NotCached as exc:
            wants = exc.wants
        except CorruptBlock as exc:
            self.findings.add("I7", "unreadable", where(mask), str(exc))
            return None
        try:
            ((_, found),) = loaded = self.volume.read_wants(wants)
        except (CorruptBlock, DeviceError) as exc:
            self.findings.add("I7", "unreadable", where(mask), str(exc))
            return None
        self.volume.admit(loaded)
        return found

    # Block maps

    def block_map(self, roots: list[Root], leaf_kind: str, where: Where) -> tuple[list[tuple[int, int]], Iterator[tuple[int, Any, int]]]:
        """Claim all blocks of a map in several views.

        Returns for each root its blocks and the first index behind its last block, and the leaves (number, content, mask) when
        they have a kind.
        """
        fan_bits, fan_out = self.volume.geometry.fan_bits, self.volume.geometry.fan_out
        levels: dict[int, dict[tuple[int, Pointer], int]] = {}
        for root in roots:
            if root.pointer[0]:
                top = levels.setdefault(root.depth, {})
                top[0, root.pointer] = top.get((0, root.pointer), 0) | root.mask
        sums: dict[tuple[int, int, Pointer], tuple[int, int]] = {}
        below: dict[tuple[int, int, Pointer], list[tuple[int, int, Pointer]]] = {}
        for level in range(max(levels, default=0), 0, -1):
            for (number, pointer), mask in levels.get(level, {}).items():
                key = (level, number, pointer)
                sums[key], below[key] = (1, 0), []
                new = self._claim(pointer, mask, where)
                if not new:
                    continue
                mask = new  # noqa: PLW2901 - the rest of the loop is about these
                node = self.load("node", pointer, mask, where)
                if node is None:
                    continue
                used = fan_out - node[::2].count(0)
                if not used:
                    self.findings.add("I1", "empty-pointer-block", where(mask), "a pointer block points nowhere")
                first = number << fan_bits
                if level == 1 and not leaf_kind:
                    self._flags(max(node[::2]), mask, where)
                    count = end = 0
                    for block, length, epoch in pointer_runs(node, 0, fan_out, BLOCK_MASK):
                        self.reach.claim(block, length, mask, epoch, where)
                        count += length
                    if count != used:
                        self.findings.add("format", "pointer-range", where(mask), f"{used - count} pointers name block 0")
                    end = next((slot + 1 for slot in range(fan_out - 1, -1, -1) if node[2 * slot]), 0)
                    sums[key] = (1 + used, first + end if end else 0)
                    continue
                lower = levels.setdefault(level - 1, {})
                for slot in range(fan_out):
                    if node[2 * slot]:
                        child = first + slot, (node[2 * slot], node[2 * slot + 1])
                        lower[child] = lower.get(child, 0) | mask
                        below[key].append((level - 1, *child))
        for (number, pointer), mask in levels.get(0, {}).items():
            self._claim(pointer, mask, where)
            sums[0, number, pointer] = (1, number + 1)
        for level in range(1, max(levels, default=0) + 1):
            for number, pointer in levels.get(level, {}):
                key = (level, number, pointer)
                for inner in below[key]:
                    sums[key] = (sums[key][0] + sums[inner][0], max(sums[key][1], sums[inner][1]))
        totals = [sums[root.depth, 0, root.pointer] if root.pointer[0] else (0, 0) for root in roots]
        return totals, self._leaves(levels.get(0, {}), leaf_kind, where)

    def _leaves(self, leaves: dict[tuple[int, Pointer], int], kind: str, where: Where) -> Iterator[tuple[int, Any, int]]:
        if kind:
            for (number, pointer), mask in sorted(leaves.items()):
                content = self.load(kind, pointer, mask, where)
                if content is not None:
                    yield number, content, mask

    def _claim(self, pointer: Pointer, mask: int, where: Where, flags: int = 0) -> int:
        self._flags(pointer[0] & ~flags, mask, where)
        return self.reach.claim(pointer[0] & BLOCK_MASK, 1, mask, pointer[1] & EPOCH_MASK, where)

    def _flags(self, first: int, mask: int, where: Where) -> None:
        if first >= FLAG_BUCKET:
            self.findings.add("format", "pointer-flags", where(mask), f"a pointer has flags that it cannot have: {first & -FLAG_BUCKET:#x}")

    # Bucket trees

    def buckets(
        self, roots: list[Root], kind: str, hash_of: Callable[[Any], int], where: Where
    ) -> tuple[list[int], list[tuple[Any, Any, int]]]:
        """Claim all blocks of a bucket tree in several views: for each root its blocks, and the items (key, value, mask)."""
        fan_bits, fan_out = self.volume.geometry.fan_bits, self.volume.geometry.fan_out
        items: list[tuple[Any, Any, int]] = []
        # By depth: (prefix, pointer, hashes from, to) -> mask
        levels: list[dict[tuple[int, Pointer, int, int], int]] = [{}]
        for root in roots:
            if root.pointer[0]:
                key = (0, root.pointer, 0, 1 << HASH_BITS)
                levels[0][key] = levels[0].get(key, 0) | root.mask
        below: dict[tuple[int, tuple[int, Pointer, int, int]], list[tuple[int, Pointer, int, int]]] = {}
        depth = 0
        while depth < len(levels):
            for key, mask in levels[depth].items():
                prefix, pointer, low, high = key
                children = below[depth, key] = []
                new = self._claim(pointer, mask, where, FLAG_BUCKET)
                if not new:
                    continue
                mask = new  # noqa: PLW2901 - the rest of the loop is about these
                is_bucket = bool(pointer[0] & FLAG_BUCKET)
                found = self.load(kind if is_bucket else "node", pointer, mask, where)
                if found is None:
                    continue
                if is_bucket:
                    self._bucket(found, mask, low, high, hash_of, where, items)
                    continue
                shift = HASH_BITS - fan_bits * (depth + 1)
                if shift < 0:
                    self.findings.add("format", "tree-too-deep", where(mask), "its pointer blocks are deeper than its hashes")
                    continue
                if depth + 1 == len(levels):
                    levels.append({})
                end = fan_out
                for slot in range(fan_out - 1, -1, -1):
                    first = found[2 * slot]
                    if first:
                        last = end if first & FLAG_BUCKET else slot + 1
                        place = (prefix << fan_bits) + slot
                        child = (place, (first, found[2 * slot + 1]), place << shift, (prefix << fan_bits) + last << shift)
                        levels[depth + 1][child] = levels[depth + 1].get(child, 0) | mask
                        children.append(child)
                        end = slot
                if not children:
                    self.findings.add("I1", "empty-pointer-block", where(mask), "a pointer block points nowhere")
            depth += 1
        counts: dict[tuple[int, tuple[int, Pointer, int, int]], int] = {}
        for level in range(len(levels) - 1, -1, -1):
            for key in levels[level]:
                counts[level, key] = 1 + sum(counts[level + 1, child] for child in below[level, key])
        return [counts[0, (0, root.pointer, 0, 1 << HASH_BITS)] if root.pointer[0] else 0 for root in roots], items

    def _bucket(
        self, bucket: Bucket, mask: int, low: int, high: int, hash_of: Callable[[Any], int], where: Where, items: list[tuple[Any, Any, int]]
    ) -> None:
        for key, value in bucket.items.items():
            if not low <= hash_of(key) < high:
                self.findings.add("format", "misplaced-item", where(mask), f"{key!r} is in a bucket where a look-up does not find it")
            items.append((key, value, mask))
