"""Whether somebody could have come to a directory of a snapshot by its path there.

The ``.snap`` of a directory leads into the middle of a snapshot, past the directories above. Where
these were open to everybody that makes no difference. Where one was closed when the snapshot was
made, it stays closed: only those whom it let in get through, and since the kernel does not ask who
looks at a name that it remembers, it remembers none.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection

import pyfuse3

from snapfs import snapshots
from snapfs.errors import AccessDenied
from snapfs.filesystem import (
    Filesystem,
    Inode,
    acl,
    xattrs,
)
from snapfs.fuse.kernel.pause import VALID
from snapfs.fuse.requests.attributes import Attributes
from snapfs.fuse.requests.set_id import groups_of
from snapfs.snapshots import Instance

#: Search permission for owner, group and others.
_SEARCH = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Passage:
    """Knows what a mount shows of owners and permissions."""

    def __init__(self, fs: Filesystem, shown: Attributes) -> None:
        self._fs = fs
        self._shown = shown

    def valid(self, instance: Instance, directory: Inode) -> float:
        """How many seconds the kernel may believe a name that leads to this directory of a
        snapshot. May raise ``NotCached``.
        """
        return (
            VALID
            if all(self._open_to_all(above) for above in self._above(instance, directory))
            else 0
        )

    def check(self, instance: Instance, directory: Inode, ctx: pyfuse3.RequestContext) -> None:
        """Raises ``AccessDenied`` for somebody whom a directory above kept out."""
        if ctx.uid == 0:
            return
        closed = [
            above for above in self._above(instance, directory) if not self._open_to_all(above)
        ]
        if closed and not self._lets_in(closed, ctx.uid, lambda: groups_of(ctx)):
            raise AccessDenied("a directory above this one was closed when the snapshot was made")

    def _above(self, instance: Instance, directory: Inode) -> list[Inode]:
        view = self._fs.view(instance.id)
        return [view.inode(number) for number in snapshots.ancestry(view, directory)[1:]]

    def _open_to_all(self, directory: Inode) -> bool:
        mode, _, _ = self._shown.permissions(directory)
        return mode & _SEARCH == _SEARCH and acl.ACCESS not in xattrs.load(directory)

    def _lets_in(
        self, directories: list[Inode], uid: int, groups: Callable[[], Collection[int]]
    ) -> bool:
        member_of = groups()
        for directory in directories:
            mode, owner, group = self._shown.permissions(directory)
            value = xattrs.load(directory).get(acl.ACCESS)
            access = acl.Acl.of_mode(mode) if value is None else acl.Acl.decode(value)
            if not access.permits(1, uid, member_of, owner=owner, group=group):
                return False
        return True
