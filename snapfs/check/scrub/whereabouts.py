"""Where a damaged block shows: in which views, and as what file. Asked of the core, as it is now;
any of it may raise ``NotCached``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs import ids
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.check.scrub.places import Damage, TreeKind
from snapfs.errors import FsError, SnapshotError, StaleInode
from snapfs.filesystem import names
from snapfs.filesystem.searching import name_of

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode, View

#: Directories are not nested deeper than this; whoever climbs further has met a cycle.
DEPTH_MAX = 4096


@dataclass(frozen=True, slots=True)
class ShownDamage:
    """One view that shows something damaged: the name of its snapshot (None: the live tree), and
    the path of the file (None: no name).
    """

    snapshot: str | None
    path: str | None


def holders(fs: Filesystem, damage: Damage) -> list[int] | None:
    """The views that need a block, by the records; None when it has been freed, and what is in it
    concerns nobody any more.
    """
    volume = fs.volume
    allocator = volume.allocator
    allocator.need_block(damage.block)
    group, offset = divmod(damage.block, volume.geometry.group_span)
    if not volume.read_only and not allocator.groups[group].blocks[offset]:
        return None
    ((_, _, number),) = allocator.pieces(damage.block, 1)
    if number is None:
        base, mask = True, volume.holders.default(damage.epoch)
    else:
        base, mask = volume.holders.get(number).base_held, volume.holders.holders(number)
    return [ids.BASE_VIEW] * base + [
        one.id for one in volume.instances.live() if mask >> one.id & 1
    ]


def shown(
    fs: Filesystem, damage: Damage, view_id: int, guesses: dict[int, bytes]
) -> ShownDamage | None:
    """How a view shows a block that it needs; None when it does not, or when the block stands
    elsewhere in it.

    ``guesses`` are names of inodes in other views, which are likely to be right in this one, and
    are added to.
    """
    if damage.place is None:
        return None
    tree, number = damage.place.tree, damage.place.number
    try:
        view = fs.view(view_id)
        snapshot = view.instance.name if view.instance else None
        if tree.kind is TreeKind.INODES:
            return ShownDamage(snapshot, None)
        inode = view.inode(tree.ino)
        if tree.kind is TreeKind.DATA and damage.place.level == 0:
            words, slot = inode.map.pointers(number)
            if words is None or words[2 * slot] & BLOCK_MASK != damage.block:
                return None
        if not inode.nlink:
            return ShownDamage(snapshot, None)
        path = path_of(fs, view, inode, guesses)
    except (FsError, SnapshotError):
        return None
    return None if path is None and view.above else ShownDamage(snapshot, path)


def path_of(fs: Filesystem, view: View, inode: Inode, guesses: dict[int, bytes]) -> str | None:
    """A path of an inode, by the directory that it was made in or moved to last; None when that has
    no name for it, or shows none.
    """
    parts: list[bytes] = []
    while inode.ino != ids.ROOT_INO:
        if len(parts) > DEPTH_MAX:
            return None
        try:
            parent = view.inode(inode.parent)
        except StaleInode:  # a file that lost its name there, and has others
            return None
        name = guesses.get(inode.ino, b"")
        if not _leads(view, parent, name, inode.ino):
            name = name_of(fs, parent, inode.ino) or b"" if parent.is_directory else b""
            if not _leads(view, parent, name, inode.ino):
                return None
            guesses[inode.ino] = name
        parts.append(name)
        inode = parent
    return (b"/" + b"/".join(reversed(parts))).decode(errors="surrogateescape")


def _leads(view: View, parent: Inode, name: bytes, ino: int) -> bool:
    try:
        return bool(name) and names.find(view, parent, name) == ino
    except FsError:
        return False
