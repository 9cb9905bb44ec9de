"""The names that a walk over all views has come by, with the views that have them."""

from __future__ import annotations

import stat
from collections import defaultdict

from snapfs.check.findings import Fault, Mend
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.filesystem import designation
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import DESIGNATED_INO, FIRST_INO, INO_LIMIT, NAME_MAX, ORPHANS_INO


class NamesFound:
    """All names in all directories. Those in the hidden directories stand for something else:
    ``orphans`` and ``designated_by_list`` have what these list.
    """

    def __init__(self, views: CheckedViews) -> None:
        self._views = views
        #: Inode -> (directory, type, mask) of each of its names.
        self.of_inode: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        #: Directory -> masks of its subdirectories.
        self.subdirectories: dict[int, list[int]] = defaultdict(list)
        #: Orphan -> views that list it.
        self.orphans: dict[int, int] = defaultdict(int)
        #: Directory -> views that list it as designated.
        self.designated_by_list: dict[int, int] = defaultdict(int)

    def add(self, directory: int, name: object, value: object, mask: int) -> None:
        """Note one name of a directory, in the views of ``mask``, or find what is wrong with it."""
        where = self._views.place(directory, mask)
        if (
            type(name) is not bytes
            or not 0 < len(name) <= NAME_MAX
            or b"/" in name
            or b"\0" in name
            or name in (b".", b"..")
        ):
            fault = Fault(Mend.REBUILD_NAMES, mask, "names", directory)
            self._views.findings.add(
                "format", "name", where, f"{name!r} is not a name", fault=fault
            )
            return
        if type(value) is not int or not FIRST_INO <= value >> TYPE_BITS < INO_LIMIT:
            fault = Fault(Mend.REBUILD_NAMES, mask, "names", directory)
            self._views.findings.add(
                "format", "entry", where, f"{name!r} leads to no inode number", fault=fault
            )
            return
        ino = value >> TYPE_BITS
        if directory == DESIGNATED_INO:
            if name == designation.label(ino):
                self.designated_by_list[ino] |= mask
            else:
                detail = f"{name!r} lists inode {ino}, whose entry would have another name"
                self._views.findings.add(
                    "format",
                    "designation-name",
                    where,
                    detail,
                    fault=Fault(Mend.LIST_DESIGNATED, mask),
                )
            return
        if directory == ORPHANS_INO:
            if name != b"%x" % ino:
                fault = Fault(Mend.LIST_ORPHANS, mask)
                detail = f"{name!r} lists inode {ino}, whose entry would have another name"
                self._views.findings.add("format", "orphan-name", where, detail, fault=fault)
            self.orphans[ino] |= mask
            return
        self.of_inode[ino].append((directory, value & 15, mask))
        if value & 15 == stat.S_IFDIR >> 12:
            self.subdirectories[directory].append(mask)
