"""Walking block maps and bucket trees of many views at once: what they share is read and looked at
once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, FLAG_BUCKET, pointer_runs
from snapfs.check.findings import Findings, Mend, Subject
from snapfs.check.walk.reach import Objection, Reach, allowed
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.interrupts import NotCached
from snapfs.store.trees.bucket import HASH_BITS, Bucket

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

Pointer = tuple[int, int]

#: Key, value, and the views that have it.
Item = tuple[Any, Any, int]

#: A place in a bucket tree: prefix, pointer, and the hashes from which and up to which it holds.
Branch = tuple[int, Pointer, int, int]


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

    def load(self, kind: str, pointer: Pointer, mask: int, where: Subject) -> Any:
        """A decoded block, None (and a finding) if it cannot be read."""
        try:
            return self.volume.load(kind, *pointer)
        except NotCached as exc:
            wants = exc.wants
        except CorruptBlock as exc:
            self.findings.add("I7", "unreadable", where.words(mask), str(exc))
            return None
        try:
            ((_, found),) = loaded = self.volume.read_wants(wants)
        except (CorruptBlock, DeviceError) as exc:
            self.findings.add("I7", "unreadable", where.words(mask), str(exc))
            return None
        self.volume.admit(loaded)
        return found

    # Block maps

    def block_map(
        self, roots: list[Root], leaf_kind: str, where: Subject
    ) -> tuple[list[tuple[int, int]], Iterator[tuple[int, Any, int]]]:
        """Claim all blocks of a map in several views.

        Returns for each root its blocks and the first index behind its last block, and the leaves
        (number, content, mask) when they have a kind.
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
            for (number, pointer), reaching in levels.get(level, {}).items():
                key = (level, number, pointer)
                sums[key], below[key] = (1, 0), []
                mask = self._claim(pointer, reaching, where, level, number)
                if not mask:
                    continue
                node = self.load("node", pointer, mask, where)
                if node is None:
                    self._drop(mask, where, level, number)
                    continue
                used = fan_out - node[::2].count(0)
                if not used:
                    self.findings.add(
                        "I1",
                        "empty-pointer-block",
                        where.words(mask),
                        "a pointer block points nowhere",
                        fault=where.fault(Mend.DROP_EMPTY, mask, level=level, number=number),
                    )
                first = number << fan_bits
                if level == 1 and not leaf_kind:
                    count, end = self._data(node, first, mask, where)
                    if count != used:
                        self.findings.add(
                            "format",
                            "pointer-range",
                            where.words(mask),
                            f"{used - count} pointers name block 0",
                        )
                    sums[key] = (1 + used, end)
                    continue
                lower = levels.setdefault(level - 1, {})
                for slot in range(fan_out):
                    if node[2 * slot]:
                        child = first + slot, (node[2 * slot], node[2 * slot + 1])
                        lower[child] = lower.get(child, 0) | mask
                        below[key].append((level - 1, *child))
        leaves: list[tuple[int, Pointer, int]] = []
        for (number, pointer), reaching in levels.get(0, {}).items():
            leaves.append((number, pointer, self._claim(pointer, reaching, where, 0, number)))
            sums[0, number, pointer] = (1, number + 1)
        for level in range(1, max(levels, default=0) + 1):
            for number, pointer in levels.get(level, {}):
                key = (level, number, pointer)
                for inner in below[key]:
                    sums[key] = (sums[key][0] + sums[inner][0], max(sums[key][1], sums[inner][1]))
        totals = [
            sums[root.depth, 0, root.pointer] if root.pointer[0] else (0, 0) for root in roots
        ]
        return totals, self._leaves(leaves, leaf_kind, where)

    def _data(self, node: array[int], first: int, mask: int, where: Subject) -> tuple[int, int]:
        """Claim the data that a pointer block of level 1 names: how many blocks, and the index
        behind the last one.
        """
        fan_out = self.volume.geometry.fan_out
        if max(node[::2]) >= FLAG_BUCKET:
            for slot in range(fan_out):
                self._flags(node[2 * slot], mask, where, 0, first + slot)
        count = 0
        objections: list[Objection] = []
        for block, length, epoch in pointer_runs(node, 0, fan_out, BLOCK_MASK):
            objections += self.reach.claim(block, length, mask, epoch, where)
            count += length
        slots: dict[int, list[int]] = {}
        if objections or count != fan_out - node[::2].count(0):
            for slot in range(fan_out):
                if node[2 * slot]:
                    slots.setdefault(node[2 * slot] & BLOCK_MASK, []).append(slot)
        for slot in slots.get(0, []):
            self._drop(mask, where, 0, first + slot)
        for one in objections:
            # Of several pointers to one block within this one, the first is right.
            places = slots[one.block]
            self._objection(one, where, 0, first + (places.pop() if len(places) > 1 else places[0]))
        end = next((slot + 1 for slot in range(fan_out - 1, -1, -1) if node[2 * slot]), 0)
        return count, first + end if end else 0

    def _leaves(
        self, leaves: list[tuple[int, Pointer, int]], kind: str, where: Subject
    ) -> Iterator[tuple[int, Any, int]]:
        if kind:
            for number, pointer, mask in sorted(leaves):
                if mask:
                    content = self.load(kind, pointer, mask, where)
                    if content is None:
                        self._drop(mask, where, 0, number)
                    else:
                        yield number, content, mask

    def _claim(self, pointer: Pointer, mask: int, where: Subject, level: int, number: int) -> int:
        """Claim a block of a map; the views for which it leads on."""
        self._flags(pointer[0], mask, where, level, number)
        objections = self.reach.claim(
            pointer[0] & BLOCK_MASK, 1, mask, pointer[1] & EPOCH_MASK, where
        )
        for one in objections:
            self._objection(one, where, level, number)
        return allowed(mask, objections)

    def _objection(self, one: Objection, where: Subject, level: int, number: int) -> None:
        fault = where.fault(one.mend, one.mask, level=level, number=number, value=one.epoch)
        if fault:
            self.findings.faults.append(fault)

    def _drop(self, mask: int, where: Subject, level: int, number: int) -> None:
        self._objection(Objection(0, mask, Mend.DROP_POINTER), where, level, number)

    def _flags(self, first: int, mask: int, where: Subject, level: int, number: int) -> None:
        if first >= FLAG_BUCKET:
            self.findings.add(
                "format",
                "pointer-flags",
                where.words(mask),
                f"a pointer has flags that it cannot have: {first & -FLAG_BUCKET:#x}",
                fault=where.fault(Mend.RENEW_POINTER, mask, level=level, number=number, value=-1),
            )

    # Bucket trees

    def buckets(
        self, roots: list[Root], kind: str, hash_of: Callable[[Any], int], where: Subject
    ) -> tuple[list[int], list[Item]]:
        """Claim all blocks of a bucket tree in several views: for each root its blocks, and the
        items (key, value, mask).
        """
        fan_bits, fan_out = self.volume.geometry.fan_bits, self.volume.geometry.fan_out
        items: list[Item] = []
        # By depth: (prefix, pointer, hashes from, to) -> mask
        levels: list[dict[Branch, int]] = [{}]
        for root in roots:
            if root.pointer[0]:
                key = (0, root.pointer, 0, 1 << HASH_BITS)
                levels[0][key] = levels[0].get(key, 0) | root.mask
        below: dict[tuple[int, Branch], list[Branch]] = {}
        depth = 0
        while depth < len(levels):
            for key, reaching in levels[depth].items():
                prefix, pointer, low, high = key
                children = below[depth, key] = []
                mask = self._claim_bucket(pointer, reaching, where)
                if not mask:
                    continue
                is_bucket = bool(pointer[0] & FLAG_BUCKET)
                found = self.load(kind if is_bucket else "node", pointer, mask, where)
                if found is None:
                    self._rebuild(mask, where)
                    continue
                if is_bucket:
                    self._bucket(found, mask, low, high, hash_of, where, items)
                    continue
                shift = HASH_BITS - fan_bits * (depth + 1)
                if shift < 0:
                    self.findings.add(
                        "format",
                        "tree-too-deep",
                        where.words(mask),
                        "its pointer blocks are deeper than its hashes",
                    )
                    self._rebuild(mask, where)
                    continue
                if depth + 1 == len(levels):
                    levels.append({})
                end = fan_out
                for slot in range(fan_out - 1, -1, -1):
                    first = found[2 * slot]
                    if first:
                        last = end if first & FLAG_BUCKET else slot + 1
                        place = (prefix << fan_bits) + slot
                        child = (
                            place,
                            (first, found[2 * slot + 1]),
                            place << shift,
                            (prefix << fan_bits) + last << shift,
                        )
                        levels[depth + 1][child] = levels[depth + 1].get(child, 0) | mask
                        children.append(child)
                        end = slot
                if not children:
                    self.findings.add(
                        "I1",
                        "empty-pointer-block",
                        where.words(mask),
                        "a pointer block points nowhere",
                    )
                    self._rebuild(mask, where)
            depth += 1
        counts: dict[tuple[int, Branch], int] = {}
        for level in range(len(levels) - 1, -1, -1):
            for key in levels[level]:
                counts[level, key] = 1 + sum(
                    counts[level + 1, child] for child in below[level, key]
                )
        return [
            counts[0, (0, root.pointer, 0, 1 << HASH_BITS)] if root.pointer[0] else 0
            for root in roots
        ], items

    def _claim_bucket(self, pointer: Pointer, mask: int, where: Subject) -> int:
        """Claim a block of a bucket tree; the views for which it leads on."""
        if pointer[0] & ~FLAG_BUCKET >= FLAG_BUCKET:
            self.findings.add(
                "format",
                "pointer-flags",
                where.words(mask),
                f"a pointer has flags that it cannot have: {pointer[0] & -FLAG_BUCKET:#x}",
            )
            self._rebuild(mask, where)
        objections = self.reach.claim(
            pointer[0] & BLOCK_MASK, 1, mask, pointer[1] & EPOCH_MASK, where
        )
        for one in objections:
            self._rebuild(one.mask, where, one.block if one.mend is Mend.DROP_POINTER else 0)
        return allowed(mask, objections)

    def _rebuild(self, mask: int, where: Subject, without: int = 0) -> None:
        fault = where.fault(Mend.REBUILD_NAMES, mask, value=without)
        if fault:
            self.findings.faults.append(fault)

    def _bucket(
        self,
        bucket: Bucket,
        mask: int,
        low: int,
        high: int,
        hash_of: Callable[[Any], int],
        where: Subject,
        items: list[tuple[Any, Any, int]],
    ) -> None:
        for key, value in bucket.items.items():
            if not low <= hash_of(key) < high:
                self.findings.add(
                    "format",
                    "misplaced-item",
                    where.words(mask),
                    f"{key!r} is in a bucket where a look-up does not find it",
                )
                self._rebuild(mask, where)
            items.append((key, value, mask))
