"""The mark on the target of a copy that is not complete: what it is going to be, and where the rest
of it is. ``doc/format.md`` section 12.

It stands where a volume has nothing: behind the superblocks of the first two slots of the ring, in
turn, so that one of the two is whole whenever the power fails. A complete copy has none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE
from snapfs.blocks.geometry import SLOT_BYTES
from snapfs.blocks.schema import COUNT_MAX, check_range, pack, unpack_map
from snapfs.blocks.superblock import SUPERBLOCK_BYTES
from snapfs.errors import CorruptBlock, UsageError

MAGIC: Final = b"snapcopy"

#: magic, checksum of all that follows, bytes of the payload, sequence number
LAYOUT: Final = struct.Struct("<8sIIQ")

#: Offsets of the two places.
PLACES: Final = (SUPERBLOCK_BYTES, SLOT_BYTES + SUPERBLOCK_BYTES)
PLACE_BYTES: Final = SLOT_BYTES - SUPERBLOCK_BYTES

#: What the target of a copy has for itself, and not from the volume, as (start, end): the marks,
#: and who has it open.
OWN: Final = (
    *((place, place + PLACE_BYTES) for place in PLACES),
    (CLAIM_PLACE, CLAIM_PLACE + CLAIM_BYTES),
)

#: Being set up: not a point in time yet, and never becomes one when whoever does it ends.
PREPARING: Final = "preparing"
#: A point in time, of which a part is still in the source alone.
FILLING: Final = "filling"
#: Not a point in time any more: something was written to the source that is missing here.
FAILED: Final = "failed"

STATES: Final = (PREPARING, FILLING, FAILED)

_WHAT: Final = "copy mark"

#: (block, length) runs of the source
Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CopyMark:
    """A verified mark. Paths are absolute. The map is at ``map_path``, or else in ``map_runs`` of
    the source.

    With a map outside, ``map_runs`` say only whether the copy has failed, as the map's first sector
    does.

    ``registered``: the source knows of the copy, and does not change without it; else the copy is
    good only while the source stays at ``generation``. ``made``: the target is a file that was made
    for the copy.
    """

    id: bytes
    uuid: bytes
    generation: int
    state: str
    source: bytes
    map_runs: Runs = ()
    map_path: bytes = b""
    registered: bool = False
    made: bool = False
    reason: str = ""
    sequence: int = 0

    def encode(self) -> tuple[int, bytes]:
        """Where its turn is to be written, and what. Raises ``UsageError`` when the paths are too
        long.
        """
        payload = pack({
            "id": self.id, "uuid": self.uuid, "generation": self.generation, "state": self.state,
            "source": self.source,
            "map_runs": [list(run) for run in self.map_runs], "map_path": self.map_path,
            "registered": self.registered,
            "made": self.made, "reason": self.reason,
        })  # fmt: skip
        rest = struct.pack("<IQ", len(payload), self.sequence) + payload
        data = MAGIC + struct.pack("<I", crc32c(rest)) + rest
        if len(data) > PLACE_BYTES:
            raise UsageError(
                "the paths of source and map are too long to be remembered: use shorter ones"
            )
        return PLACES[self.sequence % len(PLACES)], data.ljust(PLACE_BYTES, b"\0")

    def changed(self, state: str, reason: str = "") -> CopyMark:
        """What comes after it."""
        return replace(self, state=state, reason=reason, sequence=self.sequence + 1)

    @classmethod
    def decode(cls, data: bytes) -> CopyMark | None:
        """Verify and decode what is in a place; None when it is no mark.
        Raises ``CorruptBlock``.
        """
        magic, checksum, size, sequence = LAYOUT.unpack_from(data)
        if magic != MAGIC:
            return None
        end = LAYOUT.size + size
        if end > len(data) or crc32c(data[len(MAGIC) + 4 : end]) != checksum:
            raise CorruptBlock(f"{_WHAT}: checksum mismatch")
        found = unpack_map(data[LAYOUT.size : end], _WHAT, {
            "id": bytes, "uuid": bytes, "generation": int, "state": str, "source": bytes,
            "map_runs": list, "map_path": bytes,
            "registered": bool, "made": bool, "reason": str,
        })  # fmt: skip
        if len(found["id"]) != 16 or len(found["uuid"]) != 16 or found["state"] not in STATES:
            raise CorruptBlock(f"{_WHAT}: a field has an impossible value")
        return cls(
            found["id"], found["uuid"], check_range(found["generation"], 0, COUNT_MAX, _WHAT),
            found["state"], found["source"],
            decode_runs(found["map_runs"], _WHAT), found["map_path"], found["registered"],
            found["made"], found["reason"], sequence,
        )  # fmt: skip


def newest_mark(read: Callable[[int, int], bytes]) -> CopyMark | None:
    """The mark in force, through ``read(offset, length)``. Raises ``CorruptBlock`` when there is
    one, and none that is whole.
    """
    found: list[CopyMark] = []
    failure: CorruptBlock | None = None
    for place in PLACES:
        try:
            mark = CopyMark.decode(read(place, PLACE_BYTES))
        except CorruptBlock as exc:
            failure = exc
        else:
            found += [mark] if mark is not None else []
    if not found and failure is not None:
        raise failure
    return max(found, key=lambda mark: mark.sequence) if found else None


def without_mark(offset: int, data: bytes) -> bytes:
    """What a volume that nobody has open has at ``offset``, from what a marked target has there."""
    if offset >= OWN[-1][1]:
        return data
    out = bytearray(data)
    for start, end in OWN:
        low, high = max(0, start - offset), min(len(data), end - offset)
        if low < high:
            out[low:high] = bytes(high - low)
    return bytes(out)


def decode_runs(value: list[object], what: str) -> Runs:
    """Validate a list of (block, length). Raises ``CorruptBlock``."""
    out = []
    for run in value:
        if type(run) is not list or len(run) != 2:
            raise CorruptBlock(f"{what}: not a run of blocks")
        out.append(
            (check_range(run[0], 1, COUNT_MAX, what), check_range(run[1], 1, COUNT_MAX, what))
        )
    return tuple(out)
