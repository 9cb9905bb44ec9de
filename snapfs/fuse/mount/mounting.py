"""The life of a mount: from the system call that makes it to the last commit after it is gone.

Puts the parts together and takes them apart in order. Opening the volume before and closing it
after is the caller's.
"""

from __future__ import annotations

import logging
import os
import signal
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import pyfuse3
import trio

from snapfs import snapshots
from snapfs.copying.before_write import hurry
from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.autodelete import AutoDelete
from snapfs.fuse.driving.clock import KernelClock
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.neighbours import NoKernel
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.kernel.pruning import Pruning, limit_for
from snapfs.fuse.mount import heap
from snapfs.fuse.mount.attachment import Attachment
from snapfs.fuse.mount.further import FurtherMounts
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol.connection import Connection
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.protocol.observing import Observers
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving import loop
from snapfs.fuse.serving.loop import Loop
from snapfs.fuse.tracing.stock import StockObserved
from snapfs.fuse.tracing.tracer import Tracer
from snapfs.ids import BASE_VIEW, ROOT_INO

log = logging.getLogger("snapfs.fuse")

#: Requests that are worked on at once. More than snapshot operations may keep waiting
#: (``edge.WAITING_LIMIT``).
MAX_TASKS: Final = 200

#: Characters that libfuse takes as they are in an option's value.
_PLAIN: Final = frozenset((string.ascii_letters + string.digits + "/._-+@:=~ ").encode())

#: What asks a daemon to end.
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)

#: Seconds in which a mount may end that was unmounted, and what is being worked on when it is taken
#: away from its users.
_GRACE: Final = 2.0

#: Seconds without a single write after which nothing more is waited for of what the kernel holds
#: back.
_SILENCE: Final = 20.0

#: Starts what lives as long as the mount, which has that device number.
Attach = Callable[[Edge, trio.Nursery, int, FurtherMounts], Awaitable[None]]


async def serve(
    fs: Filesystem,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    attach: Attach | None = None,
    tracer: Tracer | None = None,
) -> None:
    """Mount, serve until unmounted or until SIGTERM or SIGINT, and commit.

    ``ready`` is called when the mount is usable; before it, ``attach`` may start tasks that live as
    long as the mount. ``tracer`` is told of requests. Raises ``NoSuchSnapshot`` for a view that is
    not there, what ``Attachment`` does, and ``DeviceError`` for a last commit that failed.
    """
    set_up(fs, options, os.geteuid())
    clock = KernelClock()
    fs.now, fs.about_now = clock.now, clock.about_now
    heap.prepare()
    edge = Edge(fs, commit_seconds=options.commit)
    async with trio.open_nursery() as background:
        if options.deletes_below is not None:
            room = AutoDelete(edge, options.deletes_below)
            edge.room = room
            background.start_soon(room.run)
        background.start_soon(edge.run)
        root_view = BASE_VIEW
        if options.snapshot is not None:
            root_view = (await edge.call(snapshots.get, fs, options.snapshot)).id
        await edge.call(
            lambda: fs.inode(fs.view(root_view), ROOT_INO)
        )  # without a root there is nothing to mount
        numbers = Numbers(root_view)
        known = Known(
            numbers, lambda view_id, ino: fs.hold(fs.view(view_id), ino), limit_for(options.cache)
        )
        fs.view_ids_in_use = lambda: known.views_in_use() | {root_view}
        kernel = MountedKernel(edge, known, numbers, mountpoint)
        fs.orphans.unnamed = kernel.lost_name
        operations = Operations(
            edge, known, numbers, kernel, options, fs.volume.geometry.block_size
        )
        # From before the mount is there, which a signal would leave behind dead, until all is
        # committed.
        with trio.open_signal_receiver(*_ENDING) as signals:
            asked = trio.Event()
            background.start_soon(_listen, signals, asked)
            mount = Attachment(operations, mountpoint, fuse_options(options, fs.volume.device.path))
            connection = None
            try:
                connection = _connection(edge, options, mount.descriptor)
                if connection is not None:
                    kernel.notices = connection
                server: Server = (
                    StockLoop(operations)
                    if connection is None
                    else Loop(connection, operations, MAX_TASKS)
                )
                if tracer is not None:
                    tracer.watch(server.observers)
                ending = Ending(mount, kernel, server, asked, lambda: edge.requests["write"])
                await _serve(operations, ending, ready, attach)
            finally:
                # Nothing is served any more, so nothing may wait for the kernel from here on.
                if connection is not None:
                    connection.close()
                for line in mount.end():
                    log.warning("a dead mount stays: %s", line)
                kernel.close()
            for node in list(known.orphans):
                known.drop(node, 1 << 62)
                await operations.release_inode(node)
            await edge.finish()
            background.cancel_scope.cancel()


def set_up(fs: Filesystem, options: MountOptions, uid: int) -> None:
    """What a mount by the user ``uid`` asks of the core."""
    if options.read_only or not options.atime:
        fs.atime = "noatime"
    fs.privileged = {0, uid}
    # Where the kernel honours nothing of the kind in the whole mount, nothing need be hidden.
    # fusermount3 never lets users have it.
    ignored = options.kernel | (frozenset() if uid == 0 else {"nosuid", "nodev"})
    fs.rules.read_only = options.snapro
    fs.rules.set_id = options.snapsuid or "nosuid" in ignored
    fs.rules.devices = options.snapsuid or "nodev" in ignored
    if options.cache is not None:
        fs.limit_caches(options.cache)


class Server(Protocol):
    """What answers requests: ``loop.Loop``, or pyfuse3's own loop."""

    #: Who is told of each request when it has been answered.
    observers: Observers

    async def run(self) -> None:
        """Until there will be no more, or ``stop``."""

    def stop(self) -> None:
        """Take no more requests."""


