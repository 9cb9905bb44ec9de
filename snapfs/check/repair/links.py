"""Mending names and links, once all trees can be read: every name leads to an inode, every inode
has the names that it counts.

What has lost its name is found again in ``lost+found``, as ``#`` and its inode number.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from snapfs.check.findings import Fault, Mend
from snapfs.check.repair.workshop import Workshop
from snapfs.errors import CorruptBlock, Exists, UsageError
from snapfs.filesystem import Inode, View
from snapfs.filesystem.names import entry_value
from snapfs.ids import DESIGNATED_INO, FIRST_INO, ORPHANS_INO, ROOT_INO
from snapfs.store.tables.instances import Instance
from snapfs.store.tables.parts import (
    EVERYTHING,
    Part,
    above,
    check_bounds,
    kept_by,
)
from snapfs.store.trees.buckets import BucketTree

LOST_AND_FOUND = b"lost+found"


class LinkMender:
    """Mends what the walk found about names."""

    def __init__(self, shop: Workshop, faults: list[Fault]) -> None:
        self.shop = shop
        self.checker = shop.checker
        self._lists: set[tuple[int, int]] = set()
        #: Inodes that no path leads to, by view.
        self._lost: dict[int, set[int]] = {}
        for fault in faults:
            if fault.mend is Mend.CUT_LOOP:
                for view in shop.views(fault.mask):
                    self._lost.setdefault(view.id, set()).add(fault.ino)

    def mend(self, fault: Fault, view: View) -> None:
        """Mend one fault in one view."""
        if fault.mend is Mend.LIST_ORPHANS:
            self._list_orphans(view)
        elif fault.mend is Mend.LIST_DESIGNATED:
            self._list_designated(view)
        elif fault.mend is Mend.SET_CHAIN:
            self._set_chain(view)
        elif fault.mend is Mend.CUT_LOOP:
            self._cut_loop(view, fault.ino)
        elif inode := self.shop.inode(view, fault.ino):
            if fault.mend is Mend.DROP_NAMES:
                self._drop_names(view, inode, fault.number)
            elif fault.mend is Mend.SET_NAME_TYPE:
                self._set_type(view, inode, fault.number)
            elif fault.mend is Mend.SET_LINKS:
                view.change(inode)
                inode.nlink = fault.value
            elif fault.mend is Mend.KEEP_ONE_NAME:
                self._keep_one_name(view, inode)
            elif fault.mend is Mend.SET_PARENT:
                self._set_parent(view, inode)
            elif fault.mend is Mend.REATTACH:
                self._reattach(view, inode)

    # Names

    def _drop_names(self, view: View, directory: Inode, ino: int, keep: int = 0) -> None:
        """Remove the names of an inode from a directory, but for the first ``keep``."""
        for name in self.shop.names_of(view, directory.ino, ino)[keep:]:
            self.shop.tell(
                f"{self.shop.name(view, directory.ino)}: the name "
                f"{name.decode(errors='replace')!r} is removed"
            )
            view.change(directory)
            self.shop.do(directory.names.touch, name)
            directory.names.pop(name)

    def _set_type(self, view: View, directory: Inode, ino: int) -> None:
        inode = self.shop.inode(view, ino)
        if inode is not None:
            for name in self.shop.names_of(view, directory.ino, ino):
                self._put(view, directory, name, inode)

    def _put(self, view: View, directory: Inode, name: bytes, inode: Inode) -> None:
        view.change(directory)
        self.shop.do(directory.names.touch, name)
        directory.names.put(name, entry_value(inode))

    def _parents(self, view: View, ino: int) -> list[int]:
        """The directories that have names of an inode, each once."""
        found = [
            directory
            for directory, _, mask in self.checker.names.of_inode.get(ino, ())
            if mask >> view.id & 1
        ]
        return list(dict.fromkeys(found))

    def _keep_one_name(self, view: View, inode: Inode) -> None:
        parents = self._parents(view, inode.ino)
        parents.sort(key=lambda directory: directory != inode.parent)
        for position, number in enumerate(parents):
            directory = self.shop.inode(view, number)
            if directory is not None:
                self._drop_names(view, directory, inode.ino, keep=0 if position else 1)

    def _set_parent(self, view: View, inode: Inode) -> None:
        parents = self._parents(view, inode.ino)
        if len(parents) == 1:
            view.change(inode)
            inode.parent = parents[0]

    # What has no name

    def _lost_and_found(self, view: View, ino: int) -> Inode:
        """The directory for what has lost its name, this inode; made when it is needed, where the
        view shows it.
        """
        one = view.instance
        top = ROOT_INO
        if one is not None and (one.covered or not any(ino in part.chain for part in one.parts)):
            places = one.covered or [part.ino for part in one.parts]
            tops = (self.shop.inode(view, number) for number in places)
            top = next(
                (inode.ino for inode in tops if inode is not None and inode.is_directory), ROOT_INO
            )
        for number in range(1, 1 << 16):
            name = LOST_AND_FOUND + (b".%d" % number if number > 1 else b"")
            try:
                made: Inode = self.shop.do(
                    self.shop.fs.make, view, top, name, stat.S_IFDIR | 0o700, 0, 0
                )
            except Exists:
                found: Inode = self.shop.do(self.shop.fs.lookup, view, top, name)
                if found.is_directory:
                    return found
            else:
                return made
        raise Exists("every name for lost+found is taken")

    def _reattach(self, view: View, inode: Inode) -> None:
        if inode.ino < FIRST_INO:
            return
        place = self._lost_and_found(view, inode.ino)
        name = b"#%d" % inode.ino
        self._put(view, place, name, inode)
        view.change(inode)
        if inode.is_directory:
            inode.parent = place.ino
            place.nlink += 1
            inode.nlink = inode.nlink or 2
        else:
            inode.nlink = 1
            inode.parent = place.ino
        where = f" in snapshot {view.instance.name}" if view.instance else ""
        self.shop.tell(
            f"inode {inode.ino}{where} had lost its name: it is "
            f"{LOST_AND_FOUND.decode()}/{name.decode()} now"
        )

    def _cut_loop(self, view: View, ino: int) -> None:
        """Directories that are below each other: one of them goes to ``lost+found``, and the others
        with it.
        """
        lost = self._lost.get(view.id, set())
        way: list[int] = []
        while ino not in way:
            way.append(ino)
            parents = [number for number in self._parents(view, ino) if number in lost]
            if not parents:
                return
            ino = parents[0]
        loop = way[way.index(ino) :]
        lost.difference_update(loop)
        child = min(loop)
        inode = self.shop.inode(view, child)
        for number in self._parents(view, child):
            directory = self.shop.inode(view, number)
            if directory is not None:
                self._drop_names(view, directory, child)
        if inode is not None:
            self._reattach(view, inode)

    # Orphans and snapshots

    def _list_orphans(self, view: View) -> None:
        """Another list, of all that has no name and was listed."""
        self._list_anew(
            view, ORPHANS_INO, self.checker.names.orphans, lambda inode: not inode.nlink
        )

    def _list_designated(self, view: View) -> None:
        """Another list, of all that is designated; without one until now, designating makes it."""
        if self.shop.inode(view, DESIGNATED_INO) is not None:
            self._list_anew(
                view, DESIGNATED_INO, self.checker.designated, lambda inode: bool(inode.nlink)
            )
            return
        for ino in self._in(view, self.checker.designated):
            inode = self.shop.inode(view, ino)
            if inode is not None:
                self.shop.fs.designations.note(
                    self.shop.do(self.shop.fs.designations.plan, inode), inode
                )

    def _in(self, view: View, found: dict[int, int]) -> list[int]:
        return [ino for ino, mask in sorted(found.items()) if mask >> view.id & 1]

    def _list_anew(
        self, view: View, where: int, found: dict[int, int], is_listed: Callable[[Inode], bool]
    ) -> None:
        """Write one of the hidden directories anew, once in a round."""
        place = self.shop.inode(view, where)
        if (view.id, where) in self._lists or place is None:
            return
        self._lists.add((view.id, where))
        tree = BucketTree(self.shop.volume, view.owner, "names", view.name_hash)
        for ino in self._in(view, found):
            inode = self.shop.inode(view, ino)
            if inode is not None and is_listed(inode):
                self.shop.do(tree.touch, b"%x" % ino)
                tree.put(b"%x" % ino, entry_value(inode))
        view.change(place)
        place.data = tree

    def _set_chain(self, view: View) -> None:
        """The ways from the root to the parts of a snapshot, as the directories have them.

        When a way is lost the part is found in the root; when the part itself is, the others are
        left. Without any, a snapshot that preserves everything shows all that it has, and any other
        is lost.
        """
        one = view.instance
        if one is None:
            return
        own = one.kept == kept_by(one.parts)
        parts: list[Part] = []
        for part in one.parts:
            mended = self._mended(view, one, part)
            if mended is not None and _fits([*parts, mended]):
                parts.append(mended)
            elif mended is not None:
                self.shop.tell(f"snapshot {one.name}: {part.path} is lost among its other parts")
        if not parts and one.covered:
            self.shop.tell(f"snapshot {one.name}: nothing that it covers can be read, it is lost")
            self.shop.lose(view)
            return
        if not parts:
            self.shop.tell(f"snapshot {one.name}: what it showed is lost, it shows all that it has")
        one.parts = tuple(parts)
        if own or (
            one.covered
            and any(part.ino and set(one.covered).isdisjoint(part.chain) for part in parts)
        ):
            one.covered, one.passed = kept_by(parts) if one.covered else EVERYTHING
        self.shop.volume.instances.dirty.add(one.id)

    def _mended(self, view: View, one: Instance, part: Part) -> Part | None:
        """A part with the chain that leads to it; None when it is lost."""
        if not part.ino:  # nothing stood there: below the directories that there are, nothing does
            length, parent = 0, ROOT_INO
            for ino in part.chain:
                inode = self.shop.inode(view, ino)
                if inode is None or not inode.is_directory or inode.parent != parent:
                    break
                length, parent = length + 1, ino
            return Part(0, part.chain[:length], part.way)
        top = self.shop.inode(view, part.ino)
        if top is None or not top.nlink:
            self.shop.tell(f"snapshot {one.name}: {part.path} is lost")
            return None
        chain, ino = [part.ino], top.parent
        while ino != ROOT_INO and ino not in chain:
            inode = self.shop.inode(view, ino)
            if inode is None or not inode.is_directory:
                break
            chain.append(ino)
            ino = inode.parent
        if ino == ROOT_INO:
            names = (
                part.way
                if len(part.way) == len(chain)
                else ((b"?",) * len(chain) + part.way)[-len(chain) :]
            )
            return Part(part.ino, tuple(reversed(chain)), tuple(names))
        name = part.way[-1]
        self.shop.tell(
            f"snapshot {one.name}: the way to {part.path} is lost, it is "
            f"/{name.decode(errors='replace')} now"
        )
        view.change(top)
        top.parent = ROOT_INO
        return Part(part.ino, (part.ino,), (name,))


def _fits(parts: list[Part]) -> bool:
    """Can one snapshot have these parts?"""
    try:
        above(parts)
        check_bounds(parts, kept_by(parts))
    except (CorruptBlock, UsageError):
        return False
    return True
