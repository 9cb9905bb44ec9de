"""The bytes of a trace: a header, then a ring of records. Little-endian, as the kernel's protocol
is.

A trace file is ``HEADER_BYTES`` of header, then a ring of ``size`` bytes. Records follow one
another in the ring as in an endless stream, of which the ring holds the end: a record at stream
position P begins at byte P modulo ``size``, and goes on at the ring's first byte where it meets the
last. A record is padded to a multiple of 8 bytes.

What is overwritten, torn or copied from elsewhere is told from a record by the record's checksum,
which covers the record's position and begins with a number that is random for each trace: so a
reader finds the records in any state of the file, and content of traced files that looks like
records misleads nobody.

A record has the request as the kernel sent it (its header, and what follows) and the reply without
its header. Left out are the data of READ, the rows of READDIRPLUS, and the data of WRITE unless the
trace has them: of these the record has a checksum and the length. Checksums are enough to see who
wrote the same as before or something else, cost a twentieth of what writing costs, and keep what is
in users' files out of a file that is sent around with a report.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crc32c import crc32c

from snapfs.errors import UsageError
from snapfs.fuse.protocol import wire

#: Of the layout.
VERSION: Final = 1

#: What a trace file begins with.
MAGIC: Final = b"snapfs trace 1\n\0"

#: Bytes of the header; the ring follows.
HEADER_BYTES: Final = 16 << 10

#: magic, version, bytes of the JSON that follows, its CRC32C
_HEADER: Final = struct.Struct("<16sIII")

#: Bytes of a ring, at least and at most, and unless told otherwise: about 60,000 requests without
#: data.
SIZE_LEAST: Final = 64 << 10
SIZE_MOST: Final = 64 << 30
SIZE: Final = 16 << 20

#: What a record begins with.
RECORD_MAGIC: Final = b"\xf5Req"

#: magic, length of the whole record, flags, errno, position, number, began and took (in seconds),
#: then bytes of the request that are here and that there were, the same of the reply, CRC32C and
#: length of the data. The request, the reply and the padding follow.
RECORD: Final = struct.Struct("<4sIHHQQddIIIIII")

#: CRC32C of all that is before it: the end of a record.
CHECKSUM: Final = struct.Struct("<I")

#: Bytes of a record without the request, the reply and the padding.
FIXED: Final = RECORD.size + CHECKSUM.size

#: The magic and the length.
_START: Final = struct.Struct("<4sI")
START_BYTES: Final = _START.size

#: In a record's flags: its data were checksummed; they are here; and the request, or the reply, is
#: not whole.
HAS_CHECKSUM: Final = 1 << 0
HAS_DATA: Final = 1 << 1
IS_CUT: Final = 1 << 2

#: Records begin at multiples of this.
ALIGNMENT: Final = 8


def check_size(size: int) -> None:
    """Raises ``UsageError`` for what cannot be the size of a ring."""
    if not SIZE_LEAST <= size <= SIZE_MOST or size % ALIGNMENT:
        raise UsageError(f"{size}: the size of a trace is from 64K to 64G, in whole KiB")


class Record(NamedTuple):
    """One request and what became of it. ``request`` begins with the kernel's header; ``reply`` has
    none. ``began``: seconds of the monotonic clock. ``took``: seconds from then until the reply was
    sent. ``error``: an errno, or 0. ``checksum`` and ``length`` are those of the data of READ and
    WRITE, None and 0 for others.
    """

    number: int
    position: int
    began: float
    took: float
    error: int
    request: bytes
    request_length: int
    reply: bytes
    reply_length: int
    checksum: int | None
    length: int
    has_data: bool
    is_cut: bool

    @property
    def opcode(self) -> int:
        """What was asked for: of ``wire.Op``, or unknown."""
        return int(wire.IN_HEADER.unpack_from(self.request)[1])

    @property
    def node(self) -> int:
        """The number of the inode that it is about."""
        return int(wire.IN_HEADER.unpack_from(self.request)[3])

    @property
    def uid(self) -> int:
        """Of who asked, as ``gid`` and ``pid``; 0 where the kernel does not say."""
        return int(wire.IN_HEADER.unpack_from(self.request)[4])

    @property
    def gid(self) -> int:
        """See ``uid``."""
        return int(wire.IN_HEADER.unpack_from(self.request)[5])

    @property
    def pid(self) -> int:
        """See ``uid``."""
        return int(wire.IN_HEADER.unpack_from(self.request)[6])

    @property
    def body(self) -> bytes:
        """What follows the request's header."""
        return self.request[wire.IN_HEADER.size :]


