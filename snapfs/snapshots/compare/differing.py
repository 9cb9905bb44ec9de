"""What a comparison of two states reports: a path that differs, and how."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from snapfs.filesystem import Inode
from snapfs.snapshots.compare.contents import Change

NOTHING: Final = Change()


class FileKind(enum.StrEnum):
    """What has happened to a path."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    RETYPED = "retyped"
    RENAMED = "renamed"


@dataclass(frozen=True, slots=True)
class ShownInode:
    """What a state shows under a path. Times are nanoseconds."""

    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int

    @classmethod
    def of(cls, inode: Inode) -> ShownInode:
        """What an inode shows."""
        return cls(
            inode.ino, inode.mode, inode.uid, inode.gid, inode.size_shown, inode.mtime, inode.nlink
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs. ``path`` is the one in the second state, ``old_path`` in the first; of
    one that is not there, None.

    Paths are bytes without a leading slash; the root is ``.``. ``change`` says what differs of what
    both states show.
    """

    kind: FileKind
    old_path: bytes | None
    path: bytes | None
    old: ShownInode | None
    new: ShownInode | None
    change: Change = NOTHING
