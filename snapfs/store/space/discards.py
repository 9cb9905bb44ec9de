"""Blocks that were freed, and that the device is told so before they are given out again.

They come here when the generation that freed them is durable and nobody reads them any more: no
block that a durable generation reaches is ever discarded (I4). Until the device has been told they
stay busy, so nothing can be written there meanwhile. Who drives the volume takes them from here,
group by group, discards them, in a worker thread if need be, and says when it is done. Nothing
depends on it: when blocks are needed at once, or the device knows no discards, they are given out
as they are.

What the newest commit has replaced one by one, mostly blocks of trees, waits for the next commit
before it is discarded: should the newest generation turn out to be unreadable, ``check.repair``
goes back to the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from snapfs import probes
from snapfs.errors import DeviceError
from snapfs.store.space.kept import KeptBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapfs.store.space.groups import Groups, Waiting


#: Of more bytes than this nothing is left for repair.
REPAIR_BYTES: Final = 1 << 20


class Discards:
    """The discards of a volume. ``wanted``: whoever mounts it wants them."""

    def __init__(self, groups: Groups) -> None:
        self.wanted = False
        #: Called when there is something to discard.
        self.added: Callable[[], None] = lambda: None
        #: Called with the reason when discarding ends for good.
        self.gave_up: Callable[[str], None] = lambda _reason: None
        self._pool = groups
        self._newest = KeptBlocks(groups)
        self._due = KeptBlocks(groups)
        self._under_way = KeptBlocks(groups)

    @property
    def pending(self) -> bool:
        """Is there anything to discard now, or being discarded?"""
        return bool(self._due) or bool(self._under_way)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """The newest generation, which is durable now, has freed these blocks."""
        waiting = list(waiting)
        singles = [run for run in waiting if run[2] == 1]
        if len(singles) * self._pool.geometry.block_size > REPAIR_BYTES:
            singles = []
        rest = [run for run in waiting if run[2] > 1] if singles else waiting
        for number in {run[0] for run in singles} & {run[0] for run in rest}:
            self._pool.groups[number].pinned += 1  # once for each of the two
        self._newest.move_to(self._due)
        self._newest.add(singles)
        self._due.add(rest)
        self.added()

    def take_over(self, kept: KeptBlocks) -> None:
        """These were, too, and somebody has read them until now."""
        kept.move_to(self._due)
        self.added()

    def begin(self) -> list[tuple[int, int]]:
        """Some of the blocks that are to be discarded now, as (block, length); none when there are
        no more. One piece at a time.
        """
        if self._due and not self._under_way:
            self._due.move_one_to(self._under_way)
            return self._under_way.runs()
        return []

    def done(self, failure: DeviceError | None) -> None:
        """What ``begin`` returned was discarded, or what went wrong."""
        self._under_way.let_go()
        if failure is not None and self.wanted:
            probes.DISCARD_FAILED.hit()
            self.end()
            self.gave_up(str(failure))

    def end(self) -> None:
        """Discard nothing any more."""
        self.wanted = False
        self.let_go()

    def let_go(self) -> None:
        """What nobody is discarding yet is given out as it is: somebody needs blocks."""
        if self._newest or self._due:
            probes.DISCARDS_SKIPPED.hit()
        self._newest.let_go()
        self._due.let_go()
