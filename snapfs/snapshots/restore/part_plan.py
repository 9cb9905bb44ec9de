"""What there is to be done to bring back a part of the base (C7), in slots of the inode table and
trees that change hands. ``planning`` finds it, ``part`` does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapfs.snapshots.compare.comparison import PointerPair


@dataclass(slots=True)
class Rebuilt:
    """An inode with something that cannot be shared: names that lead elsewhere, a target or
    attributes whose blocks others have.
    """

    entries: list[tuple[bytes, int]] | None = None
    target: bytes | None = None
    attributes: dict[bytes, bytes] | None = None
    blocks: int = 0


@dataclass(slots=True)
class Parent:
    """A directory on the way that the base has no more: it is made again, with the one name that is
    needed.
    """

    ino: int
    way: tuple[bytes, ...]
    slot: bytes
    attributes: dict[bytes, bytes]


@dataclass(slots=True)
class Plan:
    """What is going to be done. ``slots`` by their numbers in the base, ``pairs`` the trees that
    change hands.
    """

    slots: dict[int, bytes] = field(default_factory=dict)
    pairs: list[PointerPair] = field(default_factory=list)
    rebuilt: dict[int, Rebuilt] = field(default_factory=dict)
    orphaned: set[int] = field(default_factory=set)
    adopted: set[int] = field(default_factory=set)
    #: Numbers that another inode has had: their generation must be a new one.
    renewed: set[int] = field(default_factory=set)
    to_copy: list[int] = field(default_factory=list)
    #: The trees of what was copied.
    copied: list[PointerPair] = field(default_factory=list)
    parents: dict[tuple[bytes, ...], Parent] = field(default_factory=dict)
    #: Directory (or the path of one that is made), name, what stands there then (None: nothing).
    entries: list[tuple[int | tuple[bytes, ...], bytes, int | None]] = field(default_factory=list)
    #: What stands at the paths now.
    tops: frozenset[int] = frozenset()
    inodes: int = 0
    next_ino: int = 0

    @property
    def is_empty(self) -> bool:
        """Does nothing differ?"""
        return not (self.slots or self.entries or self.parents)