class StockLoop:
    """pyfuse3's."""

    def __init__(self, operations: Operations) -> None:
        self.observers = StockObserved(operations).observers
        self.observers.add(operations.edge.metrics.observed)

    async def run(self) -> None:
        """See ``Server``."""
        await pyfuse3.main(min_tasks=1, max_tasks=MAX_TASKS)

    def stop(self) -> None:
        """See ``Server``."""
        pyfuse3.terminate()


def _connection(edge: Edge, options: MountOptions, descriptor: int | None) -> Connection | None:
    """The way to the kernel; None where pyfuse3's loop has to do, because it was asked for or
    because there is no other.
    """
    if options.requests == "pyfuse3":
        return None
    if descriptor is None or not loop.usable():
        log.warning(
            "requests are read by pyfuse3, which is slower: this kernel, or this "
            "pyfuse3, is not known to snapfs"
        )
        return None
    return Connection(descriptor, lambda: edge.in_progress > 0, polling=options.polling)


async def _serve(
    operations: Operations, ending: Ending, ready: Callable[[], None], attach: Attach | None
) -> None:
    """Answer requests until there will be no more."""
    edge, kernel = operations.edge, operations.kernel
    async with trio.open_nursery() as serving:

        async def requests() -> None:
            await ending.server.run()
            ending.over.set()
            serving.cancel_scope.cancel()

        serving.start_soon(requests)
        serving.start_soon(ending.watch)
        serving.start_soon(kernel.run)
        serving.start_soon(kernel.pause.watch)
        serving.start_soon(kernel.shortage.run)
        serving.start_soon(Pruning(operations.known, lambda: kernel.notices).run)
        await operations.begun.wait()
        kernel.mounted(ending.mount.device)
        edge.kernel = kernel
        if attach is not None:
            source = operations.options.fsname or edge.volume.device.path
            await attach(edge, serving, ending.mount.device, FurtherMounts(edge, serving, source))
        ready()
    edge.kernel = NoKernel()


async def _listen(signals: AsyncIterator[int], asked: trio.Event) -> None:
    """Tell that the daemon is asked to end, once, until cancelled."""
    async for number in signals:
        if not asked.is_set():
            log.info("%s: unmounting", signal.Signals(number).name)
        asked.set()


class Ending:
    """How serving a mount ends because the daemon was told to: with everything saved, whoever uses
    the mount.

    ``writes`` counts those that have come.
    """

    def __init__(
        self,
        mount: Attachment,
        kernel: MountedKernel,
        server: Server,
        asked: trio.Event,
        writes: Callable[[], int],
    ) -> None:
        self._writes = writes
        self.mount = mount
        self.server = server
        #: There will be no more requests.
        self.over = trio.Event()
        self._kernel = kernel
        self._asked = asked

    async def watch(self) -> None:
        """Unmount when asked to end. Ends with the loop, which ends when the mount has."""
        await self._asked.wait()
        hurry(self._kernel._fs.volume.device)
        # Requests are served meanwhile: unmounting makes the kernel send all that it holds back.
        left = await in_thread(Pool.ENDING, self.mount.leave, abandon_on_cancel=True)
        if not left:
            await trio.sleep(_GRACE)  # the end of the loop cancels this task
            if not self.mount.is_connected:
                await trio.sleep_forever()
            left = ["it is mounted elsewhere too, or was detached while in use"]
        # Somebody uses it, and will get errors from now on. What was written until now is not lost.
        log.warning("%s: the volume is taken away from its users", "; ".join(left))
        await self._fetch()
        self.server.stop()
        with trio.CancelScope(shield=True):
            # What is being worked on may wait for the kernel, and that for a request that nobody
            # reads any more.
            with trio.move_on_after(_GRACE):
                await self.over.wait()
            # A thread of ours may wait in the kernel for a lock that one of the users holds: it
            # would for ever, and so would they.
            await in_thread(Pool.ENDING, self.mount.take_away)

    async def _fetch(self) -> None:
        """Have the kernel send what it holds back, for as long as anything comes: whom it waits for
        may wait for ever.
        """
        done = trio.Event()

        async def fetch() -> None:
            try:
                await self._kernel.flush()  # requests are served meanwhile
            except SnapfsError as exc:
                log.critical("the kernel's cached writes may be lost: %s", exc)
            done.set()

        self._kernel.is_ending = True
        async with trio.open_nursery() as fetching:
            fetching.start_soon(fetch)
            before = -1
            while not done.is_set() and before != self._writes():
                before = self._writes()
                with trio.move_on_after(_SILENCE):
                    await done.wait()
            if not done.is_set():
                log.critical(
                    "the kernel has sent nothing for %g s: what it holds back may be lost", _SILENCE
                )
            fetching.cancel_scope.cancel()


def fuse_options(options: MountOptions, image: str) -> set[str]:
    """What libfuse is given. ``default_permissions``: the kernel checks permissions, with ACLs;
    nothing here does.
    """
    words = {
        "default_permissions",
        "subtype=snapfs",
        "fsname=" + _escaped(options.fsname or image),
        "ro" if options.read_only else "rw",
    }
    words |= options.kernel
    if os.geteuid() == 0:
        # libfuse turns both off unless told otherwise; mount(8) leaves out that it wants them.
        words |= {word for word in ("dev", "suid") if "no" + word not in options.kernel}
    if not options.atime:
        words.add("noatime")
    words |= {
        word
        for word, wanted in (
            ("allow_other", options.allow_other),
            ("allow_root", options.allow_root),
        )
        if wanted
    }
    return words


def _escaped(value: str) -> str:
    """A value for libfuse's option parser, whose escapes are octal; pyfuse3 takes ASCII only."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in os.fsencode(value))
