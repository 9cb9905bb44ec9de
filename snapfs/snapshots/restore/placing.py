"""Bringing back a part of the base (C7): which inode of the snapshot stands where afterwards, and
what has to go.

The two inode tables are compared, so the cost is that of what differs. An inode of the snapshot
goes back to its own number where that is free, or where what has it lies in the part as well and so
is replaced. Where something outside has it, the inode gets a new number: a file that has moved
away, or has another name outside, stays there as it is, and so does a file that was given the
number later.

What has several names cannot be found by its parent. Only if such inodes are among those that
differ, the names in the part are searched for them.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from snapfs.blocks.inode import FLAG_LINKED, INODE_BYTES
from snapfs.errors import CorruptBlock, NoSpace, StaleInode
from snapfs.filesystem.inode import EMPTY_SLOT, Inode
from snapfs.filesystem.names import TYPE_BITS, check_entry
from snapfs.ids import HIDDEN_INOS, INO_LIMIT, ROOT_INO
from snapfs.snapshots.compare.comparison import comparable
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Side,
    Steps,
    ask,
    same_file,
)
from snapfs.snapshots.restore.ways import PathBack
from snapfs.store.trees.difference import BucketDifference, SlotDifference

if TYPE_CHECKING:
    from snapfs.filesystem import View

_DIRECTORY: Final = stat.S_IFDIR >> 12

#: Inodes that are fetched together.
AHEAD: Final = 64

#: Stands for the directory of a name that is the path itself.
TOP: Final = 0


class Placing:
    """Where the inodes of some paths of a snapshot go in the base. ``steps`` finds it, from views
    that stay what they are meanwhile.

    ``where`` has the number in the base for every inode of the snapshot that was looked at; most of
    those stand there already. ``removed`` are the inodes of the base that lose their last name,
    ``links`` the link counts of those that lose or get some.
    """

    def __init__(self, view: View, base: Side, past: Side, targets: Collection[PathBack]) -> None:
        self._known = view.known
        self.base, self.past = base, past
        self.targets = targets
        self.changed: set[int] = set()
        self.where: dict[int, int] = {}
        self.removed: set[int] = set()
        self.links: dict[int, int] = {}
        #: Directories of the snapshot in which a name leads to another number from now on.
        self.rewritten: set[int] = set()
        #: Inodes that lie outside as well, and are what the snapshot has already.
        self.as_they_are: set[int] = set()
        self._tops = {
            BASE: {one.base for one in targets} - {0},
            PAST: {one.past for one in targets} - {0},
        }
        self._inside: dict[str, dict[int, bool]] = {BASE: {}, PAST: {}}
        self._several: set[int] = set()
        self._names: dict[str, dict[int, list[int]]] = {BASE: {}, PAST: {}}
        self.next_ino = max(base.state.root.next_ino, past.state.root.next_ino, view.next_ino)

    # Inodes

    def _side(self, which: str) -> Side:
        return self.base if which == BASE else self.past

    @staticmethod
    def inode(side: Side, ino: int) -> Steps[Inode | None]:
        """The inode of a side, also one without names."""
        try:
            return (yield from ask(side.view.raw_inode, ino))
        except StaleInode:
            return None

    @staticmethod
    def slot(side: Side, ino: int) -> Steps[bytes]:
        """The bytes of its slot."""
        leaf = yield from ask(side.view.table.node, 0, ino // side.view.per_leaf)
        at = ino % side.view.per_leaf * INODE_BYTES
        return bytes(leaf[at : at + INODE_BYTES]) if leaf is not None else EMPTY_SLOT

    def _names_inside(self, which: str, inode: Inode | None) -> Steps[int]:
        """How many names an inode has in the part."""
        if inode is None or not inode.nlink:
            return 0
        if _has_several(inode):
            self._several.add(inode.ino)
            return len(self._names[which].get(inode.ino, ()))
        tops = self._tops[which]
        if inode.ino in tops:
            return 1
        return int(
            inode.ino != ROOT_INO
            and (yield from self._side(which).is_below(inode.parent, tops, self._inside[which]))
        )

    # The plan

    def steps(self) -> Steps[None]:
        """Find everything out."""
        yield from self._compare()
        while True:
            searched = set(self._several)
            self.where.clear()
            self.removed.clear()
            self.links.clear()
            self.rewritten.clear()
            self.as_they_are.clear()
            self._next = self.next_ino
            if searched:
                for which in (BASE, PAST):
                    self._names[which] = yield from self._find_names(which, searched)
            yield from self._place()
            yield from self._remove()
            if self._several == searched:
                break
        self.next_ino = self._next

    def _compare(self) -> Steps[None]:
        roots = [
            (root.first, root.second, root.depth)
            for root in (self.base.state.root, self.past.state.root)
        ]
        walk = SlotDifference(self.base.view.volume, *roots)
        while (found := (yield from ask(walk.next))) is not None:
            self.changed.update(
                ino
                for ino, base, past in found
                if comparable(base) != comparable(past) and ino not in (ROOT_INO, *HIDDEN_INOS)
            )
            yield PAUSE

    def _find_names(self, which: str, wanted: set[int]) -> Steps[dict[int, list[int]]]:
        """The directories of the part in which some inodes have names, one for each name."""
        side = self._side(which)
        found: dict[int, list[int]] = {}
        for target in self.targets:
            top = target.base if which == BASE else target.past
            if top in wanted:
                found.setdefault(top, []).append(TOP)
        stack = list(self._tops[which])
        seen = set(stack)
        while stack:
            if len(stack) % AHEAD == 0:
                yield from side.fetch(stack[-1 : -AHEAD - 1 : -1])
            directory = yield from side.directory(stack.pop())
            for ino, kind in (yield from self._entries(directory)) if directory is not None else ():
                if kind == _DIRECTORY:
                    if ino in seen:
                        raise CorruptBlock(f"directory {ino} has several names")
                    seen.add(ino)
                    stack.append(ino)
                elif ino in wanted and directory is not None:
                    found.setdefault(ino, []).append(directory.ino)
        return found

    @staticmethod
    def _entries(directory: Inode) -> Steps[list[tuple[int, int]]]:
        """The inodes, and their types, behind all names of a directory."""
        walk = BucketDifference(None, directory.names)
        found: list[tuple[int, int]] = []
        while (items := (yield from ask(walk.next))) is not None:
            for name, _, value in items:
                check_entry(directory.ino, name, value)
                found.append((value >> TYPE_BITS, value & (1 << TYPE_BITS) - 1))
            yield PAUSE
        return found

    def _new_number(self) -> int:
        if self._next >= INO_LIMIT:
            raise NoSpace("there are no more inode numbers")
        self._next += 1
        return self._next - 1

    def _place(self) -> Steps[None]:
        """Give every inode of the part in the snapshot that needs it a number in the base."""
        # Names of a file may have come and gone with a directory above them: that changes nothing
        # about it but their count.
        todo = sorted(self.changed | self._names[PAST].keys(), reverse=True)
        inside = [one.past for one in self.targets if one.past]  # what is known to lie inside
        while todo or inside:
            if inside:
                ino = inside.pop()
                past = yield from self.inode(self.past, ino)
                if past is None or not past.nlink:
                    raise CorruptBlock(f"a name leads to inode {ino}, which does not exist")
                if _has_several(past):
                    self._several.add(ino)
            else:
                if len(todo) % AHEAD == 0:
                    yield PAUSE
                    yield from self.past.fetch(todo[-1 : -AHEAD - 1 : -1])
                    yield from self.base.fetch(todo[-1 : -AHEAD - 1 : -1])
                ino = todo.pop()
                past = yield from self.inode(self.past, ino)
                if past is None or not (yield from self._names_inside(PAST, past)):
                    continue
            if ino in self.where:
                continue
            base = yield from self.inode(self.base, ino)
            number = self.where[ino] = yield from self._number(past, base)
            is_same = base is not None and same_file(base, past)
            if number != ino:
                if _has_several(past):
                    self.rewritten.update(
                        one for one in self._names[PAST].get(ino, ()) if one != TOP
                    )
                elif ino not in self._tops[PAST]:
                    self.rewritten.add(past.parent)
            if past.is_directory and (number != ino or not is_same):
                inside += [child for child, _ in (yield from self._entries(past))]

    def _number(self, past: Inode, base: Inode | None) -> Steps[int]:
        """The number in the base of an inode of the snapshot, which ``base`` has now."""
        ino = past.ino
        here = yield from self._names_inside(BASE, base)
        if base is None:
            return ino
        is_alone = here == (base.nlink if _has_several(base) else 1)
        if not same_file(base, past):
            return ino if is_alone and ino not in self._known else self._new_number()
        if is_alone or not base.nlink:
            return ino
        # A name outside and one inside are of one file where they are now or were then; nothing
        # else is linked to what is outside.
        was_linked = past.nlink > len(self._names[PAST].get(ino, ()))
        if _has_several(base) and (here or was_linked) and _same_content(base, past):
            self.as_they_are.add(ino)
            return ino
        return self._new_number()

    def _remove(self) -> Steps[None]:
        """Find what the base has in the part and the snapshot has not."""
        kept = set(self.where.values())
        todo = sorted(self.changed, reverse=True)
        inside = [one.base for one in self.targets if one.base]
        # Directories that make way for others under their number.
        inside += yield from self._children_replaced()
        seen: set[int] = set()
        while todo or inside:
            ino = inside.pop() if inside else todo.pop()
            if ino in seen:
                continue
            if ino % AHEAD == 0:
                yield PAUSE
            base = yield from self.inode(self.base, ino)
            here = yield from self._names_inside(BASE, base)
            if base is None or not here:
                continue
            seen.add(ino)
            if ino in kept:
                continue
            outside = base.nlink - here if _has_several(base) else 0
            if outside:
                self.links[ino] = outside
                continue
            self.removed.add(ino)
            if base.is_directory:
                inside += [child for child, _ in (yield from self._entries(base))]
        for ino in self.as_they_are:
            base = yield from self.inode(self.base, ino)
            here = yield from self._names_inside(BASE, base)
            if base is not None:
                self.links[ino] = base.nlink - here + len(self._names[PAST].get(ino, ()))

    def _children_replaced(self) -> Steps[list[int]]:
        found: list[int] = []
        for ino, number in self.where.items():
            if ino == number:
                base = yield from self.inode(self.base, ino)
                past = yield from self.inode(self.past, ino)
                if (
                    base is not None
                    and past is not None
                    and base.is_directory
                    and base.nlink
                    and not same_file(base, past)
                ):
                    found += [child for child, _ in (yield from self._entries(base))]
        return found

    def parent(self, past: Inode, default: int) -> int:
        """The directory of the base in which an inode of the snapshot stands; ``default`` for one
        that a path leads to.
        """
        if past.ino in self._tops[PAST]:
            return default
        if _has_several(past):
            dirs = [one for one in self._names[PAST].get(past.ino, ()) if one != TOP]
            return self.where.get(dirs[0], dirs[0]) if dirs else default
        return self.where.get(past.parent, past.parent)

    def links_of(self, past: Inode) -> int:
        """The names that an inode of the snapshot has in the part."""
        return len(self._names[PAST].get(past.ino, ())) if _has_several(past) else past.nlink


#: The two sides.
BASE: Final = "base"
PAST: Final = "past"


def _has_several(inode: Inode) -> bool:
    """Has it, or had it, several names?"""
    return not inode.is_directory and bool(inode.flags & FLAG_LINKED)


def _same_content(one: Inode, other: Inode) -> bool:
    """Do two states of a file differ in nothing but names, and when these changed?"""

    def facts(inode: Inode) -> tuple[object, ...]:
        return (
            inode.mode, inode.uid, inode.gid, inode.size, inode.mtime, inode.btime, inode.rdev,
            inode.data.root_words,
            inode.attribute_map.root_words, inode.attribute_bytes, inode.inline_kind, inode.inline,
        )  # fmt: skip

    return facts(one) == facts(other)
