"""Names and link counts in all views: every name leads to an inode, and every inode has as many
names as it counts.
"""

from __future__ import annotations

import stat

from snapfs.check.findings import Fault, Mend
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.check.walk.names import NamesFound
from snapfs.check.walk.versions import InodeVersion, partition, without
from snapfs.ids import HIDDEN_INOS, ROOT_INO


class LinkChecker:
    """Holds the names that were found against the inodes."""

    def __init__(self, views: CheckedViews, names: NamesFound) -> None:
        self._views = views
        self._names = names

    def check(self, versions: dict[int, list[InodeVersion]]) -> None:
        """Every name leads to an inode, every inode has as many names as it counts."""
        self._check_names(versions)
        self._check_counts(versions)
        self._check_orphans(versions)

    def _check_names(self, versions: dict[int, list[InodeVersion]]) -> None:
        for ino, names in self._names.of_inode.items():
            there = 0
            for one in versions.get(ino, ()):
                there |= one.mask
            for directory, kind, mask in names:
                wrong = mask & sum(
                    one.mask
                    for one in versions.get(ino, ())
                    if stat.S_IFMT(one.inode.mode) >> 12 != kind
                )
                if wrong:
                    fault = Fault(Mend.SET_NAME_TYPE, wrong, ino=directory, number=ino)
                    detail = f"a name says that inode {ino} has type {kind}"
                    self._views.findings.add(
                        "format",
                        "entry-type",
                        self._views.place(directory, wrong),
                        detail,
                        fault=fault,
                    )
                if mask & ~there:
                    self._views.findings.add(
                        "format",
                        "dangling-name",
                        self._views.place(directory, mask & ~there),
                        f"a name leads to inode {ino}, which does not exist",
                        fault=Fault(Mend.DROP_NAMES, mask & ~there, ino=directory, number=ino),
                    )

    def _check_counts(self, versions: dict[int, list[InodeVersion]]) -> None:
        for ino, found in versions.items():
            if ino in HIDDEN_INOS:
                continue
            masks = [mask for _, _, mask in self._names.of_inode.get(ino, ())]
            tops = self._views.parts.tops().get(ino, 0)
            for one in (
                without(found, self._views.parts.outside_names(ino))
                if self._views.parts.mask
                else found
            ):
                if one.mask & tops:  # its name is outside
                    self._link_count(
                        ino, one, 1, one.mask & tops, self._views.place(ino, one.mask & tops)
                    )
                if named := one.mask & ~tops:
                    for count, mask in partition(masks, named):
                        self._link_count(ino, one, count, mask, self._views.place(ino, named))

    def _check_orphans(self, versions: dict[int, list[InodeVersion]]) -> None:
        for ino, listed in self._names.orphans.items():
            mask = listed
            for one in versions.get(ino, ()):
                if one.mask & mask and one.inode.nlink:
                    self._views.findings.add(
                        "format",
                        "orphan-with-name",
                        self._views.place(ino, one.mask & mask),
                        "it is listed as an orphan and has names",
                        fault=Fault(Mend.LIST_ORPHANS, one.mask & mask),
                    )
                mask &= ~one.mask
            if mask:
                fault = Fault(Mend.LIST_ORPHANS, mask)
                detail = "it is listed as an orphan and does not exist"
                self._views.findings.add(
                    "format", "dangling-orphan", self._views.place(ino, mask), detail, fault=fault
                )

    def _link_count(self, ino: int, one: InodeVersion, count: int, mask: int, where: str) -> None:
        inode = one.inode
        add = self._views.findings.add
        if not inode.nlink:
            if count:
                fault = Fault(Mend.SET_LINKS, mask, ino=ino, value=count)
                add(
                    "format",
                    "link-count",
                    where,
                    f"it has {count} names and counts none",
                    fault=fault,
                )
            elif lost := mask & ~self._names.orphans.get(ino, 0):
                fault = Fault(Mend.REATTACH, lost, ino=ino)
                add(
                    "I1",
                    "lost-inode",
                    where,
                    "it has no name and is not listed as an orphan",
                    fault=fault,
                )
        elif not inode.is_directory:
            if count != inode.nlink:
                fault = Fault(
                    Mend.SET_LINKS if count else Mend.REATTACH, mask, ino=ino, value=count
                )
                add(
                    "format",
                    "link-count",
                    where,
                    f"it has {count} names and counts {inode.nlink}",
                    fault=fault,
                )
        else:
            if count != (0 if ino == ROOT_INO else 1):
                fault = Fault(Mend.KEEP_ONE_NAME if count else Mend.REATTACH, mask, ino=ino)
                add(
                    "format",
                    "directory-names",
                    where,
                    f"the directory has {count} names",
                    fault=fault,
                )
            for subdirectories, part in partition(self._names.subdirectories.get(ino, []), mask):
                if inode.nlink != 2 + subdirectories:
                    fault = Fault(Mend.SET_LINKS, part, ino=ino, value=2 + subdirectories)
                    detail = (
                        f"the directory has {subdirectories} subdirectories and counts "
                        f"{inode.nlink} links"
                    )
                    add("format", "link-count", self._views.place(ino, part), detail, fault=fault)
