"""Telling what differs: of all that a comparison finds, what lies at the paths that were asked
for.
"""

from __future__ import annotations

from collections.abc import Sequence

from snapfs.filesystem import Inode
from snapfs.snapshots.compare.contents import Change
from snapfs.snapshots.compare.differing import NOTHING, Difference, FileKind, ShownInode
from snapfs.snapshots.compare.pairing import lies_in
from snapfs.snapshots.compare.sides import Steps


class DiffReport:
    """What is told of a comparison: with ``paths``, only what lies there in one of the states."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        self.paths = [] if b"" in paths else list(paths)

    def tell(
        self,
        kind: FileKind,
        old_path: bytes | None,
        path: bytes | None,
        old: Inode | None,
        new: Inode | None,
        change: Change = NOTHING,
    ) -> Steps[None]:
        """Yield a ``Difference``. ``b""`` is the path of the root."""
        if self.paths and not any(
            lies_in(one, self.paths) for one in (old_path, path) if one is not None
        ):
            return
        old_shown, shown = (None if where is None else where or b"." for where in (old_path, path))
        yield Difference(kind, old_shown, shown, _shown(old), _shown(new), change)


def _shown(inode: Inode | None) -> ShownInode | None:
    return None if inode is None else ShownInode.of(inode)
