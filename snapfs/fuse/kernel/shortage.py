"""Files of which writes were lost because the volume is full: with its writeback cache the kernel
takes writes without asking.

It sends them later, and says at fsync and close what became of them. A program that only writes
would never hear of it. But before each ``write()`` the kernel looks whether it may believe the
file's mode, and asks for it through the handle that writes where it may not. So when a write that
it sends finds no space, it is told to forget the attributes, and whoever asks like that gets ENOSPC
until there is space.

It also goes on showing the size that the file would have. When nobody has the file open for writing
any more, it is told the right one: not before, as what is held back behind that size, and could be
stored by then, would go with it. Nor is the file opened for this: closing it would take the error
from whoever is to hear of it.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from snapfs.errors import DeviceFull, SnapfsError, StaleInode
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.kernel.flusher import KEEP_TIME
from snapfs.fuse.protocol.notices import forget_inodes

if TYPE_CHECKING:
    from snapfs.fuse.driving.edge import Edge
    from snapfs.fuse.kernel.flushing import Flushing
    from snapfs.fuse.kernel.known import Known
    from snapfs.fuse.protocol.numbers import Numbers
    from snapfs.fuse.protocol.wire import RequestCaller

log = logging.getLogger("snapfs.fuse")

#: Seconds that somebody who asks for attributes waits until the kernel has been told the size: he
#: may hold the lock that this needs.
SETTLE_SECONDS: Final = 5.0

#: Seconds after the last writer before the kernel is told the size. Who has no space removes what
#: did not fit, and wants the space at once: to be told of, the file would have to be held.
REMOVAL_SECONDS: Final = 0.05

#: Seconds after which it is tried again where it is the host that has no space: of that nobody says
#: when there is some.
HOST_SECONDS: Final = 1.0

#: The protocol from which on the kernel asks before writing and not before reading as well (Linux
#: 5.16).
MIN_MINOR: Final = 35


@dataclass(slots=True, eq=False)
class _File:
    """``available``: blocks when it was found to be short of space; None: the host's."""

    available: int | None = None
    since: float = 0.0
    #: Set when the kernel has been told the size, after the last writer has gone; None before that.
    settled: trio.Event | None = None
    #: There is space again.
    is_over: bool = False
    #: It has lost its last name.
    gone: trio.Event = field(default_factory=trio.Event)
    #: When the last writer has gone (``trio.current_time``).
    left: float = 0.0


