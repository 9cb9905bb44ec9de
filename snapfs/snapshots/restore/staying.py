"""What stays in its place when a snapshot is gone back to: mounts can be on it (see
``fuse.driving.mounted_inside``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapfs.errors import NotDirectory, NotFound, StaleInode
from snapfs.ids import ROOT_INO
from snapfs.snapshots.restore.ways import Way, covered_ways

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode, View
    from snapfs.store.tables.instances import Instance


def stays(fs: Filesystem, instance: Instance, paths: Sequence[str], way: Way) -> bool:
    """Does what stands at a path of the base stay there, the same inode, when these paths of a
    snapshot are restored (none: all it covers)?

    A regular file has to be what it is as well. Of what is not there any more nobody asks. May
    raise ``NotCached``; ``UsageError`` for paths that the snapshot does not cover.
    """
    ways = covered_ways(instance, paths)
    if ways and not any(way[: len(one)] == one for one in ways):
        return True
    present = _along(fs, fs.base, way)
    if present is None:
        return True
    past = _along(fs, fs.view(instance.id), way)
    if past is None or [_identity(one) for one in present] != [_identity(one) for one in past]:
        return False
    return not present or present[-1].is_directory or _content(present[-1]) == _content(past[-1])


def _along(fs: Filesystem, view: View, way: Way) -> list[Inode] | None:
    """The inodes on the way along a path; None where it ends before."""
    found: list[Inode] = []
    where = ROOT_INO
    for name in way:
        try:
            found.append(fs.lookup(view, where, name))
        except (NotFound, NotDirectory, StaleInode):
            return None
        where = found[-1].ino
    return found


def _identity(inode: Inode) -> tuple[int, int, bool]:
    return inode.ino, inode.generation, inode.is_directory


def _content(inode: Inode) -> tuple[int, ...]:
    return inode.size, inode.mtime, inode.ctime
