"""The pause in writing while a snapshot takes its moment (A2): whoever is about to write waits for
an answer.

With its writeback cache the kernel takes writes without us, into pages that it may be sending at
that very moment. But before each ``write()`` it looks whether it may believe the file's attributes.
So a pause has it forget them, answers nothing that it could believe, and keeps back the answers to
those who ask through a handle that may write. What they had written before can then be fetched as
it was.

A write that had asked already goes on, once; so may whoever asks while he holds the file's lock, as
``lseek(SEEK_END)`` does, for which fetching has to wait. Him nobody can tell from a writer. So who
has waited for long while pages are being fetched gets an answer, and what was written since is
fetched once more: the next write of the same program finds the pause again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

import trio

from snapfs import probes
from snapfs.fuse.protocol.numbers import WRITER_BIT, Numbers

#: Seconds. Long enough to mean forever, short enough that a defect in invalidation heals over
#: lunch.
VALID: Final = 3600

log = logging.getLogger("snapfs.fuse")

#: Seconds that somebody waits while pages are fetched, at most: he may be whom fetching waits for.
FETCHING_SECONDS: Final = 0.01

#: And when they are fetched: a commit takes no longer on a device that works. What is written after
#: that may be in whatever order.
SECONDS: Final = 10.0


class Pause:
    """One mount's. ``watch`` must be running. ``answer`` is called with the time since when a
    request has waited (``time.monotonic``), its number and its inode.

    ``view_of`` tells which view an inode of the kernel's belongs to.
    """

    def __init__(self, view_of: Callable[[int], int] | None = None) -> None:
        self._view_of = view_of or Numbers().view_of
        #: For how many seconds the kernel may believe attributes that it is told now.
        self.valid = VALID
        self.answer: Callable[[float, int, int], None] | None = None
        #: How many got their answer before the pause was over.
        self.let_go = 0
        self._views: Collection[int] | None = ()
        self._fetching = 0
        # Since when (``time.monotonic``) which request waits, about which inode.
        self._waiting: list[tuple[float, int, int]] = []
        self._is_on = trio.Event()

    def holds(self, unique: int, node: int, handle: int) -> bool:
        """Whether a request for attributes through this handle (0: through none) waits. To be asked
        only while ``valid`` is 0.
        """
        if (
            not handle & WRITER_BIT
            or self.answer is None
            or not (self._views is None or self._view_of(node) in self._views)
        ):
            return False
        self._waiting.append((time.monotonic(), unique, node))
        return True

    def held(self) -> list[tuple[float, int, int]]:
        """Requests that wait: since when (``time.monotonic``), number, inode."""
        return self._waiting.copy()

    def begin(self, views: Collection[int] | None) -> None:
        """Let nobody begin to write to these views (None: any), once the kernel has forgotten the
        attributes of what is in them.
        """
        self._views = views
        self.valid = 0
        self._is_on.set()

    def end(self) -> None:
        """Answer all who wait. Does nothing when it is over already."""
        if self.valid:
            return
        self.valid = VALID
        self._is_on = trio.Event()
        self._answer(float("inf"))

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """While this lasts, nobody waits for long."""
        self._fetching += 1
        try:
            yield
        finally:
            self._fetching -= 1

    async def watch(self) -> None:
        """See that nobody waits for what waits for him, until cancelled."""
        while True:
            await self._is_on.wait()
            await trio.sleep(FETCHING_SECONDS)
            before = self.let_go
            self.let_go += self._answer(
                time.monotonic() - (FETCHING_SECONDS if self._fetching else SECONDS)
            )
            if self.let_go > before:
                probes.PAUSE_GAVE_WAY.hit()
            if self.let_go > before and not self._fetching:
                log.warning(
                    "programs that write have waited %g s for a snapshot, and go on: it "
                    "may have their writes in another order",
                    SECONDS,
                )

    def _answer(self, since: float) -> int:
        """Answer those who have waited from ``since`` on, or before; how many that are."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            began, unique, node = one
            if began > since:
                self._waiting.append(one)
            elif self.answer is not None:
                self.answer(began, unique, node)
        return len(waiting) - len(self._waiting)
