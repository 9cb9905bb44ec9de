"""One of two states that are compared: a view as it was sealed, and what a comparison asks of it:
inodes, the names that lead to them.

Everything that may need a block is a generator: it yields what to fetch (``Steps``) and goes on
when that is in memory, or nowhere: whoever drives it fetches, and looks at other things in between.
A view that is read like this must stay what it is (``store.space.readers``).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from snapfs.errors import (
    CorruptBlock,
    FsError,
    StaleInode,
)
from snapfs.filesystem import names
from snapfs.filesystem.names import TYPE_BITS
from snapfs.filesystem.view import InodeCache, View
from snapfs.ids import ROOT_INO
from snapfs.interrupts import NotCached
from snapfs.store.trees.difference import BucketDifference

if TYPE_CHECKING:
    from snapfs.filesystem import Inode
    from snapfs.interrupts import Want
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import Instance, ViewRoot
    from snapfs.store.tables.parts import Part

P = ParamSpec("P")
T = TypeVar("T")

#: What a generator yields: blocks to be fetched; none when it only gives others their turn.
Steps = Generator[Any, None, T]

#: The ``tops`` of a state that shows everything.
EVERYTHING: Final = frozenset({ROOT_INO})

#: Inodes, and paths of directories, that a side remembers, about.
INODES_KEPT: Final = 2048
PATHS_KEPT: Final = 50_000

#: Blocks that are asked for at once.
TOGETHER: Final = 128

#: Nothing to fetch: others may have their turn.
PAUSE: Final[list[Want]] = []


def ask(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
    """The result of a function of the core, whatever it misses."""
    while True:
        try:
            return function(*args, **kwargs)
        except NotCached as exc:
            yield list(exc.wants)


@dataclass(frozen=True, slots=True)
class State:
    """A view as it was sealed. ``instance`` is None for the base; ``parts`` are those that it
    shows, none for everything.
    """

    root: ViewRoot
    instance: Instance | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it shows; empty: everything."""
        return self.instance.parts if self.instance else ()


def same_file(one: Inode, other: Inode) -> bool:
    """Are these, in two views, one file in two states? A number that was given out again is another
    file.

    A restore of an earlier release gave files that the kernel knew another generation; the time of
    birth stays.
    """
    if one.ino != other.ino or stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
        return False
    return one.ino == ROOT_INO or one.generation == other.generation or one.btime == other.btime


def _nothing(_inode: Inode) -> None:
    """Nothing of a side is changed, so nobody need know whom its blocks belong to."""


