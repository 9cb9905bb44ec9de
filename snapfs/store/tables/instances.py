"""Instances: one snapshot each, with its bit of the counting bitmap (A4). ``doc/format.md``
section 8.

The table's values are msgpack maps; all of them are in memory while a volume is open. An instance's
key is its id; what people say about it (``facts``) has a key of its own.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bitarray import bitarray

from snapfs.blocks.geometry import Geometry
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_DIRTY
from snapfs.blocks.schema import COUNT_MAX, as_count, check_range
from snapfs.errors import CorruptBlock, TooManySnapshots
from snapfs.ids import BASE_VIEW, INO_LIMIT, MAX_INSTANCES, NAME_MAX, ROOT_INO
from snapfs.store.tables.facts import NO_FACTS, Facts
from snapfs.store.tables.parts import (
    Kept,
    Part,
    decode_kept,
    decode_parts,
    kept_by,
)

#: Set in the key of an instance's facts; the rest is its id.
FACTS_KEY: Final = 1 << 16

#: Numbers below 2**64, as they stand in msgpack.
_WORD: Final = (1 << 64) - 1
_TIME: Final = 1 << 63


def name_fault(name: str) -> str | None:
    """Why this cannot be a snapshot's name; None when it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "a snapshot's name must be valid UTF-8"
    if not name:
        return "a snapshot's name cannot be empty"
    if size > NAME_MAX:
        return f"a snapshot's name has at most {NAME_MAX} bytes, this one has {size}"
    if name.startswith("."):
        return f"{name!r}: a snapshot's name cannot begin with a dot"
    for sign in name:
        if sign in "/," or unicodedata.category(sign) == "Cc":
            return f"{name!r}: a snapshot's name cannot contain {sign!r}"
    return None


@dataclass(frozen=True, slots=True)
class ViewRoot:
    """Where a view begins: the root of its inode table, and its counters.

    ``blocks`` are those of the inode table, ``content`` those of all its inodes: their data, names
    and extended attributes.
    """

    first: int = 0
    second: int = 0
    depth: int = 0
    blocks: int = 0
    inodes: int = 0
    next_ino: int = 0
    content: int = 0

    def encode(self) -> list[int]:
        """As it stands in the root record and in the instance table."""
        counts = as_count(self.blocks), as_count(self.inodes), self.next_ino, as_count(self.content)
        return [self.first, self.second, self.depth, *counts]

    @classmethod
    def decode(cls, value: object, what: str, geometry: Geometry) -> ViewRoot:
        """Validate. Raises ``CorruptBlock``."""
        if type(value) is not list or len(value) != 7:
            raise CorruptBlock(f"{what}: not a root of a view")
        first = check_range(value[0], 0, _WORD, what)
        if first & FLAG_DIRTY or first & BLOCK_MASK >= geometry.blocks:
            raise CorruptBlock(f"{what}: its root lies outside the volume")
        check_range(value[1], 0, _WORD, what)
        check_range(value[2], 0, geometry.table_depth, what)
        check_range(value[3], 0, COUNT_MAX, what)
        check_range(value[4], 0, COUNT_MAX, what)
        check_range(value[5], 0, INO_LIMIT, what)
        check_range(value[6], 0, COUNT_MAX, what)
        return cls(*value)


