"""Requests about names: looking up, making, linking, renaming and removing, in directories and in
``.snap``.

Every reply that gives the kernel an inode counts as a lookup, and is counted in the synchronous
stretch in which the core gave it.
"""

# ruff: noqa: ARG002 - the arguments of handlers are pyfuse3's

from __future__ import annotations

import stat
from typing import Final

import pyfuse3

from snapfs.errors import CrossView, Exists, InvalidArgument, NotFound, NotPermitted
from snapfs.filesystem import Inode
from snapfs.fuse.kernel.known import DirectoryName
from snapfs.fuse.protocol.numbers import KERNEL_ROOT
from snapfs.fuse.requests.handles import HandleRequests
from snapfs.fuse.requests.handling import handler

#: Flags of rename that are understood: RENAME_NOREPLACE and RENAME_EXCHANGE.
RENAME_FLAGS: Final = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE


class NameRequests(HandleRequests):
    """See the module."""

    @handler
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Find a name. One that is missing may be believed to be so until something of that name is
        made.
        """
        if name in (b".", b".."):
            return await self.relative(parent_inode, name, ctx)
        if self.numbers.is_snapdir(parent_inode):
            return await self.snapshot_lookup(parent_inode, name, ctx)
        if name == self.snapdir_name:
            return await self.enter_snapdir(parent_inode)
        if parent_inode == KERNEL_ROOT and name in self.kernel.aliases:
            return await self._by_number(self.kernel.node_of_alias(name, ctx.pid))
        try:
            inode = await self.at(self.fs.lookup, parent_inode, name)
        except NotFound:
            return self.attributes.missing
        return self.learned(parent_inode, name, inode)

    async def _by_number(self, node: int) -> pyfuse3.EntryAttributes:
        """An inode under a name that only the daemon knows, see ``flushing``."""
        inode = await self.at(self.fs.inode, node)
        self.known.add(node)
        return self.attributes.entry(node, inode, valid=0)

    # --- making ---

    def _makeable(self, name: bytes) -> None:
        if name == self.snapdir_name:
            raise Exists(f"{self.options.snapdir} is in every directory already")

    async def _make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        ctx: pyfuse3.RequestContext,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> pyfuse3.EntryAttributes:
        self._makeable(name)
        inode = await self.change_at(
            self.fs.make, parent, name, mode, ctx.uid, ctx.gid, rdev=rdev, target=target
        )
        return self.learned(parent, name, inode)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a file, a pipe, a socket or a device."""
        return await self._make(parent_inode, name, mode, ctx, rdev=rdev)

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a directory; in ``.snap``, a snapshot."""
        if self.numbers.is_snapdir(parent_inode):
            return await self.snapshot_make(parent_inode, name, ctx)
        return await self._make(parent_inode, name, mode, ctx)

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Make a symbolic link."""
        return await self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Make a regular file and open it."""
        entry = await self._make(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return pyfuse3.FileInfo(fh=self.known.opened(entry.st_ino, flags), keep_cache=True), entry

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Give an inode one more name, in its own view."""
        self._makeable(new_name)
        found = await self.edge.change(self._link, inode, new_parent_inode, new_name)
        return self.learned(new_parent_inode, new_name, found)

    def _link(self, node: int, new_parent: int, new_name: bytes) -> Inode:
        view, ino = self.place(node)
        other, parent = self.place(new_parent)
        if view.id != other.id:
            raise CrossView("a file cannot have names in two views")
        return self.fs.link(view, ino, parent, new_name)

    # --- removing and renaming ---

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove a name of anything but a directory."""
        inode = await self.change_at(self.fs.unlink, parent_inode, name)
        self.unlinked(self.numbers.split(parent_inode)[0], inode, parent_inode, name)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove an empty directory; in ``.snap``, a snapshot."""
        if self.numbers.is_snapdir(parent_inode):
            await self.snapshot_delete(parent_inode, name, ctx)
            return
        if name == self.snapdir_name:
            raise NotPermitted(f"{self.options.snapdir} is in every directory")
        inode = await self.change_at(self.fs.rmdir, parent_inode, name)
        self.unlinked(self.numbers.split(parent_inode)[0], inode, parent_inode, name)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Rename, exchange, or rename a snapshot."""
        if flags & ~RENAME_FLAGS:
            raise InvalidArgument("unknown flags of rename")
        if self.numbers.is_snapdir(parent_inode_old) or self.numbers.is_snapdir(parent_inode_new):
            if parent_inode_old != parent_inode_new or flags & pyfuse3.RENAME_EXCHANGE:
                raise NotPermitted("a snapshot stays in the directory that it is of")
            await self.snapshot_rename(parent_inode_old, name_old, name_new, ctx)
            return
        if self.snapdir_name in (name_old, name_new):
            raise NotPermitted(f"{self.options.snapdir} is in every directory")
        await self.edge.change(
            self.rename_now, parent_inode_old, name_old, parent_inode_new, name_new, flags
        )
        await self.kernel.passage_changed(parent_inode_new)

    def rename_now(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
    ) -> None:
        """Rename within one view, or exchange, and remember it. A core call:
        see ``Edge.change``.
        """
        moved, other = self._rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)
        if other is None and moved.nlink > 1 and self._is_there(parent_inode_old, name_old):
            return  # both are names of the same file: nothing has happened
        view_id, _ = self.numbers.split(parent_inode_new)
        self._moved(view_id, moved, (parent_inode_old, name_old), (parent_inode_new, name_new))
        if other is not None and flags & pyfuse3.RENAME_EXCHANGE:
            self._moved(view_id, other, (parent_inode_new, name_new), (parent_inode_old, name_old))
        elif other is not None:
            self.unlinked(view_id, other, parent_inode_new, name_new)

    def _rename(
        self, old: int, name_old: bytes, new: int, name_new: bytes, flags: int
    ) -> tuple[Inode, Inode | None]:
        view, parent_old = self.place(old)
        other, parent_new = self.place(new)
        if view.id != other.id:
            raise CrossView("a file cannot be moved from one view to another")
        return self.fs.rename(view, parent_old, name_old, parent_new, name_new, flags)

    def _is_there(self, parent: int, name: bytes) -> bool:
        view, ino = self.place(parent)
        try:
            self.fs.lookup(view, ino, name)
        except NotFound:
            return False
        return True

    def _moved(self, view_id: int, inode: Inode, old: DirectoryName, new: DirectoryName) -> None:
        node = self.numbers.node(view_id, inode.ino)
        if node in self.known:
            self.known.unname(node, *old)
            self.known.name(node, inode.mode, *new)

    # --- symbolic links ---

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Where a symbolic link leads."""
        target = await self.at(self.fs.readlink, inode)
        await self.accessed(inode)
        return target
