"""Who reads a trace: finds the records of a ring in whatever state it is, also while the daemon
writes on.

Memory is taken for the places of the records, not for the records themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from snapfs.errors import UsageError
from snapfs.fuse.tracing.record import (
    ALIGNMENT,
    HEADER_BYTES,
    RECORD_MAGIC,
    START_BYTES,
    Header,
    Record,
    decode,
    decode_header,
    length_of,
)

#: Bytes that are searched at once.
_PIECE: Final = 64 << 10


class Gap(NamedTuple):
    """Records that are missing between two that are there: torn, or overwritten while the trace was
    read.
    """

    records: int


@dataclass(frozen=True)
class _Place:
    position: int
    length: int


class Trace:
    """An open trace. Close it after use. Raises ``OSError``, and ``UsageError`` for what is no
    trace.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            try:
                self.header: Header = decode_header(os.pread(self._descriptor, HEADER_BYTES, 0))
            except UsageError as exc:
                raise UsageError(f"{path}: {exc}") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def records(self) -> Iterator[Record | Gap]:
        """Every record that is there, oldest first, and what is missing between them.

        What was overwritten since the trace began is older than the first record, and no gap.
        """
        before: Record | None = None
        for place in self._places():
            record = self._record(place)
            if record is None:  # overwritten since it was found
                continue
            if before is not None and record.number != before.number + 1:
                yield Gap(record.number - before.number - 1)
            before = record
            yield record

    def _places(self) -> list[_Place]:
        """Where records are, oldest first."""
        size = self.header.size
        found: list[_Place] = []
        offset: int | None = 0
        while offset is not None and offset < size:
            place = self._place(offset)
            if place is None:
                offset = self._find(offset + ALIGNMENT)
            else:
                found.append(place)
                offset += place.length
        found.sort(key=lambda place: place.position)
        newest = found[-1].position + found[-1].length if found else 0
        return [place for place in found if place.position >= newest - size]

    def _find(self, offset: int) -> int | None:
        """The next place where a record may begin."""
        while offset < self.header.size:
            data = os.pread(
                self._descriptor, min(_PIECE, self.header.size - offset), HEADER_BYTES + offset
            )
            at = data.find(RECORD_MAGIC)
            while at >= 0 and at % ALIGNMENT:
                at = data.find(RECORD_MAGIC, at + 1)
            if at >= 0:
                return offset + at
            if not data:  # the file was cut off
                return None
            offset += len(data) - len(data) % ALIGNMENT or ALIGNMENT
        return None

    def _place(self, offset: int) -> _Place | None:
        length = length_of(self._read(offset, START_BYTES))
        if length is None or length > self.header.size:
            return None
        record = decode(self._read(offset, length), self.header.salt)
        if record is None or record.position % self.header.size != offset:
            return None
        return _Place(record.position, length)

    def _record(self, place: _Place) -> Record | None:
        record = decode(
            self._read(place.position % self.header.size, place.length), self.header.salt
        )
        return record if record is not None and record.position == place.position else None

    def _read(self, offset: int, length: int) -> bytes:
        """Bytes of the ring, which goes on at its beginning."""
        room = self.header.size - offset
        data = os.pread(self._descriptor, min(length, room), HEADER_BYTES + offset)
        return (
            data
            if length <= room
            else data + os.pread(self._descriptor, length - room, HEADER_BYTES)
        )

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