@dataclass(slots=True)
class Instance:
    """One snapshot. ``parts`` are what it shows, and preserves; empty: the whole of the view that
    it was made of.

    ``covered`` are the inodes at or below which it preserves what is changed (empty: everything),
    ``passed`` the directories above them, of which it preserves extended attributes: those of its
    parts, or, of a snapshot of a snapshot, those of its origin. ``origin`` is the view that it was
    made of: 0, or an instance's id. ``undo`` marks the state that a restore left behind.
    ``orphans``: the list of orphans of its view has some that are to be freed, as it was sealed
    last. ``serial`` grows with each snapshot that is made, whatever the clock says, and no two of a
    volume ever have the same; 0: an older version made it. ``listed_ns`` is the time that ``.snap``
    shows for it: later than those of all snapshots that were there before.
    """

    id: int
    name: str
    epoch: int = 0
    created_ns: int = 0
    changed_ns: int = 0
    origin: int = BASE_VIEW
    owner: int = 0
    parts: tuple[Part, ...] = ()
    covered: tuple[int, ...] = ()
    passed: tuple[int, ...] = ()
    undo: bool = False
    going: bool = False
    root: ViewRoot = field(default_factory=ViewRoot)
    facts: Facts = NO_FACTS
    orphans: bool = False
    serial: int = 0
    listed_ns: int | None = None

    @property
    def making(self) -> tuple[int, int, int, int]:
        """Its place in the order of making. Among those without a serial number the epoch decides,
        then the clock.
        """
        return self.serial, self.epoch, self.created_ns, self.id

    @property
    def listed(self) -> int:
        """``listed_ns``, or when it was made."""
        return self.created_ns if self.listed_ns is None else self.listed_ns

    @property
    def changed(self) -> bool:
        """Was anything written into the view since it was made?"""
        return self.changed_ns > self.created_ns

    def written(self, now_ns: int) -> None:
        """The view is another one from now on, whatever the clock says."""
        self.changed_ns = max(now_ns, self.created_ns + 1)

    @property
    def paths(self) -> list[str]:
        """The paths of its parts, for people; of the whole, that of the root."""
        return [part.path for part in self.parts] or ["/"]

    @property
    def tops(self) -> tuple[int, ...]:
        """The inodes of its parts; of the whole, that of the root. In the ``.snap`` of these
        directories it was made.
        """
        return tuple(part.ino for part in self.parts) or (ROOT_INO,)

    @property
    def path(self) -> str:
        """The same in one line."""
        return ", ".join(self.paths)

    @property
    def kept(self) -> Kept:
        """What it preserves: see ``parts.kept_by``."""
        return self.covered, self.passed

    def encode(self) -> dict[str, Any]:
        """The value in the instance table, without the facts."""
        kept = None if self.kept == kept_by(self.parts) else [list(self.covered), list(self.passed)]
        return {
            "name": self.name, "epoch": self.epoch, "created": self.created_ns,
            "changed": self.changed_ns, "origin": self.origin,
            "owner": self.owner, "parts": [part.encode() for part in self.parts], "kept": kept,
            "undo": self.undo, "going": self.going, "orphans": self.orphans,
            "root": self.root.encode(),
            "serial": self.serial, "listed": self.listed_ns,
        }  # fmt: skip

    @classmethod
    def decode(cls, number: object, value: object, geometry: Geometry) -> Instance:
        """Validate an entry of the table. Raises ``CorruptBlock``."""
        what = f"instance {number!r}"
        if type(value) is not dict:
            raise CorruptBlock(f"{what}: a map was expected")
        get = value.get
        name, undo, going = get("name"), get("undo"), get("going")
        if type(name) is not str:
            raise CorruptBlock(f"{what}: it has no name")
        if fault := name_fault(name):
            raise CorruptBlock(f"{what}: {fault}")
        orphans = get("orphans", False)
        if type(undo) is not bool or type(going) is not bool or type(orphans) is not bool:
            raise CorruptBlock(f"{what}: a field is missing")
        parts = decode_parts(get("parts"), what)
        return cls(
            check_range(number, 1, MAX_INSTANCES, what),
            name,
            check_range(get("epoch"), 1, 0xFFFF_FFFF, what),
            check_range(get("created"), -_TIME, _TIME, what),
            check_range(get("changed"), -_TIME, _TIME, what),
            check_range(get("origin"), 0, MAX_INSTANCES, what),
            check_range(get("owner"), 0, 0xFFFF_FFFF, what),
            parts,
            *decode_kept(get("kept"), parts, what),
            undo,
            going,
            ViewRoot.decode(get("root"), what, geometry),
            orphans=orphans,
            serial=check_range(get("serial", 0), 0, COUNT_MAX, what),
            listed_ns=None
            if get("listed") is None
            else check_range(get("listed"), -_TIME, _TIME, what),
        )

    def copy(self) -> Instance:
        """An independent copy."""
        return replace(self)


