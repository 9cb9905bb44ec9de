"""Snapshots: creating, naming, finding, deleting and going back to them. The rules of who holds a block are in ``store.owners``."""

from snapfs.snapshots.lifecycle import abandon, create, delete, rename
from snapfs.snapshots.naming import all, check_name, default_name, find, get, view_inode, visible  # noqa: A004 - reads as snapshots.all
from snapfs.snapshots.restore import RestoreResult, restore
from snapfs.store.instances import Instance

__all__ = [
    "Instance",
    "RestoreResult",
    "abandon",
    "all",
    "check_name",
    "create",
    "default_name",
    "delete",
    "find",
    "get",
    "rename",
    "restore",
    "view_inode",
    "visible",
]
