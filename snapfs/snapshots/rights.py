"""Who may make, rename, delete, restore and compare snapshots: the owner of the directory that they cover, and root."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from snapfs.errors import NotPermitted, StaleInode

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode
    from snapfs.store.instances import Instance

#: Called with the directory that a snapshot covers, in the synchronous stretch of the change. Raises ``NotPermitted``.
Permit = Callable[["Inode"], None]


def anyone(_directory: Inode) -> None:
    """For callers that have decided otherwise who may."""


def owner_or_root(uid: int, shown_owner: int | None = None) -> Permit:
    """Lets the user ``uid`` change snapshots of what belongs to that user; ``shown_owner`` is a mount's ``uid=``, which replaces owners."""

    def permit(directory: Inode) -> None:
        owner = directory.uid if shown_owner is None else shown_owner
        if uid not in (0, owner):
            raise NotPermitted(f"only root and the owner of the directory that a snapshot covers (user {owner}) may make or change it")

    return permit


def may_look(uid: int, shown_owner: int | None = None) -> Permit:
    """The same for comparing states of a directory: that tells of what only some may read in it."""

    def permit(directory: Inode) -> None:
        owner = directory.uid if shown_owner is None else shown_owner
        if uid not in (0, owner):
            raise NotPermitted(f"only root and the owner of the directory (user {owner}) may compare its states")

    return permit


def covered(fs: Filesystem, instance: Instance) -> Inode:
    """The directory that a snapshot is of, as it is now; as it was then, if it is no more. May raise ``NotCached``."""
    then = fs.view(instance.id).inode(instance.directory)
    try:
        now = fs.view(instance.origin).inode(instance.directory)
    except StaleInode:
        return then
    return now if now.is_directory and now.nlink and now.generation == then.generation else then
