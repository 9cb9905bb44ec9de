"""Blocks that were freed, and that the device is told so before they are given out again.

They come here when the generation that freed them is durable and nobody reads them any more: no block that a durable generation reaches is
ever discarded (I4). Until the device has been told they stay busy, so nothing can be written there meanwhile. Who drives the volume takes
them from here, group by group, discards them, in a worker thread if need be, and says when it is done. Nothing depends on it: when blocks
are needed at once, or the device knows no discards, they are given out as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from snapfs.errors import DeviceError
from snapfs.store.kept import KeptBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapfs.store.allocator import Allocator, Waiting


class Discards:
    """The discards of a volume. ``wanted``: whoever mounts it wants them."""

    def __init__(self, allocator: Allocator) -> None:
        self.wanted = False
        #: Called when there is something to discard.
        self.added: Callable[[], None] = lambda: None
        #: Called with the reason when discarding ends for good.
        self.gave_up: Callable[[str], None] = lambda _reason: None
        self._due = KeptBlocks(allocator)
        self._under_way = KeptBlocks(allocator)

    @property
    def pending(self) -> bool:
        """Is there anything to discard, or being discarded?"""
        return bool(self._due) or bool(self._under_way)

    def add(self, waiting: Iterable[Waiting]) -> None:
        """These blocks were freed durably."""
        self._due.add(waiting)
        self.added()

    def take_over(self, kept: KeptBlocks) -> None:
        """These were, too, and somebody has read them until now."""
        kept.move_to(self._due)
        self.added()

    def begin(self) -> list[tuple[int, int]]:
        """Some of the blocks that are to be discarded now, as (block, length); none when there are no more. One piece at a time."""
        if self._due and not self._under_way:
            self._due.move_one_to(self._under_way)
            return self._under_way.runs()
        return []

    def done(self, failure: DeviceError | None) -> None:
        """What ``begin`` returned was discarded, or what went wrong."""
        self._under_way.let_go()
        if failure is not None and self.wanted:
            self.end()
            self.gave_up(str(failure))

    def end(self) -> None:
        """Discard nothing any more."""
        self.wanted = False
        self.let_go()

    def let_go(self) -> None:
        """What nobody is discarding yet is given out as it is: somebody needs blocks."""
        self._due.let_go()
