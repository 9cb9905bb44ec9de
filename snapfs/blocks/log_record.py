"""A record of the log: what was made durable since the record before it, without a commit.
``doc/format.md`` section 13.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import decode_pointers, encode_pointers
from snapfs.blocks.schema import LIST_MAX, check_range, pack, unpack
from snapfs.errors import CorruptBlock
from snapfs.ids import FILE_SIZE_MAX, INO_LIMIT

MAGIC: Final = b"SLog"

#: magic, bytes of the payload, UUID of the volume, generation, number in the log, checksum of the
#: record before
LAYOUT: Final = struct.Struct("<4sI16sQII")

#: The checksum covers what is before it and the payload behind it.
CHECKSUM_OFFSET: Final = LAYOUT.size
PAYLOAD_OFFSET: Final = CHECKSUM_OFFSET + 4

#: Files that one record names, at most, and runs of blocks of one file: lists on a volume are not
#: longer.
FILES_MAX: Final = LIST_MAX
RUNS_MAX: Final = LIST_MAX // 2

_TIME: Final = 1 << 63
_WHAT: Final = "log record"


@dataclass(frozen=True, slots=True)
class FileChange:
    """How a file of the base is after the record. ``runs``: (index of the first block, pointers to
    new blocks), in order.
    """

    ino: int
    generation: int
    size: int
    atime: int
    mtime: int
    ctime: int
    runs: tuple[tuple[int, array[int]], ...] = ()

    @property
    def is_possible(self) -> bool:
        """Can a record say it?"""
        return (
            all(-_TIME <= time < _TIME for time in (self.atime, self.mtime, self.ctime))
            and len(self.runs) <= RUNS_MAX
        )

    def encode(self) -> list[Any]:
        """As it stands in the payload."""
        runs = [value for index, words in self.runs for value in (index, encode_pointers(words))]
        return [self.ino, self.generation, self.size, self.atime, self.mtime, self.ctime, runs]

    @classmethod
    def decode(cls, value: object) -> Self:
        """Validate what can be without the volume. Raises ``CorruptBlock``."""
        if (
            type(value) is not list
            or len(value) != 7
            or type(value[6]) is not list
            or len(value[6]) % 2
        ):
            raise CorruptBlock(f"{_WHAT}: not a change of a file")
        ino, generation = (
            check_range(value[0], 1, INO_LIMIT - 1, _WHAT),
            check_range(value[1], 0, 0xFFFF_FFFF, _WHAT),
        )
        size = check_range(value[2], 0, (1 << 64) - 1, _WHAT)
        atime, mtime, ctime = (check_range(time, -_TIME, _TIME - 1, _WHAT) for time in value[3:6])
        runs: list[tuple[int, array[int]]] = []
        least = 0
        for index, data in zip(value[6][::2], value[6][1::2], strict=True):
            check_range(index, least, FILE_SIZE_MAX, _WHAT)
            if type(data) is not bytes or not data or len(data) % 16:
                raise CorruptBlock(f"{_WHAT}: pointers were expected")
            words = decode_pointers(data)
            runs.append((index, words))
            least = index + len(words) // 2
        return cls(ino, generation, size, atime, mtime, ctime, tuple(runs))


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record, verified. ``checksum`` is its own, ``offset`` where it begins, in bytes."""

    number: int
    changes: tuple[FileChange, ...]
    checksum: int
    offset: int = 0


def encode_record(
    uuid: bytes, generation: int, number: int, previous: int, changes: Sequence[FileChange]
) -> tuple[bytes, int]:
    """A record's bytes, not filled up, and its checksum."""
    payload = pack([change.encode() for change in changes])
    head = LAYOUT.pack(MAGIC, len(payload), uuid, generation, number, previous)
    checksum = crc32c(head + payload)
    return head + struct.pack("<I", checksum) + payload, checksum


def decode_log(
    region: bytes, block_size: int, uuid: bytes, generation: int
) -> tuple[list[LogRecord], str | None]:
    """The records of a generation, in order, and why the log ends before its end if there is more
    to it than that it does. Never raises.
    """
    records: list[LogRecord] = []
    position = previous = 0
    while position + PAYLOAD_OFFSET <= len(region):
        head = region[position : position + CHECKSUM_OFFSET]
        length = LAYOUT.unpack(head)[1]
        end = position + PAYLOAD_OFFSET + length
        if head != LAYOUT.pack(
            MAGIC, length, uuid, generation, len(records), previous
        ) or end > len(region):
            if head[: len(MAGIC)] == MAGIC:
                probes.LOG_STALE_TAIL.hit()
            break
        payload = region[position + PAYLOAD_OFFSET : end]
        (checksum,) = struct.unpack_from("<I", region, position + CHECKSUM_OFFSET)
        if crc32c(head + payload) != checksum:
            probes.LOG_TORN_RECORD.hit()
            break  # torn, or an older one
        try:
            records.append(_decoded(payload, len(records), checksum, position))
        except CorruptBlock as exc:
            return records, str(exc)
        position, previous = -(-end // block_size) * block_size, checksum
    return records, None


def _decoded(payload: bytes, number: int, checksum: int, offset: int) -> LogRecord:
    found = unpack(payload, _WHAT)
    if type(found) is not list:
        raise CorruptBlock(f"{_WHAT}: a list was expected")
    changes = tuple(FileChange.decode(value) for value in found)
    if len({change.ino for change in changes}) != len(changes):
        raise CorruptBlock(f"{_WHAT}: it names a file twice")
    return LogRecord(number, changes, checksum, offset)
