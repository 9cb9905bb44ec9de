"""Attributes as the kernel wants them: from the core's inodes, and for the directories that exist
only here.

Also how long the kernel may believe them. Every change passes through this mount, so nearly always
"until told otherwise".
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import pyfuse3

from snapfs.filesystem import Inode
from snapfs.filesystem.inode import Home
from snapfs.filesystem.rules import SET_ID
from snapfs.fuse.kernel.pause import VALID
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.fuse.kernel.pause import Pause

#: In nanoseconds.
SECOND: Final = 1_000_000_000

#: Odd, so that no two serial numbers add the same; large, so that neighbours do not meet the
#: inodes' own generations.
_SPREAD: Final = 0x9E37_79B1

#: Permissions of ``.snap``: who may look up names in the directory above may see which snapshots
#: there are; its owner may make them.
SNAPDIR_MODE: Final = stat.S_IFDIR | 0o755


class Attributes:
    """Fills the kernel's structures, with the options that replace owners and permissions. In a
    ``pause`` they are not to be believed.

    ``replaced``: see ``Known``. ``root_view`` is the one that is mounted. What the views of
    snapshots hide (``Rules``) is hidden here, unless the mount ``shows_all``.
    """

    def __init__(
        self,
        options: MountOptions,
        block_size: int,
        pause: Pause,
        replaced: Mapping[int, int],
        root_view: int = BASE_VIEW,
        *,
        shows_all: bool = False,
    ) -> None:
        self._shows_all = shows_all
        self._root_view = root_view
        self._pause = pause
        self._uid = options.uid
        self._gid = options.gid
        self._permissions = None if options.umask is None else 0o777 & ~options.umask
        self._replaces = not (self._uid is None and self._gid is None and self._permissions is None)
        self._block_size = block_size
        self._replaced = replaced
        self._missing = pyfuse3.EntryAttributes()
        self._missing.entry_timeout = VALID

    def entry(self, node: int, inode: Inode, *, valid: float = VALID) -> pyfuse3.EntryAttributes:
        """An inode's attributes; ``valid`` is how long the name under which it was found may be
        believed.
        """
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.generation = self.generation(node, inode)
        entry.entry_timeout = valid
        entry.attr_timeout = self._pause.valid
        mode, entry.st_uid, entry.st_gid = self.permissions(inode)
        entry.st_mode = stat.S_IFMT(inode.mode) | mode
        entry.st_nlink = max(inode.nlink, 0)
        entry.st_rdev, (entry.st_mtime_ns, entry.st_ctime_ns) = (
            self._rdev(inode),
            self._times(inode),
        )
        entry.st_size = inode.size_shown
        entry.st_blksize = self._block_size
        entry.st_blocks = inode.sectors
        entry.st_atime_ns = inode.atime
        return entry

    def words(self, node: int, inode: Inode) -> tuple[int, ...]:
        """The same attributes, as ``wire.ATTR_OUT`` and ``wire.ENTRY_OUT`` end with them."""
        mode, uid, gid, rdev = inode.mode, inode.uid, inode.gid, inode.rdev
        atime, mtime, ctime = inode.atime, inode.mtime, inode.ctime
        if self._replaces or inode.view.instance is not None:
            permissions, uid, gid = self.permissions(inode)
            mode = stat.S_IFMT(mode) | permissions
            rdev, (mtime, ctime) = self._rdev(inode), self._times(inode)
        return (
            node, inode.size_shown, inode.sectors, atime // SECOND, mtime // SECOND,
            ctime // SECOND,
            atime % SECOND, mtime % SECOND, ctime % SECOND,
            mode, max(inode.nlink, 0), uid, gid, rdev & 0xFFFF_FFFF, self._block_size, 0,
        )  # fmt: skip

    def packed(self, node: int, inode: Inode, *, valid: float = VALID) -> bytes:
        """``entry``, as ``wire.ENTRY_OUT`` has it; ``valid`` in whole seconds."""
        return wire.ENTRY_OUT.pack(
            node,
            self.generation(node, inode),
            int(valid),
            self._pause.valid,
            0,
            0,
            *self.words(node, inode),
        )

    def generation(self, node: int, inode: Inode) -> int:
        """With the number, what tells an inode from all that ever were: in a snapshot's view, also
        from those of views with its id.
        """
        instance = inode.view.instance
        view = 0 if instance is None else instance.serial * _SPREAD
        return inode.generation + view + self._replaced.get(node, 0) & 0xFFFF_FFFF

    def hides_set_id(self, view: Home) -> bool:
        """Whether set-id bits and capabilities of files in a view are hidden."""
        return view.hides_set_id and not self._shows_all

    def permissions(self, inode: Inode) -> tuple[int, int, int]:
        """What the kernel goes by: permission bits, owner, group."""
        mode = stat.S_IMODE(inode.mode) if self._permissions is None else self._permissions
        if self.hides_set_id(inode.view) and stat.S_ISREG(inode.mode):
            mode &= ~SET_ID
        return (
            mode,
            inode.uid if self._uid is None else self._uid,
            inode.gid if self._gid is None else self._gid,
        )

    def _rdev(self, inode: Inode) -> int:
        """The number of a device. Where that is hidden none is shown, so that opening it fails
        (ENXIO): the kernel does not ask us then.
        """
        return 0 if inode.view.hides_devices and not self._shows_all else inode.rdev

    def _times(self, inode: Inode) -> tuple[int, int]:
        """Times of modification and change. ``.snap/NAME`` has those of its making, for whoever
        sorts snapshots by time.
        """
        instance = inode.view.instance
        if (
            instance is None
            or instance.id == self._root_view
            or not inode.is_directory
            or inode.ino not in instance.tops
        ):
            return inode.mtime, inode.ctime
        return instance.listed, instance.listed

    def snapdir(self, node: int, inode: Inode) -> pyfuse3.EntryAttributes:
        """The ``.snap`` directory ``node`` in the directory ``inode``: owned by the same, as old as
        that.
        """
        entry = self.entry(node, inode)
        entry.generation = self.generation(Numbers.covered(node), inode)
        entry.st_mode = SNAPDIR_MODE
        entry.st_nlink = 2
        entry.st_size = 0
        entry.st_blocks = 0
        return entry

    @property
    def missing(self) -> pyfuse3.EntryAttributes:
        """No such name, and the kernel need not ask again: it will be the one to create it."""
        return self._missing

    @staticmethod
    def bare(node: int, mode: int) -> pyfuse3.EntryAttributes:
        """Number and type only: for ``.`` and ``..``, of which listings want no more."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node
        entry.st_mode = mode
        return entry
