"""What has stood under one path: the versions of a file, and the names that a directory has lost.
Nothing is kept for it: views are asked.

Versions are told apart by their pointers, as one writes: what was written anew is another version,
though its bytes be the same; what a restore brought back is the one that it was.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snapfs.blocks.inode import INLINE_ATTRIBUTES
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.errors import IsDirectory, NotDirectory, NotFound
from snapfs.filesystem import names
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import ROOT_INO
from snapfs.snapshots.compare.differing import ShownInode
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Side,
    State,
    Steps,
    ask,
)
from snapfs.store.trees.difference import BucketDifference

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode


@dataclass(frozen=True, slots=True)
class Version:
    """What some states show under the path. Equal numbers of two versions in ``file``, ``data`` or
    ``attributes`` mean the same one.

    Attributes are those of ``contents``, without the time of modification.
    """

    number: int
    file: int
    data: int
    attributes: int
    shown: ShownInode


@dataclass(frozen=True, slots=True)
class Seen:
    """A state shows a version: the name of a snapshot, and when it was
    made; None for the present.
    """

    version: int
    snapshot: str | None
    created_ns: int | None


@dataclass(frozen=True, slots=True)
class Lost:
    """A name that the present does not have, and the last snapshot that has it."""

    name: bytes
    snapshot: str
    created_ns: int
    shown: ShownInode


@dataclass(slots=True)
class VersionNumbers:
    """Numbers things in the order in which they are met."""

    known: dict[object, int] = field(default_factory=dict)

    def of(self, thing: object) -> int:
        """The number of a thing."""
        return self.known.setdefault(thing, len(self.known) + 1)


class Versions:
    """All versions of the file at a path, newest state first. The states must stay readable
    meanwhile.

    ``states`` begin with the present, if that is asked about, and go back in time.
    """

    def __init__(self, fs: Filesystem, states: Sequence[State], path: bytes) -> None:
        self._volume = fs.volume
        self._states = states
        self._path = path

    def steps(self) -> Steps[None]:
        """Yields each ``Version`` when it is met, ``Seen`` for each state that shows one, and
        blocks to be fetched.

        Raises ``NotFound`` when no state has the path, ``IsDirectory`` when the newest that has it
        has a directory there.
        """
        files, data, attributes, versions = (
            VersionNumbers(),
            VersionNumbers(),
            VersionNumbers(),
            VersionNumbers(),
        )
        births: dict[tuple[object, ...], object] = {}
        looked: dict[object, Version | None] = {}
        anything = False
        for state in self._states:
            # States of one root show the same: of a hundred snapshots that nothing happened
            # between, one is looked at.
            key = state.root.first & BLOCK_MASK, state.root.second, state.parts
            if key not in looked:
                looked[key] = None
                inode = yield from self._at_path(state)
                if inode is not None:
                    if inode.is_directory and not anything:
                        raise IsDirectory(
                            f"{_text(self._path)}: a directory: with --deleted, the "
                            "names that it has lost are listed"
                        )
                    file = files.of(_identity(inode, births))
                    what = (
                        file,
                        data.of((file, *_data_key(inode))),
                        attributes.of((file, *_attributes_key(inode))),
                    )
                    count = len(versions.known)
                    looked[key] = version = Version(
                        versions.of((*what, inode.mtime)), *what, ShownInode.of(inode)
                    )
                    if version.number > count:
                        yield version
            found = looked[key]
            if found is not None:
                anything = True
                yield Seen(found.number, *_named(state))
            yield PAUSE
        if not anything:
            raise NotFound(
                f"{_text(self._path)}: neither the volume nor any of its snapshots has "
                "a file of this path"
            )

    def _at_path(self, state: State) -> Steps[Inode | None]:
        way = yield from Side(self._volume, state).at_path(self._path)
        return way[-1] if way and len(way) == self._path.count(b"/") + 1 else None


class Deleted:
    """The names that states of the directory at a path have had, and the present has not: each with
    the newest state that has it.

    ``states`` begin with the present and go back in time. A name may be told again for an older
    state: the first one counts.
    """

    def __init__(self, fs: Filesystem, states: Sequence[State], path: bytes) -> None:
        self._volume = fs.volume
        self._states = states
        self._path = path

    def steps(self) -> Steps[None]:
        """Yields ``Lost`` names, and blocks to be fetched. Raises ``NotFound`` when no state has
        the directory, ``NotDirectory``.
        """
        present, newer = None, None
        anything = False
        for state in self._states:
            side = Side(self._volume, state)
            directory = yield from self._directory(side)
            anything = anything or directory is not None
            if state.instance is None:
                present = newer = directory
                continue
            if directory is None:
                # It was not there, or this snapshot does not cover it: the one before is compared
                # with the one after.
                continue
            # What the next newer state has not, beside what the present has not.
            walk = BucketDifference(directory.names, newer.names if newer is not None else None)
            while (items := (yield from ask(walk.next))) is not None:
                for name, value, other in items:
                    if value is not None and other is None and not (yield from _has(present, name)):
                        names.check_entry(directory.ino, name, value)
                        inode = yield from side.inode(value >> TYPE_BITS)
                        if inode is not None:
                            yield Lost(
                                name,
                                state.instance.name,
                                state.instance.created_ns,
                                ShownInode.of(inode),
                            )
                yield PAUSE
            newer = directory
        if not anything:
            raise NotFound(
                f"{_text(self._path)}: neither the volume nor any of its snapshots has "
                "a directory of this path"
            )

    def _directory(self, side: Side) -> Steps[Inode | None]:
        if not self._path:
            top = yield from side.directory(ROOT_INO)
            return top if side.is_whole else None
        way = yield from side.at_path(self._path)
        if len(way) != self._path.count(b"/") + 1 or (
            way[-1].is_directory and not (yield from side.shows(way[-1].ino))
        ):
            return None
        if not way[-1].is_directory:
            if side.state.instance is None:
                raise NotDirectory(
                    f"{_text(self._path)}: not a directory: leave --deleted out to see its versions"
                )
            return None
        return way[-1]


def _has(directory: Inode | None, name: bytes) -> Steps[bool]:
    return directory is not None and (yield from ask(directory.names.get, name)) is not None


def _named(state: State) -> tuple[str | None, int | None]:
    return (state.instance.name, state.instance.created_ns) if state.instance else (None, None)


def _text(path: bytes) -> str:
    return "/" + path.decode(errors="replace")


def _identity(inode: Inode, births: dict[tuple[object, ...], object]) -> object:
    """Who a file is: its number, with either the generation or the time of birth of one that was
    met before (see ``same_file``).
    """
    kind = stat.S_IFMT(inode.mode)
    keys: list[tuple[object, ...]] = [
        (inode.ino, kind, "generation", inode.generation),
        (inode.ino, kind, "born", inode.btime),
    ]
    who = next((births[key] for key in keys if key in births), keys[0])
    births.update((key, who) for key in keys)
    return who


def _data_key(inode: Inode) -> tuple[object, ...]:
    if stat.S_ISREG(inode.mode):
        first, second = inode.map.root_words
        return first & BLOCK_MASK, second, inode.map.depth, inode.size
    if stat.S_ISLNK(inode.mode):
        first, second = inode.map.root_words
        return (
            first & BLOCK_MASK,
            second,
            b"" if inode.inline_kind == INLINE_ATTRIBUTES else inode.inline,
        )
    return (inode.rdev,)  # of a directory, whatever its names are


def _attributes_key(inode: Inode) -> tuple[object, ...]:
    first, second = inode.attribute_map.root_words
    inline = inode.inline if inode.inline_kind == INLINE_ATTRIBUTES else b""
    return (
        inode.mode,
        inode.uid,
        inode.gid,
        first & BLOCK_MASK,
        second,
        inode.attribute_bytes,
        inline,
    )
