"""The filesystem: all views of a volume, and the operations on their files.

Everything here is synchronous. An operation either happens whole, or raises before it has changed
anything: ``NotCached`` and ``CommitNeeded`` (do what they say and call again), or an error of
``snapfs.errors``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from snapfs.errors import (
    InvalidArgument,
    IsDirectory,
)
from snapfs.filesystem import (
    designation,
    logged,
    names,
    naming,
    reading,
    setting,
    sizes,
    writing,
    xattrs,
)
from snapfs.filesystem.context import Context
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.names import Entry
from snapfs.filesystem.reading import ReadPlan
from snapfs.filesystem.replay import replay
from snapfs.filesystem.setting import ATIME_INTERVAL, Changes
from snapfs.filesystem.sizes import Statfs
from snapfs.filesystem.view import View
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import Interrupt
from snapfs.store.commit.deletion import Deletion

if TYPE_CHECKING:
    from snapfs.blocks.log_record import FileChange
    from snapfs.device.base import Buffer
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.sealing import Sealing

#: Bytes of memory that an inode takes with its trees' roots, and what is kept of inodes and blocks
#: however little is allowed.
INODE_MEMORY = 2048
_INODES_LEAST = 256
_BLOCKS_LEAST = 64


class Filesystem(Context):
    """All views of a volume. One for each open volume.

    What its log tells has happened when this is made, unless it is made to look at the generation
    that was sealed (``as_sealed``). Raises ``DeviceError`` if that cannot be read.
    """

    def __init__(self, volume: Volume, *, as_sealed: bool = False) -> None:
        super().__init__(volume)
        self.atime = "relatime"
        #: Tells which views the kernel still knows inodes of: their instance ids must not be given
        #: out.
        self.view_ids_in_use: Callable[[], set[int]] = set
        #: The users whose snapshots come before those of all others; None: whoever calls is one of
        #: them.
        self.privileged: Collection[int] | None = None
        self.deletion = Deletion(volume)
        volume.contents = self
        volume.allocator.more_to_come = lambda: self.has_work
        volume.allocator.reclaim = self.work
        if volume.sync_log.pending and not as_sealed:
            replay(self.base)

    def limit_caches(self, size: int) -> None:
        """How many bytes clean metadata may take, about: half for decoded blocks, half for inodes,
        each twice what is kept at least.
        """
        self.volume.cache.capacity = max(
            _BLOCKS_LEAST, size // 4 // self.volume.geometry.block_size
        )
        self._cache.capacity = max(_INODES_LEAST, size // 4 // INODE_MEMORY)

    # Inodes and names

    def inode(self, view: View, ino: int) -> Inode:
        """The inode of that number. Raises ``StaleInode``."""
        return view.inode(ino)

    def lookup(self, view: View, parent: int, name: bytes) -> Inode:
        """The inode behind a name, ``.`` or ``..``. Raises ``NotFound``, ``NotDirectory``,
        ``NameTooLong``.
        """
        return names.lookup(view, parent, name)

    def entries(self, view: View, ino: int, after: int, limit: int) -> list[Entry]:
        """Names of a directory behind the cookie ``after`` (0: from the start), without ``.`` and
        ``..``; empty at the end.
        """
        return names.entries(view, ino, after, limit)

    def make(
        self,
        view: View,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Create whatever type ``mode`` has, for the user ``uid`` and group ``gid``.

        Set-group-id directories and default ACLs have their say.

        Raises ``Exists``, ``NotDirectory``, ``NameTooLong``, ``TooManyLinks``, ``NoSpace``,
        ``ReadOnly``.
        """
        return naming.make(self, view, parent, name, mode, uid, gid, rdev=rdev, target=target)

    def link(self, view: View, ino: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode. Raises ``Exists``, ``NotPermitted`` for directories,
        ``TooManyLinks``.
        """
        return naming.link(self, view, ino, parent, name)

    def unlink(self, view: View, parent: int, name: bytes) -> Inode:
        """Remove a name; without any other, the inode lives on until nobody holds it. Raises
        ``NotFound``, ``IsDirectory``.
        """
        return naming.unlink(self, view, parent, name)

    def rmdir(self, view: View, parent: int, name: bytes) -> Inode:
        """Remove an empty directory. Raises ``NotFound``, ``NotDirectory``, ``NotEmpty``."""
        return naming.rmdir(self, view, parent, name)

    def rename(
        self, view: View, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> tuple[Inode, Inode | None]:
        """Rename as renameat2(2). The inode that moved, and the one that was
        replaced or exchanged.
        """
        return naming.rename(self, view, parent, name, new_parent, new_name, flags)

    # Attributes

    def set_attributes(
        self,
        view: View,
        ino: int,
        changes: Changes,
        *,
        privileged: bool,
        in_group: bool | None = None,
        stamp: bool = True,
    ) -> Inode:
        """Change attributes as chmod(2), chown(2), truncate(2) and utimensat(2) do, set-id bits and
        access lists included.

        ``privileged`` is what CAP_FSETID gives; ``in_group`` whether the caller is in the file's
        group, if known. ``stamp`` sets the times also when nothing but a size is set that the file
        has already.
        """
        return setting.set_attributes(
            self, view, ino, changes, privileged=privileged, in_group=in_group, stamp=stamp
        )

    def drop_set_id(self, view: View, ino: int, ctime: int | None, *, in_group: bool) -> Inode:
        """Take set-id bits from anything but a directory, as a change of its owner would;
        ``in_group`` as for ``set_attributes``.

        ``ctime`` is its time of change, None for now. Raises ``NoSpace``, ``ReadOnly``.
        """
        return setting.drop_set_id(self, view, ino, ctime, in_group=in_group)

    def set_times(
        self,
        view: View,
        ino: int,
        *,
        atime: int | None = None,
        mtime: int | None = None,
        ctime: int | None = None,
    ) -> Inode:
        """Set times alone, as utimensat(2) does; that of change, unless it is given, is now. Raises
        ``NoSpace``, ``ReadOnly``.
        """
        return setting.set_times(self, view, ino, atime, mtime, ctime)

    def xattr_get(
        self, view: View, ino: int, name: bytes, *, known_as: Collection[tuple[int, bytes]] = ()
    ) -> bytes:
        """An extended attribute. Raises ``NoAttribute``. A designation is answered for all that it
        covers, too.

        ``known_as``: directories and names in them that a file may have.
        """
        inode = view.inode(ino)
        return (
            self.designations.answer(inode, known_as)
            if name == designation.NAME
            else xattrs.get(inode, name)
        )

    def xattr_list(self, view: View, ino: int) -> list[bytes]:
        """The names of all extended attributes."""
        return sorted(xattrs.load(view.inode(ino)))

    def xattr_set(
        self,
        view: View,
        ino: int,
        name: bytes,
        value: bytes,
        *,
        create: bool = False,
        replace: bool = False,
        groups: Collection[int] | None = None,
    ) -> None:
        """Set an extended attribute. Raises ``Exists``, ``NoAttribute``, ``NotSupported``,
        ``InvalidArgument``, ``TooBig``, ``NoSpace``.

        ``groups``: those of a caller who may not give a file to a group that is not among them
        (None: who may). See acl(5), chmod(2).
        """
        setting.xattr_set(
            self, view, ino, name, value, create=create, replace=replace, groups=groups
        )

    def xattr_remove(self, view: View, ino: int, name: bytes) -> None:
        """Remove an extended attribute. Raises ``NoAttribute``."""
        setting.xattr_remove(self, view, ino, name)

    # Data

    @staticmethod
    def _file(view: View, ino: int) -> Inode:
        inode = view.inode(ino)
        if not stat.S_ISREG(inode.mode):
            raise (
                IsDirectory("it is a directory")
                if inode.is_directory
                else InvalidArgument("it is not a file")
            )
        return inode

    def plan_read(self, view: View, ino: int, offset: int, size: int) -> ReadPlan:
        """Which bytes of the device to read; see ``ReadPlan``."""
        return reading.plan_read(self._file(view, ino), offset, size)

    def read(self, view: View, ino: int, offset: int, size: int) -> bytes:
        """Read, waiting for the device. May raise ``CorruptBlock``."""
        plan = self.plan_read(view, ino, offset, size)
        return plan.assemble(
            [self.volume.device.read(start, length) for start, length in plan.runs]
        )

    def write(
        self,
        view: View,
        ino: int,
        offset: int,
        content: Buffer,
        *,
        kill_setid: bool = False,
        in_group: bool = True,
        stamp: bool = True,
    ) -> int:
        """Write; the bytes are with the device's cache when this returns. ``stamp`` sets the times
        of change.

        ``kill_setid`` takes set-id bits away; ``in_group`` as for ``set_attributes``.

        Raises ``NoSpace``, ``FileTooBig``, ``ReadOnly``, ``DeviceError``.
        """
        view.check_writable()
        inode = self._file(view, ino)
        if offset < 0:
            raise InvalidArgument("a negative offset")
        if content:
            if view.hides_set_id:
                setting.lose_privileges(inode)
            account = self.volume.account
            before = account.changes
            try:
                writing.write(inode, offset, content)
            except Interrupt:
                account.interrupted(before)
                raise
            inode.size = max(inode.size, offset + len(content))
            if stamp:
                inode.mtime = inode.ctime = self.now()
            if kill_setid:
                setting.clear_set_id(inode, in_group=in_group)
            if view.id == BASE_VIEW:
                block_size = self.volume.geometry.block_size
                index = offset // block_size
                account.tell(
                    before, ino, index, (offset + len(content) - 1) // block_size - index + 1
                )
        return len(content)

    def readlink(self, view: View, ino: int) -> bytes:
        """The target of a symbolic link."""
        inode = view.inode(ino)
        if not stat.S_ISLNK(inode.mode):
            raise InvalidArgument("it is not a symbolic link")
        return reading.target(inode)

    def touch_atime(self, view: View, ino: int) -> None:
        """Renew an access time as relatime does; in snapshots times stand still."""
        if self.atime != "relatime" or view.id != BASE_VIEW or view.volume.read_only:
            return
        inode = view.inode(ino)
        if (
            inode.atime <= inode.mtime
            or inode.atime <= inode.ctime
            or self.about_now() - inode.atime >= ATIME_INTERVAL
        ):
            setting.renew_atime(inode, self.now())

    # The kernel's knowledge

    def hold(self, view: View, ino: int) -> None:
        """The kernel knows this inode now: it outlives its last name."""
        view.known.add(ino)

    def forget(self, view: View, ino: int) -> None:
        """The kernel no longer knows it."""
        view.known.discard(ino)
        self.orphans.forgotten(view, ino)

    # The whole

    def statfs(self) -> Statfs:
        """The sizes of the volume; see ``sizes``."""
        return sizes.statfs(self)

    @property
    def has_work(self) -> bool:
        """Is there background work?"""
        return self.orphans.pending or self.deletion.pending

    def work(self) -> bool:
        """One bounded step of background work; True while there is more. May raise ``NotCached``,
        ``CommitNeeded``.
        """
        if self.volume.read_only:
            return False
        if self.orphans.pending:
            self.orphans.work()
        else:
            self.deletion.work()
        return self.has_work

    # Commit: ``store.commit.volume.Contents``

    @property
    def dirty(self) -> bool:
        """Is there anything to seal?"""
        return any(view.is_dirty for view in self.views.values())

    def dirty_views(self) -> list[int]:
        """Snapshot views that ``seal`` gives a new root."""
        return [view.id for view in self.views.values() if view.id and view.is_dirty]

    def logged_changes(self, limit: int) -> list[FileChange] | None:
        """See ``Contents.logged_changes``."""
        return logged.changes(self.base, self.volume.account.files, limit)

    def plan_seal(self) -> int:
        """See ``Contents.plan_seal``."""
        total = 0
        for view in list(self.views.values()):
            if view.is_dirty or view.orphans - view.listed_orphans:
                self.orphans.plan_seal(view)
                total += view.plan_seal()
        return total

    def seal(self, sealing: Sealing) -> None:
        """See ``Contents.seal``."""
        now = self.now()
        for view in self.views.values():
            if not view.is_dirty:
                continue
            view.seal(sealing)
            if view.instance is not None:
                view.instance.root = view.root
                view.instance.written(now)
                self.volume.instances.dirty.add(view.id)
            else:
                self.volume.base_root = view.root
            self.orphans.sealed(view)