class Side:
    """One state. ``tops`` are the directories and files that are compared, and shown: the root for
    everything.

    Paths are bytes, relative to the root of the volume, which is empty.
    """

    def __init__(self, volume: Volume, state: State) -> None:
        self.state = state
        self.view = View(volume, InodeCache(INODES_KEPT), state.root, _nothing, state.instance)
        self.tops: frozenset[int] = (
            frozenset({part.ino for part in state.parts} - {0}) if state.parts else EVERYTHING
        )
        self._paths: dict[int, bytes] = self._known_paths()
        self._names: dict[int, bytes] = {}
        self._inside: dict[int, bool] = {}

    def _known_paths(self) -> dict[int, bytes]:
        """The parts that are shown, and the directories above them: what names they have nobody
        preserves.
        """
        ways = (
            (ino, part.way[: depth + 1])
            for part in self.state.parts
            for depth, ino in enumerate(part.chain)
        )
        return {ino: b"/".join(way) for ino, way in ways}

    # Inodes

    def inode(self, ino: int) -> Steps[Inode | None]:
        """The inode, if it has a name."""
        try:
            inode = yield from ask(self.view.inode, ino)
        except StaleInode:
            return None
        return inode if inode.nlink else None

    def directory(self, ino: int) -> Steps[Inode | None]:
        """The inode, if it is a directory."""
        inode = yield from self.inode(ino)
        return inode if inode is not None and inode.is_directory else None

    def fetch(self, inos: Iterable[int]) -> Steps[None]:
        """Bring inodes into memory that will be asked for one after the other."""
        wants: dict[Want, None] = {}
        for ino in inos:
            try:
                self.view.inode(ino)
            except NotCached as exc:
                wants.update(dict.fromkeys(exc.wants))
            except StaleInode:
                continue
            if len(wants) >= TOGETHER:
                break
        if wants:
            yield list(wants)

    def twin(self, inode: Inode) -> Steps[Inode | None]:
        """The same file in this state; a directory only if it lies within what is shown."""
        found = yield from self.inode(inode.ino)
        if found is None or not same_file(found, inode):
            return None
        return found if not found.is_directory or (yield from self.shows(found.ino)) else None

    # Directories, up

    def shows(self, directory: int) -> Steps[bool]:
        """Is this a directory that is shown, or below one?"""
        if self.is_whole:
            return True
        if len(self._inside) > PATHS_KEPT:
            self._inside.clear()
        return (yield from self.is_below(directory, self.tops, self._inside))

    @property
    def is_whole(self) -> bool:
        """Is everything shown?"""
        return ROOT_INO in self.tops

    def show(self, tops: Iterable[int]) -> None:
        """Show only these directories and files."""
        self.tops = frozenset(tops)
        self._inside.clear()

    def is_below(
        self, directory: int, tops: Collection[int], known: dict[int, bool]
    ) -> Steps[bool]:
        """Is a directory one of ``tops`` or below one of them? ``known`` remembers."""
        way: dict[int, None] = {}
        at, answer = directory, False
        while True:
            if at in tops:
                answer = True
            elif at in known:
                answer = known[at]
            elif at != ROOT_INO:
                if at in way:
                    raise CorruptBlock("directories form a cycle")
                way[at] = None
                inode = yield from self.directory(at)
                if inode is not None:
                    at = inode.parent
                    continue
            break
        known.update(dict.fromkeys(way, answer))
        return answer

    def path(self, directory: int) -> bytes:
        """The path of a directory that ``find_paths`` was called for."""
        return b"" if directory == ROOT_INO else self._paths[directory]

    def find_paths(self, directories: Iterable[int], like: Side | None = None) -> Steps[None]:
        """Find the paths of directories; names that they have in the state ``like`` are tried
        first.

        A directory that many of them lie in is searched once. Raises ``CorruptBlock``.
        """
        if len(self._paths) > PATHS_KEPT:
            self._paths = self._known_paths()
            self._names.clear()
        links: dict[int, tuple[int, bytes]] = {}
        need = {ino for ino in directories if ino != ROOT_INO and ino not in self._paths}
        while need:
            yield from self.fetch(need)
            within: dict[int, set[int]] = {}
            for ino in need:
                inode = yield from self.directory(ino)
                if inode is None:
                    raise CorruptBlock(f"directory {ino} does not exist, and has names")
                within.setdefault(inode.parent, set()).add(ino)
            for parent, wanted in within.items():
                for name, ino in (yield from self._names_in(parent, wanted, like)):
                    links[ino] = parent, name
                    self._names[ino] = name
                if missing := wanted - links.keys():
                    raise CorruptBlock(f"directory {min(missing)} has no name in its parent")
            need = {
                parent
                for parent in within
                if parent != ROOT_INO and parent not in self._paths and parent not in links
            }
        for ino in links:
            self._assemble(ino, links)

    def _assemble(self, ino: int, links: dict[int, tuple[int, bytes]]) -> None:
        way: dict[int, None] = {}
        while ino != ROOT_INO and ino not in self._paths:
            if ino in way:
                raise CorruptBlock("directories form a cycle")
            way[ino] = None
            ino = links[ino][0]
        for below in reversed(way):
            parent, name = links[below]
            self._paths[below] = join(self.path(parent), name)

    def _names_in(
        self, parent: int, wanted: set[int], like: Side | None
    ) -> Steps[list[tuple[bytes, int]]]:
        directory = yield from self.directory(parent)
        if directory is None:
            raise CorruptBlock(f"directory {parent} does not exist, and has entries")
        found: list[tuple[bytes, int]] = []
        left = set(wanted)
        if like is not None:
            for ino in wanted:
                name = like._names.get(ino)
                if (
                    name is not None
                    and ((yield from ask(directory.names.get, name)) or 0) >> TYPE_BITS == ino
                ):
                    found.append((name, ino))
                    left.discard(ino)
        return found + (yield from self.names_of(directory, left, once=True)) if left else found

    # Directories, down

    def names_of(
        self, directory: Inode, wanted: Collection[int], *, once: bool
    ) -> Steps[list[tuple[bytes, int]]]:
        """The names that a directory has for inodes, each with its number. ``once``: none of them
        has more than one there.
        """
        walk = BucketDifference(None, directory.names)
        found: list[tuple[bytes, int]] = []
        while (items := (yield from ask(walk.next))) is not None:
            for name, _, value in items:
                if value >> TYPE_BITS in wanted:
                    names.check_entry(directory.ino, name, value)
                    found.append((name, value >> TYPE_BITS))
            if once and len(found) >= len(wanted):
                break
            yield PAUSE
        return found

    def at_path(self, path: bytes) -> Steps[list[Inode]]:
        """The inodes on the way along a path, from the root's child on: as far as there are any."""
        out: list[Inode] = []
        where = ROOT_INO
        for name in path.split(b"/") if path else ():
            try:
                inode = yield from ask(names.lookup, self.view, where, name)
            except FsError:
                break
            out.append(inode)
            where = inode.ino
        return out


def join(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory."""
    return directory + b"/" + name if directory else name
