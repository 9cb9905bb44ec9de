"""The kernel's inode numbers: which view, which inode, and whether it is the ``.snap`` directory of
that inode.

``view id << 48 | inode number``; bit 47 marks a ``.snap`` directory, which exists nowhere on the
volume. The view that is mounted has the numbers of the base, and the base those of that view: so
the root is 1, as the kernel wants it, and a file has one number in all mounts of single snapshots,
as backup programs want it. Pure arithmetic: nothing here knows a filesystem.
"""

from __future__ import annotations

from typing import Final

from snapfs.ids import BASE_VIEW, INO_LIMIT

VIEW_SHIFT: Final = 48

#: Set in the number of a ``.snap`` directory; the rest is the number of the directory that it is
#: in.
SNAPDIR_BIT: Final = INO_LIMIT

_INO_MASK: Final = INO_LIMIT - 1
_VIEW_MASK: Final = ~((1 << VIEW_SHIFT) - 1)

#: What the kernel calls the root of every FUSE mount.
KERNEL_ROOT: Final = 1

#: Set in the handle of a file that was opened for writing; the rest is the inode's number, which
#: needs 62 bits.
WRITER_BIT: Final = 1 << 62

#: Set in the handle of a directory that the kernel opened to find ``.snap`` in it; the rest is the
#: inode's number.
CLIMBER_BIT: Final = WRITER_BIT


class Numbers:
    """Translates, for a mount whose root is the root of ``root_view``."""

    def __init__(self, root_view: int = BASE_VIEW) -> None:
        self.root_view = root_view

    def node(self, view_id: int, ino: int) -> int:
        """The kernel's number of an inode of a view."""
        return ino if view_id == self.root_view else (view_id or self.root_view) << VIEW_SHIFT | ino

    def split(self, node: int) -> tuple[int, int]:
        """View id and inode number; of a ``.snap`` directory, those of the
        directory that it is in.
        """
        # Asked for each request: no call for the view that most are about.
        return self.view_of(node) if node >> VIEW_SHIFT else self.root_view, node & _INO_MASK

    def view_of(self, node: int) -> int:
        """The id of the view alone."""
        view_id = node >> VIEW_SHIFT
        if not view_id:
            return self.root_view
        return BASE_VIEW if view_id == self.root_view else view_id

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
