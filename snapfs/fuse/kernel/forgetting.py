"""What the kernel is told to forget in the background, by those who must not wait for it or need
not.

It is kept as sets, and the kernel is told of all that is in them at once. So there is never more of
it than names and inodes that the kernel was told of, however many ask, and however long it takes:
the kernel takes its locks for that, which others may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.protocol.notices import (
    expire_names,
    forget_inodes,
    forget_names,
)

if TYPE_CHECKING:
    from snapfs.fuse.kernel.known import DirectoryName
    from snapfs.fuse.protocol.notices import Notices


class Forgetting:
    """One mount's. ``run`` must be running."""

    def __init__(self, notices: Callable[[], Notices]) -> None:
        self._notices = notices
        self._expired: set[DirectoryName] = set()
        self._names: set[DirectoryName] = set()
        # Inodes, and whether their pages are to be forgotten, too.
        self._nodes: dict[int, bool] = {}
        # All of one batch share an event, however many wait for it.
        self._done = trio.Event()
        self._is_wanted = trio.Event()

    def forget(
        self,
        places: Iterable[DirectoryName],
        nodes: Iterable[int],
        *,
        attributes_only: bool = False,
    ) -> trio.Event:
        """Names, then inodes; set when it is done. Whoever waits for that must hold no lock of the
        kernel's.
        """
        self._names.update(places)
        for node in nodes:
            self._nodes[node] = self._nodes.get(node, False) or not attributes_only
        self._is_wanted.set()
        return self._done

    def expire(self, places: Iterable[DirectoryName]) -> trio.Event:
        """The same for names that the kernel shall look up again."""
        self._expired.update(places)
        self._is_wanted.set()
        return self._done

    async def run(self) -> None:
        """Tell the kernel, until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted = trio.Event()
            expired, names, nodes, done = self._expired, self._names, self._nodes, self._done
            self._expired, self._names, self._nodes, self._done = set(), set(), {}, trio.Event()

            # Abandoned when the mount ends: the thread may be stuck in a kernel that nobody serves
            # any more. Whoever asks meanwhile is of the next batch.
            try:
                await in_thread(
                    Pool.KERNEL, self._tell, expired, names, nodes, abandon_on_cancel=True
                )
            finally:
                done.set()

    def _tell(
        self, expired: set[DirectoryName], names: set[DirectoryName], nodes: dict[int, bool]
    ) -> None:
        notices = self._notices()
        expire_names(notices, expired)
        forget_names(notices, names)
        forget_inodes(
            notices, [node for node, pages in nodes.items() if not pages], attributes_only=True
        )
        forget_inodes(
            notices, [node for node, pages in nodes.items() if pages], attributes_only=False
        )
