"""Bitmaps, records and holder sets, held against what the views and tables reach (I1 to I3)."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.check.findings import Finding, Findings, Severity, everywhere
from snapfs.check.walk.reach import BASE, COPY, RECORDS, VOLUME, Reach
from snapfs.check.walk.tables import load_group
from snapfs.store.commit.volume import Volume
from snapfs.store.space.group import Group

#: Groups that are read to claim what stores their records, and kept until they are compared.
GROUPS_KEPT: Final = 64

#: Rows that are held against the rows before them at once.
_STRIDE: Final = 256


def _runs(columns: tuple[Sequence[int], ...], span: int) -> Iterator[tuple[int, list[int]]]:
    """Runs of equal rows: how many rows, and what is in each column. ``span`` is a multiple of the
    stride. Most of a group is one long run, which is found without a look at every row.
    """
    length = 0
    row: tuple[int, ...] = ()
    for start in range(0, span, _STRIDE):
        end = start + _STRIDE
        if start and all(column[start:end] == column[start - 1 : end - 1] for column in columns):
            length += _STRIDE
            continue
        for key, run in groupby(zip(*(column[start:end] for column in columns), strict=True)):
            count = sum(1 for _ in run)
            if key == row:
                length += count
                continue
            if length:
                yield length, list(row)
            length, row = count, key
    yield length, list(row)


class BitmapComparison:
    """Compares group after group, and sums up what must fit the totals."""

    def __init__(self, volume: Volume, reach: Reach, findings: Findings) -> None:
        self.volume = volume
        self.reach = reach
        self.findings = findings
        self.set_counts: dict[int, int] = defaultdict(int)
        self.partial = sum(1 << one.id for one in volume.instances.live() if one.covered)
        self.going = sum(1 << one.id for one in volume.instances.going())

    def run(self) -> None:
        """Compare all groups that were written or are reached."""
        volume = self.volume
        entries = volume.allocator.entries
        written = {number for number, one in enumerate(entries) if one.flags & ENTRY_WRITTEN}
        spills, groups, unreadable = self.claim_records()
        for number in sorted(self.reach.groups.union(written) - unreadable):
            few = None if entries[number].flags & ENTRY_WRITTEN else self.reach.few_of_group(number)
            if few is not None:  # nothing is marked in it, and what is fixed cannot be claimed
                for offset, mask, epoch in few:
                    self._run(
                        volume.geometry.group_start(number) + offset, 1, mask, epoch, -1, 0, 0, 0
                    )
                continue
            group = groups.pop(number, None) or load_group(volume, number, self.findings)
            if group is not None:
                self._group(group)
        if spills + volume.sets_tree.blocks != volume.record_blocks:
            self.findings.add(
                "format",
                "record-blocks",
                "root record",
                f"{spills + volume.sets_tree.blocks} blocks store records, "
                f"{volume.record_blocks} are counted",
                Severity.WARNING,
            )
        for number, entry in volume.holders.sets.items():
            if entry.count != self.set_counts.get(number, 0):
                self.findings.add(
                    "I3",
                    "set-count",
                    f"holder set {number}",
                    f"records name it for {self.set_counts.get(number, 0)} blocks, "
                    f"{entry.count} are counted",
                )

    def claim_records(self) -> tuple[int, dict[int, Group], set[int]]:
        """Claim what stores records. It may lie in any group: this comes before any is compared.

        How many blocks that is; some of the groups that were read for it, by their numbers; and the
        numbers of those that cannot be read.
        """
        spills = 0
        groups: dict[int, Group] = {}
        unreadable = set()
        for number, entry in enumerate(self.volume.allocator.entries):
            if not entry.flags & ENTRY_WRITTEN:
                continue
            group = load_group(self.volume, number, self.findings)
            if group is None:
                unreadable.add(number)
                continue
            for block, _ in group.spill:
                self.reach.claim(block, 1, RECORDS, 0, everywhere(f"records of group {number}"))
                spills += 1
            if len(groups) < GROUPS_KEPT:
                groups[number] = group
        return spills, groups, unreadable

    def of_block(self, block: int) -> list[Finding]:
        """What is wrong with one block, once all that reaches it has been claimed.

        Nothing is said of a block in a group that cannot be read.
        """
        geometry, findings = self.volume.geometry, Findings()
        number, offset = divmod(block, geometry.group_span)
        group = load_group(self.volume, number, findings)
        if group is None:
            return []
        masks, ids, epochs = self.reach.of_group(number)
        fixed = any(low <= offset < high for low, high in geometry.fixed_ranges(number))
        record = group.records.get(offset)
        own = BitmapComparison(self.volume, self.reach, findings)
        own._run(
            block,
            1,
            masks[ids[offset]],
            epochs[offset],
            -1 if record is None else record,
            int(fixed),
            group.blocks[offset],
            group.snapshot[offset],
        )
        return findings.found

    def _group(self, group: Group) -> None:
        volume = self.volume
        entry = volume.allocator.entries[group.number]
        where = f"group {group.number}"
        if (group.free, group.snapshot_count, len(group.records)) != (
            entry.free,
            entry.snapshot,
            entry.runs,
        ):
            self.findings.add("format", "group-counts", where, "the group table counts differently")
        for _, length, number in group.records:
            self.set_counts[number] += length
        span = volume.geometry.group_span
        masks, ids, epochs = self.reach.of_group(group.number)
        records = array("q", [-1]) * span
        for start, length, number in group.records:
            records[start : start + length] = array("q", [number]) * length
        fixed = bytearray(span)
        for first, last in volume.geometry.fixed_ranges(group.number):
            fixed[first:last] = b"\1" * (last - first)
        columns = (
            ids,
            epochs,
            records,
            fixed,
            group.blocks.unpack(one=b"\1"),
            group.snapshot.unpack(one=b"\1"),
        )
        position = 0
        for length, (mask, *facts) in _runs(columns, span):
            self._run(group.start + position, length, masks[mask], *facts)
            position += length

    def _differ(self, named: int, possible: int, found: int) -> bool:
        """Are the holders that were found others than those that are named, and those that are so
        by default?

        Of the latter, instances that cover parts of the volume only may be missing.
        """
        return bool(found & ~possible or possible & ~found & (named | ~self.partial))

    def _run(
        self,
        start: int,
        length: int,
        mask: int,
        epoch: int,
        record: int,
        fixed: int,
        marked: int,
        held: int,
    ) -> None:
        where = f"block {start}" if length == 1 else f"blocks {start} to {start + length - 1}"
        add = self.findings.add
        sets = self.volume.holders
        entry = sets.sets.get(record) if record >= 0 else None
        if record >= 0 and entry is None:
            add(
                "I3",
                "unknown-set",
                where,
                f"the record names holder set {record}, which does not exist",
            )
            return
        leaving = (
            entry is not None
            and not mask
            and not entry.base_held
            and bool(entry.mask & self.going)
            and not entry.mask & sets.live
        )
        if marked and not (fixed or mask or leaving):
            add("I1", "leaked", where, "marked in the block bitmap, and nothing reaches it")
        if not marked and (fixed or mask):
            add("I1", "not-marked", where, "reached, and not marked in the block bitmap")
        if mask & COPY and mask & ~COPY:
            add(
                "I4",
                "copy-shared",
                where,
                "the running copy has it, which writes it in place, and something else "
                "reaches it as well",
            )
        needs = bool(mask & RECORDS) or leaving or (bool(mask) and not mask & (BASE | VOLUME))
        if needs != bool(held):
            add(
                "I2",
                "snapshot-bitmap",
                where,
                "marked in the snapshot bitmap for no reason"
                if held
                else "not marked in the snapshot bitmap, though only snapshots or records need it",
            )
        holders = mask & ~(BASE | VOLUME)
        if leaving:
            return
        if entry is None:
            if mask & BASE:
                if self._differ(0, sets.default(epoch), holders):
                    add(
                        "I3",
                        "holders",
                        where,
                        f"by its epoch {epoch} its holders are "
                        f"{names(sets.default(epoch))}, those that reach it are "
                        f"{names(holders)}",
                    )
            elif holders:
                add(
                    "I3",
                    "no-record",
                    where,
                    f"only snapshots reach it ({names(holders)}), and no record covers it",
                )
            return
        if not mask & ~VOLUME:
            add(
                "I3",
                "record-of-nothing",
                where,
                f"a record covers it, and no view reaches it (holder set {record})",
            )
        elif entry.base_held != bool(mask & BASE):
            add("I3", "base-held", where, "its record is wrong about whether the base reaches it")
        elif self._differ(entry.mask & sets.live, sets.holders(record), holders):
            add(
                "I3",
                "holders",
                where,
                f"its record names {names(sets.holders(record))}, those that reach it "
                f"are {names(holders)}",
            )


def names(mask: int) -> str:
    """The instances of a mask, for people."""
    bits = [str(bit) for bit in range(mask.bit_length()) if mask >> bit & 1]
    return "{" + ", ".join(bits[:8]) + (", ..." if len(bits) > 8 else "") + "}"
