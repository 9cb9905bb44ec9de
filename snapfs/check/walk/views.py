"""The facts of all views: inodes, their trees, names and link counts, each checked once for all the
views that share it.
"""

from __future__ import annotations

from collections.abc import Callable

from snapfs.check.findings import Fault, Findings, Mend
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.check.walk.connection import ConnectionChecker
from snapfs.check.walk.inode_tables import read_inode_tables
from snapfs.check.walk.inodes import InodeChecker
from snapfs.check.walk.links import LinkChecker
from snapfs.check.walk.names import NamesFound
from snapfs.check.walk.trees import Walker
from snapfs.check.walk.versions import InodeVersion
from snapfs.filesystem import Filesystem


class ViewChecker:
    """Checks the base and all live instances together. ``names`` has all names that were found,
    ``designated`` the views in which directories are designated.
    """

    def __init__(
        self,
        fs: Filesystem,
        walker: Walker,
        findings: Findings,
        progress: Callable[[int, int], None],
    ) -> None:
        self._progress = progress
        self._walker = walker
        self._views = CheckedViews(fs, findings)
        self.names = NamesFound(self._views)
        self._inodes = InodeChecker(self._views, walker, self.names)
        self.designated = self._inodes.designated

    def run(self) -> None:
        """Check everything."""
        versions = self.walk()
        LinkChecker(self._views, self.names).check(versions)
        ConnectionChecker(self._views, self.names).check(versions)
        self._designations()

    def walk(self) -> dict[int, list[InodeVersion]]:
        """Claim all that views reach, and check each tree by itself. All inodes, by number."""
        versions = read_inode_tables(self._views, self._walker)
        self._views.know_inodes(versions)
        for done, (ino, found) in enumerate(sorted(versions.items())):
            self._inodes.check(ino, found)
            if not done % 64:
                self._progress(done, len(versions))
        return versions

    def _designations(self) -> None:
        """The list of designated directories has those that have the attribute."""
        for ino in sorted(self.designated.keys() | self.names.designated_by_list.keys()):
            designated, listed = self.designated[ino], self.names.designated_by_list[ino]
            if missing := designated & ~listed:
                fault = Fault(Mend.LIST_DESIGNATED, missing)
                self._views.findings.add(
                    "format",
                    "designation",
                    self._views.place(ino, missing),
                    "it is designated, and not listed as such",
                    fault=fault,
                )
            if wrong := listed & ~designated & ~self._views.parts.outside_attributes(ino):
                fault = Fault(Mend.LIST_DESIGNATED, wrong)
                self._views.findings.add(
                    "format",
                    "designation",
                    self._views.place(ino, wrong),
                    "it is listed as designated, and is not",
                    fault=fault,
                )
