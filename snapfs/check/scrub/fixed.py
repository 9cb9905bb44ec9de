"""Looking at the parts of a volume that stand at fixed places or that a superblock names: steps of
a scrub.

What changes while it is read may look like damage: see ``scrub.Scrub``, which looks again.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import RING_SLOTS, SLOT_BYTES, SUPERBLOCK_SLOTS
from snapfs.blocks.group_header import ENTRY_SLOT, GroupHeader
from snapfs.blocks.superblock import SUPERBLOCK_BYTES, Superblock
from snapfs.check.scrub.places import Damage
from snapfs.check.scrub.verifying import (
    MISMATCH,
    Verified,
    WantedBlocks,
)
from snapfs.errors import CorruptBlock, NotAVolume, UnsupportedVersion
from snapfs.store.tables.root_record import RootRecord

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

T = TypeVar("T")

#: A part of a walk: yields what is to be read, gets what was found, returns a result.
Steps = Generator[list[WantedBlocks], list[Verified], T]


def rings(volume: Volume) -> Steps[list[Damage]]:
    """The slots of both superblock rings: each is empty, or has a superblock and zeros.

    One that is being written is left out, and so is that of the claim, which is written at any
    time.
    """
    geometry = volume.geometry
    flying = volume.in_flight
    out = []
    for ring, start in (("front", 0), ("end", geometry.blocks - geometry.ring_blocks)):
        (found,) = yield [WantedBlocks(start, [None] * geometry.ring_blocks)]
        for slot in range(RING_SLOTS if ring == "end" else SUPERBLOCK_SLOTS):
            if (
                flying is not None
                and start * geometry.block_size + slot * SLOT_BYTES in flying.superblock[1]
            ):
                continue
            position = slot * SLOT_BYTES // geometry.block_size
            problem = found.problems.get(position) or slot_problem(
                found.content[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
            )
            if problem:
                out.append(
                    Damage(start + position, problem, f"superblock slot {slot} at the {ring}")
                )
    return out


def root_damage(volume: Volume) -> Steps[list[Damage]]:
    """The root record, and the rest of its block, which is zero."""
    superblock = volume.superblock
    (found,) = yield [WantedBlocks(superblock.root_block, [None])]
    problem = found.problems.get(0)
    if not problem and crc32c(found.content[: superblock.root_length]) != superblock.root_checksum:
        problem = MISMATCH
    if not problem and any(found.content[superblock.root_length :]):
        problem = "what follows the record is not zero"
    return [Damage(superblock.root_block, problem, "root record")] if problem else []


def root_record(volume: Volume) -> Steps[RootRecord | None]:
    """The root record of the newest sealed generation, None when it cannot be read."""
    while True:
        superblock = volume.superblock
        (found,) = yield [WantedBlocks(superblock.root_block, [None])]
        data = found.content[: superblock.root_length]
        if crc32c(data) == superblock.root_checksum:
            try:
                return RootRecord.decode(data, superblock.geometry)
            except CorruptBlock:
                return None
        if volume.superblock is superblock:
            return None


def copy_damage(volume: Volume) -> Steps[list[Damage]]:
    """The block that describes a running copy. What is in the copy's map changes in place, and has
    checksums of its own.
    """
    record = yield from root_record(volume)
    if record is None or record.copy is None:
        return []
    block, checksum = record.copy.block, record.copy.checksum
    (found,) = yield [WantedBlocks(block, [checksum])]
    return [Damage(block, problem, "running copy") for problem in found.problems.values()]


def group(volume: Volume, number: int) -> Steps[list[Damage]]:
    """The header slot of a group that counts, both bitmaps, and the blocks
    that store its records.
    """
    geometry = volume.geometry
    entry = volume.allocator.entries[number]
    start = geometry.header_block(number, entry.flags & ENTRY_SLOT)
    (found,) = yield [WantedBlocks(start, [entry.checksum, None, None])]
    problems = found.problems
    parts = [
        f"header of group {number}",
        f"block bitmap of group {number}",
        f"snapshot bitmap of group {number}",
    ]
    stored: list[Damage] = []
    if 0 not in problems:
        block_size = geometry.block_size
        try:
            header = GroupHeader.decode(found.content[:block_size], number, geometry.blocks)
        except CorruptBlock as exc:
            return [Damage(start, str(exc), parts[0])]
        for at, checksum in ((1, header.bitmap_checksum), (2, header.snapshot_checksum)):
            if (
                at not in problems
                and crc32c(found.content[at * block_size : (at + 1) * block_size]) != checksum
            ):
                problems[at] = MISMATCH
        records = yield [
            WantedBlocks(block, [checksum], kept=False) for block, checksum in header.spill
        ]
        for (block, _), one in zip(header.spill, records, strict=True):
            stored += [
                Damage(block, problem, f"records of group {number}")
                for problem in one.problems.values()
            ]
    return [
        Damage(start + at, problem, parts[at]) for at, problem in sorted(problems.items())
    ] + stored


def slot_problem(slot: bytes) -> str | None:
    """What is wrong with a superblock slot."""
    try:
        Superblock.decode(slot)
    except NotAVolume:
        return "it is neither empty nor a superblock" if any(slot) else None
    except (CorruptBlock, UnsupportedVersion) as exc:
        return str(exc)
    return "what follows the superblock is not zero" if any(slot[SUPERBLOCK_BYTES:]) else None