class Shortage:
    """One mount's. ``run`` must be running."""

    def __init__(self, edge: Edge, known: Known, numbers: Numbers, kernel: Flushing) -> None:
        self._edge = edge
        self._known = known
        self._numbers = numbers
        self._kernel = kernel
        #: Whether the kernel can be used like that; set when it has said what it is.
        self.is_usable = False
        #: By node: such files as are open for writing, or are being settled. The kernel is taken to
        #: know each of them once more, so that no number is another file's meanwhile.
        self.files: dict[int, _File] = {}
        #: Ends that.
        self.let_go: Callable[[Sequence[tuple[int, int]]], Awaitable[None]]
        #: Called with time, number and inode of each request for attributes that has waited.
        self.answer: Callable[[float, int, int], None] | None = None
        # What was found to be short of space, or may no longer be of interest: each once, however
        # many requests there are.
        self._todo: dict[_File, int] = {}
        self._is_wanted = trio.Event()
        # Since when (``time.monotonic``) which request waits, about which inode.
        self._waiting: list[tuple[float, int, int]] = []
        self._has_waiting = trio.Event()

    async def run(self) -> None:
        """Tell the kernel the sizes of files, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                await self._is_wanted.wait()
                self._is_wanted = trio.Event()
                while self._todo:
                    file = next(iter(self._todo))
                    await self._work(self._todo.pop(file), file)

    async def _work(self, node: int, file: _File) -> None:
        if file.settled is not None and not file.settled.is_set():
            await self._settle_soon(node, file)
        if file.gone.is_set():
            await self.let_go([(node, 0)])
            return
        # What it has been told of the file meanwhile it believes, and then would not ask before
        # writing.
        await self._forget(node, file)
        if not self._known.is_written(node) and self.files.get(node) is file:
            del self.files[node]
            await self.let_go([(node, 1)])

    async def _settle_soon(self, node: int, file: _File) -> None:
        assert file.settled is not None  # noqa: S101 - there is something to be settled
        with trio.move_on_at(file.left + REMOVAL_SECONDS):
            await file.gone.wait()
        try:
            if not file.gone.is_set():
                await self._settle(node)
        except StaleInode:  # it is gone
            pass
        except SnapfsError as exc:
            log.warning("the kernel goes on showing the wrong size of a file: %s", exc)
        except Exception:
            log.exception("the kernel goes on showing the wrong size of a file: internal error")
        file.settled.set()
        self._answer(time.monotonic(), node)

    def _soon(self, node: int, file: _File) -> None:
        self._todo[file] = node
        self._is_wanted.set()

    async def lost(self, node: int, exc: SnapfsError) -> None:
        """A write that the kernel had taken found no space. To be called
        before it hears of that.
        """
        if not self.is_usable or node not in self._known:
            return
        file = self.files.get(node)
        if file is None:
            file = self.files[node] = _File()
            self._known.add(node)
        file.available = None if isinstance(exc, DeviceFull) else self._edge.fs.statfs().available
        file.since, file.is_over = time.monotonic(), False
        self.released(node)  # if nobody has it open for writing any more
        await self._kernel.mode_changed(node)

    def before_write(self, node: int) -> None:
        """Somebody is about to write to one of the ``files``. Raises ``pyfuse3.FUSEError`` while
        there is no space.
        """
        file = self.files[node]
        file.is_over = file.is_over or self._has_space(file)
        if not file.is_over:
            raise pyfuse3.FUSEError(errno.ENOSPC)

    def holds(self, node: int, caller: RequestCaller) -> bool:
        """Whether who asks for the attributes of one of the ``files`` waits, to see the right size.

        Nothing but the request's number is kept for him: a crowd that waits leaves the loop's
        workers to those who settle the file.
        """
        file = self.files[node]
        is_settled = file.settled is None or file.settled.is_set()
        # Those who have waited have no number.
        if is_settled or not caller.unique or self._kernel.is_flusher(caller.pid):
            return False
        if self.answer is None:
            return False
        self._waiting.append((time.monotonic(), caller.unique, node))
        self._has_waiting.set()
        return True

    def held(self) -> list[tuple[float, int, int]]:
        """Requests that wait: since when (``time.monotonic``), number, inode."""
        return self._waiting.copy()

    async def before_look(self, node: int) -> None:
        """Somebody asks for the attributes of one of the ``files``: who writes shall go on asking.

        What the kernel asked for before it was told to forget it does not believe.
        """
        await self._forget(node, self.files[node])

    def told(self, node: int) -> None:
        """The kernel is about to be told the attributes of one of the ``files``, in reply to a
        change.
        """
        self._soon(node, self.files[node])

    def released(self, node: int) -> None:
        """A handle of one of the ``files`` was released."""
        file = self.files[node]
        if not self._known.is_written(node) and (file.settled is None or file.settled.is_set()):
            file.settled, file.left = trio.Event(), trio.current_time()
            self._soon(node, file)

    def unlinked(self, node: int) -> None:
        """One of the ``files`` may have lost its last name: of what nobody writes nothing is told,
        so that its space is free at once.

        The kernel knows the inode, whose name it has just taken: it will say when it does not any
        more.
        """
        file = self.files.get(node)
        if file is not None and not self._known.is_written(node):
            del self.files[node]
            file.gone.set()
            self._known.drop(node, 1)

    def check_own_change(self, node: int) -> None:
        """The kernel is about to believe a size that it is told. Raises ``pyfuse3.FUSEError`` if it
        may hold something back behind it.
        """
        file = self.files.get(node)
        is_settling = file is not None and file.settled is not None and not file.settled.is_set()
        if is_settling and self._known.is_written(node):
            raise pyfuse3.FUSEError(errno.EBUSY)

    async def _watch(self) -> None:
        """See that nobody waits for what waits for him, until cancelled."""
        while True:
            await self._has_waiting.wait()
            self._has_waiting = trio.Event()
            while self._waiting:
                await trio.sleep(max(0.0, self._waiting[0][0] + SETTLE_SECONDS - time.monotonic()))
                self._answer(time.monotonic() - SETTLE_SECONDS)

    def _answer(self, since: float, about: int | None = None) -> None:
        """Answer those who have waited from ``since`` on, or before, about this inode or any."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            began, unique, node = one
            if began > since or about not in (None, node):
                self._waiting.append(one)
            elif self.answer is not None:
                self.answer(began, unique, node)

    async def _forget(self, node: int, file: _File) -> None:
        if not file.is_over:
            await self._kernel.mode_changed(node)

    def _has_space(self, file: _File) -> bool:
        if file.available is None:
            return time.monotonic() - file.since > HOST_SECONDS
        found = self._edge.fs.statfs()
        return found.available > file.available

    async def _settle(self, node: int) -> None:
        # It also goes on showing the content that was lost.
        await in_thread(
            Pool.KERNEL,
            lambda: forget_inodes(self._kernel.notices, [node], attributes_only=False),
            abandon_on_cancel=True,
        )
        view_id, ino = self._numbers.split(node)
        inode = await self._edge.call(lambda: self._edge.fs.inode(self._edge.fs.view(view_id), ino))
        failed = await self._kernel.renew({node: (inode.size_shown, KEEP_TIME)})
        if failed and not self._known.is_written(node):
            self._known.replace(node)
            self._kernel.refused(node)
