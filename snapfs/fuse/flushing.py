"""What the kernel holds back of files that are written (its writeback cache), and how the daemon has it sent (A2).

Fetching blocks in the kernel until the writes that it brings have been served, so it happens in worker threads while the loop serves.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Final

import trio

from snapfs.errors import DeviceError, NoSpace
from snapfs.fuse.flusher import Flusher
from snapfs.fuse.known import Known
from snapfs.fuse.notices import Notices, StockNotices, forget_inodes, forget_names
from snapfs.fuse.numbers import KERNEL_ROOT, Numbers
from snapfs.fuse.pause import Pause

log = logging.getLogger("snapfs.fuse")

#: How often a pause fetches pages, at most: twice, and again when somebody had to be let go, or has opened another file.
_FETCHES: Final = 10

#: Inodes that are flushed by one message.
_FLUSH_BATCH: Final = 256


class Flushing:
    """Fetches what the kernel of one mount holds back."""

    def __init__(self, known: Known, numbers: Numbers, mountpoint: str) -> None:
        self._known = known
        self._numbers = numbers
        self._mountpoint = os.fsencode(mountpoint)
        #: The number of the mount's device; -1 before there is one.
        self.device = -1
        self.notices: Notices = StockNotices()
        # How the names begin that ``flush`` uses in the root: in no listing, and nobody's by chance. Not in ``.snap``, which the kernel
        # keeps locked while it waits for the mkdir that makes a snapshot.
        self._alias = b".snapfs-%s-" % os.urandom(12).hex().encode()
        self._flusher = Flusher()  # the process that may use them
        self._flushing = trio.Lock()
        self.pause = Pause()
        #: Files of which the kernel is being told size and time of change.
        self.renewed: set[int] = set()

    def node_of_alias(self, name: bytes, pid: int) -> int | None:
        """The inode that a name in the root stands for while ``flush`` asks for it; None for every other name and everybody else."""
        if pid != self._flusher.pid or not name.startswith(self._alias):
            return None
        return int(name[len(self._alias) :], 16)

    async def flush(self, view_ids: Collection[int] | None = None) -> None:
        """See ``neighbours.Kernel``. Raises ``NoSpace`` or ``DeviceError`` when a write failed."""
        await self._fetch(self._written(view_ids), self._flush)

    @asynccontextmanager
    async def paused(self, view_ids: Collection[int] | None) -> AsyncIterator[Callable[[], None]]:
        """See ``neighbours.Kernel``. Raises as ``flush`` does."""
        self.pause.begin(view_ids)
        try:
            with self.pause.fetching():
                fetched: set[int] = set()
                for step in range(_FETCHES):
                    nodes, let_go = self._written(view_ids), self.pause.let_go
                    if step > 1 and fetched.issuperset(nodes):
                        break
                    await self._fetch(nodes, self._flush_forgotten)
                    # Who had asked before the pause began may have written until the first time was over.
                    fetched = set(nodes) if self.pause.let_go == let_go else set()
            yield self.pause.end
        finally:
            self.pause.end()

    async def opening(self, node: int) -> None:
        """Somebody is about to open a file to write: in a pause he may not begin."""
        if not self.pause.valid:
            # Only attributes, which takes no lock in the kernel: a request may wait for this.
            await trio.to_thread.run_sync(lambda: forget_inodes(self.notices, [node], attributes_only=True))

    def _written(self, view_ids: Collection[int] | None) -> list[int]:
        return [node for node in self._known.written() if view_ids is None or self._numbers.split(node)[0] in view_ids]

    async def _fetch(self, nodes: list[int], how: Callable[[list[int]], None]) -> None:
        if nodes:
            # Requests are served meanwhile, in particular the writes that this brings.
            async with self._flushing:
                await trio.to_thread.run_sync(how, nodes)

    def _flush_forgotten(self, nodes: list[int]) -> None:
        """The same in a pause: each time, because the kernel may not have known yet what it was told to forget."""
        forget_inodes(self.notices, nodes, attributes_only=True)
        self._flush(nodes)

    def _flush(self, nodes: list[int]) -> None:
        """Make the kernel send its dirty pages of these inodes, and wait until all of them have been served.

        syncfs(2) will not do: on FUSE it starts that at most, and does not wait (and since Linux 6.18 not even that). What does, for one
        inode, is closing it. So each is opened by its number, under a name that is there for the moment and for one process, and closed.
        """
        for first in range(0, len(nodes), _FLUSH_BATCH):
            batch = nodes[first : first + _FLUSH_BATCH]
            names = [b"%s%x" % (self._alias, node) for node in batch]
            try:
                results = self._flusher.flush(self._mountpoint, self.device, names)
            except OSError as exc:
                log.warning("the kernel's cached writes are fetched page by page: %s", exc)
                results = []
            # Or the kernel would hold the inodes for the sake of the names.
            forget_names(self.notices, ((KERNEL_ROOT, name) for name in names))
            for node, result in zip_longest(batch, results, fillvalue=errno.EACCES):
                if result in (errno.EACCES, errno.EPERM):
                    # The user who mounted may not open it. One write for each page, and nothing of the file stays in the kernel's memory.
                    forget_inodes(self.notices, [node], attributes_only=False)
                elif result not in (0, errno.ESTALE, errno.ENOENT):  # deleted with its view
                    kind = NoSpace if result == errno.ENOSPC else DeviceError
                    raise kind(f"what was written last could not be stored: {os.strerror(result)}")

    # --- files that the kernel believes to know better ---

    def is_own_change(self, node: int, pid: int) -> bool:
        """Is a change of attributes none of a user's, but the kernel being told what they are?"""
        return node in self.renewed and pid == self._flusher.pid

    async def renew(self, wanted: dict[int, tuple[int, int]]) -> list[int]:
        """Have the kernel look at inodes again, and believe size and time of change (ns) of those that have a size that is not negative.

        With its writeback cache it otherwise keeps both of every regular file that somebody uses. Where this does not work, because who
        has mounted may not write to the file, or because it is being executed, the file is in the answer.
        """
        failed: list[int] = []
        nodes = list(wanted)
        with self.pause.fetching():
            for first in range(0, len(nodes), _FLUSH_BATCH):
                # What nobody uses the kernel has forgotten with its name, and says so meanwhile.
                batch = {node: wanted[node] for node in nodes[first : first + _FLUSH_BATCH] if node in self._known}
                async with self._flushing:
                    self.renewed.update(batch)
                    try:
                        # Requests are served meanwhile, among them what this asks for.
                        failed += await trio.to_thread.run_sync(self._renew, batch, abandon_on_cancel=True)
                    finally:
                        self.renewed.clear()
        return failed

    def _renew(self, wanted: dict[int, tuple[int, int]]) -> list[int]:
        names = {node: b"%s%x" % (self._alias, node) for node in wanted}
        try:
            results = self._flusher.renew(self._mountpoint, self.device, [(names[node], *facts) for node, facts in wanted.items()])
        except OSError as exc:
            log.warning("the kernel takes files that were restored for others: %s", exc)
            results = []
        forget_names(self.notices, ((KERNEL_ROOT, name) for name in names.values()))
        return [
            node
            for node, result in zip_longest(wanted, results, fillvalue=errno.EACCES)
            if result not in (0, errno.ESTALE, errno.ENOENT) and wanted[node][0] >= 0
        ]

    def close(self) -> None:
        """The mount has ended."""
        self._flusher.close()
