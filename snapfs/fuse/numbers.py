"""The kernel's inode numbers: which view, which inode, and whether it is the ``.snap`` directory of that inode.

``view id << 48 | inode number``; bit 47 marks a ``.snap`` directory, which exists nowhere on the volume. The kernel calls the root
of a mount 1, whatever view is mounted, so that one number is exchanged. Pure arithmetic: nothing here knows a filesystem.
"""

from __future__ import annotations

from typing import Final

from snapfs.ids import BASE_VIEW, INO_LIMIT, ROOT_INO

VIEW_SHIFT: Final = 48

#: Set in the number of a ``.snap`` directory; the rest is the number of the directory that it is in.
SNAPDIR_BIT: Final = INO_LIMIT

_INO_MASK: Final = INO_LIMIT - 1
_VIEW_MASK: Final = ~((1 << VIEW_SHIFT) - 1)

#: What the kernel calls the root of every FUSE mount.
KERNEL_ROOT: Final = 1

#: Set in the handle of a file that was opened for writing; the rest is the inode's number, which needs 62 bits.
WRITER_BIT: Final = 1 << 62

#: Set in the handle of a directory that the kernel opened to find ``.snap`` in it; the rest is the inode's number.
CLIMBER_BIT: Final = WRITER_BIT


class Numbers:
    """Translates, for a mount whose root is the root of ``root_view``."""

    def __init__(self, root_view: int = BASE_VIEW) -> None:
        self.root_view = root_view
        self._root_node = root_view << VIEW_SHIFT | ROOT_INO

    def node(self, view_id: int, ino: int) -> int:
        """The kernel's number of an inode of a view."""
        node = view_id << VIEW_SHIFT | ino
        return KERNEL_ROOT if node == self._root_node else node

    def split(self, node: int) -> tuple[int, int]:
        """View id and inode number; of a ``.snap`` directory, those of the directory that it is in."""
        ino = node & _INO_MASK
        view_id = node >> VIEW_SHIFT
        if ino == KERNEL_ROOT and view_id == BASE_VIEW:
            return self.root_view, ROOT_INO
        return view_id, ino

    @staticmethod
    def is_snapdir(node: int) -> bool:
        """Whether it is the number of a ``.snap`` directory."""
        return bool(node & SNAPDIR_BIT)

    @staticmethod
    def snapdir(node: int) -> int:
        """The number of the ``.snap`` directory in the directory ``node``."""
        return node | SNAPDIR_BIT

    @staticmethod
    def covered(node: int) -> int:
        """The number of the directory that the ``.snap`` directory ``node`` is in."""
        return node & ~SNAPDIR_BIT
