"""Who may make, rename, delete, restore and compare snapshots: who owns all that they cover, and
root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from snapfs.errors import NotPermitted, StaleInode
from snapfs.snapshots.targets import subjects

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem, Inode, View
    from snapfs.store.tables.instances import Instance

#: Called with each directory or file that a snapshot covers, in the synchronous stretch of the
#: change. Raises ``NotPermitted``.
Permit = Callable[["Inode"], None]


def anyone(_directory: Inode) -> None:
    """For callers that have decided otherwise who may."""


def owner_or_root(uid: int, shown_owner: int | None = None) -> Permit:
    """Lets the user ``uid`` change snapshots of what belongs to that user; ``shown_owner`` is a
    mount's ``uid=``, which replaces owners.
    """

    def permit(directory: Inode) -> None:
        owner = directory.uid if shown_owner is None else shown_owner
        if uid not in (0, owner):
            raise NotPermitted(
                f"only root and the owner of what a snapshot covers (user {owner}) may "
                "make or change it"
            )

    return permit


def may_look(uid: int, shown_owner: int | None = None) -> Permit:
    """The same for comparing states of a directory: that tells of what only some may read in it."""

    def permit(directory: Inode) -> None:
        owner = directory.uid if shown_owner is None else shown_owner
        if uid not in (0, owner):
            raise NotPermitted(
                f"only root and the owner of the directory (user {owner}) may compare its states"
            )

    return permit


def check_permitted(fs: Filesystem, instance: Instance, permit: Permit) -> None:
    """Raises ``NotPermitted`` unless all that a snapshot covers may be changed by whoever asks. May
    raise ``NotCached``.
    """
    for inode in covered(fs, instance):
        permit(inode)


def covered(fs: Filesystem, instance: Instance) -> list[Inode]:
    """What a snapshot is of, as it is now; as it was then, if it is no more. May raise
    ``NotCached``.

    Where nothing stood, the directory that it would have been in.
    """
    past, present = fs.view(instance.id), fs.view(instance.origin)
    return [_as_it_is(past, present, ino) for ino in subjects(instance.parts)]


def _as_it_is(past: View, present: View, ino: int) -> Inode:
    then = past.inode(ino)
    try:
        now = present.inode(ino)
    except StaleInode:
        return then
    return now if now.nlink and now.generation == then.generation else then
