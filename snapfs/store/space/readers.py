"""Readers of a sealed generation, for work that takes longer than a generation lasts.

While a reader is open, blocks that are freed are not given out again: what any view reached when it
was opened stays readable, whatever is changed or deleted meanwhile. That is in memory alone: for
the volume those blocks are free, and after a crash they are. Writers come first: when they need the
blocks, the readers lose them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from snapfs import probes
from snapfs.store.space.discards import Discards
from snapfs.store.space.kept import KeptBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapfs.store.space.groups import Groups, Waiting

#: Groups of which blocks are kept, at most: each takes memory.
GROUPS_MAX: Final = 512


class Reader:
    """Keeps what the newest sealed generation reaches from being overwritten until ``close``, or
    until it is ``lost``.
    """

    def __init__(self, readers: Readers) -> None:
        self.lost = False
        self._readers = readers

    def close(self) -> None:
        """What was kept for it may be used again. Further calls do nothing."""
        self._readers.closed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Readers:
    """The open readers of a volume, and the blocks that are kept for them."""

    def __init__(self, groups: Groups, discards: Discards) -> None:
        self._discards = discards
        self._open: set[Reader] = set()
        self._kept = KeptBlocks(groups)

    def open(self) -> Reader:
        """A reader of what is sealed now."""
        reader = Reader(self)
        self._open.add(reader)
        return reader

    def __len__(self) -> int:
        return len(self._open)

    def keep(self, waiting: Iterable[Waiting]) -> None:
        """These blocks, which were freed and are not available yet, stay so. Each of their groups
        is pinned once for them.
        """
        self._kept.add(waiting)
        if len(self._kept) > GROUPS_MAX:
            self.lose()

    def closed(self, reader: Reader) -> None:
        """A reader needs nothing any more."""
        self._open.discard(reader)
        if self._open:
            return
        if self._discards.wanted:
            self._discards.take_over(self._kept)
        else:
            self._kept.let_go()

    def lose(self) -> None:
        """What is kept is needed, if anything is: whoever reads is told by ``lost``."""
        if not self._kept:
            return
        probes.READERS_LOST.hit()
        for reader in self._open:
            reader.lost = True
        self._open.clear()
        self._kept.let_go()
