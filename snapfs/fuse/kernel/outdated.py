"""What a restore has made wrong of what the kernel believes: found by comparing the base as it is
with the state from before.

The kernel believes the state from before, because it was told of every change. So what it must hear
is the difference, of those inodes that it knows: nothing has to be remembered for it, and no place
can be forgotten.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from snapfs.errors import StaleInode
from snapfs.filesystem.view import HASH_UNIT
from snapfs.fuse.driving.neighbours import LOOK_AGAIN, Outdated
from snapfs.fuse.protocol.numbers import KERNEL_ROOT
from snapfs.ids import BASE_VIEW
from snapfs.store.trees.difference import BucketDifference

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode, View
    from snapfs.fuse.driving.calls import Calls
    from snapfs.fuse.kernel.known import Known
    from snapfs.fuse.protocol.numbers import Numbers
    from snapfs.snapshots import RestoreResult

#: Entries that are compared at a time.
_CHUNK: Final = 1000


class Finder:
    """Finds it for one restore, while nobody can change the base."""

    def __init__(self, edge: Calls, known: Known, numbers: Numbers, result: RestoreResult) -> None:
        self._edge = edge
        self._fs: Filesystem = edge.fs
        self._known = known
        self._numbers = numbers
        self._result = result

    async def find(self) -> Outdated:
        """The difference. Raises what reading the volume raises."""
        found, result = Outdated(), self._result
        found.expired = {(self._numbers.node(BASE_VIEW, ino), name) for ino, name in result.names}
        # What has no name any more is no difference between the two, and is in use nevertheless.
        nameless = {
            self._numbers.split(node)[1]
            for node in self._known.orphans
            if not self._numbers.split(node)[0]
        }
        for ino in result.inodes | {ino for ino, _ in result.names} | nameless:
            node = self._numbers.node(BASE_VIEW, ino)
            snapdir = self._numbers.snapdir(node)
            if snapdir in self._known:
                found.nodes.append(snapdir)
            if (
                node in self._known or node == KERNEL_ROOT
            ):  # the root the kernel knows without a look-up
                found.nodes.append(node)
                await self._look_at(found, ino, node)
        return found

    async def _look_at(self, found: Outdated, ino: int, node: int) -> None:
        before = await self._edge.call(self._before, ino)
        after = await self._edge.call(self._inode, self._fs.base, ino)
        if any(one is not None and stat.S_ISREG(one.mode) for one in (before, after)):
            found.forgotten |= self._known.names(node)
        if after is None:
            return
        is_same = node == KERNEL_ROOT or (
            before is not None
            and (before.generation, stat.S_IFMT(before.mode))
            == (after.generation, stat.S_IFMT(after.mode))
        )
        if stat.S_ISREG(after.mode):
            found.renewed[node] = after.size_shown, after.mtime
        elif not is_same or node in self._known.replaced:
            found.renewed[node] = LOOK_AGAIN, 0
        elif before is not None and after.is_directory:
            found.expired |= {(node, name) for name in await self._names(before, after)}

    def _before(self, ino: int) -> Inode | None:
        """An inode as it was; of what lay outside of the part that was restored, as it is."""
        undo = self._result.undo
        if undo is None:
            return None
        if undo.covered and not self._fs.coverage.covers(undo, ino):
            return self._inode(self._fs.base, ino)
        return self._inode(self._fs.view(undo.id), ino)

    @staticmethod
    def _inode(view: View, ino: int) -> Inode | None:
        try:
            return view.raw_inode(ino)
        except StaleInode:
            return None

    async def _names(self, before: Inode, after: Inode) -> set[bytes]:
        """The names at which two states of a directory differ."""
        if before.names.dirty or after.names.dirty:
            old, new = await self._listing(before), await self._listing(after)
            return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        walk = BucketDifference(before.names, after.names)
        names: set[bytes] = set()
        while (items := await self._edge.call(walk.next)) is not None:
            names.update(name for name, _, _ in items)
        return names

    async def _listing(self, directory: Inode) -> dict[bytes, int]:
        """What every name in a directory leads to."""
        found: dict[bytes, int] = {}
        start = 0
        while items := await self._edge.call(directory.names.scan, start, _CHUNK):
            found.update((name, value) for _, name, value in items)
            start = items[-1][0] + HASH_UNIT
        return found
