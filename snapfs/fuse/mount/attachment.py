"""One mount as the kernel has it: made, known by its device number from then on, and taken away.

The mount point's path is walked by what mounts and unmounts, and by nobody else in the daemon. As
long as the mount is being made, an automounter keeps all who look at that path waiting, for us; and
afterwards it may lead to what somebody mounted over it.
"""

from __future__ import annotations

import select
from typing import Final

import pyfuse3

from snapfs.device import mountinfo
from snapfs.device.mountinfo import Mount
from snapfs.errors import MountCovered, UnmountFailed
from snapfs.fuse.mount import unmounting
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving import loop


class Attachment:
    """Mounts when it is made. ``descriptor`` is the way to the kernel, None when it cannot be told;
    ``device`` the ``st_dev`` of all files.

    Raises ``RuntimeError`` for what libfuse says on standard error, ``MountCovered`` when the mount
    cannot be found.
    """

    def __init__(self, operations: Operations, mountpoint: str, options: set[str]) -> None:
        before, descriptors = mountinfo.mounts(), loop.descriptors()
        pyfuse3.init(operations, mountpoint, options)
        try:
            new = loop.descriptors() - descriptors
            self.descriptor: Final = new.pop() if len(new) == 1 else None
            device = mountinfo.fuse_device(self.descriptor, before, mountpoint)
            if device is None:
                raise MountCovered(
                    f"{mountpoint}: the mount is not there: it was unmounted at once, "
                    "or is covered by another one"
                )
            self.device: Final = device
        except BaseException:
            pyfuse3.close(unmount=False)
            raise

    @property
    def is_connected(self) -> bool:
        """The filesystem is there: mounted somewhere, or detached and in use; and nobody has ended
        its connection.
        """
        if self.descriptor is None:
            return bool(mountinfo.mounts_of(self.device))
        poll = select.poll()
        poll.register(self.descriptor, 0)
        return not poll.poll(0)  # POLLERR needs no asking for

    def mounts(self) -> list[Mount]:
        """Where it is mounted, as far as the daemon sees. Empty when the connection has ended: the
        number may be another one's by then.
        """
        return mountinfo.mounts_of(self.device) if self.is_connected else []

    def leave(self) -> list[str]:
        """Unmount what nobody uses, and return when the kernel has sent all that it holds back; the
        reasons why something stays.
        """
        left = []
        for mount in reversed(self.mounts()):
            try:
                unmounting.unmount(mount)
            except (UnmountFailed, OSError) as exc:
                left.append(str(exc))
        return left

    def take_away(self) -> list[str]:
        """End the connection and detach the mounts, whoever uses them; the lines about what cannot
        be detached.
        """
        return unmounting.take_away(self.mounts())

    def end(self) -> list[str]:
        """Let go of the kernel. What is mounted still, as nobody has unmounted it, is detached; the
        lines about what cannot be.
        """
        left = self.mounts()
        pyfuse3.close(unmount=False)  # which goes by the path
        return unmounting.detach(left)
