"""What a snapshot is to be of: inodes and paths, and the parts that they are in a view (C1). Nothing below them is looked at (C3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapfs.errors import NotDirectory, NotFound
from snapfs.ids import ROOT_INO
from snapfs.snapshots.naming import ancestry, way_to
from snapfs.store.parts import EVERYTHING, Kept, Part, check_bounds, distinct, kept_by

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, View

#: A directory by its inode number, or anything by the names of its path.
Target = int | Sequence[bytes]


def part_at(fs: Filesystem, view: View, way: Sequence[bytes]) -> Part:
    """What stands at a path in a view; a part without an inode when nothing does. May raise ``NotCached``.

    Symbolic links are not followed. The path must not be the root's.
    """
    chain: list[int] = []
    where = ROOT_INO
    for name in way:
        try:
            inode = fs.lookup(view, where, name)
        except (NotFound, NotDirectory):
            break
        if not inode.is_directory and len(chain) + 1 < len(way):
            break
        chain.append(inode.ino)
        where = inode.ino
    return Part(where if len(chain) == len(way) else 0, tuple(chain), tuple(way))


def part_of(fs: Filesystem, view: View, directory: int) -> Part:
    """A directory that is not the root, by its number. May raise ``NotCached``; ``NotDirectory``, ``NotFound`` when it is removed."""
    inode = view.inode(directory)
    if not inode.is_directory:
        raise NotDirectory("only a directory has snapshots of its own")
    if not inode.nlink:
        raise NotFound("the directory has been removed")
    chain = tuple(reversed(ancestry(view, inode)[:-1]))
    return Part(directory, chain, tuple(way_to(fs, view, inode)))


def parts_of(fs: Filesystem, view: View, targets: Sequence[Target]) -> tuple[tuple[Part, ...], Kept]:
    """The parts of a snapshot of ``targets`` (none: of all that the view shows), and what it preserves. May raise ``NotCached``.

    Raises ``NotFound`` when one is not there, ``UsageError`` when they are too many.
    """
    origin = view.instance
    shown = origin.parts if origin else ()
    parts: list[Part] = []
    for target in targets or (ROOT_INO,):
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


def _part(fs: Filesystem, view: View, target: Target) -> Part | None:
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
