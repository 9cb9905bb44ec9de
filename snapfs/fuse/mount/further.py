"""Further mounts: single snapshots, each shown read-only by a mount of its own beside that of the
volume, and served by its daemon.

As long as it is mounted nobody changes, purges or deletes such a snapshot (``Edge.fix``). So its
kernel hears of nothing that happens elsewhere, and what it knows need not be held in the core.
There is no ``.snap``: what that would show may change. The mount is ``nosuid`` and ``nodev``, so
that a backup of it finds all that is stored (see ``Rules``).

Whoever asks for the mount makes it, and hands it over to be served. The daemon never waits for a
mount point: an automounter lets only its own processes get there while it waits for the mount, and
so for the daemon.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import pyfuse3
import trio

from snapfs.device import mountinfo
from snapfs.errors import MountFailed, NotFound, UsageError
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.mount import unmounting
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol.connection import Connection
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.requests.attributes import Attributes
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.requests.passage import Passage
from snapfs.fuse.serving import loop
from snapfs.fuse.serving.loop import Loop

log = logging.getLogger("snapfs.fuse")

#: Further mounts at once: each takes a descriptor and a buffer of a MiB.
MOUNTS_MAX: Final = 64

#: Requests of one that are worked on at once.
_MAX_TASKS: Final = 50

#: The number of /dev/fuse (linux/miscdevice.h).
_DEVICE: Final = os.makedev(10, 229)

#: Mounts, for whoever has asked, with this as the source that mountinfo shows: the descriptor to
#: serve.
Mounter = Callable[[str], Awaitable[int]]

#: No name of a directory is this.
_NO_NAME: Final = b"/"


class SnapshotOperations(Operations):
    """Answers for one snapshot that nobody changes."""

    def __init__(
        self,
        edge: Edge,
        known: Known,
        numbers: Numbers,
        kernel: MountedKernel,
        options: MountOptions,
        block_size: int,
    ) -> None:
        super().__init__(edge, known, numbers, kernel, options, block_size)
        self.snapdir_name = _NO_NAME
        self.attributes = Attributes(
            options, block_size, kernel.pause, known.replaced, numbers.root_view, shows_all=True
        )
        self.passage = Passage(self.fs, self.attributes)

    async def enter_snapdir(self, parent: int) -> pyfuse3.EntryAttributes:  # noqa: ARG002 - whose
        """There is none, whatever a file handle claims."""
        raise NotFound("no snapshots are shown here")

    def release_now(self, node: int) -> None:
        """Nothing is held for this mount."""
        if node not in self.known:
            self.known.released(node)


@dataclass(eq=False)
class _Further:
    view: int
    descriptor: int
    device: int
    operations: SnapshotOperations
    connection: Connection
    is_fixed: bool = True
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def is_connected(self) -> bool:
        poll = select.poll()
        poll.register(self.descriptor, 0)
        return not poll.poll(0)  # POLLERR needs no asking for


class FurtherMounts:
    """Those of one daemon. Their tasks run in ``nursery``, and end with it: then the mounts are
    taken away.
    """

    def __init__(self, edge: Edge, nursery: trio.Nursery, source: str) -> None:
        self._edge = edge
        self._nursery = nursery
        self._source = source
        self._mounts: list[_Further] = []
        edge.look = self._look

    async def show(self, name: str, mountpoint: str, options: MountOptions, mount: Mounter) -> None:
        """Serve a snapshot on a mount point; returns when the mount is live.

        Raises ``NoSuchSnapshot``, ``UsageError``, ``MountFailed``, and what ``Edge.fix`` and
        ``mount`` do.
        """
        if not loop.usable():
            raise UsageError("a snapshot beside the mounted volume needs a newer kernel")
        if options.allow_root:
            raise UsageError(
                "option 'allow_root' is not for a snapshot beside the mounted volume: "
                "'allow_other' is"
            )
        if options.trace is not None:
            raise UsageError(
                "option 'trace' is for the mount of a volume, not for that of a snapshot beside it"
            )
        if len(self._mounts) >= MOUNTS_MAX:
            raise UsageError(f"{MOUNTS_MAX} snapshots are mounted already: unmount some")
        options = replace(options, read_only=True, writeback=False, snapshow=False, atime=False)
        instance = await self._edge.fix(name)
        try:
            descriptor, device = await self._mounted(
                mountpoint, mount, options.fsname or f"{self._source}#{instance.name}"
            )
        except BaseException:
            self._edge.unfix(instance.id)
            raise
        numbers = Numbers(instance.id)
        known = Known(numbers, lambda _view, _ino: None)
        kernel = MountedKernel(self._edge, known, numbers, mountpoint)
        operations = SnapshotOperations(
            self._edge, known, numbers, kernel, options, self._edge.volume.geometry.block_size
        )
        connection = Connection(
            descriptor, lambda: self._edge.in_progress > 0, polling=options.polling
        )
        kernel.notices = connection
        one = _Further(instance.id, descriptor, device, operations, connection)
        self._mounts.append(one)
        self._nursery.start_soon(self._serve, one, mountpoint)
        await operations.begun.wait()
        if one not in self._mounts:
            raise MountFailed(f"{mountpoint}: the mount has ended at once")
        kernel.mounted(device)
        log.info("snapshot %s: mounted on %s", instance.name, mountpoint)

    @staticmethod
    async def _mounted(mountpoint: str, mount: Mounter, source: str) -> tuple[int, int]:
        before = mountinfo.mounts()
        descriptor = await mount(
            source
        )  # requests are served meanwhile: the mount point may lie in the volume itself
        try:
            _check_descriptor(descriptor)
            device = mountinfo.fuse_device(descriptor, before, mountpoint)
            if device is None:
                raise MountFailed(
                    f"{mountpoint}: the mount is not there: it was unmounted at once, "
                    "or is covered by another one"
                )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, device

    async def _serve(self, one: _Further, mountpoint: str) -> None:
        """Until it is unmounted, or the nursery ends."""
        try:
            await Loop(one.connection, one.operations, _MAX_TASKS).run()
        except Exception:  # which is no reason to end the volume's own mount
            log.exception("the mount of a snapshot on %s ends: internal error", mountpoint)
        finally:
            with trio.CancelScope(shield=True):
                if one.is_connected:  # or the device's number may be another one's by now
                    await trio.to_thread.run_sync(
                        lambda: unmounting.take_away(mountinfo.mounts_of(one.device))
                    )
            one.connection.close()
            os.close(one.descriptor)
            self._mounts.remove(one)
            self._let_go(one)
            one.operations.begun.set()
            log.info("the snapshot on %s is unmounted", mountpoint)

    def _look(self) -> None:
        """Let go of what has been unmounted, although its task has not noticed yet."""
        for one in self._mounts:
            if not one.is_connected:
                self._let_go(one)

    def _let_go(self, one: _Further) -> None:
        if one.is_fixed:
            one.is_fixed = False
            self._edge.unfix(one.view)


def _check_descriptor(descriptor: int) -> None:
    """Raises ``UsageError`` for a file that no mount is served through."""
    status = os.fstat(descriptor)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _DEVICE:
        raise UsageError("what was handed over is no mount to be served")
