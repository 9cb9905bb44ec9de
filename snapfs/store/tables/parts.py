"""Parts: what a snapshot shows and preserves when it is not of everything (C1). ``doc/format.md``
section 8.

A part is a file or a directory with all below it, named by the way that led to it when the snapshot
was made: the directories above may be renamed later, and the snapshot shows nothing else of them.
So the parts of a snapshot, with what is above them, are a small tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from snapfs.blocks.schema import check_range
from snapfs.errors import CorruptBlock, UsageError
from snapfs.ids import FIRST_INO, INO_LIMIT, NAME_MAX, ROOT_INO

#: Parts of a snapshot at most; names on their ways; inodes on them, with those that it preserves if
#: that is something else; bytes of the names. An instance is one item of a bucket, so all of it
#: must fit the smallest block, with the longest name.
PARTS_MAX: Final = 128
NAMES_MAX: Final = 192
INODES_MAX: Final = 192
WAY_MAX: Final = 1000

#: What a snapshot preserves: inodes, at or below which it preserves everything, and the directories
#: above them. Nothing: everything.
Kept = tuple[tuple[int, ...], tuple[int, ...]]

EVERYTHING: Final[Kept] = (), ()


@dataclass(frozen=True, slots=True)
class Part:
    """What stood at a path. ``way`` are the names of the path, ``chain`` the inodes from the root's
    child on, down to it.

    ``ino`` is a directory or any other file; 0: nothing stood there. Then the chain ends with the
    last directory that was there.
    """

    ino: int
    chain: tuple[int, ...]
    way: tuple[bytes, ...]

    @property
    def path(self) -> str:
        """The path, for people."""
        return "/" + "/".join(name.decode(errors="replace") for name in self.way)

    @property
    def above(self) -> tuple[int, ...]:
        """The directories above it, the root first."""
        return (ROOT_INO, *(self.chain[:-1] if self.ino else self.chain))

    def encode(self) -> list[object]:
        """As it stands in the instance table."""
        return [list(self.chain), list(self.way)]


def kept_by(parts: Iterable[Part]) -> Kept:
    """What a snapshot of these parts of the base preserves. A part where nothing stood is 0 in it,
    which is no inode.
    """
    covered, passed = dict[int, None](), dict[int, None]()
    for part in parts:
        covered[part.ino] = None
        passed.update(dict.fromkeys(part.above))
    return tuple(covered), tuple(passed)


def distinct(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts without those that lie in another one, each once, in the order in which they were
    given.
    """
    whole = {part.ino for part in parts} - {0}
    out: dict[tuple[bytes, ...], Part] = {}
    for part in parts:
        higher = whole.intersection(part.chain[:-1] if part.ino else part.chain)
        absent = any(
            not other.ino and other.way == part.way[: len(other.way)] and other.way != part.way
            for other in parts
        )
        if not higher and not absent:
            out.setdefault(part.way, part)
    return tuple(out.values())


def check_bounds(parts: Sequence[Part], kept: Kept) -> None:
    """Raises ``UsageError`` for parts that one instance cannot name."""
    own = kept == kept_by(parts)
    inodes = sum(len(part.chain) for part in parts) + (0 if own else sum(map(len, kept)))
    names = sum(len(part.way) for part in parts)
    size = sum(len(name) for part in parts for name in part.way)
    if len(parts) > PARTS_MAX:
        raise UsageError(
            f"a snapshot has {PARTS_MAX} paths at most, these are {len(parts)}: name a "
            "directory above some of them"
        )
    if inodes > INODES_MAX or names > NAMES_MAX:
        raise UsageError(
            f"the paths of a snapshot lead through {NAMES_MAX} levels at most, counted "
            "together: make the snapshot further up, or several"
        )
    if size > WAY_MAX:
        raise UsageError(
            f"the names on the way have more than {WAY_MAX} bytes together: make the "
            "snapshot further up, or several"
        )


def above(parts: Sequence[Part]) -> dict[int, dict[bytes, int]]:
    """What each directory above parts shows: names, and the inodes that they lead to. One file may
    be a part by several names.

    Raises ``CorruptBlock`` for parts that are no tree: where one name leads to two inodes, or two
    names to a directory above parts.
    """
    out: dict[int, dict[bytes, int]] = {}
    places: dict[int, tuple[int, bytes]] = {}
    for part in parts:
        for directory, ino, name in zip(part.above, part.chain, part.way, strict=False):
            if out.setdefault(directory, {}).setdefault(name, ino) != ino:
                raise CorruptBlock("two parts of one name")
            if ino != part.ino and places.setdefault(ino, (directory, name)) != (directory, name):
                raise CorruptBlock("parts that are no tree")
        out.setdefault(part.above[-1], {})
    if any(not part.ino and part.way[len(part.chain)] in out[part.above[-1]] for part in parts):
        raise CorruptBlock("a part is there and is not")
    if any(part.ino in out for part in parts):
        raise CorruptBlock("a part within a part")
    return out


def decode_parts(value: object, what: str) -> tuple[Part, ...]:
    """Validate the parts of an instance. Raises ``CorruptBlock``."""
    if type(value) is not list:
        raise CorruptBlock(f"{what}: its parts are missing")
    parts = []
    for item in value:
        if type(item) is not list or len(item) != 2 or any(type(one) is not list for one in item):
            raise CorruptBlock(f"{what}: not a part")
        chain, way = item
        if len(chain) > len(way) or not way or not all(_is_name(name) for name in way):
            raise CorruptBlock(f"{what}: the way to one of its parts is missing")
        inodes = tuple(check_range(ino, FIRST_INO, INO_LIMIT, what) for ino in chain)
        parts.append(Part(inodes[-1] if len(chain) == len(way) else 0, inodes, tuple(way)))
    try:
        above(parts)
    except CorruptBlock as exc:
        raise CorruptBlock(f"{what}: {exc}") from None
    return tuple(parts)


def decode_kept(value: object, parts: Sequence[Part], what: str) -> Kept:
    """Validate what an instance preserves; nil stands for its parts. Raises ``CorruptBlock``."""
    if value is None:
        return kept_by(parts)
    if type(value) is not list or len(value) != 2 or any(type(one) is not list for one in value):
        raise CorruptBlock(f"{what}: what it preserves is missing")
    covered, passed = (tuple(check_range(ino, 0, INO_LIMIT, what) for ino in one) for one in value)
    if ROOT_INO in covered or bool(covered) != bool(passed) or (covered and not parts):
        raise CorruptBlock(f"{what}: it shows something else than it preserves")
    return covered, passed


def _is_name(name: object) -> bool:
    return (
        type(name) is bytes
        and 0 < len(name) <= NAME_MAX
        and b"/" not in name
        and b"\0" not in name
        and name not in (b".", b"..")
    )
