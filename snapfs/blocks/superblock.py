"""The superblock: one 512-byte sector that names a generation. ``doc/format.md`` section 2."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import SLOT_BYTES, SUPERBLOCK_SLOTS, Geometry
from snapfs.errors import CorruptBlock, NotAVolume, UnsupportedVersion, UsageError

MAGIC: Final = b"snapfs\x00\x1a"
VERSION: Final = 1

#: magic, version, block size, blocks, generation, three feature words, uuid, label, created,
#: committed, root block, root length, root CRC, first block of the log, blocks of the log
LAYOUT: Final = struct.Struct("<8sIIQQQQQ16s64sqqQIIQI")

#: The checksum covers everything before it; a superblock fits one sector, so that no write of it is
#: torn.
CHECKSUM_OFFSET: Final = 508
SUPERBLOCK_BYTES: Final = 512
LABEL_BYTES: Final = 64

#: Generations are below this: no volume lives to see it, and there are always more.
GENERATION_LIMIT: Final = 1 << 62

KNOWN_INCOMPATIBLE: Final = 0

#: A copy of the volume is running: what it needs must be copied before it is overwritten.
COPY_RUNNING: Final = 1

#: A log is named: it tells what happened since, and its blocks must not be given out.
LOG: Final = 2

#: The last slot of the ring at the front says who has the volume open, and whoever writes the
#: volume must look there first.
CLAIM: Final = 4

#: Blocks of a log, at most.
LOG_BLOCKS_MAX: Final = 1024

KNOWN_READ_ONLY_COMPATIBLE: Final = COPY_RUNNING | LOG | CLAIM


@dataclass(frozen=True, slots=True)
class Superblock:
    """A verified superblock. Times are nanoseconds since 1970, UTC. ``slot``: where in its ring it
    stands, or is to stand.
    """

    block_size: int
    blocks: int
    generation: int
    uuid: bytes
    label: str
    created_ns: int
    committed_ns: int
    root_block: int
    root_length: int
    root_checksum: int
    compatible: int = 0
    read_only_compatible: int = 0
    incompatible: int = 0
    log_block: int = 0
    log_blocks: int = 0
    slot: int = field(default=0, compare=False)

    def encode(self) -> bytes:
        """The bytes of a slot."""
        body = LAYOUT.pack(
            MAGIC,
            VERSION,
            self.block_size,
            self.blocks,
            self.generation,
            self.compatible,
            self.read_only_compatible,
            self.incompatible,
            self.uuid,
            encode_label(self.label),
            self.created_ns,
            self.committed_ns,
            self.root_block,
            self.root_length,
            self.root_checksum,
            self.log_block,
            self.log_blocks,
        ).ljust(CHECKSUM_OFFSET, b"\0")
        return (body + struct.pack("<I", crc32c(body))).ljust(SLOT_BYTES, b"\0")

    def following(
        self,
        generation: int,
        committed_ns: int,
        root: tuple[int, int, int],
        log: tuple[int, int] | None,
        *,
        is_copied: bool,
    ) -> Superblock:
        """That of a later generation, in the next slot: ``root`` is (block, bytes, CRC) of its root
        record, ``log`` (block, length).

        Written out because ``dataclasses.replace`` takes several times as long, in every commit.
        """
        return Superblock(
            self.block_size,
            self.blocks,
            generation,
            self.uuid,
            self.label,
            self.created_ns,
            committed_ns,
            *root,
            self.compatible,
            CLAIM | (COPY_RUNNING if is_copied else 0) | (LOG if log else 0),
            self.incompatible,
            *(log or (0, 0)),
            (self.slot + 1) % SUPERBLOCK_SLOTS,
        )

    @property
    def geometry(self) -> Geometry:
        """The shape of the volume."""
        return Geometry(self.block_size, self.blocks)

    @classmethod
    def decode(cls, data: bytes, slot: int = 0) -> Superblock:
        """Verify and decode the slot with that number.

        Raises ``NotAVolume`` without the magic, ``CorruptBlock`` when the checksum or a field does
        not hold, ``UnsupportedVersion`` when a newer snapfs wrote it.
        """
        fields = LAYOUT.unpack_from(data)
        (
            magic,
            version,
            block_size,
            blocks,
            generation,
            compatible,
            ro_compatible,
            incompatible,
            uuid,
            label,
        ) = fields[:10]
        if magic != MAGIC:
            raise NotAVolume("no snapfs superblock")
        if version > VERSION:
            raise UnsupportedVersion(
                f"the volume has format {version}, this snapfs knows up to {VERSION}: "
                "use a newer snapfs"
            )
        (checksum,) = struct.unpack_from("<I", data, CHECKSUM_OFFSET)
        if crc32c(data[:CHECKSUM_OFFSET]) != checksum:
            raise CorruptBlock("superblock: checksum mismatch")
        if incompatible & ~KNOWN_INCOMPATIBLE:
            raise UnsupportedVersion(
                f"the volume uses features {incompatible & ~KNOWN_INCOMPATIBLE:#x} that "
                "this snapfs does not know: use a newer snapfs"
            )
        try:
            geometry = Geometry(block_size, blocks)
            text = label.rstrip(b"\0").decode()
        except (UsageError, UnicodeDecodeError) as exc:
            raise CorruptBlock(f"superblock: {exc}") from exc
        root_block, root_length = fields[12], fields[13]
        if not 0 < root_block < geometry.blocks or not 0 < root_length <= block_size or version < 1:
            raise CorruptBlock("superblock: the root record lies outside the volume")
        log_block, log_blocks = fields[15:] if ro_compatible & LOG else (0, 0)
        if log_blocks and not _log_is_possible(geometry, log_block, log_blocks):
            raise CorruptBlock(
                "superblock: the log lies outside the volume, or over fixed metadata"
            )
        if generation >= GENERATION_LIMIT:
            raise CorruptBlock(f"superblock: generation {generation} is not possible")
        return cls(
            block_size,
            blocks,
            generation,
            uuid,
            text,
            fields[10],
            fields[11],
            root_block,
            root_length,
            fields[14],
            compatible,
            ro_compatible,
            incompatible,
            log_block,
            log_blocks,
            slot,
        )


def _log_is_possible(geometry: Geometry, start: int, length: int) -> bool:
    """Does it lie within one group, between what is fixed there?"""
    group, offset = divmod(start, geometry.group_span)
    if group >= geometry.groups or length > LOG_BLOCKS_MAX:
        return False
    low, high = geometry.usable_range(group)
    return low <= offset and offset + length <= high


def encode_label(label: str) -> bytes:
    """A label's bytes. Raises ``UsageError`` when it is too long or has a NUL."""
    data = label.encode()
    if len(data) > LABEL_BYTES or b"\0" in data:
        raise UsageError(f"label {label!r} is longer than {LABEL_BYTES} bytes or contains a NUL")
    return data
