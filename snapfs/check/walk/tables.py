"""The volume's own tables: what they reach, and whether their counts are right."""

from __future__ import annotations

from snapfs.blocks.geometry import RING_SLOTS, SLOT_BYTES, SUPERBLOCK_SLOTS
from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.blocks.superblock import SUPERBLOCK_BYTES, Superblock
from snapfs.check.findings import Fault, Findings, Mend, Severity, everywhere
from snapfs.check.walk.reach import COPY, RECORDS, SYSTEM, Reach
from snapfs.check.walk.trees import Root, Walker
from snapfs.errors import CorruptBlock, DeviceError, NotAVolume, UnsupportedVersion
from snapfs.store.commit.recovery import read_copy
from snapfs.store.commit.volume import Volume, number_hash
from snapfs.store.space.group import Group
from snapfs.store.tables.copies import map_problem


def check_superblocks(volume: Volume, findings: Findings) -> None:
    """Every slot of both rings that holds a superblock is intact; the newest stands in both, or in
    one of them after a crash.

    A commit that a crash interrupted may have left anything in the slots that it was to write:
    those of the next generation, and in the ring that comes second those of the newest one. What
    the claim has in its slot is for whoever opens the volume next.
    """
    front, tail = volume.geometry.slot_offsets()
    written = volume.superblock.slot
    following = {
        (written + 1) % SUPERBLOCK_SLOTS,
        (written + 1) % RING_SLOTS,
    }  # the latter of a snapfs without claims
    for ring, offsets in (("front", front), ("end", tail)):
        newest = 0
        damaged: list[tuple[int, str]] = []
        for slot, offset in enumerate(offsets):
            if slot in following or (ring == "front" and slot == SUPERBLOCK_SLOTS):
                continue
            try:
                data = volume.device.read(offset, SLOT_BYTES)
                if any(data[SUPERBLOCK_BYTES:]):
                    damaged.append((slot, "what follows the superblock is not zero"))
                newest = max(newest, Superblock.decode(data).generation)
            except NotAVolume:
                if any(data[:SUPERBLOCK_BYTES]):
                    damaged.append((slot, "it is neither empty nor a superblock"))
            except (CorruptBlock, UnsupportedVersion, DeviceError) as exc:
                damaged.append((slot, str(exc)))
        for slot, what in damaged:
            if newest != volume.generation - 1 or slot != written:
                fault = Fault(Mend.CLEAR_SUPERBLOCK, 0, value=offsets[slot])
                findings.add(
                    "format",
                    "superblock",
                    f"superblock slot {slot} at the {ring}",
                    what,
                    Severity.WARNING,
                    fault=fault,
                )
        if not volume.generation - 1 <= newest <= volume.generation:
            what = f"the newest one is of generation {newest}, not {volume.generation}"
            findings.add(
                "I8", "superblock-copy", f"superblocks at the {ring}", what, Severity.WARNING
            )


def check_tables(volume: Volume, walker: Walker, findings: Findings) -> None:
    """Claim the blocks of the tables, and check what they count."""
    walker.reach.claim(volume.root_block, 1, SYSTEM, 0, everywhere("root record"))
    check_root_block(volume, findings)
    tree = volume.group_tree
    totals, _ = walker.block_map(
        [Root(tree.root_words, tree.depth, SYSTEM)], "", everywhere("group table")
    )
    if totals[0][0] != tree.blocks:
        findings.add(
            "I1",
            "table-blocks",
            "group table",
            f"it has {totals[0][0]} blocks, {tree.blocks} are counted",
        )
    for name, table, mask in (
        ("instance table", volume.instances_tree, SYSTEM),
        ("holder sets", volume.sets_tree, RECORDS),
    ):
        counts, _ = walker.buckets(
            [Root(table.root_words, 0, mask)], "table", number_hash, everywhere(name)
        )
        if counts[0] != table.blocks:
            findings.add(
                "I1", "table-blocks", name, f"it has {counts[0]} blocks, {table.blocks} are counted"
            )
    seen: dict[tuple[bool, int, int], int] = {}
    for number, entry in volume.holders.sets.items():
        if entry.key in seen:
            # Sets become equal when an instance leaves both; new records then use the first.
            continue
        seen[entry.key] = number
        known = sum(1 << one for one in volume.instances.table)
        if entry.mask & ~known:
            findings.add(
                "I3",
                "unknown-holder",
                f"holder set {number}",
                "it names an instance that does not exist",
            )
        if entry.since > volume.epoch:
            findings.add(
                "I3",
                "future-epoch",
                f"holder set {number}",
                f"it counts instances from epoch {entry.since} on, the volume is at {volume.epoch}",
            )
    for one in volume.instances.table.values():
        if one.epoch >= volume.epoch:
            findings.add(
                "I3", "future-epoch", f"snapshot {one.name}", f"its epoch {one.epoch} is not over"
            )
        if one.serial >= volume.next_inode_generation:
            findings.add(
                "format",
                "future-serial",
                f"snapshot {one.name}",
                f"the next one would be made before it: it is {one.serial}",
            )
        if one.origin and one.origin not in volume.instances.table:
            findings.add(
                "format",
                "origin",
                f"snapshot {one.name}",
                f"it was made of instance {one.origin}, which does not exist",
                Severity.WARNING,
            )
    wanted = volume.restores.scheduled
    if wanted is not None and (
        (found := volume.instances.table.get(wanted.instance)) is None or found.going
    ):
        what = f"the next mount is to go back to instance {wanted.instance}, which does not exist"
        findings.add("format", "scheduled-restore", "root record", what, Severity.WARNING)


def check_copy(volume: Volume, reach: Reach, findings: Findings) -> None:
    """Claim what a running copy has on the volume, after all else: the block that describes it, and
    its map, if that is possible there.
    """
    place = volume.copies.place
    if place is None:
        return
    where = "running copy"
    reach.claim(place.block, 1, COPY, 0, everywhere(where))
    try:
        copy = read_copy(volume, place)
    except (CorruptBlock, DeviceError) as exc:
        findings.add(
            "I7",
            "running-copy",
            where,
            f"it cannot be read, and while it is there nothing must be written: {exc}",
        )
        return
    if problem := map_problem(copy, place, volume.geometry):
        findings.add(
            "I4", "copy-map", where, f"{problem}: while it is there nothing must be written"
        )
        return
    for start, length in copy.map_runs:
        reach.claim(start, length, COPY, 0, everywhere("map of the running copy"))


def check_root_block(volume: Volume, findings: Findings) -> None:
    """The rest of the root record's block, which no checksum covers, is zero."""
    block_size = volume.geometry.block_size
    try:
        data = volume.device.read(volume.root_block * block_size, block_size)
    except DeviceError as exc:
        findings.add("I7", "unreadable", "root record", str(exc))
        return
    if any(data[volume.superblock.root_length :]):
        findings.add(
            "format",
            "root-record",
            "root record",
            "what follows it in its block is not zero",
            Severity.WARNING,
        )


def load_group(volume: Volume, number: int, findings: Findings) -> Group | None:
    """A group with its bitmaps and records, None (and a finding) if it cannot be read."""
    if not volume.allocator.entries[number].flags & ENTRY_WRITTEN:
        return Group.empty(volume.geometry, number)
    try:
        ((_, group),) = volume.read_wants([volume.allocator.want(number)])
    except (CorruptBlock, DeviceError) as exc:
        findings.add("I7", "unreadable", f"group {number}", str(exc))
        return None
    found: Group = group
    return found
