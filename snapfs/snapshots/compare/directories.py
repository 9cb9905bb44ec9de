"""Comparing two directories by their names, and what is below them that only one state has."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.errors import CorruptBlock
from snapfs.filesystem import Inode, names
from snapfs.filesystem.names import TYPE_BITS
from snapfs.snapshots.compare.contents import changes
from snapfs.snapshots.compare.differing import NOTHING, FileKind
from snapfs.snapshots.compare.moves import Moves
from snapfs.snapshots.compare.report import DiffReport
from snapfs.snapshots.compare.sides import PAUSE, Side, Steps, ask, join, same_file
from snapfs.store.trees.difference import BucketDifference

if TYPE_CHECKING:
    from snapfs.store.trees.buckets import BucketTree


@dataclass(slots=True)
class DirectoryPair:
    """Two directories whose names are compared, one of which may be missing."""

    old: Inode | None
    new: Inode | None
    old_path: bytes
    path: bytes
    walk: BucketDifference

    @classmethod
    def of(
        cls, old: Inode | None, new: Inode | None, old_path: bytes, path: bytes
    ) -> DirectoryPair:
        """Compare these. Names of two directories that are not one are compared whole: each of them
        stands elsewhere now.
        """
        whole = old is not None and new is not None and not same_file(old, new)
        return cls(
            old, new, old_path, path, BucketDifference(_names(old), _names(new), whole=whole)
        )


def _names(directory: Inode | None) -> BucketTree | None:
    return directory.names if directory is not None else None


class NameComparison:
    """Finds what has become of the names in directories. ``compared`` counts the names that were
    looked at; ``moves`` has those whose other half may be elsewhere.
    """

    def __init__(self, old: Side, new: Side, report: DiffReport) -> None:
        self._old = old
        self._new = new
        self._report = report
        self.moves = Moves(old, new, report)
        self.compared = 0

    def compare(self, pair: DirectoryPair) -> Steps[None]:
        """Compare the names of two directories, and of those below them that only one state has."""
        stack = [pair]
        while stack:
            pair = stack[-1]
            items = yield from ask(pair.walk.next)
            if items is None:
                stack.pop()
                continue
            for side, at in ((self._old, 1), (self._new, 2)):
                yield from side.fetch(
                    {item[at] >> TYPE_BITS for item in items if item[at] is not None}
                )
            for name, left, right in items:
                self.compared += 1
                stack += yield from self._compare_name(pair, name, left, right)
            yield PAUSE

    def _compare_name(
        self, pair: DirectoryPair, name: bytes, left: int | None, right: int | None
    ) -> Steps[list[DirectoryPair]]:
        """What has become of one name; the directories below that are to be compared for it."""
        old = yield from self._named(self._old, pair.old, name, left)
        new = yield from self._named(self._new, pair.new, name, right)
        old_path, path = join(pair.old_path, name), join(pair.path, name)
        if old is None or new is None or not same_file(old, new):
            # A directory that lives on is compared with itself, not with what has its name.
            if (
                old is not None
                and old.is_directory
                and (yield from self._new.twin(old)) is not None
            ):
                self.moves.note(old, old_path, None)
                old = None
            if (
                new is not None
                and new.is_directory
                and (yield from self._old.twin(new)) is not None
            ):
                if not self.moves.note(new, None, path):
                    yield from self.moves.rename_directory(new, path)
                new = None
        if old is None or new is None:
            return (yield from self._one_sided(old, new, old_path, path))
        if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            yield from self._report.tell(FileKind.RETYPED, old_path, path, old, new)
            below = [DirectoryPair.of(old, None, old_path, b"")] if old.is_directory else []
            return below + ([DirectoryPair.of(None, new, b"", path)] if new.is_directory else [])
        change = yield from changes(old, new)
        if change != NOTHING:
            yield from self._report.tell(FileKind.CHANGED, old_path, path, old, new, change)
        return (
            [DirectoryPair.of(old, new, old_path, path)]
            if old.is_directory and not same_file(old, new)
            else []
        )

    @staticmethod
    def _named(
        side: Side, directory: Inode | None, name: bytes, value: int | None
    ) -> Steps[Inode | None]:
        """The inode that a name leads to. Raises ``CorruptBlock``."""
        if value is None or directory is None:
            return None
        names.check_entry(directory.ino, name, value)
        inode = yield from side.inode(value >> TYPE_BITS)
        if inode is None:
            raise CorruptBlock(
                f"directory {directory.ino}: a name leads to inode "
                f"{value >> TYPE_BITS}, which does not exist"
            )
        return inode

    def _one_sided(
        self, old: Inode | None, new: Inode | None, old_path: bytes, path: bytes
    ) -> Steps[list[DirectoryPair]]:
        """A name that only one state has: of a file that the other one has elsewhere, it may be one
        half of a move.
        """
        if old is not None:
            if (
                not old.is_directory
                and (yield from self._new.twin(old)) is not None
                and self.moves.note(old, old_path, None)
            ):
                return []
            yield from self._report.tell(FileKind.REMOVED, old_path, None, old, None)
            return [DirectoryPair.of(old, None, old_path, b"")] if old.is_directory else []
        if new is not None:
            if (
                not new.is_directory
                and (yield from self._old.twin(new)) is not None
                and self.moves.note(new, None, path)
            ):
                return []
            yield from self._report.tell(FileKind.ADDED, None, path, None, new)
            return [DirectoryPair.of(None, new, b"", path)] if new.is_directory else []
        return []
