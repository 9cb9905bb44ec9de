"""Requests about attributes: reading and changing them, extended attributes, and the filesystem's
own figures.

Permissions are the kernel's business (``default_permissions``, with ACLs); who may set which
attribute was decided before a request arrives here.
"""

# ruff: noqa: ARG002 - the arguments of handlers are pyfuse3's

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from typing import Final

import pyfuse3

from snapfs.errors import NoAttribute, NotPermitted
from snapfs.filesystem import (
    Changes,
    Inode,
    View,
    acl,
    designation,
    xattrs,
)
from snapfs.fuse.requests import facts
from snapfs.fuse.requests.handling import handler
from snapfs.fuse.requests.set_id import (
    groups_of,
    is_capable,
    keeps_set_id,
    loses,
)
from snapfs.fuse.requests.snapdir import SnapdirRequests
from snapfs.ids import NAME_MAX

#: Names that only root may know of, as in every filesystem of the kernel's.
_TRUSTED: Final = b"trusted."


class AttributeRequests(SnapdirRequests):
    """See the module."""

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Attributes of an inode."""
        if self.numbers.is_snapdir(inode):
            return await self.snapdir_attributes(inode)
        return self.attributes.entry(inode, await self.at(self.fs.inode, inode))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Change attributes. With its writeback cache the kernel keeps the times of writes itself
        and sends them by this.
        """
        if self.kernel.is_own_change(inode, ctx.pid):
            entry = self.attributes.entry(inode, await self.at(self.fs.inode, inode))
            self.kernel.shortage.check_own_change(inode)  # in the stretch that ends with the reply
            return entry
        changes = Changes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
        )
        changed = await self._set(inode, changes, ctx)
        entry = self.attributes.entry(inode, changed)
        if inode in self.kernel.shortage.files:
            self.kernel.shortage.told(inode)
        # The reply is made already; what happens meanwhile has its own.
        if stat.S_ISDIR(changed.mode) and (fields.update_uid or fields.update_gid):
            await self.kernel.owner_changed(inode)
        if stat.S_ISDIR(changed.mode) and (
            fields.update_mode or fields.update_uid or fields.update_gid
        ):
            await self.kernel.passage_changed(inode)
        return entry

    async def _set(self, node: int, changes: Changes, ctx: pyfuse3.RequestContext) -> Inode:
        if changes == Changes(ctime=changes.ctime):
            return await self._set_nothing(node, changes.ctime, ctx)
        in_group = True
        if (
            changes.uid is not None or changes.gid is not None
        ):  # which takes set-id bits from whoever's file
            in_group = await self.keeps_group(node, ctx)
        elif changes.size is not None and not (told := keeps_set_id(ctx)):
            in_group = await self.keeps_group(node, ctx, told=told)
        stamp = not self.options.writeback
        return await self.change_at(
            self.fs.set_attributes,
            node,
            changes,
            privileged=keeps_set_id(ctx),
            in_group=in_group,
            stamp=stamp,
        )

    async def _set_nothing(
        self, node: int, ctime: int | None, ctx: pyfuse3.RequestContext
    ) -> Inode:
        """Take set-id bits away: for a ``chown`` to the same, and before a
        write. See ``set_id``.
        """
        inode = await self.at(self.fs.inode, node)
        in_group = await self.keeps_group(node, ctx)
        # What comes without a time may be about to write to a file: maybe the bits stay, as its
        # capabilities alone go. The write will tell.
        is_write = ctime is None and stat.S_ISREG(inode.mode)
        if is_write and is_capable(ctx):
            return inode
        if loses(inode, in_group=in_group) and ctx.uid not in (
            0,
            self.attributes.permissions(inode)[1],
        ):
            if is_write:
                return inode
            raise NotPermitted(
                "only the owner of a file changes its owner"
            )  # the kernel leaves it to us to say so
        return await self.change_at(self.fs.drop_set_id, node, ctime, in_group=in_group)

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Size and free space."""
        found = await self.edge.call(self.fs.statfs)
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = found.block_size
        answer.f_blocks = found.blocks
        answer.f_bfree = found.free
        answer.f_bavail = found.available
        answer.f_files = found.files
        answer.f_ffree = answer.f_favail = found.files_free
        answer.f_namemax = NAME_MAX
        return answer

    # --- extended attributes ---

    def _with_xattrs(self) -> None:
        """Ends the request for good where the mount has none: the kernel then asks no more."""
        if not self.options.xattr:
            raise pyfuse3.FUSEError(errno.ENOSYS)

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """One value."""
        self._with_xattrs()
        if self.numbers.is_snapdir(inode):
            raise NoAttribute("a directory without attributes")
        if facts.is_answered(name):
            return await self.at(self._fact, inode, name)
        if name == xattrs.CAPABILITY and await self.at(self._hides_set_id, inode):
            raise NoAttribute("snapshots do not show capabilities")
        return await self.at(
            self.fs.xattr_get,
            inode,
            name,
            known_as=self._known_as(inode) if name == designation.NAME else (),
        )

    def _hides_set_id(self, view: View, _: int) -> bool:
        return self.attributes.hides_set_id(view)

    def _known_as(self, node: int) -> list[tuple[int, bytes]]:
        """Directories and names by which the kernel has met a file; it may have lost them since."""
        return [(self.numbers.split(parent)[1], name) for parent, name in self.known.names(node)]

    def _fact(self, view: View, ino: int, name: bytes) -> bytes:
        inode = self.fs.inode(view, ino)
        if view.instance is not None and name == facts.MODE:
            return b"%04o" % stat.S_IMODE(inode.mode)
        if view.instance is None or not inode.is_directory:
            raise NoAttribute("not a directory in a snapshot")
        value = facts.answer(view.instance, name)
        if value is None:
            raise NoAttribute("nothing is said about that")
        return value

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """Their names."""
        self._with_xattrs()
        if self.numbers.is_snapdir(inode):
            return []
        names = await self.at(self._names, inode)
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(_TRUSTED)]

    def _names(self, view: View, ino: int) -> list[bytes]:
        return [
            name
            for name in self.fs.xattr_list(view, ino)
            if name != xattrs.CAPABILITY or not self.attributes.hides_set_id(view)
        ]

    @handler
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Set one. pyfuse3 has looked whether it must or must not exist."""
        self._with_xattrs()
        facts.check_settable(name)
        groups = None if name != acl.ACCESS or is_capable(ctx) else groups_of(ctx)
        await self.change_at(self.fs.xattr_set, inode, name, value, groups=groups)
        if name == acl.ACCESS:
            await self.kernel.passage_changed(inode)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Remove one."""
        self._with_xattrs()
        await self.change_at(self.fs.xattr_remove, inode, name)
        if name == acl.ACCESS:
            await self.kernel.passage_changed(inode)
