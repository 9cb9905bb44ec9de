"""What every mending needs: the views of a mask, a way to call the core, and words for what
happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from snapfs.check.repair.salvage import Tell
from snapfs.check.walk.views import ViewChecker
from snapfs.errors import CorruptBlock, SnapfsError
from snapfs.filesystem import Filesystem, Inode, View
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import BASE_VIEW, ORPHANS_INO, ROOT_INO
from snapfs.store.commit import costs
from snapfs.store.commit.commit import name_live
from snapfs.store.commit.driver import drive


class Workshop:
    """One round's volume, and what the walk knows of it."""

    def __init__(self, fs: Filesystem, checker: ViewChecker, tell: Tell) -> None:
        self.fs = fs
        self.volume = fs.volume
        self.checker = checker
        self.tell = tell
        #: Trees that were changed in this round, as (view, inode, tree): what was counted of them
        #: is no longer true.
        self.changed: set[tuple[int, int, str]] = set()

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the core. What it cannot read ends this one mending, never the repair."""
        try:
            return drive(self.volume, function, *args, **kwargs)
        except CorruptBlock:
            self.volume.read_only, self.volume.read_only_reason = False, None
            raise

    def make_room(self) -> None:
        """Make sure that the next few changes can be committed; commits when that helps. Raises
        ``NoSpace``.
        """
        self.do(
            self.volume.allocator.prepare, 0, urgency=2, metadata=self.volume.dirtied + costs.MEND
        )

    def views(self, mask: int) -> Iterator[View]:
        """The views of a mask that are still there."""
        for number in range(mask.bit_length()):
            one = self.volume.instances.table.get(number)
            if mask >> number & 1 and (number == BASE_VIEW or (one is not None and not one.going)):
                view = self.fs.view(number)
                view.above = {}  # what a snapshot of parts does not show is mended as well
                yield view

    def lose(self, view: View) -> None:
        """Give a snapshot up: nothing of it can be shown."""
        if view.instance is not None:
            self.volume.instances.leave(view.instance)
            self.fs.drop_view(view.id)
            name_live(self.volume)

    def touch(self, view: View) -> None:
        """Have the view's root written, with its counters."""
        inode = self.inode(view, ROOT_INO) or self.inode(view, ORPHANS_INO)
        if inode is not None:
            view.change(inode)

    def inode(self, view: View, ino: int) -> Inode | None:
        """An inode, None where there is none or none that can be read."""
        try:
            found: Inode = self.do(view.inode, ino)
        except SnapfsError:
            return None
        return found

    def name(self, view: View, ino: int) -> str:
        """An inode in words: its path if that can be found, and which view it is in."""
        where = (
            ""
            if view.id == BASE_VIEW
            else f" in snapshot {view.instance.name if view.instance else view.id}"
        )
        path = self._path(view, ino)
        return f"{path} (inode {ino}){where}" if path else f"inode {ino}{where}"

    def _path(self, view: View, ino: int) -> str:
        parts: list[str] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            parents = [
                directory
                for directory, _, mask in self.checker.names.of_inode.get(ino, ())
                if mask >> view.id & 1
            ]
            if not parents or ino in seen:
                return ""
            seen.add(ino)
            found = self.names_of(view, parents[0], ino)
            if not found:
                return ""
            parts.append(found[0].decode(errors="replace"))
            ino = parents[0]
        return "/" + "/".join(reversed(parts))

    def names_of(self, view: View, directory: int, ino: int) -> list[bytes]:
        """The names of an inode in a directory; none when the directory cannot be read."""
        where = self.inode(view, directory)
        if where is None or not where.is_directory:
            return []
        out: list[bytes] = []
        start = 0
        try:
            while items := self.do(where.names.scan, start, 1):
                out += [name for _, name, value in items if value >> TYPE_BITS == ino]
                start = items[-1][0] + 1
        except CorruptBlock:
            pass
        return out
