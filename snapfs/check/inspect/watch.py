"""Who reaches one block: the checker's walk over a whole volume, watched for that block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.blocks.geometry import Geometry
from snapfs.check.findings import Finding, Findings, Subject
from snapfs.check.walk.compare import BitmapComparison
from snapfs.check.walk.reach import Objection, Reach
from snapfs.check.walk.tables import check_copy, check_tables
from snapfs.check.walk.trees import Walker
from snapfs.check.walk.views import ViewChecker

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem

#: Rules of the checker whose findings mean that the walk has not seen what lies below.
_BLIND = ("unreadable", "running-copy")


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """Something reaches the block: the views of ``mask``, through a tree of inode ``ino``
    ("inodes": through their inode table).

    ``tree`` is empty for what belongs to the volume; ``words`` say what that is.
    """

    mask: int
    epoch: int
    tree: str
    ino: int
    words: str


class Watch(Reach):
    """What the checker's walk reaches, and every claim to one block."""

    def __init__(self, geometry: Geometry, findings: Findings, epoch: int, block: int) -> None:
        super().__init__(geometry, findings, epoch)
        self.claims: list[ClaimSeen] = []
        self._block = block

    def claim(
        self, start: int, length: int, mask: int, epoch: int, where: Subject
    ) -> list[Objection]:
        """See ``Reach.claim``."""
        if start <= self._block < start + length:
            self.claims.append(ClaimSeen(mask, epoch, where.tree, where.ino, where.words(mask)))
        return super().claim(start, length, mask, epoch, where)


@dataclass(frozen=True, slots=True)
class Watched:
    """All claims to a block. ``wrong`` is what the checker finds about it, ``unseen`` where its
    walk could not go on.

    ``directories`` are those that have names of an inode, each with the mask of the views that it
    has one in.
    """

    claims: list[ClaimSeen]
    wrong: list[Finding]
    unseen: list[Finding]
    directories: Callable[[int], dict[int, int]]


def watch(
    fs: Filesystem, block: int, progress: Callable[[int, int], None] | None = None
) -> Watched:
    """Walk over everything, as a check does. ``progress(done, total)`` is called now and then."""
    volume = fs.volume
    findings = Findings()
    reach = Watch(volume.geometry, findings, volume.epoch, block)
    walker = Walker(volume, reach, findings)
    check_tables(volume, walker, findings)
    checker = ViewChecker(fs, walker, findings, progress or (lambda _done, _total: None))
    checker.walk()
    check_copy(volume, reach, findings)
    comparison = BitmapComparison(volume, reach, findings)
    comparison.claim_records()
    unseen = [one for one in findings.found if one.rule in _BLIND]

    def directories(ino: int) -> dict[int, int]:
        found: dict[int, int] = {}
        for directory, _, mask in checker.names.of_inode.get(ino, ()):
            found[directory] = found.get(directory, 0) | mask
        return found

    return Watched(reach.claims, comparison.of_block(block), unseen, directories)
