"""Which snapshots of a directory an inode is a part of (C1 to C4): whatever is outside, they preserve nothing of.

An instance covers the inodes that were below its directory when it was made, in its own view: found by their parents, one after the
other. What has several names is covered by every instance, because where its other names are cannot be told without a search.
Making a snapshot looks at nothing. The first look at an inode after that finds out, and the inode's trees remember.

The inode table is one for all files, so its blocks are preserved whatever they hold: 256 bytes for each inode that changes outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_HEIR, FLAG_LINKED
from snapfs.errors import StaleInode
from snapfs.ids import ORPHANS_INO, ROOT_INO
from snapfs.store.owners import TreeOwner

if TYPE_CHECKING:
    from collections.abc import Collection

    from snapfs.filesystem.filesystem import Filesystem
    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.view import View
    from snapfs.store.instances import Instance


class Coverage:
    """Answers for all live instances that cover a directory only. What it has found of directories it keeps."""

    def __init__(self, fs: Filesystem) -> None:
        self._fs = fs
        self._version = -1
        self._parts: list[Instance] = []
        self._inside: dict[int, dict[int, bool]] = {}  # by instance: is a directory part of what it covers?

    @property
    def parts(self) -> list[Instance]:
        """The live instances that cover a directory only."""
        instances = self._fs.volume.instances
        if instances.version != self._version:
            self._version = instances.version
            self._parts = [one for one in instances.live() if one.covered != ROOT_INO]
            known = {one.id for one in self._parts}
            self._inside = {key: value for key, value in self._inside.items() if key in known}
        return self._parts

    def refresh(self, inode: Inode) -> None:
        """Have the inode's trees know which instances do not preserve them. May raise ``NotCached``."""
        view = inode.view
        version = view.volume.instances.version
        if not self.parts:
            inode.data.owner = inode.attribute_map.owner = view.owner
        else:
            ino = inode.parent if inode.flags & FLAG_HEIR else inode.ino
            uncovered = self.uncovered(ino)
            inode.data.owner = TreeOwner(view.owner, uncovered)
            inode.attribute_map.owner = TreeOwner(view.owner, uncovered & ~self._on_the_way(ino))
        inode.coverage = version

    def uncovered(self, ino: int) -> int:
        """The instances, as a mask, whose part of the volume an inode is not in. May raise ``NotCached``."""
        return sum(1 << one.id for one in self.parts if not self.covers(one, ino))

    def uncovered_attributes(self, ino: int) -> int:
        """The same for its extended attributes: those of the directories on the way to a part are shown with it."""
        return self.uncovered(ino) & ~self._on_the_way(ino)

    def _on_the_way(self, ino: int) -> int:
        return sum(1 << one.id for one in self.parts if ino == ROOT_INO or ino in one.chain)

    def covers(self, instance: Instance, ino: int) -> bool:
        """Was the inode in the part that an instance covers, when it was made? May raise ``NotCached``."""
        known = self._inside.setdefault(instance.id, {})
        return is_part(self._fs.view(instance.id), ino, {instance.covered}, known)


def is_part(view: View, ino: int, tops: Collection[int], known: dict[int, bool]) -> bool:
    """Does a snapshot of the view that covers the directories ``tops`` preserve an inode? ``known`` remembers directories.

    May raise ``NotCached``.
    """
    if ino == ORPHANS_INO:
        return True  # each view has its own
    inode = _inode(view, ino)
    if inode is None:
        return False
    if inode.flags & FLAG_LINKED and not inode.is_directory:
        return True
    if inode.flags & FLAG_HEIR:
        inode = _inode(view, inode.parent)
    way: list[int] = []
    answer = False
    while inode is not None:
        found = known.get(inode.ino)
        if found is not None or inode.ino in tops or inode.ino == ROOT_INO:
            answer = found if found is not None else inode.ino in tops
            break
        if inode.ino in way:
            break
        way.append(inode.ino)
        inode = _inode(view, inode.parent)
    known.update(dict.fromkeys(way[1:], answer))  # directories; an inode that is asked for once is asked for once
    return answer


def _inode(view: View, ino: int) -> Inode | None:
    try:
        return view.raw_inode(ino)
    except StaleInode:
        return None
