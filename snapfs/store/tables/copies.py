"""How a volume remembers a copy of itself that is running: a block that the root record names.
``doc/format.md`` section 11.

Whoever opens such a volume to write must first see to it that what the copy still needs is copied
before it is overwritten. So what is said of it is read when the volume is opened, and if it cannot
be, the volume is not written. What makes a copy is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from snapfs.blocks.geometry import Geometry
from snapfs.blocks.schema import check_range, pack, unpack_map
from snapfs.blocks.superblock import GENERATION_LIMIT
from snapfs.errors import CorruptBlock, UsageError

#: Bytes of a path, at most. With all runs there may be, what is said of a copy fits the smallest
#: block.
PATH_MAX: Final = 1000

#: Runs of blocks that a copy map on the volume may take.
RUNS_MAX: Final = 128

#: Bytes of a copy's id.
ID_BYTES: Final = 16

_ON_ERROR: Final = ("copy", "write")
_RATE_MAX: Final = 1 << 62
_TIME: Final = 1 << 63
_WHAT: Final = "running copy"

Runs = tuple[tuple[int, int], ...]  # block, length


@dataclass(frozen=True, slots=True)
class CopyBlock:
    """Where the root record says that the running copy is described: a block, the bytes of it that
    count, the CRC of all of it.
    """

    block: int
    length: int
    checksum: int

    def encode(self) -> list[int]:
        """As it stands in the root record."""
        return [self.block, self.length, self.checksum]

    @classmethod
    def decode(cls, value: object, geometry: Geometry) -> CopyBlock:
        """Validate. Raises ``CorruptBlock``."""
        what = "root record: running copy"
        if type(value) is not list or len(value) != 3:
            raise CorruptBlock(f"{what}: not a block")
        block = check_range(value[0], 1, geometry.blocks - 1, what)
        if _misplaced(block, 1, geometry):
            raise CorruptBlock(f"{what}: block {block} is fixed metadata")
        return cls(
            block,
            check_range(value[1], 1, geometry.block_size, what),
            check_range(value[2], 0, 0xFFFF_FFFF, what),
        )


@dataclass(frozen=True, slots=True)
class RunningCopy:
    """A copy that is not complete. ``id`` is random, ``generation`` what is copied, ``destination``
    where to.

    The copy map is outside at ``map_path``, or else in the blocks ``map_runs`` of this volume; the
    first of these says in any case whether it has failed, and is the only one where the map is
    outside. ``on_error`` says what fails when the destination does: the "copy", or the "write" that
    had to wait for it. ``rate``: bytes a second that are copied behind; None: no limit. ``owner``
    is the user who started it.
    """

    id: bytes
    generation: int
    destination: bytes
    map_runs: Runs = ()
    map_path: bytes = b""
    on_error: str = "copy"
    rate: int | None = None
    paused: bool = False
    since_ns: int = 0
    owner: int = 0

    def encode(self) -> bytes:
        """As it stands in its block."""
        return pack({
            "id": self.id, "generation": self.generation, "destination": self.destination,
            "runs": [number for run in self.map_runs for number in run], "map": self.map_path,
            "on_error": self.on_error,
            "rate": self.rate, "paused": self.paused, "since": self.since_ns, "owner": self.owner,
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> RunningCopy:
        """Validate. Raises ``CorruptBlock``. Whether the map's runs can be
        is for ``map_problem``.
        """
        fields: dict[str, type | tuple[type, ...]] = {
            "id": bytes, "generation": int, "destination": bytes, "runs": list, "map": bytes,
            "on_error": str,
            "rate": (int, type(None)), "paused": bool, "since": int, "owner": int,
        }  # fmt: skip
        found = unpack_map(data, _WHAT, fields)
        runs = [check_range(number, 0, 1 << 48, _WHAT) for number in found["runs"]]
        if len(runs) % 2:
            raise CorruptBlock(f"{_WHAT}: its map has half a run")
        copy = cls(
            found["id"],
            check_range(found["generation"], 0, GENERATION_LIMIT - 1, _WHAT),
            found["destination"],
            tuple(zip(runs[::2], runs[1::2], strict=True)),
            found["map"],
            found["on_error"],
            None if found.get("rate") is None else check_range(found["rate"], 0, _RATE_MAX, _WHAT),
            found["paused"],
            check_range(found["since"], -_TIME, _TIME - 1, _WHAT),
            check_range(found["owner"], 0, 0xFFFF_FFFF, _WHAT),
        )
        if problem := copy._problem():
            raise CorruptBlock(f"{_WHAT}: {problem}")
        return copy

    def checked(self) -> Self:
        """What can be remembered as it is. Raises ``UsageError`` for what cannot."""
        if problem := self._problem():
            raise UsageError(problem)
        return self

    def _problem(self) -> str | None:
        """What is wrong with texts, id, and where the map is."""
        if len(self.id) != ID_BYTES or not any(self.id):
            return "its id is not an id"
        if self.on_error not in _ON_ERROR:
            return "what an error shall do is neither 'copy' nor 'write'"
        for path in (self.destination, *([self.map_path] if self.map_path else [])):
            shown = path[:80].decode(errors="replace")
            if not path.startswith((b"/", b"mem:")) or b"\0" in path:
                return f"{shown!r} is not an absolute path"
            if len(path) > PATH_MAX:
                return f"the path {shown + '...'!r} is too long: {PATH_MAX} bytes are possible"
        if not self.map_runs and not self.map_path:
            return "its map is nowhere"
        if self.map_path and len(self.map_runs) > 1:
            return "its map is outside, and on the volume as well"
        if len(self.map_runs) > RUNS_MAX:
            return f"its map is in {len(self.map_runs)} places, {RUNS_MAX} are possible"
        return None


def map_problem(copy: RunningCopy, place: CopyBlock, geometry: Geometry) -> str | None:
    """Why a map cannot be where a copy described at ``place`` has it: it is written in place, and
    nothing else may be there (I4).
    """
    end = 0
    for start, length in sorted(copy.map_runs):
        where = f"its map is said to be in blocks {start} to {start + length - 1}"
        if not length or start + length > geometry.blocks:
            return f"{where}, outside the volume"
        if _misplaced(start, length, geometry):
            return f"{where}, which are fixed metadata"
        if start < end:
            return f"{where}, and block {start} twice"
        if start <= place.block < start + length:
            return f"{where}, one of which describes the copy"
        end = start + length
    return None


def _misplaced(start: int, length: int, geometry: Geometry) -> bool:
    """Does a run within the volume touch fixed metadata? Between two groups
    there always is some.
    """
    group, offset = divmod(start, geometry.group_span)
    low, high = geometry.usable_range(group)
    return offset < low or offset + length > high


class Copies:
    """The running copy, in memory. ``dirty``: the root record does not say so yet."""

    def __init__(self, place: CopyBlock | None = None) -> None:
        self.current: RunningCopy | None = None
        self.dirty = False
        #: The block that the newest sealed root record names.
        self.place = place
        #: Why what it says cannot be used. Then nobody knows what the copy needs, and the volume
        #: must not be written.
        self.trouble: str | None = None

    def put(self, copy: RunningCopy | None) -> None:
        """To be remembered, or forgotten, with the next commit."""
        self.current, self.dirty = copy, True

    @property
    def blocks(self) -> int:
        """Blocks of the volume that are taken by the map, and by what describes the copy."""
        runs = self.current.map_runs if self.current else ()
        return sum(length for _, length in runs) + (self.place is not None)
