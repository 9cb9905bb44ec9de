"""Snapshots: creating, naming, finding, deleting and going back to them. The rules of who holds a block are in ``store.owners``."""

from snapfs.snapshots.deleting import SetDeletion, delete_set, plan_set
from snapfs.snapshots.diff import Diff, Difference, Shown
from snapfs.snapshots.lifecycle import abandon, change_facts, check_not_held, create, delete, facts_after, rename
from snapfs.snapshots.naming import all, ancestry, check_name, default_name, find, get, view_inode, visible  # noqa: A004 - reads as snapshots.all
from snapfs.snapshots.restore import RestoreResult, restore
from snapfs.snapshots.rights import Permit, anyone, check_permitted, covered, may_look, owner_or_root
from snapfs.snapshots.sides import State
from snapfs.snapshots.space import frees
from snapfs.snapshots.targets import Designated, Target, part_at
from snapfs.snapshots.versions import Deleted, Lost, Seen, Version, Versions
from snapfs.store.facts import NO_FACTS, Facts, Hold
from snapfs.store.instances import Instance
from snapfs.store.parts import Part

__all__ = [
    "NO_FACTS",
    "Deleted",
    "Designated",
    "Diff",
    "Difference",
    "Facts",
    "Hold",
    "Instance",
    "Lost",
    "Part",
    "Permit",
    "RestoreResult",
    "Seen",
    "SetDeletion",
    "Shown",
    "State",
    "Target",
    "Version",
    "Versions",
    "abandon",
    "all",
    "ancestry",
    "anyone",
    "change_facts",
    "check_name",
    "check_not_held",
    "check_permitted",
    "covered",
    "create",
    "default_name",
    "delete",
    "delete_set",
    "facts_after",
    "find",
    "frees",
    "get",
    "may_look",
    "owner_or_root",
    "part_at",
    "plan_set",
    "rename",
    "restore",
    "view_inode",
    "visible",
]
