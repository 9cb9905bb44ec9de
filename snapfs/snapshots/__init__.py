"""Snapshots: creating, naming, finding, deleting and going back to them. The rules of who holds a
block are in ``store.owners``.
"""

from snapfs.snapshots.deleting import SetDeletion, delete_set, plan_set
from snapfs.snapshots.diff import Diff
from snapfs.snapshots.differing import Difference, Shown
from snapfs.snapshots.going_back import (
    cancel,
    in_words,
    last_in_words,
    restore,
    restore_scheduled,
    schedule,
    scheduled_snapshot,
)
from snapfs.snapshots.lifecycle import (
    abandon,
    change_facts,
    check_not_held,
    create,
    delete,
    facts_after,
    rename,
)
from snapfs.snapshots.naming import (
    all,  # noqa: A004 - reads as snapshots.all
    ancestry,
    check_name,
    default_name,
    find,
    free_name,
    get,
    is_cut_off,
    view_inode,
    visible,
)
from snapfs.snapshots.purge import Found, Place, check_paths, find_places, portions, take_out
from snapfs.snapshots.purge_space import Had, PurgeSpace
from snapfs.snapshots.restore import RestoreResult
from snapfs.snapshots.restore import give_up as give_up_restore
from snapfs.snapshots.restore_plan import RestorePlan
from snapfs.snapshots.restore_plan import check as check_restore
from snapfs.snapshots.rights import (
    Permit,
    anyone,
    check_permitted,
    covered,
    may_look,
    owner_or_root,
)
from snapfs.snapshots.shares import is_privileged
from snapfs.snapshots.sides import State
from snapfs.snapshots.space import frees
from snapfs.snapshots.staying import stays
from snapfs.snapshots.targets import Designated, Target, part_at
from snapfs.snapshots.versions import Deleted, Lost, Seen, Version, Versions
from snapfs.store.facts import NO_FACTS, Facts, Hold
from snapfs.store.instances import Instance
from snapfs.store.parts import Part
from snapfs.store.restores import Restored, Scheduled

__all__ = [
    "NO_FACTS",
    "Deleted",
    "Designated",
    "Diff",
    "Difference",
    "Facts",
    "Found",
    "Had",
    "Hold",
    "Instance",
    "Lost",
    "Part",
    "Permit",
    "Place",
    "PurgeSpace",
    "RestorePlan",
    "RestoreResult",
    "Restored",
    "Scheduled",
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
    "cancel",
    "change_facts",
    "check_name",
    "check_not_held",
    "check_paths",
    "check_permitted",
    "check_restore",
    "covered",
    "create",
    "default_name",
    "delete",
    "delete_set",
    "facts_after",
    "find",
    "find_places",
    "free_name",
    "frees",
    "get",
    "give_up_restore",
    "in_words",
    "is_cut_off",
    "is_privileged",
    "last_in_words",
    "may_look",
    "owner_or_root",
    "part_at",
    "plan_set",
    "portions",
    "rename",
    "restore",
    "restore_scheduled",
    "schedule",
    "scheduled_snapshot",
    "stays",
    "take_out",
    "view_inode",
    "visible",
]
