"""What the kernel knows: lookup counts, and under which names it met the regular files.

An inode that the kernel knows is held in the core, so that a deleted file stays readable until its
last user has gone, and a deleted snapshot's id is not given to another while old numbers are about.
Counts change in synchronous stretches only; nothing here waits.

The kernel may know millions of inodes. So what is kept for each lies in short arrays by number,
where neighbours share what a dictionary would take for every one.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterator
from typing import Final

import trio

from snapfs.fuse.protocol.numbers import (
    KERNEL_ROOT,
    VIEW_SHIFT,
    WRITER_BIT,
    Numbers,
)

#: A place in the tree: the kernel's number of a directory, and a name.
DirectoryName = tuple[int, bytes]

#: Nodes whose facts share an array.
_SHIFT: Final = 5
_SPAN: Final = 1 << _SHIFT
_MASK: Final = _SPAN - 1

#: Bytes of the directory's number in a packed place.
_PARENT_BYTES: Final = 8


def _pack(place: DirectoryName) -> bytes:
    return place[0].to_bytes(_PARENT_BYTES, "little") + place[1]


def _unpack(packed: bytes) -> DirectoryName:
    return int.from_bytes(packed[:_PARENT_BYTES], "little"), packed[_PARENT_BYTES:]


class _Counts:
    """Lookup counts by node; 0 for those that are not there."""

    def __init__(self) -> None:
        self._arrays: dict[int, array[int]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def beside(self, node: int) -> Iterator[int]:
        """The nodes of the view that this one is of."""
        shift = VIEW_SHIFT - _SHIFT
        arrays = (
            (key, counts)
            for key, counts in self._arrays.items()
            if key >> shift == node >> VIEW_SHIFT
        )
        return (
            key << _SHIFT | index
            for key, counts in arrays
            for index, count in enumerate(counts)
            if count
        )

    def get(self, node: int) -> int:
        counts = self._arrays.get(node >> _SHIFT)
        return counts[node & _MASK] if counts else 0

    def set(self, node: int, count: int) -> None:
        key, index = node >> _SHIFT, node & _MASK
        counts = self._arrays.get(key)
        if counts is None:
            if not count:
                return
            counts = self._arrays[key] = array("Q", bytes(8 * _SPAN))
        self._total += bool(count) - bool(counts[index])
        counts[index] = count
        if not count and not any(counts):
            del self._arrays[key]

    def some(self, keys: list[int], number: int) -> list[int]:
        """About so many nodes, of the arrays with these keys, which are taken from the end of the
        list.
        """
        found: list[int] = []
        while keys and len(found) < number:
            key = keys.pop()
            found += [
                key << _SHIFT | index
                for index, count in enumerate(self._arrays.get(key, ()))
                if count
            ]
        return found

    def keys(self) -> list[int]:
        """Of the arrays that there are, the oldest first."""
        return list(self._arrays)


class _Names:
    """Packed places by node: bytes for one, a set for several."""

    def __init__(self) -> None:
        self._lists: dict[int, list[bytes | set[bytes] | None]] = {}

    def get(self, node: int) -> set[DirectoryName]:
        names = self._lists.get(node >> _SHIFT)
        found = names[node & _MASK] if names else None
        if found is None:
            return set()
        return {_unpack(packed) for packed in (found if isinstance(found, set) else (found,))}

    def add(self, node: int, place: DirectoryName) -> None:
        packed = _pack(place)
        key, index = node >> _SHIFT, node & _MASK
        names = self._lists.get(key)
        if names is None:
            names = self._lists[key] = [None] * _SPAN
        before = names[index]
        if before is None:
            names[index] = packed
        elif isinstance(before, set):
            before.add(packed)
        elif before != packed:
            names[index] = {before, packed}

    def remove(self, node: int, place: DirectoryName) -> None:
        names = self._lists.get(node >> _SHIFT)
        found = names[node & _MASK] if names else None
        if isinstance(found, set):
            found.discard(_pack(place))
        elif found == _pack(place):
            self.forget(node)

    def forget(self, node: int) -> None:
        key = node >> _SHIFT
        names = self._lists.get(key)
        if names is not None:
            names[node & _MASK] = None
            if not any(names):
                del self._lists[key]


class Known:
    """The kernel's view of inodes, by its own numbers (``node``).

    ``hold`` is called with view id and inode number when an inode becomes known. It must not fail,
    and must be called in the synchronous stretch in which the inode was found, or somebody could
    free it in between: so ``add`` never waits.
    """

    def __init__(
        self, numbers: Numbers, hold: Callable[[int, int], None], limit: int = 1 << 62
    ) -> None:
        #: Set when the kernel knows more than it should, until ``thin_out``.
        self.crowded = trio.Event()
        self._limit = limit
        self._alarm = limit
        # What ``oldest`` has not come by yet.
        self._round: list[int] = []
        self._numbers = numbers
        self._hold = hold
        self._counts = _Counts()
        # Held are the nodes for which ``hold`` was called and that the core has not been told to
        # forget: those that are counted, and these, of which it has not been told yet. They may be
        # looked up again before it has.
        self._leaving: set[int] = set()
        # Counted, and not held all the same: with their whole view.
        self._let_go: set[int] = set()
        self._views: dict[int, int] = {}
        self._names = _Names()
        # How often each is open for writing.
        self._writers: dict[int, int] = {}
        #: Held inodes without a name; and those of them whose directory the kernel itself has
        #: removed: to it they are dead for ever.
        self.orphans: set[int] = set()
        self.dead: set[int] = set()
        #: How often the kernel was made to take a node for another inode than before: part of the
        #: node's generation.
        self.replaced: dict[int, int] = {}
        # Where the kernel was shown a snapshot: entries of ``.snap`` directories, by view.
        self._shown: dict[int, set[DirectoryName]] = {}

    def __contains__(self, node: int) -> bool:
        return self._counts.get(node) > 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, node: int) -> None:
        """The kernel is about to be told of this inode once more."""
        count = self._counts.get(node)
        self._counts.set(node, count + 1)
        if count:
            return
        if node in self._leaving:
            self._leaving.discard(node)
        else:
            view_id, ino = self._numbers.split(node)
            self._views[view_id] = self._views.get(view_id, 0) + 1
            if not self._numbers.is_snapdir(node):
                self._hold(view_id, ino)
        if len(self._counts) > self._alarm:
            self.crowded.set()

    def oldest(self, number: int) -> list[int]:
        """About so many nodes that may be of no use to anybody: all come by in turn, beginning with
        those that were known first.
        """
        if not self._round:
            self._round = self._counts.keys()[::-1]
        return [
            node
            for node in self._counts.some(self._round, number)
            if node not in self._writers and node != KERNEL_ROOT
        ]

    def thin_out(self) -> None:
        """The kernel was asked to let go of some. What it keeps it uses: it is not asked again
        before it knows an eighth more.
        """
        self.crowded = trio.Event()
        self._alarm = max(self._limit, len(self._counts) + self._limit // 8)

    def name(self, node: int, mode: int, parent: int, name: bytes) -> None:
        """Remember a name of a regular file, to be able to make the kernel forget it. A name may
        outlive the truth.
        """
        if stat.S_ISREG(mode):
            self._names.add(node, (parent, name))

    def unname(self, node: int, parent: int, name: bytes) -> None:
        """A name of an inode is gone, or else whoever renames a file again and again would fill the
        memory.
        """
        self._names.remove(node, (parent, name))

    def names(self, node: int) -> set[DirectoryName]:
        """Where the kernel may have this regular file in its tree."""
        return self._names.get(node)

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

    def is_written(self, node: int) -> bool:
        """Is it open for writing?"""
        return node in self._writers

    def written(self) -> list[int]:
        """Nodes that are open for writing: only of these can the kernel hold back writes."""
        return list(self._writers)

    def unlinked(self, node: int, mode: int) -> None:
        """The kernel took an inode's last name, at its user's wish."""
        if node in self:
            self.orphans.add(node)
            if stat.S_ISDIR(mode):
                self.dead.add(node)

    def named(self, node: int) -> None:
        """An inode without a name has one again, by a restore. A directory that is dead to the
        kernel becomes another one.
        """
        self.orphans.discard(node)
        if node in self.dead:
            self.dead.discard(node)
            self.replace(node)

    def replace(self, node: int) -> None:
        """What the kernel believes of an inode cannot be mended: let it take the inode for another
        when it looks again.
        """
        if node in self:  # or nobody would ever say that it is not known any more
            self.replaced[node] = self.replaced.get(node, 0) + 1

    def drop(self, node: int, count: int) -> bool:
        """The kernel took back ``count`` lookups; True when it knows the inode no longer: then
        ``released`` must follow.
        """
        before = self._counts.get(node)
        if before > count:
            self._counts.set(node, before - count)
            return False
        self._counts.set(node, 0)
        self._names.forget(node)
        self._writers.pop(node, None)
        self.replaced.pop(node, None)
        if node in self._let_go:
            self._let_go.discard(node)
        elif before:
            self._leaving.add(node)
        return node in self._leaving

    def released(self, node: int) -> None:
        """The core has been told to forget an inode, in this synchronous stretch."""
        is_counted = node in self
        if node in self._leaving or (is_counted and node not in self._let_go):
            self._leaving.discard(node)
            if is_counted:
                self._let_go.add(node)
            self.orphans.discard(node)
            self.dead.discard(node)
            view_id, _ = self._numbers.split(node)
            self._views[view_id] -= 1
            if not self._views[view_id]:
                del self._views[view_id]
                self._shown.pop(view_id, None)

    def show(self, view_id: int, snapdir: int, name: bytes) -> None:
        """The kernel is about to be shown a snapshot in a ``.snap`` directory. To be called after
        ``add``.
        """
        self._shown.setdefault(view_id, set()).add((snapdir, name))

    def shown(self, view_id: int) -> set[DirectoryName]:
        """Where it was shown."""
        return set(self._shown.get(view_id, ()))

    def take_shown(self, view_id: int) -> set[DirectoryName]:
        """Where it was shown, to be taken back there."""
        return self._shown.pop(view_id, set())

    def used_of(self, view_id: int) -> int:
        """How many inodes of a view the kernel knows."""
        return self._views.get(view_id, 0)

    def views_in_use(self) -> set[int]:
        """Ids of the views of which the kernel knows inodes."""
        return set(self._views)

    def nodes_of(self, view_id: int) -> Iterator[int]:
        """Known nodes of a view, its ``.snap`` directories included."""
        return self._counts.beside(self._numbers.node(view_id, 0))
