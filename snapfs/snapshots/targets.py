"""What a snapshot is to be of: inodes and paths, and the parts that they are in a view (C1).
Nothing below them is looked at (C3).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from snapfs.errors import NotDirectory, NotFound, UsageError
from snapfs.filesystem.designation import NAME
from snapfs.ids import ROOT_INO
from snapfs.snapshots.naming import ancestry, is_cut_off, way_to
from snapfs.snapshots.shares import fair_choice, is_privileged
from snapfs.store.tables.parts import (
    EVERYTHING,
    Kept,
    Part,
    check_bounds,
    distinct,
    kept_by,
)

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, View


@dataclass(frozen=True, slots=True)
class Designated:
    """All directories that are designated with a policy (C8); with ``owner``, those of that user.

    ``left_out`` are the paths of those for which the snapshot has no room, as told when it was
    made. Directories of root, of who has mounted and of ``owner`` are never left out.
    """

    policy: str
    owner: int | None = None
    left_out: list[str] = field(default_factory=list, compare=False)


#: A directory by its inode number, anything by the names of its path, or what is designated.
Target = int | Sequence[bytes] | Designated


def part_at(fs: Filesystem, view: View, way: Sequence[bytes]) -> Part:
    """What stands at a path in a view; a part without an inode when nothing does. May raise
    ``NotCached``.

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
    """A directory that is not the root, by its number. May raise ``NotCached``; ``NotDirectory``,
    ``NotFound`` when it is removed.
    """
    inode = view.inode(directory)
    if not inode.is_directory:
        raise NotDirectory("only a directory has snapshots of its own")
    if not inode.nlink:
        raise NotFound("the directory has been removed")
    return Part(
        directory, tuple(reversed(ancestry(view, inode)[:-1])), tuple(way_to(fs, view, inode))
    )


def parts_of(
    fs: Filesystem, view: View, targets: Sequence[Target]
) -> tuple[tuple[Part, ...], Kept]:
    """The parts of a snapshot of ``targets`` (none: of all that the view shows), and what it
    preserves. May raise ``NotCached``.

    Raises ``NotFound`` when one is not there, ``UsageError`` when they are too many.
    """
    origin = view.instance
    shown = origin.parts if origin else ()
    parts: list[Part] = []
    if not targets:
        targets = [ROOT_INO]
    single: list[int | Sequence[bytes]] = [
        target for target in targets if not isinstance(target, Designated)
    ]
    wished: list[tuple[Designated, dict[int, list[int]]]] = []
    for policy in [target for target in targets if isinstance(target, Designated)]:
        owners = _designated(fs, view, policy)
        for owner in list(owners):
            if owner == policy.owner or is_privileged(fs, owner) or ROOT_INO in owners[owner]:
                single += owners.pop(owner)
        wished.append((policy, owners))
    for target in single:
        part = _part(fs, view, target)
        if part is None and not shown:
            return (), origin.kept if origin else EVERYTHING
        parts += _shown_parts(view, part)
    kept = origin.kept if origin else None
    for policy, owners in wished:
        groups = [
            [_shown_parts(view, part_of(fs, view, ino)) for ino in inos] for inos in owners.values()
        ]
        chosen, left_out = fair_choice(groups, functools.partial(_fits, tuple(parts), kept))
        parts += chain.from_iterable(chosen)
        policy.left_out[:] = [part.path for some in left_out for part in some]
    return sized(parts, kept)


def _shown_parts(view: View, part: Part | None) -> list[Part]:
    """What of a part (None: of everything) a view shows. Raises ``NotFound`` for one that is not
    there.
    """
    shown = view.instance.parts if view.instance else ()
    if part is None:
        return list(shown)
    if not part.ino:
        raise NotFound(f"{part.path}: no such file or directory in the volume")
    if part.ino in view.above:  # a directory above what the snapshot shows has nothing else
        return [one for one in shown if part.ino in one.chain]
    return [part]


def _fits(parts: tuple[Part, ...], kept: Kept | None, more: Sequence[Sequence[Part]]) -> bool:
    """Can one snapshot have these parts, and more?"""
    try:
        sized([*parts, *chain.from_iterable(more)], kept)
    except UsageError:
        return False
    return True


def _designated(fs: Filesystem, view: View, target: Designated) -> dict[int, list[int]]:
    """The directories that are designated with a policy, by their owners. Raises ``NotFound`` when
    there is none.
    """
    shown = {part.ino for part in view.instance.parts} if view.instance else set()
    found: dict[int, list[int]] = {}
    for inode in sorted(
        fs.designations.of(view, target.policy.encode(errors="surrogateescape")),
        key=lambda each: each.ino,
    ):
        if target.owner not in (None, inode.uid) or (
            fs.orphans.is_emptying(view.id) and is_cut_off(view, inode.ino)
        ):
            continue
        if not shown or inode.ino in view.above or not shown.isdisjoint(ancestry(view, inode)):
            found.setdefault(inode.uid, []).append(inode.ino)
    if not found:
        whose = "" if target.owner is None else f" of user {target.owner}"
        raise NotFound(
            f"no directory{whose} is designated {target.policy!r}: set the extended "
            f"attribute {NAME.decode()} of one to that"
        )
    return found


def _part(fs: Filesystem, view: View, target: int | Sequence[bytes]) -> Part | None:
    """None for the root."""
    if isinstance(target, int):
        return None if target == ROOT_INO else part_of(fs, view, target)
    return part_at(fs, view, target) if target else None


def sized(parts: Sequence[Part], kept: Kept | None) -> tuple[tuple[Part, ...], Kept]:
    """The parts that a snapshot has of these, and what it preserves: ``kept``, or just them. Raises
    ``UsageError``.
    """
    chosen = distinct(parts)
    found = kept_by(chosen) if kept is None else kept
    check_bounds(chosen, found)
    return chosen, found


def subjects(parts: Sequence[Part]) -> list[int]:
    """Whose owners decide about a snapshot of these parts: the parts; where nothing stood, the
    directory that it would have been in.
    """
    return list(dict.fromkeys(part.ino or part.above[-1] for part in parts)) or [ROOT_INO]
