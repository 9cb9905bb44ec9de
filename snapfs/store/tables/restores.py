"""The restore that is arranged for the next mount, and the last ones that were done: fields of the
root record. ``doc/format.md`` section 10.

They are written with the generation that the restore itself is in, so that a crash leaves both or
neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from snapfs.blocks.schema import COUNT_MAX, check_range, pack
from snapfs.errors import CorruptBlock
from snapfs.ids import MAX_INSTANCES, NAME_MAX

#: Restores that are remembered, at most.
HISTORY_MAX: Final = 16

#: Paths of a restore that is arranged, and the bytes that they have together.
PATHS_MAX: Final = 64
PATHS_BYTES_MAX: Final = 1000

#: Bytes of paths that are remembered of a restore that was done; what is longer is cut, of more is
#: known how many they were.
SHOWN_BYTES: Final = 128

_TIME: Final = 1 << 63
_WHAT: Final = "root record: restores"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """To be done when the volume is mounted next: ``instance`` is a snapshot's id, ``owner`` the
    user who asked, ``since_ns`` when.

    No ``paths`` are all that the snapshot covers.
    """

    instance: int
    paths: tuple[bytes, ...] = ()
    since_ns: int = 0
    owner: int = 0

    def encode(self) -> list[Any]:
        """As it stands in the root record."""
        return [self.instance, list(self.paths), self.since_ns, self.owner]

    @classmethod
    def decode(cls, value: object) -> Scheduled:
        """Validate. Raises ``CorruptBlock``."""
        if type(value) is not list or len(value) != 4:
            raise CorruptBlock(f"{_WHAT}: not one that is scheduled")
        return cls(
            check_range(value[0], 1, MAX_INSTANCES, _WHAT),
            _paths(value[1], PATHS_MAX, PATHS_BYTES_MAX),
            check_range(value[2], -_TIME, _TIME, _WHAT),
            check_range(value[3], 0, 0xFFFF_FFFF, _WHAT),
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore that was done: ``name`` and ``undo`` are those that the snapshots had then,
    ``inodes`` is how many of them were changed.

    No ``paths`` are all that the snapshot covers; ``more`` is how many there were beside those that
    are named.
    """

    when_ns: int
    name: str
    paths: tuple[bytes, ...] = ()
    more: int = 0
    owner: int = 0
    undo: str = ""
    inodes: int = 0

    @classmethod
    def of(
        cls, when_ns: int, name: str, paths: Iterable[bytes], owner: int, undo: str, inodes: int
    ) -> Restored:
        """With as much of the paths as is remembered."""
        wanted = [
            path if len(path) <= SHOWN_BYTES else b"..." + path[3 - SHOWN_BYTES :] for path in paths
        ]
        shown: list[bytes] = []
        for path in wanted:
            if sum(map(len, shown)) + len(path) > SHOWN_BYTES or len(shown) >= PATHS_MAX:
                break
            shown.append(path)
        return cls(when_ns, name, tuple(shown), len(wanted) - len(shown), owner, undo, inodes)

    def encode(self) -> list[Any]:
        """As it stands in the root record."""
        return [
            self.when_ns,
            self.name,
            list(self.paths),
            self.more,
            self.owner,
            self.undo,
            self.inodes,
        ]

    @classmethod
    def decode(cls, value: object) -> Restored:
        """Validate. Raises ``CorruptBlock``."""
        if (
            type(value) is not list
            or len(value) != 7
            or type(value[1]) is not str
            or type(value[5]) is not str
        ):
            raise CorruptBlock(f"{_WHAT}: not one that was done")
        if max(len(value[1].encode()), len(value[5].encode())) > NAME_MAX:
            raise CorruptBlock(f"{_WHAT}: a snapshot's name is too long")
        return cls(
            check_range(value[0], -_TIME, _TIME, _WHAT),
            value[1],
            _paths(value[2], PATHS_MAX, SHOWN_BYTES),
            check_range(value[3], 0, COUNT_MAX, _WHAT),
            check_range(value[4], 0, 0xFFFF_FFFF, _WHAT),
            value[5],
            check_range(value[6], 0, COUNT_MAX, _WHAT),
        )


def _paths(value: object, count: int, size: int) -> tuple[bytes, ...]:
    if (
        type(value) is not list
        or len(value) > count
        or any(type(path) is not bytes or b"\0" in path for path in value)
    ):
        raise CorruptBlock(f"{_WHAT}: not a list of paths")
    if sum(map(len, value)) > size:
        raise CorruptBlock(f"{_WHAT}: its paths are too long")
    return tuple(value)


class Restores:
    """Both in memory, the oldest restore first. ``dirty``: something is not sealed."""

    def __init__(self, scheduled: Scheduled | None = None, done: Iterable[Restored] = ()) -> None:
        self.scheduled = scheduled
        self.done = list(done)
        self.dirty = False

    def schedule(self, wanted: Scheduled | None) -> None:
        """Arrange another restore, or none."""
        self.scheduled, self.dirty = wanted, True

    def note(self, one: Restored) -> None:
        """A restore was done."""
        self.done = [*self.done, one][-HISTORY_MAX:]
        self.dirty = True

    def fitting(self, room: int) -> tuple[Restored, ...]:
        """The newest restores that take ``room`` bytes of the root record at most, together with
        the one that is scheduled.
        """
        room -= len(pack(self.scheduled.encode())) if self.scheduled else 0
        for start, one in reversed(list(enumerate(self.done))):
            room -= len(pack(one.encode()))
            if room < 0:
                return tuple(self.done[start + 1 :])
        return tuple(self.done)


def decode_scheduled(value: object) -> Scheduled | None:
    """What a root record says; one without the field arranges nothing. Raises ``CorruptBlock``."""
    return None if value is None else Scheduled.decode(value)


def decode_done(value: object) -> tuple[Restored, ...]:
    """The same of the restores that were done."""
    if value is None:
        return ()
    if type(value) is not list or len(value) > HISTORY_MAX:
        raise CorruptBlock(f"{_WHAT}: not a list of those that were done")
    return tuple(map(Restored.decode, value))
