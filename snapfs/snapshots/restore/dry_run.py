"""What a restore would change, without doing it: the comparison from the present to the snapshot,
of just what would be restored.

Of the whole volume that is what ``diff`` says. A path is restored where it is: what has moved out
of it since comes back and stays where it is now, so paths are compared with themselves, and
whatever lies elsewhere is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from snapfs.interrupts import NotCached
from snapfs.snapshots.compare.diff import Diff
from snapfs.snapshots.compare.differing import (
    Difference,
    FileKind,
    ShownInode,
)
from snapfs.snapshots.compare.pairing import CompanionParts
from snapfs.snapshots.compare.sides import (
    Side,
    State,
    Steps,
    ask,
)
from snapfs.snapshots.naming import get
from snapfs.snapshots.restore.ways import (
    PathBack,
    Way,
    covered_ways,
    find_targets,
)
from snapfs.snapshots.rights import Permit, anyone, check_permitted

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.instances import Instance


def _choose_path(target: PathBack, present: Side, past: Side) -> Steps[list[CompanionParts]]:
    """What is at one path and below it. Directories live on within it, and nowhere else."""
    old = (yield from present.inode(target.base)) if target.base else None
    new = (yield from past.inode(target.past)) if target.past else None
    for side, inode in ((present, old), (past, new)):
        side.show([inode.ino] if inode is not None else [])
    path = b"/".join(target.way)
    return (
        [CompanionParts(old, new, path if old else None, path if new else None)]
        if old or new
        else []
    )


def check(fs: Filesystem, name: str, paths: Sequence[str], permit: Permit) -> Instance:
    """The snapshot of that name. Raises what a restore would raise before it begins, and
    ``NotCached``.
    """
    instance = get(fs, name)
    for step in RestorePlan(fs, instance, covered_ways(instance, paths)).check(permit):
        if step:
            raise NotCached(step)
    return instance


class RestorePlan:
    """A restore of some paths (none: of the whole volume), of a volume that is sealed. ``compared``
    is as of ``Diff``.
    """

    def __init__(self, fs: Filesystem, instance: Instance, ways: Sequence[Way]) -> None:
        self._fs = fs
        self._instance = instance
        self._ways = ways
        self._present, self._past = (
            State(fs.volume.base_root),
            State(instance.root, instance.copy()),
        )
        self._done = 0
        self._diff: Diff | None = None

    @property
    def compared(self) -> int:
        """Inodes and names that were looked at."""
        return self._done + (self._diff.compared if self._diff else 0)

    def check(self, permit: Permit) -> Steps[None]:
        """Raises ``NotFound`` and ``NotDirectory`` as the restore would, and what ``permit``
        raises.
        """
        if self._ways:
            yield from self._targets(permit)
        else:
            yield from ask(check_permitted, self._fs, self._instance, permit)

    def _targets(self, permit: Permit) -> Steps[list[PathBack]]:
        base, past = (Side(self._fs.volume, state) for state in (self._present, self._past))
        return (yield from find_targets(self._instance, self._ways, base, past, permit))

    def steps(self) -> Steps[None]:
        """Yields ``Difference``, and more as ``Diff.steps``."""
        volume = self._fs.volume
        if not self._ways:
            yield from self._compare(Diff(self._fs, self._present, self._past))
            return
        base, past = Side(volume, self._present), Side(volume, self._past)
        made: set[bytes] = set()
        for target in (yield from self._targets(anyone)):
            if target.past and not target.parent:
                yield from self._tell_parents(base, past, target.way, made)
            yield from self._compare(
                Diff(self._fs, self._present, self._past, pairing=partial(_choose_path, target))
            )

    def _compare(self, diff: Diff) -> Steps[None]:
        self._diff = diff
        yield from diff.steps()
        self._done += diff.compared
        self._diff = None

    @staticmethod
    def _tell_parents(
        base: Side, past: Side, way: tuple[bytes, ...], made: set[bytes]
    ) -> Steps[None]:
        """The directories on the way to a path that the present has no more, which come back
        without what else was in them.
        """
        above = b"/".join(way[:-1])
        now = yield from base.at_path(above)
        then = yield from past.at_path(above)
        for depth in range(len(now), len(way) - 1):
            path = b"/".join(way[: depth + 1])
            if path not in made:
                made.add(path)
                yield Difference(FileKind.ADDED, None, path, None, ShownInode.of(then[depth]))
