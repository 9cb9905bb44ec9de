"""What operations on files need besides the views: what snapshots of parts cover, designations, and
orphans, built in this order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.filesystem.coverage import Coverage
from snapfs.filesystem.designation import Designations
from snapfs.filesystem.orphans.orphans import Orphans
from snapfs.filesystem.views import Views

if TYPE_CHECKING:
    from snapfs.filesystem.inode import Inode
    from snapfs.store.commit.volume import Volume

#: A file of more blocks loses its content in the background when it is emptied.
DETACH_BLOCKS = 16384


class Context(Views):
    """A volume's views with what belongs to all of them. ``Filesystem`` adds the operations."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, self._refresh)
        self.detach_blocks = DETACH_BLOCKS
        self.coverage = Coverage(self)
        self.designations = Designations(self)
        self.orphans = Orphans(self, self.coverage, self.designations)

    def _refresh(self, inode: Inode) -> None:
        self.coverage.refresh(inode)