def padded(length: int) -> int:
    """A length that ends where a record may begin."""
    return length + -length % ALIGNMENT


def length_of(data: bytes) -> int | None:
    """The length of the record that seems to begin ``data``; None where there is none."""
    if len(data) < START_BYTES:
        return None
    magic, length = _START.unpack_from(data)
    return length if magic == RECORD_MAGIC and length >= FIXED and not length % ALIGNMENT else None


def decode(data: bytes, salt: int) -> Record | None:
    """The record that ``data`` begins with; None for what is none, or was not written whole."""
    length = length_of(data)
    if length is None or length > len(data):
        return None
    end = length - CHECKSUM.size
    (checksum,) = CHECKSUM.unpack_from(data, end)
    if crc32c(data[:end], salt) != checksum:
        return None
    (
        _, _, flags, error, position, number, began, took,
        kept, total, reply_kept, reply_total, data_checksum, data_length,
    ) = RECORD.unpack_from(data)  # fmt: skip
    middle = RECORD.size + kept
    if padded(FIXED + kept + reply_kept) != length or kept < wire.IN_HEADER.size:
        return None
    return Record(
        number,
        position,
        began,
        took,
        error,
        data[RECORD.size : middle],
        total,
        data[middle : middle + reply_kept],
        reply_total,
        data_checksum if flags & HAS_CHECKSUM else None,
        data_length,
        bool(flags & HAS_DATA),
        bool(flags & IS_CUT),
    )


@dataclass(frozen=True)
class Header:
    """What a trace is of. ``size``: bytes of its ring. ``salt``: what its records' checksums begin
    with.

    ``began`` and ``clock``: the same moment, in nanoseconds since 1970 and in seconds of the
    monotonic clock.
    ``facts``: what else was so when it began, for people and for the replayer (see ``tracer``).
    """

    size: int
    salt: int
    began: int
    clock: float
    facts: dict[str, Any]

    def time(self, clock: float) -> int:
        """Nanoseconds since 1970 of a moment of the monotonic clock."""
        return self.began + round((clock - self.clock) * 1e9)

    def encode(self) -> bytes:
        """``HEADER_BYTES``. Raises ``UsageError`` for facts that are too long."""
        fixed = {"size": self.size, "salt": self.salt, "began": self.began, "clock": self.clock}
        text = json.dumps({**fixed, "facts": self.facts}, ensure_ascii=True).encode("ascii")
        if len(text) > HEADER_BYTES - _HEADER.size:
            raise UsageError("the mount's options are too long for a trace")
        return (_HEADER.pack(MAGIC, VERSION, len(text), crc32c(text)) + text).ljust(
            HEADER_BYTES, b"\0"
        )


def decode_header(data: bytes) -> Header:
    """The header of a trace file. Raises ``UsageError`` that says what the file is instead."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise UsageError("is not a trace of snapfs")
    _, version, length, checksum = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UsageError(f"is a trace of version {version}, this snapfs reads {VERSION}")
    text = data[_HEADER.size : _HEADER.size + length]
    if len(text) != length or crc32c(text) != checksum:
        raise UsageError("is a trace whose header is damaged: nothing of it can be read")
    try:
        values = json.loads(text)
        size, salt, began = (values[name] for name in ("size", "salt", "began"))
        clock, facts = values["clock"], values["facts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            "is a trace whose header makes no sense: nothing of it can be read"
        ) from None
    numbers = (size, salt, began)
    if (
        any(type(number) is not int for number in numbers)
        or type(clock) is not float
        or not isinstance(facts, dict)
        or not SIZE_LEAST <= size <= SIZE_MOST
        or not 0 <= salt < 1 << 32
    ):
        raise UsageError("is a trace whose header makes no sense: nothing of it can be read")
    return Header(size, salt, began, clock, facts)
