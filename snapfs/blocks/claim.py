"""The claim: a sector that says who has the volume open to write it (I11). ``doc/format.md``
section 14.

It has a slot of the superblock ring at the front to itself, so that whoever writes a superblock
never writes it, and it can be found before anything else of the volume is believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import SLOT_BYTES, SUPERBLOCK_SLOTS
from snapfs.errors import CorruptBlock
from snapfs.printable import printable

MAGIC: Final = b"snapopen"

#: magic, state, interval in milliseconds, sequence number, nonce, boot, machine, since, renewed,
#: process, its start, its namespace of processes, device and inode of what it has locked, host,
#: command
LAYOUT: Final = struct.Struct("<8sIIQ16s16s16sqqQQQQQ64s192s")

#: Where it stands, and how much is read and written there at once.
CLAIM_PLACE: Final = SUPERBLOCK_SLOTS * SLOT_BYTES
CLAIM_BYTES: Final = SLOT_BYTES

CHECKSUM_OFFSET: Final = 508
SECTOR_BYTES: Final = 512

FREE: Final = 0
OPEN: Final = 1

#: Seconds between two renewals, at most, unless told otherwise; and what else may be told.
INTERVAL: Final = 5.0
INTERVAL_LEAST: Final = 1.0
INTERVAL_MOST: Final = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A verified claim: who has the volume open, since when, and how often that is renewed. Times
    are nanoseconds since 1970, UTC.

    ``nonce`` is random, and new with every opening; ``sequence`` moves with every renewal, of which
    there is one in ``interval`` seconds at least. ``boot`` is the boot of the machine, ``started``
    when the process was started, in the machine's ticks since then. ``storage`` is what the process
    has locked, as (device, inode) of its host. Texts may be anything that can be printed.
    """

    nonce: bytes
    interval: float
    boot: bytes
    machine: bytes
    since_ns: int
    pid: int
    started: int
    namespace: int
    storage: tuple[int, int]
    host: str
    command: str
    is_open: bool = True
    sequence: int = 0
    renewed_ns: int = 0

    def renewed(self, now_ns: int) -> Claim:
        """The next one of the same opening."""
        return replace(self, sequence=self.sequence + 1, renewed_ns=now_ns)

    def given_back(self, now_ns: int) -> Claim:
        """What is left when the volume is closed."""
        return replace(self, sequence=self.sequence + 1, renewed_ns=now_ns, is_open=False)

    def encode(self) -> bytes:
        """The bytes of the slot."""
        body = LAYOUT.pack(
            MAGIC,
            OPEN if self.is_open else FREE,
            round(self.interval * 1000),
            self.sequence,
            self.nonce,
            self.boot,
            self.machine,
            self.since_ns,
            self.renewed_ns,
            self.pid,
            self.started,
            self.namespace,
            *self.storage,
            _cut(self.host, 64),
            _cut(self.command, 192),
        ).ljust(CHECKSUM_OFFSET, b"\0")
        return (body + struct.pack("<I", crc32c(body))).ljust(CLAIM_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Claim | None:
        """Verify and decode what is in the slot; None when that is no claim. Raises
        ``CorruptBlock`` for one that is not whole.
        """
        fields = LAYOUT.unpack_from(data)
        if fields[0] != MAGIC:
            return None
        (checksum,) = struct.unpack_from("<I", data, CHECKSUM_OFFSET)
        if crc32c(data[:CHECKSUM_OFFSET]) != checksum:
            raise CorruptBlock("claim: checksum mismatch")
        (
            state,
            interval,
            sequence,
            nonce,
            boot,
            machine,
            since,
            renewed,
            pid,
            started,
            namespace,
            device,
            inode,
            host,
            command,
        ) = fields[1:]
        if state not in (FREE, OPEN) or not INTERVAL_LEAST <= interval / 1000 <= INTERVAL_MOST:
            raise CorruptBlock("claim: a field has an impossible value")
        return cls(
            nonce,
            interval / 1000,
            boot,
            machine,
            since,
            pid,
            started,
            namespace,
            (device, inode),
            _shown(host),
            _shown(command),
            state == OPEN,
            sequence & 0xFFFF_FFFF_FFFF_FFFF,
            renewed,
        )


def _cut(text: str, limit: int) -> bytes:
    """As many whole characters as fit."""
    return text.encode(errors="replace")[:limit].decode(errors="ignore").encode()


def _shown(data: bytes) -> str:
    """A text of somebody's, as it can be shown."""
    return printable(data.rstrip(b"\0").decode(errors="backslashreplace"))
