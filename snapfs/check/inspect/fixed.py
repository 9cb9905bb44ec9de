"""Pages of what stands at fixed places, or is named by a superblock: the superblocks, the root
record, the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE, Claim
from snapfs.blocks.geometry import BLOCK_SIZES, SLOT_BYTES, SUPERBLOCK_SLOTS, Geometry
from snapfs.blocks.log_record import decode_log
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, EPOCH_MASK
from snapfs.blocks.superblock import CLAIM, COPY_RUNNING, LOG, Superblock
from snapfs.check.inspect.page import OK, ROWS, BlockPage, Checksum, Table, Time, ranges, text
from snapfs.check.scrub.fixed import slot_problem
from snapfs.check.scrub.frames import Frame
from snapfs.check.scrub.places import Tree, TreeKind
from snapfs.check.scrub.verifying import MISMATCH, READ_BYTES, Verifier, WantedBlocks
from snapfs.check.walk.visited import Visited
from snapfs.errors import CorruptBlock, DeviceError, NotAVolume, UnsupportedVersion
from snapfs.store.commit.recovery import read_copy
from snapfs.store.commit.superblocks import newest_superblock

if TYPE_CHECKING:
    from snapfs.blocks.log_record import FileChange, LogRecord
    from snapfs.check.inspect.opened import Inspected
    from snapfs.device import Device
    from snapfs.store.tables.instances import ViewRoot

_FEATURES = {
    COPY_RUNNING: "a copy is running",
    LOG: "a log is named",
    CLAIM: "who writes must have the claim",
}


def superblocks(device: Device, limit: int = ROWS) -> BlockPage:
    """All slots of both superblock rings, and what the newest superblock says.

    Needs no superblock that is intact. Raises ``NotAVolume`` where there is nothing that has ever
    been one, ``DeviceError``.
    """
    page = BlockPage(limit)
    newest: Superblock | None = None
    try:
        newest = newest_superblock(device)
    except NotAVolume:
        raise
    except (CorruptBlock, UnsupportedVersion) as exc:
        page.trouble("superblocks", exc)
    if newest is not None:
        _newest(page, newest, device.size)
    _claim(page, device)
    slots = page.table(
        "slots",
        "ring",
        "slot",
        "offset",
        "generation",
        "sealed_at",
        "root_block",
        "log_block",
        "state",
    )
    geometry = newest.geometry if newest else Geometry(BLOCK_SIZES[0], 1 << 20)
    front, tail = geometry.slot_offsets()
    for slot, offset in enumerate(front[:SUPERBLOCK_SLOTS]):
        _slot(page, slots, device, newest, ("front", slot, offset))
    if newest is None:
        page.trouble(
            "superblocks at the end",
            "where they stand is not known without a superblock that is intact",
        )
        return page
    for slot, offset in enumerate(tail):
        _slot(page, slots, device, newest, ("end", slot, offset))
    return page


def _newest(page: BlockPage, one: Superblock, device_bytes: int) -> None:
    features = [words for bit, words in _FEATURES.items() if one.read_only_compatible & bit]
    page.facts.update(
        uuid=str(UUID(bytes=one.uuid)),
        label=one.label,
        block_size=one.block_size,
        blocks=one.blocks,
        bytes=one.geometry.size,
        device_bytes=device_bytes,
        group_count=one.geometry.groups,
        generation=one.generation,
        created_at=Time(one.created_ns),
        sealed_at=Time(one.committed_ns),
        features=[
            f"{one.compatible:#x}",
            f"{one.read_only_compatible:#x}",
            f"{one.incompatible:#x}",
        ],
        features_known=features,
        root_block=one.root_block,
        root_bytes=one.root_length,
        root_checksum=Checksum(one.root_checksum),
        log_block=one.log_block or None,
        log_blocks=one.log_blocks,
    )


def _claim(page: BlockPage, device: Device) -> None:
    state = "nobody has ever claimed it"
    claim: Claim | None = None
    try:
        claim = Claim.decode(device.read(CLAIM_PLACE, CLAIM_BYTES))
        if claim is not None:
            state = "open" if claim.is_open else "given back"
    except (CorruptBlock, DeviceError) as exc:
        state = str(exc)  # no damage: whoever opens the volume next writes another one
    page.facts["claim"] = state
    if claim is not None:
        page.facts.update(
            claim_host=claim.host,
            claim_process=claim.pid,
            claim_command=claim.command,
            claim_since=Time(claim.since_ns),
            claim_renewed_at=Time(claim.renewed_ns),
        )


def _slot(
    page: BlockPage,
    slots: Table,
    device: Device,
    newest: Superblock | None,
    where: tuple[str, int, int],
) -> None:
    ring, slot, offset = where
    place = f"superblock slot {slot} at the {ring}"
    try:
        data = device.read(offset, SLOT_BYTES)
    except DeviceError as exc:
        slots.add(*where, None, None, None, None, page.trouble(place, exc))
        return
    problem = slot_problem(data)
    try:
        one = Superblock.decode(data, slot)
    except (NotAVolume, CorruptBlock, UnsupportedVersion):
        slots.add(
            *where, None, None, None, None, page.trouble(place, problem) if problem else "empty"
        )
        return
    state = page.trouble(place, problem) if problem else "older"
    if newest is not None and one == newest and not problem:
        state = "newest"
    slots.add(
        *where, one.generation, Time(one.committed_ns), one.root_block, one.log_block or None, state
    )


def root(image: Inspected) -> BlockPage:
    """The root record: counters, the roots of all else, what is said of restores and of a running
    copy.
    """
    page = image.page()
    volume, found = image.volume, image.root
    page.facts.update(
        block=volume.superblock.root_block,
        bytes=volume.superblock.root_length,
        generation=volume.superblock.generation,
    )
    if found is None:
        try:
            data = image.device.read(
                volume.superblock.root_block * volume.geometry.block_size,
                volume.superblock.root_length,
            )
            problem = (
                MISMATCH
                if crc32c(data) != volume.superblock.root_checksum
                else "its fields are not possible"
            )
        except DeviceError as exc:
            problem = str(exc)
        page.facts["state"] = page.trouble("root record", problem)
        return page
    page.facts.update(
        state=OK,
        epoch=found.epoch,
        name_seed=f"{found.hash_seed:#x}",
        next_inode_generation=found.next_inode_generation,
        record_blocks=found.record_blocks,
        counting_bitmap=ranges(int.from_bytes(found.counting, "little")),
    )
    roots = page.table("roots", "tree", "block", "depth", "blocks", "epoch", "checksum")
    for name, pointer, depth, blocks in (
        (
            "inode table of the present",
            (found.base.first, found.base.second),
            found.base.depth,
            found.base.blocks,
        ),
        ("group table", found.groups[0], found.groups[1], found.groups[2]),
        ("holder sets", found.sets[0], None, found.sets[1]),
        ("instance table", found.instances[0], None, found.instances[1]),
    ):
        first, second = pointer
        roots.add(
            name,
            first & BLOCK_MASK,
            depth,
            blocks,
            second & EPOCH_MASK,
            Checksum(second >> CHECKSUM_SHIFT),
        )
    page.facts.update(_view_counts(found.base))
    if (wanted := found.scheduled) is not None:
        paths = ", ".join(map(text, wanted.paths)) or "all that it covers"
        page.facts["next_mount_restores"] = (
            f"instance {wanted.instance}, {paths}, asked for by user {wanted.owner}"
        )
    if found.restored:
        restores = page.table(
            "restores", "done_at", "snapshot", "paths", "more_paths", "user", "undo", "inodes"
        )
        for one in found.restored:
            restores.add(
                Time(one.when_ns),
                one.name,
                [text(path) for path in one.paths],
                one.more,
                one.owner,
                one.undo,
                one.inodes,
            )
    if found.copy is not None:
        _running_copy(page, image)
    return page


def _view_counts(base: ViewRoot) -> dict[str, int]:
    return {"inodes": base.inodes, "next_inode": base.next_ino, "content_blocks": base.content}


def _running_copy(page: BlockPage, image: Inspected) -> None:
    place = image.volume.copies.place
    if place is None:
        return
    page.facts["copy_block"] = place.block
    try:
        copy = read_copy(image.volume, place)
    except (CorruptBlock, DeviceError) as exc:
        page.facts["copy_state"] = page.trouble("running copy", exc)
        return
    page.facts.update(
        copy_state=image.volume.copies.trouble or "running",
        copy_id=copy.id.hex(),
        copy_generation=copy.generation,
        copy_destination=text(copy.destination),
        copy_map=text(copy.map_path) or [f"{start}+{length}" for start, length in copy.map_runs],
        copy_paused=copy.paused,
        copy_since=Time(copy.since_ns),
    )


def log(image: Inspected) -> BlockPage:
    """The records of the log that the newest superblock names, and whether the blocks that they
    name have their checksums.
    """
    page = image.page()
    superblock, block_size = image.volume.superblock, image.volume.geometry.block_size
    page.facts.update(
        generation=superblock.generation,
        block=superblock.log_block or None,
        blocks=superblock.log_blocks,
    )
    if not superblock.log_blocks:
        page.facts["state"] = "the superblock names no log"
        return page
    try:
        data = image.device.read(
            superblock.log_block * block_size, superblock.log_blocks * block_size
        )
    except DeviceError as exc:
        page.facts["state"] = page.trouble("log", exc)
        return page
    records, end = decode_log(data, block_size, superblock.uuid, superblock.generation)
    page.facts.update(
        records=len(records),
        state=OK if end is None else page.trouble(f"log, behind record {len(records)}", end),
    )
    page.table(
        "files",
        "record",
        "record_block",
        "inode",
        "inode_generation",
        "size",
        "accessed",
        "modified",
        "changed",
        "blocks",
        "state",
    )
    page.table("runs", "record", "inode", "index", "length", "block", "epoch", "state")
    visited = Visited(image.volume.geometry)
    with Verifier(image.volume) as verifier:
        for record in records:
            for change in record.changes:
                _change(page, image, record, change, verifier, visited)
    return page


def _change(
    page: BlockPage,
    image: Inspected,
    record: LogRecord,
    change: FileChange,
    verifier: Verifier,
    visited: Visited,
) -> None:
    """One file of a record: a row, and one for each run of blocks side by side. No block is read
    twice.
    """
    geometry = image.volume.geometry
    place = f"log, record {record.number}"
    count, whole = 0, OK
    for index, words in change.runs:
        frame = Frame(Tree(TreeKind.DATA, ino=change.ino), 0, index, words)
        while not page.tables["runs"].is_cut and (
            run := frame.following(READ_BYTES // geometry.block_size)
        ):
            at, block, length = run
            count += length
            state = OK
            if not 0 < block <= geometry.blocks - length:
                state = page.trouble(place, f"it names block {block}, outside the volume")
            elif visited.claim(block, length) != [(block, length)]:
                state = page.trouble(place, f"it names block {block} twice")
            else:
                checksums = [
                    second >> CHECKSUM_SHIFT for second in words[2 * at + 1 : 2 * (at + length) : 2]
                ]
                (found,) = verifier.read([WantedBlocks(block, checksums, kept=False)])
                if found.problems:
                    first = min(found.problems)
                    state = page.trouble(place, f"block {block + first} {found.problems[first]}")
            whole = whole if state == OK else state
            epoch = words[2 * at + 1] & EPOCH_MASK
            page.tables["runs"].add(
                record.number, change.ino, index + at, length, block, epoch, state
            )
    times = Time(change.atime), Time(change.mtime), Time(change.ctime)
    start = image.volume.superblock.log_block + record.offset // geometry.block_size
    page.tables["files"].add(
        record.number, start, change.ino, change.generation, change.size, *times, count, whole
    )
