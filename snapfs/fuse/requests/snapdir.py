"""``.snap``: a directory in every directory that is on no volume, in which snapshots are made,
renamed, deleted and entered.

As CephFS has it. Its entries are the snapshots that cover the directory; each leads to that
directory in the snapshot's view. Snapshots also come and go by the control socket, and through the
``.snap`` of other directories: names that are missing are never believed to be so, and which ones
the kernel was shown is remembered, to take them back.
"""

from __future__ import annotations

import stat

import pyfuse3

from snapfs import snapshots
from snapfs.errors import (
    BadName,
    NotDirectory,
    NotPermitted,
)
from snapfs.filesystem import Inode, View
from snapfs.fuse.requests.handling import Requests
from snapfs.fuse.requests.listing import FIRST_COOKIE, Row
from snapfs.interrupts import NotCached, Want
from snapfs.snapshots import Instance, Permit


class SnapdirRequests(Requests):
    """What the handlers of names do when the directory is a ``.snap``; ``node`` is its number."""

    async def enter_snapdir(self, parent: int) -> pyfuse3.EntryAttributes:
        """The ``.snap`` of a directory."""
        inode = await self.at(self._directory, parent)
        node = self.numbers.snapdir(parent)
        self.known.add(node)
        return self.attributes.snapdir(node, inode)

    async def snapdir_attributes(self, node: int) -> pyfuse3.EntryAttributes:
        """Its attributes."""
        return self.attributes.snapdir(
            node, await self.at(self.fs.inode, self.numbers.covered(node))
        )

    async def snapshot_lookup(
        self, node: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A snapshot by name."""
        return await self._enter(node, name, ctx)

    async def _enter(
        self, node: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """What a snapshot leads to. Raises ``AccessDenied`` for a caller who may not get there."""
        return self._entered(
            node, name, *await self.edge.call(self._find_for, self.numbers.covered(node), name, ctx)
        )

    def _entered(
        self, node: int, name: bytes, instance: Instance, inode: Inode, valid: float
    ) -> pyfuse3.EntryAttributes:
        target = self.numbers.node(instance.id, inode.ino)
        self.known.add(target)
        self.known.show(instance.id, node, name)
        return self.attributes.entry(target, inode, valid=valid)

    async def snapshot_make(
        self, node: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """mkdir: a snapshot that covers the directory."""
        covered = self.numbers.covered(node)
        text = _text(name)
        view_id, ino = self.numbers.split(covered)
        # Requests are served meanwhile; the kernel keeps this ``.snap`` locked, and nothing else.
        made = await self.edge.create_snapshot(
            text, origin=view_id, targets=[ino], owner=ctx.uid, permit=self._permit(ctx)
        )
        return self._entered(
            node, name, *await self.edge.call(self._shown, covered, made)
        )  # whatever has its name by now

    async def snapshot_delete(self, node: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """rmdir: where the snapshot was made, by those who may."""
        instance = await self._made_here(node, name)
        await self.edge.delete_snapshot(
            instance, asked_by=node, permit=self._permit(ctx)
        )  # as for mkdir

    async def snapshot_rename(
        self, node: int, name: bytes, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Rename within one ``.snap``."""
        text = _text(new_name)
        instance = await self._made_here(node, name)
        if text != instance.name:
            await self.edge.rename_snapshot(
                instance, text, asked_by=node, permit=self._permit(ctx)
            )  # as for mkdir
            self.known.show(instance.id, node, new_name)

    async def snapshot_rows(self, node: int, after: int) -> list[Row]:
        """What a listing shows after a cookie. Cookies are instance ids: a listing goes on rightly
        while snapshots are deleted.
        """
        covered = self.numbers.covered(node)
        return await self.edge.call(self._snapshots, covered, after)

    # --- core calls ---

    def _snapshots(self, covered: int, after: int) -> list[Row]:
        view, ino = self.place(covered)
        rows: list[Row] = []
        wants: list[Want] = []
        for instance in sorted(snapshots.visible(self.fs, view, ino), key=lambda each: each.id):
            if FIRST_COOKIE + instance.id <= after:
                continue
            try:
                inode = snapshots.view_inode(self.fs, instance, ino)
                valid = self.passage.valid(instance, inode)
            except NotCached as exc:  # all that is missing is fetched at once
                wants += exc.wants
                continue
            target = self.numbers.node(instance.id, inode.ino)
            rows.append(
                Row(instance.name.encode(), target, inode, FIRST_COOKIE + instance.id, valid)
            )
        if wants:
            raise NotCached(wants)
        return rows

    def _find(self, covered: int, name: bytes) -> tuple[Instance, Inode]:
        view, ino = self.place(covered)
        instance = snapshots.find(self.fs, view, ino, name)
        return instance, snapshots.view_inode(self.fs, instance, ino)

    def _find_for(
        self, covered: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> tuple[Instance, Inode, float]:
        instance, inode = self._find(covered, name)
        self.passage.check(instance, inode, ctx)
        return instance, inode, self.passage.valid(instance, inode)

    def _shown(self, covered: int, which: Instance) -> tuple[Instance, Inode, float]:
        """The same of one that was found before a wait. Raises
        ``NoSuchSnapshot`` when it is gone.
        """
        instance = snapshots.get(self.fs, which)
        inode = snapshots.view_inode(self.fs, instance, self.numbers.split(covered)[1])
        return instance, inode, self.passage.valid(instance, inode)

    def _directory(self, view: View, ino: int) -> Inode:
        inode = self.fs.inode(view, ino)
        if not stat.S_ISDIR(inode.mode):
            raise NotDirectory("only directories have snapshots")
        return inode

    def _permit(self, ctx: pyfuse3.RequestContext) -> Permit:
        return snapshots.owner_or_root(ctx.uid, self.options.uid)

    async def _made_here(self, node: int, name: bytes) -> Instance:
        """The snapshot, if it was made in the ``.snap`` ``node``. Raises ``NotPermitted``."""
        covered = self.numbers.covered(node)
        view_id, ino = self.numbers.split(covered)
        instance, _ = await self.edge.call(self._find, covered, name)
        if instance.origin != view_id or ino not in instance.tops:
            raise NotPermitted(
                f"this snapshot was made in another directory ({instance.path}), where "
                "it can be changed"
            )
        return instance


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as exc:
        raise BadName("names of snapshots are UTF-8") from exc
