"""Pages: what an inspection has found, as facts and tables, with every problem noted at the place
where it was met.

How a page is printed is decided by the command line. The names of facts, tables and columns are
those of the JSON documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from snapfs.errors import SnapfsError

#: Rows of one table that a page holds, at most, unless more are asked for: a page stays within
#: memory whatever an image says.
ROWS: Final = 100_000

#: Problems that a page holds, at most.
PROBLEMS: Final = 1000

#: What a state column says of a structure that was read and verified.
OK: Final = "ok"


class Time(int):
    """A time in nanoseconds since 1970, UTC."""

    __slots__ = ()


class Checksum(int):
    """A CRC32C."""

    __slots__ = ()


Value: TypeAlias = "int | str | bool | Time | Checksum | list[int] | list[str] | None"


class Problem(NamedTuple):
    """Something that could not be read or makes no sense: where it stands, and what is wrong with
    it.
    """

    place: str
    problem: str


@dataclass(slots=True)
class Table:
    """Rows of values under named columns; ``limit`` is how many rows it takes, ``is_cut`` says that
    there were more.
    """

    columns: tuple[str, ...]
    limit: int
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    is_cut: bool = False

    def add(self, *values: Value) -> bool:
        """Append a row. False when the table is full: the row was left out, and so can be all that
        follow.
        """
        if len(self.rows) >= self.limit:
            self.is_cut = True
            return False
        self.rows.append(values)
        return True


@dataclass(slots=True)
class BlockPage:
    """One answer. ``problems`` are those of the structures that were asked for, and of what had to
    be read to find them.
    """

    limit: int = ROWS
    facts: dict[str, Value] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def table(self, name: str, *columns: str) -> Table:
        """A new, empty table of that name."""
        made = self.tables[name] = Table(columns, self.limit)
        return made

    def trouble(self, place: str, problem: SnapfsError | str) -> str:
        """Note a problem; what the state column of the structure at that place says."""
        if len(self.problems) < PROBLEMS:
            self.problems.append(Problem(place, str(problem)))
        return str(problem)


def text(name: bytes) -> str:
    """A name or path as text; bytes that are not UTF-8 are kept as Python keeps them."""
    return name.decode(errors="surrogateescape")


def ranges(mask: int) -> str:
    """The numbers of the bits that are set in a mask: ``1-3,7``."""
    out: list[str] = []
    number = 0
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        number += skip
        length = (~mask & mask + 1).bit_length() - 1
        out.append(str(number) if length == 1 else f"{number}-{number + length - 1}")
        mask >>= length
        number += length
    return ",".join(out)
