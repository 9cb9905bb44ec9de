"""What a file tree is, in the plainest terms: the model that the core is compared with.

Every function raises what the core raises, before it changes anything. Contents are immutable, so
that a copy of a tree is as cheap as a copy of its tables.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field, replace

from snapfs.errors import (
    Exists,
    InvalidArgument,
    IsDirectory,
    NoAttribute,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)
from snapfs.ids import ROOT_INO

NOREPLACE, EXCHANGE = 1, 2


@dataclass
class Node:
    """One inode. ``names`` is what a directory has, ``content`` a file's bytes or a symbolic link's
    target.
    """

    mode: int
    parent: int = field(default=0, compare=False)  # kept of directories only
    nlink: int = 1
    content: bytes = b""
    names: dict[bytes, int] = field(default_factory=dict)
    attributes: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def copy(self) -> Node:
        return replace(self, names=dict(self.names), attributes=dict(self.attributes))


class Tree:
    """One view: inodes by the numbers that the core gave them."""

    def __init__(self) -> None:
        self.tops: tuple[int, ...] = (ROOT_INO,)  # what a snapshot of parts begins with
        self.nodes = {ROOT_INO: Node(stat.S_IFDIR | 0o755, ROOT_INO, 2)}

    def copy(self, *, named: bool = False) -> Tree:
        """A copy; with ``named`` without the inodes that have lost their last name."""
        other = Tree()
        other.tops = self.tops
        other.nodes = {
            ino: node.copy() for ino, node in self.nodes.items() if node.nlink or not named
        }
        return other

    def within(self, *tops: int) -> Tree:
        """A copy of directories and files, and of what is below them."""
        other = self.copy(named=True)
        other.tops = tops
        found, work = set(), list(tops)
        while work:
            ino = work.pop()
            found.add(ino)
            work += self.nodes[ino].names.values()
        other.nodes = {ino: node for ino, node in other.nodes.items() if ino in found}
        return other

    def directories(self) -> list[int]:
        return sorted(ino for ino, node in self.nodes.items() if node.is_directory and node.nlink)

    def files(self) -> list[int]:
        return sorted(ino for ino, node in self.nodes.items() if stat.S_ISREG(node.mode))

    def places(self) -> list[tuple[int, bytes]]:
        return [(ino, name) for ino in self.directories() for name in sorted(self.nodes[ino].names)]

    def find(self, parent: int, name: bytes) -> int:
        try:
            return self.nodes[parent].names[name]
        except KeyError:
            raise NotFound from None

    def check_new(self, parent: int, name: bytes) -> None:
        if name in self.nodes[parent].names:
            raise Exists

    def make(self, parent: int, name: bytes, mode: int, ino: int, content: bytes = b"") -> None:
        assert ino not in self.nodes, f"inode number {ino} was given out twice"
        directory = stat.S_ISDIR(mode)
        self.nodes[ino] = Node(mode, parent, 2 if directory else 1, content)
        self.nodes[parent].names[name] = ino
        self.nodes[parent].nlink += directory

    def link(self, ino: int, parent: int, name: bytes) -> None:
        if self.nodes[ino].is_directory:
            raise NotPermitted
        if not self.nodes[ino].nlink:
            raise NotFound
        self.check_new(parent, name)
        self.nodes[parent].names[name] = ino
        self.nodes[ino].nlink += 1

    def unlink(self, parent: int, name: bytes, held: set[int]) -> None:
        ino = self.find(parent, name)
        if self.nodes[ino].is_directory:
            raise IsDirectory
        del self.nodes[parent].names[name]
        self._lost(ino, held)

    def rmdir(self, parent: int, name: bytes, held: set[int]) -> None:
        ino = self.find(parent, name)
        if not self.nodes[ino].is_directory:
            raise NotDirectory
        if self.nodes[ino].names:
            raise NotEmpty
        del self.nodes[parent].names[name]
        self.nodes[parent].nlink -= 1
        self._lost(ino, held)

    def _lost(self, ino: int, held: set[int]) -> None:
        node = self.nodes[ino]
        node.nlink = 0 if node.is_directory else node.nlink - 1
        if not node.nlink and ino not in held:
            del self.nodes[ino]

    def purge(self, parent: int, name: bytes) -> None:
        """Remove a name, and all that is below it."""
        ino = self.nodes[parent].names.pop(name)
        node = self.nodes[ino]
        self.nodes[parent].nlink -= node.is_directory
        for below in list(node.names):
            self.purge(ino, below)
        self._lost(ino, set())

    def forget(self, ino: int) -> None:
        if ino in self.nodes and not self.nodes[ino].nlink:
            del self.nodes[ino]

    def is_below(self, top: int, ino: int) -> bool:
        """Is a directory below another one?"""
        return ino != top and self._below(top, ino)

    def policy(self, ino: int, name: bytes) -> bytes | None:
        """The attribute of the nearest directory that has it, upwards."""
        while name not in self.nodes[ino].attributes:
            if ino == ROOT_INO:
                return None
            ino = self.nodes[ino].parent
        return self.nodes[ino].attributes[name]

    def _below(self, ino: int, where: int) -> bool:
        while where not in self.tops:
            if where == ino:
                return True
            where = self.nodes[where].parent
        return where == ino

    def rename(
        self, parent: int, name: bytes, to: int, new: bytes, flags: int, held: set[int]
    ) -> None:
        ino = self.find(parent, name)
        node = self.nodes[ino]
        there = self.nodes[to].names.get(new)
        other = self.nodes[there] if there is not None else None
        if flags == EXCHANGE and other is None:
            raise NotFound
        if flags == NOREPLACE and other is not None:
            raise Exists
        if node.is_directory and self._below(ino, to):
            raise InvalidArgument
        if (
            flags == EXCHANGE
            and other is not None
            and other.is_directory
            and self._below(there or 0, parent)
        ):
            raise InvalidArgument
        if other is node:
            return
        if flags != EXCHANGE and other is not None:
            if node.is_directory and not other.is_directory:
                raise NotDirectory
            if other.is_directory and not node.is_directory:
                raise IsDirectory
            if other.names:
                raise NotEmpty
        del self.nodes[parent].names[name]
        self.nodes[to].names[new] = ino
        self._moved(node, parent, to)
        if other is not None and there is not None:
            if flags == EXCHANGE:
                self.nodes[parent].names[name] = there
                self._moved(other, to, parent)
            else:
                self.nodes[to].nlink -= other.is_directory
                self._lost(there, held)

    def _moved(self, node: Node, old: int, new: int) -> None:
        if node.is_directory:
            self.nodes[old].nlink -= 1
            self.nodes[new].nlink += 1
            node.parent = new

    def write(self, ino: int, offset: int, data: bytes) -> None:
        old = self.nodes[ino].content
        if data:
            self.nodes[ino].content = (
                old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
            )

    def truncate(self, ino: int, size: int) -> None:
        self.nodes[ino].content = self.nodes[ino].content[:size].ljust(size, b"\0")

    def remove_attribute(self, ino: int, name: bytes) -> None:
        if name not in self.nodes[ino].attributes:
            raise NoAttribute
        del self.nodes[ino].attributes[name]
