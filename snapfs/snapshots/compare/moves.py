"""Names of one file that only one of two states has: what is gone and what has come make a renamed
file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from snapfs.errors import CorruptBlock
from snapfs.filesystem import Inode
from snapfs.snapshots.compare.contents import changes
from snapfs.snapshots.compare.differing import FileKind
from snapfs.snapshots.compare.report import DiffReport
from snapfs.snapshots.compare.sides import PAUSE, Side, Steps

#: Names that are remembered until their other half turns up; of more, files that moved are shown as
#: removed and added.
MOVED_MAX: Final = 100_000


@dataclass(slots=True)
class _Moved:
    """Names of one file that only one of the states has."""

    old: list[bytes] = field(default_factory=list)
    new: list[bytes] = field(default_factory=list)


class Moves:
    """Halves of moves, until their other halves turn up."""

    def __init__(self, old: Side, new: Side, report: DiffReport) -> None:
        self._old = old
        self._new = new
        self._report = report
        self._moved: dict[int, _Moved] = {}
        self._moves = 0

    def note(self, inode: Inode, old_path: bytes | None, path: bytes | None) -> bool:
        """Remember one half of a move, if there is room."""
        if self._moves >= MOVED_MAX:
            return False
        self._moves += 1
        moved = self._moved.setdefault(inode.ino, _Moved())
        if old_path is not None:
            moved.old.append(old_path)
        if path is not None:
            moved.new.append(path)
        return True

    def pair(self) -> Steps[None]:
        """Names of one file that are gone, and others of it that have come, are renamed; what is
        left over is not.
        """
        for ino, moved in self._moved.items():
            old, new = (yield from self._old.inode(ino)), (yield from self._new.inode(ino))
            if old is None or new is None:
                raise CorruptBlock(f"inode {ino} does not exist, and has names")
            gone, come = sorted(moved.old), sorted(moved.new)
            for old_path, path in zip(gone, come, strict=False):
                yield from self._report.tell(
                    FileKind.RENAMED, old_path, path, old, new, (yield from changes(old, new))
                )
            for old_path in gone[len(come) :]:
                if not old.is_directory:
                    yield from self._report.tell(FileKind.REMOVED, old_path, None, old, None)
            for path in come[len(gone) :]:
                if new.is_directory:
                    yield from self.rename_directory(new, path)
                else:
                    yield from self._report.tell(FileKind.ADDED, None, path, None, new)
            yield PAUSE

    def rename_directory(self, new: Inode, path: bytes) -> Steps[None]:
        """DiffReport a directory as renamed whose old path nobody has remembered."""
        old = yield from self._old.directory(new.ino)
        if old is not None:
            yield from self._old.find_paths([new.ino])
            yield from self._report.tell(
                FileKind.RENAMED,
                self._old.path(new.ino),
                path,
                old,
                new,
                (yield from changes(old, new)),
            )
