"""The views that are checked together: their masks, the parts that they preserve, and words for
where something is.
"""

from __future__ import annotations

from snapfs.check.findings import Findings
from snapfs.check.walk.parts import Parts
from snapfs.check.walk.reach import BASE
from snapfs.check.walk.versions import InodeVersion
from snapfs.filesystem import Filesystem, Inode
from snapfs.store.tables.instances import Instance


class CheckedViews:
    """The base and all live instances of a volume, and where what is found about them goes."""

    def __init__(self, fs: Filesystem, findings: Findings) -> None:
        self.fs = fs
        self.findings = findings
        self.instances = [one for one in fs.volume.instances.table.values() if not one.going]
        self.everything = BASE | sum(1 << one.id for one in self.instances)
        #: What snapshots of parts preserve; known once the inode tables have been read.
        self.parts = Parts([], lambda _ino, _instance: None)

    def know_inodes(self, versions: dict[int, list[InodeVersion]]) -> None:
        """The inode tables have been read: from now on ``parts`` knows what is in them."""

        def find(ino: int, instance: Instance) -> Inode | None:
            return next(
                (one.inode for one in versions.get(ino, ()) if one.mask >> instance.id & 1), None
            )

        self.parts = Parts(self.instances, find)

    def place(self, ino: int, mask: int) -> str:
        """Where something is, in words."""
        if mask & BASE:
            return f"inode {ino}"
        number = (mask & -mask).bit_length() - 1
        one = next((one for one in self.instances if one.id == number), None)
        return f"inode {ino} of snapshot {one.name if one else number}"
