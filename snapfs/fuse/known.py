"""What the kernel knows: lookup counts, and under which names it met the regular files.

An inode that the kernel knows is held in the core, so that a deleted file stays readable until its last user has gone, and a deleted
snapshot's id is not given to another while old numbers are about. Counts change in synchronous stretches only; nothing here waits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from snapfs.fuse.numbers import WRITER_BIT, Numbers

#: A place in the tree: the kernel's number of a directory, and a name.
Place = tuple[int, bytes]


class Known:
    """The kernel's view of inodes, by its own numbers (``node``).

    ``hold`` is called with view id and inode number when an inode becomes known. It must not fail, and must be called in the
    synchronous stretch in which the inode was found, or somebody could free it in between: so ``add`` never waits.
    """

    def __init__(self, numbers: Numbers, hold: Callable[[int, int], None]) -> None:
        self._numbers = numbers
        self._hold = hold
        self._counts: dict[int, int] = {}
        # Nodes for which ``hold`` was called and that the core has not been told to forget. A superset of the counted ones: what is
        # forgotten may be looked up again while the core still works on forgetting it.
        self._held: set[int] = set()
        self._views: dict[int, int] = {}
        self._names: dict[int, Place | set[Place]] = {}
        # How often each is open for writing.
        self._writers: dict[int, int] = {}
        #: Held inodes without a name.
        self.orphans: set[int] = set()
        # Where the kernel was shown a snapshot: entries of ``.snap`` directories, by view.
        self._shown: dict[int, set[Place]] = {}

    def __contains__(self, node: int) -> bool:
        return node in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, node: int) -> None:
        """The kernel is about to be told of this inode once more."""
        count = self._counts.get(node, 0)
        self._counts[node] = count + 1
        if count:
            return
        if node not in self._held:
            view_id, ino = self._numbers.split(node)
            self._held.add(node)
            self._views[view_id] = self._views.get(view_id, 0) + 1
            if not self._numbers.is_snapdir(node):
                self._hold(view_id, ino)

    def name(self, node: int, mode: int, parent: int, name: bytes) -> None:
        """Remember a name of a regular file, to be able to make the kernel forget it. Names may outlive the truth: that costs nothing."""
        if stat.S_ISREG(mode):
            place = (parent, name)
            before = self._names.get(node)
            if before is None:
                self._names[node] = place
            elif isinstance(before, set):
                before.add(place)
            elif before != place:
                self._names[node] = {before, place}

    def names(self, node: int) -> set[Place]:
        """Where the kernel may have this regular file in its tree."""
        found = self._names.get(node)
        if found is None:
            return set()
        return set(found) if isinstance(found, set) else {found}

    def opened(self, node: int, flags: int) -> int:
        """The handle for a file that the kernel opened with these flags."""
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return node
        self._writers[node] = self._writers.get(node, 0) + 1
        return node | WRITER_BIT

    def closed(self, handle: int) -> None:
        """The kernel released a handle: it has sent all that was written through it."""
        node = handle & ~WRITER_BIT
        if handle != node and node in self._writers:
            self._writers[node] -= 1
            if not self._writers[node]:
                del self._writers[node]

    def written(self) -> list[int]:
        """Nodes that are open for writing: only of these can the kernel hold back writes."""
        return list(self._writers)

    def drop(self, node: int, count: int) -> bool:
        """The kernel took back ``count`` lookups; True when it knows the inode no longer: then ``released`` must follow."""
        left = self._counts.get(node, 0) - count
        if left > 0:
            self._counts[node] = left
            return False
        self._counts.pop(node, None)
        self._names.pop(node, None)
        self._writers.pop(node, None)
        return node in self._held

    def released(self, node: int) -> None:
        """The core has been told to forget an inode, in this synchronous stretch."""
        if node in self._held:
            self._held.discard(node)
            self.orphans.discard(node)
            view_id, _ = self._numbers.split(node)
            self._views[view_id] -= 1
            if not self._views[view_id]:
                del self._views[view_id]
                self._shown.pop(view_id, None)

    def show(self, view_id: int, snapdir: int, name: bytes) -> None:
        """The kernel is about to be shown a snapshot in a ``.snap`` directory. To be called after ``add``."""
        self._shown.setdefault(view_id, set()).add((snapdir, name))

    def take_shown(self, view_id: int) -> set[Place]:
        """Where it was shown, to be taken back there."""
        return self._shown.pop(view_id, set())

    def views_in_use(self) -> set[int]:
        """Ids of the views of which the kernel knows inodes."""
        return set(self._views)

    def nodes_of(self, view_id: int) -> Iterator[int]:
        """Known nodes of a view, its ``.snap`` directories included. Walks all known nodes: for rare events."""
        return (node for node in self._counts if self._numbers.split(node)[0] == view_id)
