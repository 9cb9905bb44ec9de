"""Which changes of the open generation a log record can tell, and whether that is all of them.

Whatever changes a view or the allocation of blocks counts itself here (``changes``), in the few
functions that everything goes through. An operation that a log record can repeat says so when it is
done (``tell``). Only while the two counts are equal may the log be used: an operation that nobody
has thought of is then one that needs a commit, not one that is forgotten.
"""

from __future__ import annotations


class Account:
    """The counts of the open generation. ``files``: inode numbers in the base, and the (index,
    count) of blocks written, not logged yet.
    """

    __slots__ = ("changes", "files", "told")

    def __init__(self) -> None:
        self.changes = 0
        self.told = 0
        self.files: dict[int, list[tuple[int, int]]] = {}

    def tell(self, before: int, ino: int, index: int = 0, count: int = 0) -> None:
        """All that has changed since ``changes`` was ``before`` are times and size of an inode of
        the base, and ``count`` of its blocks.
        """
        if self.told == before:
            self.told = self.changes
            blocks = self.files.setdefault(ino, [])
            if count:
                blocks.append((index, count))

    def interrupted(self, before: int) -> None:
        """What has counted itself since then was interrupted before anything had changed, and may
        be called again.
        """
        if self.told == before:
            self.told = self.changes

    @property
    def is_told(self) -> bool:
        """Can a log record tell everything that has changed?"""
        return self.told == self.changes

    @property
    def is_logged(self) -> bool:
        """Do log records tell it already, or has nothing changed?"""
        return self.told == self.changes and not self.files

    def spoil(self) -> None:
        """Until the next commit nothing can be told."""
        self.changes += 1

    def sealed(self) -> None:
        """The open generation was sealed, and nothing has happened in the next one."""
        self.changes = self.told = 0
        self.files = {}