class Instances:
    """The instance table in memory, with the counting bitmap. ``pending`` ones get their root when
    the generation is sealed.
    """

    def __init__(self) -> None:
        self.table: dict[int, Instance] = {}
        self.pending: list[Instance] = []
        self.dirty: set[int] = set()
        self.counting = bitarray(MAX_INSTANCES + 1, endian="little")
        self.counting.setall(0)
        self.counting[BASE_VIEW] = 1  # not an instance: its bit is never given out
        self._names: dict[str, Instance] = {}
        self._going: set[int] = set()
        #: Live instances, by their ids, whose views have orphans to be freed that are in their
        #: lists only, and not in memory.
        self.unread_orphans: set[int] = set()
        #: Moves whenever the live instances change.
        self.version = 0
        self._described: set[int] = (
            set()
        )  # whose facts have had an item of the table, and may have to lose it

    def live(self) -> list[Instance]:
        """Instances that can be seen, in the order in which they were made; the ones that are being
        made are not among them.
        """
        return sorted(
            (one for one in self.table.values() if not one.going), key=lambda one: one.making
        )

    def listed_after(self, now_ns: int) -> int | None:
        """What ``.snap`` shall show as the time of a snapshot made now, if it is not the time
        itself.
        """
        shown = max(
            (one.listed for one in (*self.table.values(), *self.pending) if not one.going),
            default=now_ns - 1,
        )
        return shown + 1 if shown >= now_ns else None

    def by_name(self, name: str) -> Instance | None:
        """The live instance of that name."""
        return self._names.get(name)

    def going(self) -> list[Instance]:
        """Instances that wait for their background deletion."""
        return [self.table[number] for number in sorted(self._going)]

    @property
    def any_going(self) -> bool:
        """Does any instance wait for its background deletion?"""
        return bool(self._going)

    def counted(self) -> bytes:
        """The counting bitmap as the root record has it, without the zeros at its end."""
        return self.counting[: self.counting.find(1, right=True) + 1].tobytes()

    def take_bit(self, in_use: set[int]) -> int:
        """An unused bit of the counting bitmap; not one of ``in_use``.
        Raises ``TooManySnapshots``.
        """
        bit = self.counting.find(0)
        while bit in in_use:
            bit = self.counting.find(0, bit + 1)
        if bit < 0:
            raise TooManySnapshots(f"there are {MAX_INSTANCES} snapshots already; delete some")
        self.counting[bit] = 1
        return bit

    def load(self, instance: Instance) -> None:
        """Take an instance from the volume. Raises ``CorruptBlock`` for a
        second one of its name.
        """
        self.table[instance.id] = instance
        self.counting[instance.id] = 1
        self.version += 1
        if instance.orphans and not instance.going:
            self.unread_orphans.add(instance.id)
        if instance.going:
            self._going.add(instance.id)
        elif self._names.setdefault(instance.name, instance) is not instance:
            raise CorruptBlock(f"instance table: two snapshots are named {instance.name!r}")

    def load_facts(self, key: int, value: object) -> None:
        """Take facts from the volume, after all instances. Raises ``CorruptBlock``."""
        instance = self.table.get(key - FACTS_KEY)
        if instance is None:
            raise CorruptBlock(
                f"instance table: key {key} is no instance, nor are there facts about one"
            )
        instance.facts = Facts.decode(value, f"facts of instance {instance.id}")
        self._described.add(instance.id)

    def add(self, instance: Instance) -> None:
        """A new instance, complete."""
        self.load(instance)
        self.dirty.add(instance.id)
        if instance.facts != NO_FACTS:
            self._described.add(instance.id)

    def describe(self, instance: Instance, facts: Facts) -> None:
        """Say something else about an instance."""
        instance.facts = facts
        self._described.add(instance.id)
        self.dirty.add(instance.id)

    def items(self, number: int) -> dict[int, dict[str, Any] | None]:
        """What the table shall have under the keys of an instance, pending or not; None for
        nothing.
        """
        instance = self.table.get(number) or next(
            (one for one in self.pending if one.id == number), None
        )
        items = {number: instance.encode() if instance else None}
        facts = instance.facts if instance else NO_FACTS
        if facts != NO_FACTS or number in self._described:
            items[number | FACTS_KEY] = facts.encode() if facts != NO_FACTS else None
        return items

    def rename(self, instance: Instance, name: str) -> None:
        """Give a live instance another name, which no other has."""
        del self._names[instance.name]
        instance.name = name
        self._names[name] = instance
        self.dirty.add(instance.id)

    def note_orphans(self, instance: Instance, there_are: bool) -> None:
        """Remember whether the view of a live instance has orphans that are to be freed."""
        if instance.orphans != there_are:
            instance.orphans = there_are
            self.dirty.add(instance.id)

    def leave(self, instance: Instance) -> None:
        """The instance is no longer live; its bit stays taken until ``remove``."""
        instance.going = True
        self.version += 1
        self.unread_orphans.discard(instance.id)
        del self._names[instance.name]
        self._going.add(instance.id)
        self.dirty.add(instance.id)

    def remove(self, number: int) -> None:
        """The instance is gone: its bit may be used again."""
        del self.table[number]
        self.version += 1
        self._going.discard(number)
        self.counting[number] = 0
        self.dirty.add(number)

    def abandon(self, instance: Instance) -> None:
        """An instance that is pending will not be made after all. Does nothing when it has been."""
        if instance in self.pending:
            self.pending.remove(instance)
            self.counting[instance.id] = 0
