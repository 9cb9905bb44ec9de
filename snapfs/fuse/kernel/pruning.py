"""A bound on what the kernel knows: each inode that it was told of costs the daemon memory, which
the kernel knows nothing of.

It lets go of inodes when it is short of memory itself, and not before. So beyond a number of them
it is asked to let go of those that nobody uses (FUSE_NOTIFY_PRUNE, Linux 6.18); an older one is
told to forget names of regular files, which most inodes are. What is in use stays, and has no bound
but that of the users' open files.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.protocol.notices import forget_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from snapfs.fuse.kernel.known import Known
    from snapfs.fuse.protocol.notices import Notices

log = logging.getLogger("snapfs.fuse")

#: Inodes that the kernel may know: about 100 MB of ours.
LIMIT: Final = 1_000_000

#: The least that ``-o cache`` can make of that, and how many of its bytes stand for an inode.
LEAST: Final = 2_000
CACHE_BYTES: Final = 1024

#: Inodes of one message.
_BATCH: Final = 4096


def limit_for(cache: int | None) -> int:
    """How many inodes the kernel may know, for the bytes that ``-o cache`` gives."""
    return LIMIT if cache is None else min(LIMIT, max(LEAST, cache // CACHE_BYTES))


class Pruning:
    """One mount's. ``run`` must be running."""

    def __init__(self, known: Known, notices: Callable[[], Notices]) -> None:
        self._known = known
        self._notices = notices
        self._can_prune = True

    async def run(self) -> None:
        """Ask the kernel to let go of a quarter of what it knows whenever that is too much, until
        cancelled.
        """
        while True:
            await self._known.crowded.wait()
            nodes = self._known.oldest(len(self._known) // 4 + 1)
            # Abandoned when the mount ends: the thread may be stuck in a kernel that nobody serves
            # any more.
            left = await in_thread(Pool.KERNEL, self._prune, nodes, abandon_on_cancel=True)
            # What the kernel knows may change while a thread runs: none may look at it.
            names = [place for node in left for place in self._known.names(node)]
            if names:
                await in_thread(
                    Pool.KERNEL, forget_names, self._notices(), names, abandon_on_cancel=True
                )
            self._known.thin_out()

    def _prune(self, nodes: list[int]) -> list[int]:
        """Those of which an older kernel has to forget the names."""
        notices = self._notices()
        for first in range(0, len(nodes), _BATCH):
            if self._can_prune:
                try:
                    notices.prune(nodes[first : first + _BATCH])
                except OSError as exc:
                    self._can_prune = exc.errno != errno.EINVAL
            if not self._can_prune:
                return nodes[first:]
        return []
