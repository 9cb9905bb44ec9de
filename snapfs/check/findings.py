"""What a check can find: one typed value each, with the invariant that it breaks, and for repair
what is to be mended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field


class Severity(enum.StrEnum):
    """How bad it is: ``error`` threatens files, ``warning`` wastes space or misinforms."""

    ERROR = "error"
    WARNING = "warning"


class Mend(enum.Enum):
    """What repair is to do about a finding. Nothing is said where it is enough to write what is
    derived anew.
    """

    DROP_POINTER = enum.auto()  # of a block map, at ``level`` and ``number``
    DROP_EMPTY = enum.auto()  # the same, and nothing is lost with it
    RENEW_POINTER = enum.auto()  # its epoch is to be ``value`` (-1: as it is), its flags none
    REBUILD_NAMES = enum.auto()  # of a directory, without the block ``value`` (0: none)
    DROP_ATTRIBUTES = enum.auto()
    SET_BLOCKS = enum.auto()  # the counter of a tree, to ``value``
    SET_SIZE = enum.auto()
    DROP_DATA = enum.auto()
    CLEAR_INODE = enum.auto()
    MOVE_INODE = enum.auto()  # to a number that is not reserved
    SET_INODES = enum.auto()  # the counter of a view
    SET_NEXT_INODE = enum.auto()
    SET_CONTENT = enum.auto()  # the blocks of all inodes of a view
    MAKE_DIRECTORY = enum.auto()  # one that every view has
    # Names and links; those of inode ``number`` in directory ``ino``:
    DROP_NAMES = enum.auto()
    SET_NAME_TYPE = enum.auto()
    SET_LINKS = enum.auto()
    KEEP_ONE_NAME = enum.auto()
    SET_PARENT = enum.auto()
    REATTACH = enum.auto()
    CUT_LOOP = enum.auto()
    LIST_ORPHANS = enum.auto()
    LIST_DESIGNATED = enum.auto()
    SET_CHAIN = enum.auto()  # those of the parts of instance ``number``
    CLEAR_SUPERBLOCK = enum.auto()  # the slot at offset ``value``


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to be mended, and where: in the views of ``mask``, in a tree of inode ``ino``
    ("inodes": the view's inode table).
    """

    mend: Mend
    mask: int
    tree: str = ""
    ino: int = 0
    level: int = 0
    number: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being looked at, in several views: in words for the views of a mask, and for repair
    the tree and its inode.

    ``tree`` is "names", "data", "attributes" or "inodes"; "" is a table of the volume, which repair
    always writes anew.
    """

    words: Callable[[int], str]
    tree: str = ""
    ino: int = 0

    def fault(
        self, mend: Mend, mask: int, *, level: int = 0, number: int = 0, value: int = 0
    ) -> Fault | None:
        """What is to be mended here."""
        return Fault(mend, mask, self.tree, self.ino, level, number, value) if self.tree else None


def everywhere(place: str) -> Subject:
    """A table of the volume."""
    return Subject(lambda _mask: place)


@dataclass(frozen=True, slots=True)
class Finding:
    """``invariant`` is "I1" to "I10" as numbered in ``doc/design/overview.md``, or "format" for a
    structure that cannot be read or makes no sense.
    """

    invariant: str
    rule: str
    place: str
    detail: str
    severity: Severity = Severity.ERROR

    def message(self) -> str:
        """One line for people."""
        return f"{self.severity}: {self.place}: {self.detail} ({self.rule}, {self.invariant})"


@dataclass(slots=True)
class Findings:
    """Collects findings; of each rule, so many that one can see what is wrong without drowning in
    it. ``faults`` holds all.
    """

    limit: int = 1000
    found: list[Finding] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        invariant: str,
        rule: str,
        place: str,
        detail: str,
        severity: Severity = Severity.ERROR,
        *,
        fault: Fault | None = None,
    ) -> None:
        """Note one finding."""
        count = self._counts[rule] = self._counts.get(rule, 0) + 1
        if count <= self.limit:
            self.found.append(Finding(invariant, rule, place, detail, severity))
        if fault is not None:
            self.faults.append(fault)
