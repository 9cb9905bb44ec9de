"""When space runs out: the oldest snapshots that a policy made go, one at a time; never one that a
person made, holds, or is working with.

What a policy makes it tags with its name (``POLICY``). Whether anything is to be deleted at all the
caller decides; which one, this module.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from snapfs import probes
from snapfs.snapshots import lifecycle, naming
from snapfs.snapshots.space import frees

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.instances import Instance

#: The tag of snapshots that a policy has made; its value is the policy's name.
POLICY: Final = "policy"


def is_short(fs: Filesystem, below: float) -> bool:
    """Is less than ``below`` percent of the volume available? Not while more is on its way: that is
    waited for.
    """
    space = fs.statfs()
    return not fs.has_work and space.available * 100 < below * space.blocks


def candidates(fs: Filesystem, busy: Collection[int] = ()) -> list[Instance]:
    """What may be deleted, oldest first: made by a policy, held by nobody, not one of ``busy``
    (ids), not needed by a mount now or next.
    """
    scheduled = fs.volume.restores.scheduled
    spared = {*busy, *fs.rules.fixed, *([scheduled.instance] if scheduled else [])}
    return [
        one
        for one in naming.all(fs)
        if POLICY in one.facts.tags and not one.facts.holds and one.id not in spared
    ]


def make_room(fs: Filesystem, busy: Collection[int] = ()) -> Instance | None:
    """Delete the oldest candidate; None when there is none, or when all of them together would free
    nothing.

    The space comes back as with every deletion. May raise ``NotCached``, ``CommitNeeded``; raises
    ``ReadOnly``.
    """
    fs.volume.check_writable()
    found = candidates(fs, busy)
    if not found or not frees(fs, found):
        return None
    probes.SNAPSHOT_MADE_ROOM.hit()
    return lifecycle.delete(fs, found[0].name)
