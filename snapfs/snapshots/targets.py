"""What a snapshot is to be of: inodes and paths, and the parts that they are in a view (C1). Nothing below them is looked at (C3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from snapfs.errors import NotDirectory, NotFound
from snapfs.filesystem.designation import NAME
from snapfs.ids import ROOT_INO
from snapfs.snapshots.naming import ancestry, is_cut_off, way_to
from snapfs.store.parts import EVERYTHING, Kept, Part, check_bounds, distinct, kept_by

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, View


@dataclass(frozen=True, slots=True)
class Designated:
    """All directories that are designated with a policy (C8)."""

    policy: str


#: A directory by its inode number, anything by the names of its path, or what is designated.
Target = int | Sequence[bytes] | Designated


def part_at(fs: Filesystem, view: View, way: Sequence[bytes]) -> Part:
    """What stands at a path in a view; a part without an inode when nothing does. May raise ``NotCached``.

    Symbolic links are not followed. The path must not be the root's.
    """
    inodes: list[int] = []
    where = ROOT_INO
    for name in way:
        try:
            inode = fs.lookup(view, where, name)
        except (NotFound, NotDirectory):
            break
        if not inode.is_directory and len(inodes) + 1 < len(way):
            break
        inodes.append(inode.ino)
        where = inode.ino
    return Part(where if len(inodes) == len(way) else 0, tuple(inodes), tuple(way))


def part_of(fs: Filesystem, view: View, directory: int) -> Part:
    """A directory that is not the root, by its number. May raise ``NotCached``; ``NotDirectory``, ``NotFound`` when it is removed."""
    inode = view.inode(directory)
    if not inode.is_directory:
        raise NotDirectory("only a directory has snapshots of its own")
    if not inode.nlink:
        raise NotFound("the directory has been removed")
    return Part(directory, tuple(reversed(ancestry(view, inode)[:-1])), tuple(way_to(fs, view, inode)))


def parts_of(fs: Filesystem, view: View, targets: Sequence[Target]) -> tuple[tuple[Part, ...], Kept]:
    """The parts of a snapshot of ``targets`` (none: of all that the view shows), and what it preserves. May raise ``NotCached``.

    Raises ``NotFound`` when one is not there, ``UsageError`` when they are too many.
    """
    origin = view.instance
    shown = origin.parts if origin else ()
    parts: list[Part] = []
    for target in chain.from_iterable(_single(fs, view, target) for target in targets or (ROOT_INO,)):
        part = _part(fs, view, target)
        if part is None and not shown:
            return (), origin.kept if origin else EVERYTHING
        if part is None:
            parts += shown
        elif not part.ino:
            raise NotFound(f"{part.path}: no such file or directory in the volume")
        elif part.ino in view.above:  # a directory above what the snapshot shows has nothing else
            parts += (one for one in shown if part.ino in one.chain)
        else:
            parts.append(part)
    return sized(parts, origin.kept if origin else None)


def _single(fs: Filesystem, view: View, target: Target) -> Sequence[int | Sequence[bytes]]:
    """Directories and paths that a target stands for. Raises ``NotFound`` for a policy that nothing is designated with."""
    if not isinstance(target, Designated):
        return [target]
    shown = {part.ino for part in view.instance.parts} if view.instance else set()
    found = []
    for inode in fs.designations.of(view, target.policy.encode(errors="surrogateescape")):
        if fs.orphans.is_emptying(view.id) and is_cut_off(view, inode.ino):
            continue
        if not shown or inode.ino in view.above or not shown.isdisjoint(ancestry(view, inode)):
            found.append(inode.ino)
    if not found:
        raise NotFound(f"no directory is designated {target.policy!r}: set the extended attribute {NAME.decode()} of one to that")
    return sorted(found)


def _part(fs: Filesystem, view: View, target: int | Sequence[bytes]) -> Part | None:
    """None for the root."""
    if isinstance(target, int):
        return None if target == ROOT_INO else part_of(fs, view, target)
    return part_at(fs, view, target) if target else None


def sized(parts: Sequence[Part], kept: Kept | None) -> tuple[tuple[Part, ...], Kept]:
    """The parts that a snapshot has of these, and what it preserves: ``kept``, or just them. Raises ``UsageError``."""
    chosen = distinct(parts)
    found = kept_by(chosen) if kept is None else kept
    check_bounds(chosen, found)
    return chosen, found


def subjects(parts: Sequence[Part]) -> list[int]:
    """Whose owners decide about a snapshot of these parts: the parts; where nothing stood, the directory that it would have been in."""
    return list(dict.fromkeys(part.ino or part.above[-1] for part in parts)) or [ROOT_INO]
