"""Requests about contents: files and listings, and making them durable.

A file handle is the inode's own number, and whether it may write: the kernel checks how a file was
opened. With its writeback cache it reads through handles that are open for writing only, anyway.
"""

# ruff: noqa: ARG002 - the arguments of handlers are pyfuse3's

from __future__ import annotations

import errno
import logging
import os

import pyfuse3

from snapfs.device.base import Buffer
from snapfs.errors import CorruptData, DeviceFull, Exists, NoSpace, ReadOnly, SnapfsError
from snapfs.filesystem import Changes, ReadPlan, View
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.protocol.numbers import (
    CLIMBER_BIT,
    KERNEL_ROOT,
    WRITER_BIT,
)
from snapfs.fuse.protocol.wire import RequestCaller, Rows
from snapfs.fuse.requests import listing
from snapfs.fuse.requests.handles import HandleRequests
from snapfs.fuse.requests.handling import handler
from snapfs.fuse.requests.listing import Row
from snapfs.fuse.requests.set_id import keeps_set_id

log = logging.getLogger("snapfs.fuse")


class DataRequests(HandleRequests):
    """See the module."""

    # --- files ---

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a file; O_TRUNC comes with it. What the kernel has cached of it stays: nobody else
        changes it.
        """
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if (writing or flags & os.O_TRUNC) and self.fs.volume.read_only_reason is not None:
            # Or the kernel would take writes that nobody can take from it.
            raise ReadOnly(self.fs.volume.read_only_reason)
        if flags & os.O_TRUNC:
            told = keeps_set_id(ctx)
            in_group = told or await self.keeps_group(inode, ctx, told=told)
            if await self.change_at(self._empty, inode, privileged=told, in_group=in_group):
                await self.kernel.mode_changed(inode)
        else:
            await self.at(self._check_open, inode, writing)
        if writing:
            await self.kernel.opening(inode)
        return pyfuse3.FileInfo(fh=self.known.opened(inode, flags), keep_cache=True)

    def _empty(self, view: View, ino: int, *, privileged: bool, in_group: bool) -> bool:
        """Whether that took bits of the mode away: the reply does not tell."""
        before = self.fs.inode(view, ino).mode
        return (
            self.fs.set_attributes(
                view, ino, Changes(size=0), privileged=privileged, in_group=in_group
            ).mode
            != before
        )

    def _check_open(self, view: View, ino: int, writing: bool) -> None:
        self.fs.inode(view, ino)
        if writing and not view.writable:
            view.check_writable()

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read. Metadata is planned with in one stretch; data comes from the host's memory at once,
        or by a thread.
        """
        node = fh & ~WRITER_BIT
        plan = await self.at(self.fs.plan_read, node, off, size)
        try:
            data = plan.assemble(await self._fetched(plan))
        except CorruptData:
            # While a thread read, the file may have been changed and its old blocks been used
            # again. This time nothing can happen.
            plan = await self.at(self.fs.plan_read, node, off, size)
            device = self.fs.volume.device
            data = plan.assemble([device.read(*run) for run in plan.runs])
        await self.accessed(node)
        return data

    async def _fetched(self, plan: ReadPlan) -> list[Buffer]:
        """The bytes of a plan's runs."""
        device = self.fs.volume.device
        parts: list[Buffer | None] = [device.read_nowait(*run) for run in plan.runs]
        missing = [index for index, part in enumerate(parts) if part is None]
        if missing:
            # Anything may happen meanwhile: what was read is compared with the checksums of the
            # plan.
            read = await in_thread(
                Pool.READS, lambda: [device.read(*plan.runs[index]) for index in missing]
            )
            for index, part in zip(missing, read, strict=True):
                parts[index] = part
        return [part for part in parts if part is not None]

    @handler
    async def write(
        self, fh: int, off: int, buf: bytes | memoryview, *, deprived: RequestCaller | None = None
    ) -> int:
        """Write all of it; on a full volume, as much as fits. With its writeback cache the kernel
        takes no less than all.

        ``deprived`` is who writes if the file loses set-id bits by that.
        """
        try:
            return await self._write_some(fh, off, buf, deprived=deprived)
        except SnapfsError as exc:
            self.kernel.lost(fh & ~WRITER_BIT, exc)
            if isinstance(exc, (DeviceFull, NoSpace)):
                await self.kernel.shortage.lost(fh & ~WRITER_BIT, exc)
            raise

    async def _write_some(
        self, fh: int, off: int, buf: bytes | memoryview, *, deprived: RequestCaller | None
    ) -> int:
        try:
            return await self._write(fh & ~WRITER_BIT, off, buf, deprived=deprived)
        except NoSpace:
            done = await self._write_what_fits(fh & ~WRITER_BIT, off, buf, deprived=deprived)
            if self.options.writeback or not done:
                raise
            return done
        except ReadOnly:
            if (
                not self.fs.volume.read_only
            ):  # the snapshot has become read-only while the file was open
                await self._refused(fh & ~WRITER_BIT, off + len(buf))
            raise

    async def _write(
        self, node: int, off: int, buf: bytes | memoryview, *, deprived: RequestCaller | None
    ) -> int:
        # With its writeback cache the kernel stamped the file when it was written, says so by
        # setattr, and may have done that already.
        in_group = deprived is None or await self.keeps_group(node, deprived, told=False)
        done, changed_mode = await self.change_at(
            self._write_now, node, off, buf, kills_set_id=deprived is not None, in_group=in_group
        )
        if changed_mode:
            # The reply does not tell: the kernel would go on believing the old mode, and run the
            # file as somebody else's.
            await self.kernel.mode_changed(node)
        return done

    def _write_now(
        self,
        view: View,
        ino: int,
        off: int,
        buf: bytes | memoryview,
        *,
        kills_set_id: bool,
        in_group: bool,
    ) -> tuple[int, bool]:
        before = self.fs.inode(view, ino).mode
        done = self.fs.write(
            view,
            ino,
            off,
            buf,
            kill_setid=kills_set_id,
            in_group=in_group,
            stamp=not self.options.writeback,
        )
        return done, self.fs.inode(view, ino).mode != before

    async def _refused(self, node: int, end: int) -> None:
        """With its writeback cache the kernel may have taken the write, and shown it, already."""
        inode = await self.at(self.fs.inode, node)
        if end > inode.size:
            self.known.replace(node)  # it would keep the size that it has
        self.kernel.refused(node)

    async def _write_what_fits(
        self, node: int, off: int, buf: bytes | memoryview, *, deprived: RequestCaller | None
    ) -> int:
        """Write ever smaller pieces until not one more block fits; how many bytes did."""
        done, size = 0, len(buf) // 2
        while size >= self.fs.volume.geometry.block_size:
            try:
                done += await self._write(
                    node, off + done, buf[done : done + size], deprived=deprived
                )
            except NoSpace:
                size //= 2
            else:
                size = min(size, len(buf) - done)
        return done

    @handler
    async def flush(self, fh: int) -> None:
        """A file is closed somewhere. Nothing follows from that, and after this answer the kernel
        no longer says it.
        """
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @handler
    async def release(self, fh: int) -> None:
        """A handle's last user has gone."""
        self.known.closed(fh)
        if fh & ~WRITER_BIT in self.kernel.shortage.files:
            self.kernel.shortage.released(fh & ~WRITER_BIT)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make everything durable. The kernel has sent what it held of this file."""
        await self.edge.sync()

    # --- directories ---

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory."""
        await self.at(self.fs.inode, self.numbers.covered(inode))
        return inode | CLIMBER_BIT if self.climbs(ctx.pid, inode) else inode

    @handler
    async def readdir(self, fh: int, start_id: int, token: Rows | pyfuse3.ReaddirToken) -> None:
        """Fill one reply with entries. The kernel looks each of them up by it."""
        # Not in every directory: whoever copies or removes one with all that is in it would go on
        # into the snapshots.
        shows_snapdir = (self.options.snapshow and fh == KERNEL_ROOT) or bool(fh & CLIMBER_BIT)
        if await self._fill(fh & ~CLIMBER_BIT, start_id, token, shows_snapdir=shows_snapdir):
            await self._tell_hidden(fh & ~CLIMBER_BIT)

    async def _fill(
        self, fh: int, after: int, token: Rows | pyfuse3.ReaddirToken, *, shows_snapdir: bool
    ) -> bool:
        """The same; was an entry left out, because its name means the directory of snapshots?"""
        is_snapdir = self.numbers.is_snapdir(fh)
        hides = is_counted = False
        if after < listing.FIRST_COOKIE:
            if not await self._first_rows(fh, after, token, shows_snapdir=shows_snapdir):
                return False
            is_counted = shows_snapdir
            after = listing.FIRST_COOKIE
        while True:
            # Other requests may run meanwhile: cookies stay what they are, and inodes are counted
            # before anything can free them.
            try:
                found = await (
                    self.snapshot_rows(fh, after)
                    if is_snapdir
                    else self.at(self._entries, fh, after)
                )
            except Exception:
                if not is_counted:
                    raise
                # the kernel must get what is counted; it goes on behind that, and fails then
                return hides
            for row in found:
                if row.name == self.snapdir_name and not is_snapdir:
                    hides = True  # one name means one thing, whether it is looked up or listed
                elif not self._reply(token, fh, row, in_snapdir=is_snapdir):
                    return hides
                else:
                    is_counted = True
                after = row.cookie
            if not found or is_snapdir:
                break
        if not is_snapdir and self.options.diratime:
            await self.accessed(fh)
        return hides

    async def _tell_hidden(self, node: int) -> None:
        """Say where something is that this mount does not show."""
        what = await self.trouble.words("readdir", (node,), Exists())
        if what is not None:
            log.warning(
                "%s: an entry named %s is hidden: that is where snapshots are; '-o "
                "snapdir=NAME' shows it",
                what,
                self.options.snapdir,
            )

    def _entries(self, view: View, ino: int, after: int) -> list[Row]:
        return listing.rows(self.fs, self.numbers, view, ino, after)

    async def _first_rows(
        self, fh: int, after: int, token: Rows | pyfuse3.ReaddirToken, *, shows_snapdir: bool
    ) -> bool:
        """``.``, ``..`` and perhaps ``.snap``; False when the reply is full."""
        covered = self.numbers.covered(fh)
        inode = await self.at(self.fs.inode, covered)
        view_id, ino = self.numbers.split(covered)
        parent = covered if fh != covered else self.numbers.node(view_id, inode.parent or ino)
        for name, node, mode, cookie in listing.first_rows(fh, inode.mode, parent, after):
            if not _add(token, name, self.attributes.bare(node, mode), cookie):
                return False
        if fh == covered and shows_snapdir and after < listing.SNAPDIR_COOKIE:
            node = self.numbers.snapdir(covered)
            if not _add(
                token,
                self.snapdir_name,
                self.attributes.snapdir(node, inode),
                listing.SNAPDIR_COOKIE,
            ):
                return False
            self.known.add(node)
        return True

    def _reply(
        self, token: Rows | pyfuse3.ReaddirToken, parent: int, row: Row, *, in_snapdir: bool
    ) -> bool:
        node, inode = row.node, row.inode
        if isinstance(token, Rows):
            added = token.add_packed(
                row.name,
                self.attributes.packed(node, inode, valid=row.valid),
                node,
                inode.mode,
                row.cookie,
            )
        else:
            added = pyfuse3.readdir_reply(
                token, row.name, self.attributes.entry(node, inode, valid=row.valid), row.cookie
            )
        if not added:
            return False
        self.known.add(node)
        if in_snapdir:
            self.known.show(self.numbers.split(node)[0], parent, row.name)
        else:
            self.known.name(node, inode.mode, parent, row.name)
        return True

    @handler
    async def releasedir(self, fh: int) -> None:
        """Handles have no state."""

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """As fsync."""
        await self.edge.sync()


def _add(
    rows: Rows | pyfuse3.ReaddirToken, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int
) -> bool:
    """One more entry; False when there is no room for it."""
    return (
        rows.add(name, entry, cookie)
        if isinstance(rows, Rows)
        else pyfuse3.readdir_reply(rows, name, entry, cookie)
    )
