"""What the daemon tells the kernel, outside of replies: forget what you believe. What it asks of it
is in ``flushing``.

That can block in the kernel until requests have been served, so it happens in worker threads while
the loop serves. A request handler never waits for anything here that needs a lock of the kernel's:
the kernel may hold it for that very request.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from itertools import pairwise
from typing import Final

import trio

from snapfs import snapshots
from snapfs.errors import NoSuchSnapshot, SnapfsError
from snapfs.filesystem import Filesystem, Inode
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.mounted_inside import Inside, mounted_inside
from snapfs.fuse.driving.neighbours import LOOK_AGAIN, Outdated
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.fuse.kernel.flusher import Flusher, WantedFlush
from snapfs.fuse.kernel.flushing import Flushing
from snapfs.fuse.kernel.known import DirectoryName, Known
from snapfs.fuse.kernel.outdated import Finder
from snapfs.fuse.kernel.shortage import Shortage
from snapfs.fuse.protocol.notices import (
    expire_names,
    forget_inodes,
    forget_names,
)
from snapfs.fuse.protocol.numbers import KERNEL_ROOT, Numbers
from snapfs.ids import BASE_VIEW
from snapfs.snapshots import RestoreResult

log = logging.getLogger("snapfs.fuse")

#: How far the kernel reads ahead, in KiB.
READ_AHEAD_KB: Final = 2048

#: Seconds that a request waits until the kernel has let go of names in ``.snap`` directories. It
#: takes their locks for that, and whoever makes a snapshot there has one of them until his request
#: is answered, which may wait for this one.
GONE_SECONDS: Final = 1.0

#: In so many ``.snap`` directories what somebody uses of a snapshot goes along when it is renamed.
#: In others it may get lost to its user.
FOLLOWED_MAX: Final = 256


class MountedKernel(Flushing):
    """The kernel's side of one mount. See ``neighbours.Kernel``. ``run`` must be running."""

    def __init__(self, edge: Edge, known: Known, numbers: Numbers, mountpoint: str) -> None:
        super().__init__(edge, known, numbers, mountpoint)
        self._fs: Filesystem = edge.fs
        self.shortage = Shortage(edge, known, numbers, self)
        self.short = self.shortage.files
        #: The name of directories of snapshots; set by whoever knows the options.
        self.snapdir = b".snap"
        # Not the process that flushes: whoever makes a snapshot in a ``.snap`` keeps that locked,
        # and waits for flushing.
        self._looker = Flusher()
        self._following = trio.Lock()

    def mounted(self, device: int) -> None:
        """The mount is there, and known by its device number from now on. Its path is not looked
        at: see ``attachment``.
        """
        self.device = device
        if os.geteuid() == 0:
            _raise_read_ahead(device)

    def close(self) -> None:
        """See ``Flushing``."""
        super().close()
        self._looker.close()

    async def run(self) -> None:
        """Do in the background what nobody waits for, until cancelled."""
        await self._forgetting.run()

    # --- what the kernel believes ---

    async def owner_changed(self, node: int) -> None:
        """A directory has another owner, so its ``.snap`` has."""
        snapdir = self._numbers.snapdir(node)
        if snapdir in self._known:
            # Only attributes, which takes no lock in the kernel: a request may wait for this.
            await in_thread(
                Pool.KERNEL, lambda: forget_inodes(self.notices, [snapdir], attributes_only=True)
            )

    async def passage_changed(self, node: int) -> None:
        """Somebody may have closed a directory of a snapshot: names of the snapshot in any
        ``.snap`` below it lead past it.

        They are looked up again, and ``Passage`` asked. One thread tells the kernel of all, however
        many requests there are, for it waits as long as a snapshot is being made in such a
        ``.snap``; and that needs threads, and requests that are served.
        """
        view_id, _ = self._numbers.split(node)
        places = self._known.shown(view_id) if view_id != BASE_VIEW else set()
        if places:
            with trio.move_on_after(GONE_SECONDS):
                await self._forgetting.expire(places).wait()

    async def view_ended(self, view_id: int, *, asked_by: int | None) -> None:
        """See ``neighbours.Kernel``.

        The kernel takes its locks to forget names and pages, so a request cannot wait for that.
        What it can wait for is that attributes are forgotten where the snapshot was shown: a path
        that leads there then ends with ESTALE, for which the kernel looks again.
        """
        places = self._known.take_shown(view_id)
        nodes = list(self._known.nodes_of(view_id))
        await in_thread(
            Pool.KERNEL, lambda: forget_inodes(self.notices, nodes, attributes_only=True)
        )
        # What processes have open in it can be read from the kernel's memory until this is through.
        done = self._forgetting.forget(places, nodes)
        if asked_by is None:
            await done.wait()

    async def view_renamed(self, view_id: int, *, asked_by: int | None) -> None:
        """See ``neighbours.Kernel``. In the ``.snap`` that asked, the kernel renames by itself.

        Elsewhere a look-up of the new name has it take all along that it knows below the old one.
        To forget that would take the working directories and the mounts away that others have
        there; so would whoever looks the old name up first.
        """
        places = {place for place in self._known.take_shown(view_id) if place[0] != asked_by}
        # Two requests that rename each in its own ``.snap`` could wait for each other here: the
        # limits end that.
        limit = float("inf") if asked_by is None else GONE_SECONDS
        with trio.move_on_after(limit):
            await self._follow(view_id, [snapdir for snapdir, _ in places][:FOLLOWED_MAX])
        done = self._forgetting.expire(places)
        with trio.move_on_after(limit):
            await done.wait()

    async def _follow(self, view_id: int, snapdirs: list[int]) -> None:
        """Have a snapshot looked up by its name in ``.snap`` directories."""
        generations = {
            node: await self._generation_of(self._numbers.covered(node)) for node in snapdirs
        }
        instance = self._fs.volume.instances.table.get(view_id)
        if instance is None:
            return
        name = instance.name.encode()
        wanted = [
            WantedFlush(node, generation, name)
            for node, generation in generations.items()
            if generation is not None
        ]
        if wanted:
            async with self._following:
                with contextlib.suppress(
                    OSError
                ):  # then the old names are looked up again, and no more
                    await in_thread(
                        Pool.KERNEL,
                        self._looker.look,
                        self._mountpoint,
                        self.device,
                        wanted,
                        abandon_on_cancel=True,
                    )

    async def mounted_inside(self) -> list[Inside]:
        """See ``neighbours.Kernel``."""
        return await in_thread(Pool.KERNEL, mounted_inside, self.device, abandon_on_cancel=True)

    async def carriers(self, view_ids: Collection[int], *, is_used: bool) -> dict[int, str]:
        """See ``neighbours.Kernel``. Where something is mounted, the kernel knows the inode."""
        used = [one for one in view_ids if self._known.used_of(one) > is_used]
        if not used:
            return {}
        table = self._fs.volume.instances.table
        by_name = {table[one].name.encode(): one for one in used if one in table}
        found: dict[int, str] = {}
        for inside in await self.mounted_inside():
            for snapdir, name in pairwise(inside.way):
                if snapdir == self.snapdir and name in by_name:
                    found.setdefault(by_name[name], inside.path)
        return found

    def came_back(self, result: RestoreResult) -> None:
        """See ``neighbours.Kernel``."""
        for ino in result.inodes:
            self._known.named(self._numbers.node(BASE_VIEW, ino))

    async def outdated(self, result: RestoreResult) -> Outdated:
        """See ``neighbours.Kernel``."""
        return await Finder(self._edge, self._known, self._numbers, result).find()

    async def restored(self, found: Outdated | None) -> None:
        """See ``neighbours.Kernel``.

        Names that lead elsewhere are looked up again; to forget them would take other people's
        working directories and mounts away. Names of regular files that differ are forgotten: so
        the kernel lets go of those that nobody uses, and the others are told of.
        """
        if found is None:
            found = self._everything()
            with contextlib.suppress(
                OSError
                # an older kernel: what it believes that is not among the names of files ends in an
                # hour
            ):
                self.notices.expire_all()

        def forget() -> None:
            expire_names(self.notices, found.expired)
            forget_names(self.notices, found.forgotten)
            forget_inodes(self.notices, found.nodes, attributes_only=False)

        # Not after what others have the kernel forget: that may be names of a ``.snap``, for whose
        # lock somebody may wait who waits for us.
        await in_thread(Pool.KERNEL, forget, abandon_on_cancel=True)
        failed = await self.renew(found.renewed)
        for node in failed:
            self._known.replace(node)
        if failed:
            await self.renew(dict.fromkeys(failed, (LOOK_AGAIN, 0)))

    def _everything(self) -> Outdated:
        """What the kernel could believe of the base, where nobody can tell what of it is wrong."""
        nodes = [
            *{KERNEL_ROOT, *self._known.nodes_of(BASE_VIEW)}
        ]  # the root the kernel knows without a look-up
        names = {place for node in nodes for place in self._known.names(node)}
        return Outdated(
            set(),
            names,
            nodes,
            {node: (LOOK_AGAIN, 0) for node in nodes if self._known.names(node)},
        )

    async def purged(self, places: Collection[snapshots.NameInSnapshot]) -> None:
        """See ``neighbours.Kernel``. With a directory it lets go of all below that nobody uses; of
        the rest see ``lost_name``.
        """
        names: set[DirectoryName] = set()
        nodes: set[int] = set()
        for view_id in {place.instance.id for place in places}:
            for snapdir, name in self._known.shown(view_id):
                _, directory = self._numbers.split(self._numbers.covered(snapdir))
                try:
                    if await self._edge.call(
                        lambda ino, number: snapshots.is_cut_off(self._fs.view(number), ino),
                        directory,
                        view_id,
                    ):
                        names.add((snapdir, name))
                except NoSuchSnapshot:
                    break
                except SnapfsError:  # nobody can tell: then it is looked up again
                    names.add((snapdir, name))
        for place in places:
            parent, node = (
                self._numbers.node(place.instance.id, ino) for ino in (place.parent, place.ino)
            )
            names.add((parent, place.name))
            nodes |= {each for each in (parent, node) if each in self._known}
            view = self._fs.views.get(place.instance.id)
            if node in self._known and view is not None and place.ino in view.orphans:
                self._known.orphans.add(node)
        await self._forgetting.forget(
            names, list(nodes)
        ).wait()  # requests are served meanwhile, and none of them waits for this task

    def lost_name(self, directory: Inode, name: bytes, inode: Inode) -> None:
        """A name in a purged directory is gone. Somebody may have used what it led to: the kernel
        would keep both for a long time.
        """
        parent, node = (self._numbers.node(inode.view.id, each.ino) for each in (directory, inode))
        if not inode.nlink and node in self._known:
            self._known.orphans.add(node)
        if node in self._known:
            # What keeps another name has one less, which the kernel cannot tell. Of what it does
            # not know it has no name.
            self._forgetting.forget(
                [(parent, name)], [node] if inode.nlink else [], attributes_only=True
            )


def _raise_read_ahead(device: int) -> None:
    """Let the kernel read ahead more than its 128 KiB: requests cost more than bytes. Not everybody
    may, and it is only speed.
    """
    with contextlib.suppress(OSError):
        path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        with open(path, "r+", encoding="ascii") as file:
            if int(file.read()) < READ_AHEAD_KB:
                file.seek(0)
                file.write(str(READ_AHEAD_KB))
