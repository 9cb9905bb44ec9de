"""Paths in all views: every directory is below the root and knows where it is, and the chains of
snapshots lead to their parts.
"""

from __future__ import annotations

from collections import defaultdict

from snapfs.blocks.inode import FLAG_LINKED
from snapfs.check.findings import Fault, Mend
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.check.walk.names import NamesFound
from snapfs.check.walk.versions import InodeVersion, without
from snapfs.ids import HIDDEN_INOS, ORPHANS_INO, ROOT_INO
from snapfs.store.tables.instances import Instance
from snapfs.store.tables.parts import Part


class ConnectionChecker:
    """Follows the names that were found from the root of every view."""

    def __init__(self, views: CheckedViews, names: NamesFound) -> None:
        self._views = views
        self._names = names

    def check(self, versions: dict[int, list[InodeVersion]]) -> None:
        """Every directory is below the root, and knows where it is."""
        self._check_parents(versions)
        root = self._fixed(versions, ROOT_INO, "no-root", "the root directory is missing")
        self._fixed(versions, ORPHANS_INO, "no-orphan-list", "the list of orphans is missing")
        self._covered(versions)
        self._check_paths(versions, root)

    def _check_parents(self, versions: dict[int, list[InodeVersion]]) -> None:
        for ino, found in versions.items():
            if ino in (ROOT_INO, *HIDDEN_INOS):
                continue
            outside = (
                self._views.parts.outside_names(ino) | self._views.parts.tops().get(ino, 0)
                if self._views.parts.mask
                else 0
            )
            for one in without(found, outside):
                if one.inode.nlink and (
                    one.inode.is_directory or not one.inode.flags & FLAG_LINKED
                ):
                    stray = (
                        one.mask & sum(mask for _, _, mask in self._names.of_inode.get(ino, ()))
                        if not one.inode.is_directory
                        else one.mask
                    )
                    for directory, _, mask in self._names.of_inode.get(ino, ()):
                        if directory == one.inode.parent:
                            stray &= ~mask
                    if stray:
                        fault = Fault(Mend.SET_PARENT, stray, ino=ino)
                        detail = f"it takes inode {one.inode.parent} for its parent"
                        self._views.findings.add(
                            "format", "parent", self._views.place(ino, stray), detail, fault=fault
                        )

    def _check_paths(self, versions: dict[int, list[InodeVersion]], root: int) -> None:
        """A path leads to everything, from the root in the views that have one."""
        children: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ino, names in self._names.of_inode.items():
            for directory, _, mask in names:
                children[directory].append((ino, mask))
        connected: dict[int, int] = defaultdict(int)
        connected[ROOT_INO] = root
        work = [(ROOT_INO, root), *self._views.parts.tops().items()]
        # An orphan may still have names below it: they go with it.
        work += [(ino, mask) for ino, mask in self._names.orphans.items()]
        for top, mask in work[1:]:
            connected[top] |= mask
        while work:
            directory, mask = work.pop()
            for ino, where in children.get(directory, ()):
                new = where & mask & ~connected[ino]
                if new:
                    connected[ino] |= new
                    work.append((ino, new))
        for ino, found in versions.items():
            for one in (
                without(found, self._views.parts.outside_names(ino))
                if self._views.parts.mask
                else found
            ):
                lost = one.mask & ~connected.get(ino, 0)
                if (
                    lost
                    and one.inode.nlink
                    and ino not in HIDDEN_INOS
                    and self._names.of_inode.get(ino)
                ):
                    fault = Fault(Mend.CUT_LOOP, lost, ino=ino)
                    self._views.findings.add(
                        "format",
                        "not-connected",
                        self._views.place(ino, lost),
                        "no path leads to it from the root",
                        fault=fault,
                    )

    def _fixed(
        self, versions: dict[int, list[InodeVersion]], ino: int, rule: str, detail: str
    ) -> int:
        """A directory that every view has; the views that do have it."""
        there = 0
        for one in versions.get(ino, ()):
            there |= one.mask if one.inode.is_directory else 0
        if there != self._views.everything:
            fault = Fault(Mend.MAKE_DIRECTORY, self._views.everything & ~there, ino=ino)
            self._views.findings.add(
                "format",
                rule,
                self._views.place(ino, self._views.everything & ~there),
                detail,
                fault=fault,
            )
        return there

    def _covered(self, versions: dict[int, list[InodeVersion]]) -> None:
        """The chains of a snapshot's parts lead from its root to them, and it preserves all of
        them.
        """
        for one in self._views.instances:
            for part in one.parts:
                detail = f"its chain {list(part.chain)} does not lead to {part.path}"
                if self._is_chain(versions, one, part):
                    if (
                        not one.covered
                        or not part.ino
                        or not set(one.covered).isdisjoint(part.chain)
                    ):
                        continue
                    detail = f"it shows {part.path} and does not preserve it"
                fault = Fault(Mend.SET_CHAIN, 1 << one.id, number=one.id)
                self._views.findings.add(
                    "format", "covered-part", f"snapshot {one.name}", detail, fault=fault
                )

    def _is_chain(
        self, versions: dict[int, list[InodeVersion]], instance: Instance, part: Part
    ) -> bool:
        """Is each inode of a chain in the directory before it? All but the last are directories."""
        parent = ROOT_INO
        for position, ino in enumerate(part.chain):
            inode = next(
                (found.inode for found in versions.get(ino, ()) if found.mask >> instance.id & 1),
                None,
            )
            if inode is None or not inode.nlink:
                return False
            if inode.is_directory:
                if inode.parent != parent:
                    return False
            elif position < len(part.way) - 1 or (
                inode.parent != parent and not inode.flags & FLAG_LINKED
            ):
                return False
            parent = ino
        return True
