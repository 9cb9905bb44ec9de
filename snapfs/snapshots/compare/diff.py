"""What differs between two states of a volume, by paths: added, removed, changed, of another type,
renamed.

The two inode tables are compared top down, and then the names in directories that differ; what is
equal is skipped by its pointer, so the cost is that of what differs. Paths are found upwards, by
the parents of directories and the directory that a file was made in or moved to.

A directory that both states have is compared with itself, wherever it is; what moved with it is not
reported. Of the rest, what stands under a name in a directory is compared with what stood there, as
one would compare two trees. Names that are left over are added or removed, or, where one file is
behind both, renamed.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapfs.blocks.inode import FLAG_LINKED, INLINE_OFFSET, LAYOUT
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.errors import NotFound
from snapfs.filesystem import Inode, names
from snapfs.ids import HIDDEN_INOS, INO_LIMIT
from snapfs.snapshots.compare.contents import Change, changes
from snapfs.snapshots.compare.differing import (
    NOTHING,
    FileKind,
)
from snapfs.snapshots.compare.directories import DirectoryPair, NameComparison
from snapfs.snapshots.compare.pairing import (
    CompanionParts,
    Pairing,
    choose_pairs,
)
from snapfs.snapshots.compare.report import DiffReport
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Side,
    State,
    Steps,
    ask,
    join,
    same_file,
)
from snapfs.store.trees.difference import (
    MapRoot,
    SlotDifference,
)

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem

#: Changed inodes whose names are looked for together: each directory is searched once for all of
#: them.
BATCH: Final = 8192

NO_MAP: Final[MapRoot] = (0, 0, 0)


@dataclass(slots=True)
class _Changed:
    """An inode in both states: how it has changed, once that is known, and how many names of it
    have not been found yet.
    """

    old: Inode
    new: Inode
    missing: int
    change: Change | None = None

    @property
    def is_linked(self) -> bool:
        """May it have names elsewhere than in the directory that it was made in or moved to?"""
        return not self.new.is_directory and bool(self.new.flags & FLAG_LINKED)


class Diff:
    """A comparison of two sealed states, which must stay readable meanwhile.

    With ``paths``, only what lies there in one of the states is reported. ``pairing`` chooses the
    parts that are compared with each other, and has the two sides show no more than these.
    """

    def __init__(
        self,
        fs: Filesystem,
        old: State,
        new: State,
        paths: Sequence[bytes] = (),
        pairing: Pairing = choose_pairs,
    ) -> None:
        self.volume = fs.volume
        self.old = Side(fs.volume, old)
        self.new = Side(fs.volume, new)
        self._pairing = pairing
        self._report = DiffReport(paths)
        self._names = NameComparison(self.old, self.new, self._report)
        self._compared_inodes = 0
        self._linked: dict[int, _Changed] = {}
        self._tops: set[int] = set()  # directories that parts begin with

    @property
    def compared(self) -> int:
        """Inodes and names that were looked at."""
        return self._compared_inodes + self._names.compared

    def steps(self) -> Steps[None]:
        """All of it: yields ``Difference``, lists of blocks to be fetched, and empty ones between
        steps.

        Raises ``UsageError`` for two states that have no part in common, ``NotFound`` for a path
        that neither has.
        """
        pairs = yield from self._pairing(self.old, self.new)
        for path in self._report.paths:
            yield from self._check_path(path)
        self._tops = {
            one.ino
            for pair in pairs
            for one in (pair.old, pair.new)
            if one is not None and one.is_directory
        }
        for part in pairs:
            yield from self._compare_part(part)
        slots = SlotDifference(self.volume, _root(self.old), _root(self.new))
        directories: list[tuple[Inode, Inode]] = []
        changed: list[_Changed] = []
        while (found := (yield from ask(slots.next))) is not None:
            for ino, *pair in found:
                self._sort(ino, pair, directories, changed)
            if len(directories) + len(changed) >= BATCH:
                yield from self._compare_directories(directories)
                yield from self._compare_changed(changed)
                directories, changed = [], []
            yield PAUSE
        yield from self._compare_directories(directories)
        yield from self._compare_changed(changed)
        yield from self._search_links()
        yield from self._names.moves.pair()

    def _check_path(self, path: bytes) -> Steps[None]:
        """Raises ``NotFound``."""
        for side in (self.old, self.new):
            if len((yield from side.at_path(path))) == path.count(b"/") + 1:
                return
        raise NotFound(f"/{path.decode(errors='replace')}: neither of the two states has it")

    def _compare_part(self, pair: CompanionParts) -> Steps[None]:
        """Compare what parts begin with: no directory that is compared has a name for it."""
        old, new = pair.old, pair.new
        if old is None or new is None:
            yield from self._report.tell(
                FileKind.REMOVED if old else FileKind.ADDED, pair.old_path, pair.path, old, new
            )
        elif stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            yield from self._report.tell(FileKind.RETYPED, pair.old_path, pair.path, old, new)
        else:
            kind = FileKind.CHANGED if pair.old_path == pair.path else FileKind.RENAMED
            change = yield from changes(old, new)
            if change != NOTHING or kind is FileKind.RENAMED:
                yield from self._report.tell(kind, pair.old_path, pair.path, old, new, change)
        if old is None or new is None or not same_file(old, new):
            old, new = (one if one is not None and one.is_directory else None for one in (old, new))
            if old is not None or new is not None:
                yield from self._names.compare(
                    DirectoryPair.of(old, new, pair.old_path or b"", pair.path or b"")
                )

    # Inodes that differ

    def _sort(
        self,
        ino: int,
        pair: Sequence[bytes],
        directories: list[tuple[Inode, Inode]],
        changed: list[_Changed],
    ) -> None:
        """Note an inode that both states have, and that differs in what counts."""
        self._compared_inodes += 1
        if (
            ino in HIDDEN_INOS
            or not 0 < ino < INO_LIMIT
            or _comparable(pair[0]) == _comparable(pair[1])
        ):
            return
        old, new = (
            Inode.decode(self.old.view, ino, pair[0]),
            Inode.decode(self.new.view, ino, pair[1]),
        )
        if (
            old is None
            or new is None
            or not old.nlink
            or not new.nlink
            or stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode)
        ):
            return
        if (
            new.is_directory
            and same_file(old, new)
            and old.names.root_words != new.names.root_words
        ):
            directories.append((old, new))
        if ino not in self._tops:
            changed.append(_Changed(old, new, new.nlink))

    def _compare_directories(self, directories: list[tuple[Inode, Inode]]) -> Steps[None]:
        """Compare the names of directories that both states have."""
        shown = []
        for old, new in directories:
            if (yield from self.old.shows(old.ino)) and (yield from self.new.shows(new.ino)):
                shown.append((old, new))
        yield from self._find_paths([new.ino for _, new in shown])
        for old, new in shown:
            yield from self._find_paths([new.ino])  # much may have been looked for since
            yield from self._names.compare(
                DirectoryPair.of(old, new, self.old.path(old.ino), self.new.path(new.ino))
            )

    def _find_paths(self, directories: Sequence[int]) -> Steps[None]:
        """The paths of directories that both states have."""
        yield from self.new.find_paths(directories, self.old)
        yield from self.old.find_paths(directories, self.new)

    def _compare_changed(self, changed: list[_Changed]) -> Steps[None]:
        """DiffReport changed inodes under each name that both states have for them."""
        within: dict[int, dict[int, _Changed]] = {}
        for one in changed:
            # What lies outside of the parts may be compared no further: a snapshot of parts does
            # not preserve it.
            if self.old.is_whole and self.new.is_whole and not (yield from self._differs(one)):
                continue
            within.setdefault(one.new.parent, {})[one.new.ino] = one
            yield PAUSE
        pairs: dict[int, tuple[Inode, Inode]] = {}
        yield from self.new.fetch(within)
        for parent in within:
            directory = yield from self.new.directory(parent)
            if directory is not None and (yield from self.new.shows(parent)):
                twin = yield from self.old.twin(directory)
                if twin is not None:
                    pairs[parent] = twin, directory
        yield from self._find_paths(list(pairs))
        for parent, (old, new) in pairs.items():
            yield from self._find_paths([parent])
            yield from self._report_changed(old, new, within[parent])
        for wanted in within.values():
            self._linked.update(
                (ino, one) for ino, one in wanted.items() if one.missing > 0 and one.is_linked
            )
        if len(self._linked) >= BATCH:
            yield from self._search_links()

    @staticmethod
    def _differs(one: _Changed) -> Steps[bool]:
        """Is there anything to be reported about a changed inode? Remembers what."""
        if one.change is None:
            one.change = yield from changes(one.old, one.new)
        return one.change != NOTHING or (one.new.is_directory and not same_file(one.old, one.new))

    def _report_changed(self, old: Inode, new: Inode, wanted: dict[int, _Changed]) -> Steps[None]:
        """DiffReport those of the changed inodes that a directory has under the same name in both
        states.

        What has another name in it is new there, and is found when the names are compared.
        """
        old_base, base = self.old.path(old.ino), self.new.path(new.ino)
        once = not any(one.is_linked for one in wanted.values())
        for name, ino in (yield from self.new.names_of(new, wanted, once=once)):
            one = wanted[ino]
            one.missing -= 1
            value = yield from ask(old.names.get, name)
            if value != names.entry_value(one.new) or not (yield from self._differs(one)):
                continue
            old_path, path = join(old_base, name), join(base, name)
            if one.change is not None and one.change != NOTHING:
                yield from self._report.tell(
                    FileKind.CHANGED, old_path, path, one.old, one.new, one.change
                )
            if one.new.is_directory and not same_file(one.old, one.new):
                yield from self._names.compare(DirectoryPair.of(one.old, one.new, old_path, path))

    def _search_links(self) -> Steps[None]:
        """Find the other names of changed files that have several. They may be anywhere: all
        directories are searched, once for all.
        """
        linked, self._linked = self._linked, {}
        slots = SlotDifference(self.volume, NO_MAP, _root(self.new))
        while linked and (found := (yield from ask(slots.next))) is not None:
            for ino, _, slot in found:
                directory = (
                    Inode.decode(self.new.view, ino, slot) if ino not in HIDDEN_INOS else None
                )
                if (
                    directory is None
                    or not directory.is_directory
                    or not directory.nlink
                    or not (yield from self.new.shows(ino))
                ):
                    continue
                wanted = {
                    number: one for number, one in linked.items() if one.new.parent != ino
                }  # which has been searched
                twin = yield from self.old.twin(directory)
                if twin is not None and wanted:
                    yield from self._find_paths([ino])
                    yield from self._report_changed(twin, directory, wanted)
                    linked = {number: one for number, one in linked.items() if one.missing > 0}
            yield PAUSE


def _root(side: Side) -> MapRoot:
    root = side.state.root
    return root.first, root.second, root.depth


def _comparable(slot: bytes) -> tuple[object, ...]:
    """What of a slot counts as a difference: of a directory's, neither size nor times, but whether
    it is another directory.
    """
    fields = LAYOUT.unpack_from(slot)
    mode, uid, gid, _, size = fields[:5]
    data, attributes = (
        (fields[18] & BLOCK_MASK, fields[19], fields[23]),
        (fields[20] & BLOCK_MASK, fields[21], fields[22]),
    )
    own = fields[12:15] if stat.S_ISDIR(mode) else (size, *fields[8:10], fields[16])
    return mode, uid, gid, data, attributes, slot[INLINE_OFFSET:], own
