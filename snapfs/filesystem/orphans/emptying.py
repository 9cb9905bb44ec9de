"""Emptying a directory that is an orphan: what its names lead to, before it loses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.errors import CorruptBlock, StaleInode
from snapfs.filesystem import names
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.view import View
    from snapfs.interrupts import Want


def named_children(
    view: View, directory: Inode, items: list[tuple[int, bytes, int]]
) -> list[tuple[bytes, Inode]]:
    """The names, each with the inode that it leads to, if that counts names; all is loaded that
    removing them needs. Raises ``NotCached``, ``CorruptBlock``.
    """
    found: list[tuple[bytes, Inode]] = []
    wants: dict[Want, None] = {}
    if items:
        names.check_entries(directory.ino, items)
    for _, name, value in items:
        try:
            directory.names.touch(name)
            inode = view.inode(value >> names.TYPE_BITS)
        except NotCached as exc:
            wants.update(dict.fromkeys(exc.wants))
            continue
        except StaleInode:
            continue  # the name leads nowhere
        if inode.nlink and inode.is_directory and inode.parent != directory.ino:
            raise CorruptBlock(
                f"directory {inode.ino} has a name in directory {directory.ino}, "
                "which is not its parent"
            )
        if inode.nlink:
            found.append((name, inode))
    if wants:
        raise NotCached(list(wants))
    return found
