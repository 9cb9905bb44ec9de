"""Which parts of two states are compared with each other: those that a snapshot covers need not be
what another one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.errors import CorruptBlock, UsageError
from snapfs.ids import ROOT_INO
from snapfs.snapshots.compare.sides import (
    Side,
    Steps,
    same_file,
)

if TYPE_CHECKING:
    from snapfs.filesystem import Inode
    from snapfs.store.tables.parts import Part


@dataclass(frozen=True, slots=True)
class CompanionParts:
    """What a part begins with in both states, and where it is; None where nothing is."""

    old: Inode | None
    new: Inode | None
    old_path: bytes | None
    path: bytes | None


#: Chooses what is compared of two sides.
Pairing = Callable[[Side, Side], Steps[list[CompanionParts]]]


def choose_pairs(old: Side, new: Side) -> Steps[list[CompanionParts]]:
    """Of two parts that lie within one another the smaller; of a part and everything, the part.

    A directory is compared with itself, wherever it is in the other state, or else with what has
    its path; a file, and a place where nothing stood, with what has its path.
    """
    if old.is_whole and new.is_whole:
        return [
            CompanionParts(
                (yield from old.directory(ROOT_INO)), (yield from new.directory(ROOT_INO)), b"", b""
            )
        ]
    pairs: list[CompanionParts] = []
    comparable = False
    for side, other in ((new, old), (old, new)):
        for part in side.state.parts:
            if side is old and any(
                _overlap(b"/".join(part.way), pair.old_path)
                for pair in pairs
                if pair.old_path is not None
            ):
                continue
            found = yield from _pair_of(side, other, part)
            if found is not None:
                comparable = True
                pair = (
                    found
                    if side is old
                    else CompanionParts(found.new, found.old, found.path, found.old_path)
                )
                pairs += [pair] if pair.old is not None or pair.new is not None else []
    if not comparable:
        raise UsageError(
            "the two snapshots cover different directories or files, of which none lies "
            "within another: there is nothing to compare"
        )
    old.show(pair.old.ino for pair in pairs if pair.old is not None)
    new.show(pair.new.ino for pair in pairs if pair.new is not None)
    return pairs


def _pair_of(side: Side, other: Side, part: Part) -> Steps[CompanionParts | None]:
    """A part of one state, as the old one, and what it is compared with in the other; None when
    that does not cover it.
    """
    inode = (yield from side.inode(part.ino)) if part.ino else None
    if inode is None and part.ino:
        raise CorruptBlock(f"inode {part.ino}, which a snapshot covers, does not exist")
    path = b"/".join(part.way)
    found_path: bytes | None
    if inode is not None and inode.is_directory:
        found = yield from other.directory(inode.ino)
        if found is None or not same_file(found, inode):
            way = yield from _way_along(other, part)
            found = way[-1] if way and way[-1].is_directory else None
            if found is not None and (yield from side.twin(found)) is not None:
                found = None  # it lives on within what is shown, and is compared with itself
        if not other.is_whole and (found is None or not (yield from other.shows(found.ino))):
            return None
        found_path = None
        if found is not None:
            yield from other.find_paths([found.ino])
            found_path = other.path(found.ino)
    else:
        way = yield from _way_along(other, part)
        covered = other.is_whole or any(
            one.ino in other.tops for one in (yield from other.at_path(path))
        )
        if not covered and not any(
            not one.ino and one.way == part.way[: len(one.way)] for one in other.state.parts
        ):
            return None
        found, found_path = (way[-1], path) if way else (None, None)
        if found is not None and found.is_directory and (yield from side.twin(found)) is not None:
            found, found_path = None, None
    return CompanionParts(inode, found, path if inode is not None else None, found_path)


def _way_along(side: Side, part: Part) -> Steps[list[Inode]]:
    """The inodes along a part's path in another state; none when nothing is there."""
    way = yield from side.at_path(b"/".join(part.way))
    return way if len(way) == len(part.way) else []


def lies_in(path: bytes, places: Sequence[bytes]) -> bool:
    """Is a path one of these, or below one of them?"""
    return any(path == place or path.startswith(place + b"/") for place in places)


def _overlap(one: bytes, other: bytes) -> bool:
    """Are these paths one, or is one below the other?"""
    return lies_in(one, [other]) or lies_in(other, [one])
