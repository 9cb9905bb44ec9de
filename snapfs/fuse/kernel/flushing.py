"""What the kernel holds back of files that are written (its writeback cache), and how the daemon
has it sent (A2).

Fetching blocks in the kernel until the writes that it brings have been served, so it happens in
worker threads while the loop serves.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from snapfs.errors import AccessDenied, DeviceError, NoSpace, SnapfsError
from snapfs.filesystem import Inode
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.kernel.flusher import (
    NO_WAY,
    Flusher,
    Result,
    WantedFlush,
)
from snapfs.fuse.kernel.forgetting import Forgetting
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.pause import Pause
from snapfs.fuse.protocol.errno import errno_of
from snapfs.fuse.protocol.notices import (
    Notices,
    StockNotices,
    forget_inodes,
    forget_names,
)
from snapfs.fuse.protocol.numbers import KERNEL_ROOT, Numbers

log = logging.getLogger("snapfs.fuse")

#: How often a pause fetches pages, at most: twice, and again when somebody had to be let go, or has
#: opened another file.
_FETCHES: Final = 10

#: What names in the root begin with that are the daemon's own for a moment.
ALIAS: Final = b".snapfs-"

#: Inodes that are flushed by one message.
_FLUSH_BATCH: Final = 256

#: What a write ends with that nothing could have taken: to what was deleted, may not be changed, or
#: is as large as can be. Whoever writes like that keeps nobody from making snapshots.
_REFUSED: Final = (errno.ESTALE, errno.EROFS, errno.EFBIG)

#: What opening by a file handle ends with where that is not allowed, or not known.
_NO_HANDLES: Final = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class Flushing:
    """Fetches what the kernel of one mount holds back."""

    def __init__(self, edge: Edge, known: Known, numbers: Numbers, mountpoint: str) -> None:
        self._edge = edge
        self._known = known
        self._numbers = numbers
        self._mountpoint = os.fsencode(mountpoint)
        #: The number of the mount's device; -1 before there is one.
        self.device = -1
        self.notices: Notices = StockNotices()
        self._forgetting = Forgetting(lambda: self.notices)
        #: The generation that the kernel knows an inode by, if it knows it; set by whoever tells
        #: it.
        self.generation: Callable[[int, Inode], int] = lambda _, inode: inode.generation
        #: Names in the root that stand for inodes while these are fetched, for one process only:
        #: where it may not use file handles.
        self.aliases: dict[bytes, int] = {}
        self._flusher = Flusher()  # that process
        self._may_use_handles = True
        # What was lost of inodes that are being fetched page by page, where nobody else says so.
        self._lost: dict[int, SnapfsError | None] = {}
        #: Files whose users are still to hear from closing them that writes were lost: to open and
        #: close them would take that away.
        self.short: Container[int] = ()
        self._flushing = trio.Lock()
        #: Nothing more is fetched after this: whoever fetches may be left to wait alone.
        self.is_ending = False
        self.pause = Pause(numbers.view_of)
        #: Files of which the kernel is being told size and time of change.
        self.renewed: set[int] = set()

    def node_of_alias(self, name: bytes, pid: int) -> int:
        """The inode that one of the ``aliases`` stands for. Raises ``AccessDenied`` for everybody
        but the process that uses them.
        """
        if pid != self._flusher.pid:
            raise AccessDenied("this name is the daemon's own")
        return self.aliases[name]

    def lost(self, node: int, exc: SnapfsError) -> None:
        """A write to this inode that the kernel may have taken before could not be stored."""
        if node in self._lost:
            self._lost[node] = exc

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
                    # Who had asked before the pause began may have written until the first time was
                    # over.
                    fetched = set(nodes) if self.pause.let_go == let_go else set()
            yield self.pause.end
        finally:
            self.pause.end()

    async def opening(self, node: int) -> None:
        """Somebody is about to open a file to write: in a pause he may not begin."""
        if not self.pause.valid:
            # Only attributes, which takes no lock in the kernel: a request may wait for this.
            await in_thread(
                Pool.KERNEL, lambda: forget_inodes(self.notices, [node], attributes_only=True)
            )

    def _written(self, view_ids: Collection[int] | None) -> list[int]:
        return [
            node
            for node in self._known.written()
            if view_ids is None or self._numbers.split(node)[0] in view_ids
        ]

    async def _fetch(self, nodes: list[int], how: Callable[[dict[int, int | None]], None]) -> None:
        if nodes:
            # Requests are served meanwhile, in particular the writes that this brings.
            async with self._flushing:
                generations = {node: await self._generation_of(node) for node in nodes}
                await in_thread(Pool.KERNEL, how, generations, abandon_on_cancel=self.is_ending)

    async def _generation_of(self, node: int) -> int | None:
        view_id, ino = self._numbers.split(node)
        try:
            return await self._edge.call(
                lambda: self.generation(node, self._edge.fs.inode(self._edge.fs.view(view_id), ino))
            )
        except SnapfsError:  # gone with its view, or nobody can read what it is
            return None

    def _flush_forgotten(self, nodes: dict[int, int | None]) -> None:
        """The same in a pause: each time, because the kernel may not have known yet what it was
        told to forget.
        """
        forget_inodes(self.notices, nodes, attributes_only=True)
        self._flush(nodes)

    def _flush(self, nodes: dict[int, int | None]) -> None:
        """Make the kernel send its dirty pages of these inodes, by their generations, and wait
        until all of them have been served.

        syncfs(2) will not do: on FUSE it starts that at most, and does not wait (and since Linux
        6.18 not even that). What does, for one inode, is closing it. So each is opened, by its file
        handle, and closed. Who may not use file handles opens it by a name: one that is there for
        this once and for one process. What cannot be opened at all is fetched by having the kernel
        forget its pages.
        """
        every = list(nodes)
        for first in range(0, len(every), _FLUSH_BATCH):
            batch = every[first : first + _FLUSH_BATCH]
            results = self._by_handle({node: nodes[node] for node in batch})
            unopened = [node for node in batch if results[node].opening and node not in self.short]
            if unopened and not self._may_use_handles:
                results |= self._by_name(unopened)
            for node in batch:
                self._check(results[node].closing)
            self._by_page([node for node in batch if results[node].opening])

    def _by_handle(self, nodes: dict[int, int | None]) -> dict[int, Result]:
        found = dict.fromkeys(nodes, Result(NO_WAY))
        wanted = [
            WantedFlush(node, generation)
            for node, generation in nodes.items()
            if generation is not None and node not in self.short
        ]
        if self._may_use_handles and wanted:
            opened = self._opened(wanted)
            self._may_use_handles = not all(
                result.opening in _NO_HANDLES for result in opened.values()
            )
            found |= opened
        return found

    def _by_name(self, nodes: list[int]) -> dict[int, Result]:
        with self._named(nodes) as names:
            return self._opened([WantedFlush(node, name=name) for name, node in names.items()])

    @contextmanager
    def _named(self, nodes: Iterable[int]) -> Iterator[dict[bytes, int]]:
        """Names for inodes, while this lasts.

        Nobody can guess them; who watches the root sees them when they have been used, and they are
        not used again. Not in ``.snap``, which the kernel keeps locked while it waits for the mkdir
        that makes a snapshot.
        """
        self.aliases = {ALIAS + os.urandom(16).hex().encode(): node for node in nodes}
        try:
            yield self.aliases
        finally:
            # Or the kernel would hold the inodes for the sake of the names.
            forget_names(self.notices, ((KERNEL_ROOT, name) for name in self.aliases))
            self.aliases = {}

    def _opened(self, wanted: list[WantedFlush]) -> dict[int, Result]:
        try:
            results = self._flusher.flush(self._mountpoint, self.device, wanted)
        except OSError as exc:
            log.warning("the kernel's cached writes are fetched page by page: %s", exc)
            results = [Result(NO_WAY)] * len(wanted)
        return {one.node: result for one, result in zip(wanted, results, strict=True)}

    def _by_page(self, nodes: list[int]) -> None:
        """One write for each page, and nothing of these files stays in the kernel's memory. It does
        not say what was lost.
        """
        self._lost = dict.fromkeys(nodes)
        try:
            forget_inodes(self.notices, nodes, attributes_only=False)
            for exc in self._lost.values():
                if exc is not None:
                    self._check(errno_of(exc, None))
        finally:
            self._lost = {}

    @staticmethod
    def _check(number: int) -> None:
        if number not in (0, *_REFUSED):
            kind = NoSpace if number == errno.ENOSPC else DeviceError
            raise kind(f"what was written last could not be stored: {os.strerror(number)}")

    # --- files that the kernel believes to know better ---

    async def mode_changed(self, node: int) -> None:
        """A request has changed the mode of an inode, which its reply does not tell. To be called
        before that is sent.
        """
        # Only attributes, which takes no lock in the kernel: a request may wait for this.
        await in_thread(
            Pool.KERNEL, lambda: forget_inodes(self.notices, [node], attributes_only=True)
        )

    def refused(self, node: int) -> None:
        """A write was refused that the kernel may have taken and shown already: it must not go on
        showing it.
        """
        self._forgetting.forget(self._known.names(node), [node])

    def is_flusher(self, pid: int) -> bool:
        """Is it the process that does all this?"""
        return pid == self._flusher.pid

    def is_own_change(self, node: int, pid: int) -> bool:
        """Is a change of attributes none of a user's, but the kernel being told what they are?"""
        return node in self.renewed and pid == self._flusher.pid

    async def renew(self, wanted: dict[int, tuple[int, int]]) -> list[int]:
        """Have the kernel look at inodes again, and believe size and time of change (ns) of those
        that have a size that is not negative.

        With its writeback cache it otherwise keeps both of every regular file that somebody uses.
        Where this does not work, because who has mounted may not write to the file, or because it
        is being executed, the file is in the answer.
        """
        failed: list[int] = []
        nodes = list(wanted)
        with self.pause.fetching():
            for first in range(0, len(nodes), _FLUSH_BATCH):
                # What nobody uses the kernel has forgotten with its name, and says so meanwhile.
                batch = {
                    node: wanted[node]
                    for node in nodes[first : first + _FLUSH_BATCH]
                    if node in self._known
                }
                async with self._flushing:
                    self.renewed.update(batch)
                    try:
                        # Requests are served meanwhile, among them what this asks for.
                        failed += await in_thread(
                            Pool.KERNEL, self._renew, batch, abandon_on_cancel=True
                        )
                    finally:
                        self.renewed.clear()
        return failed

    def _renew(self, wanted: dict[int, tuple[int, int]]) -> list[int]:
        with self._named(wanted) as names:
            facts = [WantedFlush(node, 0, name, *wanted[node]) for name, node in names.items()]
            try:
                results = self._flusher.renew(self._mountpoint, self.device, facts)
            except OSError as exc:
                log.warning("the kernel takes files that were restored for others: %s", exc)
                results = [Result(NO_WAY)] * len(facts)
        return [
            one.node
            for one, result in zip(facts, results, strict=True)
            if result.opening not in (0, errno.ESTALE, errno.ENOENT) and one.size >= 0
        ]

    def close(self) -> None:
        """The mount has ended."""
        self._flusher.close()
