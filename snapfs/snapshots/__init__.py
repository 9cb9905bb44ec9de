"""Snapshots: creating, naming, finding, deleting and going back to them. The rules of who holds a
block are in ``store.trees.owners``.
"""

from snapfs.snapshots.compare.diff import Diff
from snapfs.snapshots.compare.differing import Difference, ShownInode
from snapfs.snapshots.compare.sides import State
from snapfs.snapshots.compare.versions import (
    Deleted,
    Lost,
    Seen,
    Version,
    Versions,
)
from snapfs.snapshots.deleting import SetDeletion, delete_set, plan_set
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
from snapfs.snapshots.purge.space import Had, PurgeSpace
from snapfs.snapshots.purge.taking_out import (
    NameInSnapshot,
    NamesInSnapshot,
    check_paths,
    find_places,
    portions,
    take_out,
)
from snapfs.snapshots.restore.dry_run import RestorePlan
from snapfs.snapshots.restore.dry_run import check as check_restore
from snapfs.snapshots.restore.scheduled import (
    cancel,
    in_words,
    last_in_words,
    restore,
    restore_scheduled,
    schedule,
    scheduled_snapshot,
)
from snapfs.snapshots.restore.staying import stays
from snapfs.snapshots.restore.whole import RestoreResult
from snapfs.snapshots.restore.whole import give_up as give_up_restore
from snapfs.snapshots.rights import (
    Permit,
    anyone,
    check_permitted,
    covered,
    may_look,
    owner_or_root,
)
from snapfs.snapshots.shares import is_privileged
from snapfs.snapshots.space import frees
from snapfs.snapshots.targets import Designated, Target, part_at
from snapfs.store.tables.facts import (
    NO_FACTS,
    Facts,
    Hold,
)
from snapfs.store.tables.instances import Instance
from snapfs.store.tables.parts import Part
from snapfs.store.tables.restores import Restored, Scheduled

__all__ = [
    "NO_FACTS",
    "Deleted",
    "Designated",
    "Diff",
    "Difference",
    "Facts",
    "Had",
    "Hold",
    "Instance",
    "Lost",
    "NameInSnapshot",
    "NamesInSnapshot",
    "Part",
    "Permit",
    "PurgeSpace",
    "RestorePlan",
    "RestoreResult",
    "Restored",
    "Scheduled",
    "Seen",
    "SetDeletion",
    "ShownInode",
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
