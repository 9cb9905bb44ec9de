"""What users of one volume share that there is only so much of: ids of snapshots, and places in the
snapshots of a policy.

Whoever may write to a directory may make snapshots of it and designate it. That must not keep
anybody else from making theirs: root and who has mounted come first, and among the others nobody
gets more than what stays for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final, TypeVar

from snapfs.errors import TooManySnapshots
from snapfs.ids import MAX_INSTANCES

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem

T = TypeVar("T")

#: Ids of snapshots that only privileged owners get.
RESERVE: Final = 1000


def is_privileged(fs: Filesystem, owner: int) -> bool:
    """Is this root, or who has mounted? Whoever has opened an image without a mount may do anything
    with it.
    """
    return fs.privileged is None or owner in fs.privileged


def check_share(fs: Filesystem, owner: int) -> None:
    """Raises ``TooManySnapshots`` for an owner who has as many snapshots as are left for all users,
    or more.

    So the first user can have half of all, whoever comes then half of what is left, and nobody can
    take the last.
    """
    if is_privileged(fs, owner):
        return
    instances = fs.volume.instances
    own = sum(one.owner == owner for one in chain(instances.table.values(), instances.pending))
    left = MAX_INSTANCES - RESERVE - len(instances.table) - len(instances.pending)
    if own >= left:
        raise TooManySnapshots(
            f"user {owner} has {own} snapshots, and {max(left, 0)} are left for all "
            "users: delete some"
        )


def fair_choice(
    groups: Iterable[list[T]], fits: Callable[[list[T]], bool]
) -> tuple[list[T], list[T]]:
    """Choose of what several users want as much as ``fits`` together, from each in turn; what was
    chosen, and what was left out.
    """
    rounds = [[one for one in turn if one is not None] for turn in zip_longest(*groups)]
    everything = list(chain.from_iterable(rounds))
    if fits(everything):
        return everything, []
    chosen: list[T] = []
    left_out: list[T] = []
    for one in everything:
        if fits([*chosen, one]):
            chosen.append(one)
        else:
            left_out.append(one)
    return chosen, left_out
