"""Does a file or device lie in a mounted volume? Whoever copies a volume into itself has the daemon
wait for itself.

It may lie there directly, through whatever bind mount; or in a filesystem whose device stands on a
file there (a loop device, however deep); or in another mounted volume whose image is there. What no
kernel and no daemon tells cannot be found.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from snapfs.control.socket import client
from snapfs.control.socket.mounts import Mount, mounts
from snapfs.device.pinned import pin
from snapfs.device.storage import below, node
from snapfs.errors import SnapfsError, UsageError

#: How long another daemon is asked for its image.
ANSWER_SECONDS: Final = 5.0

#: Filesystems that stand on one another, at most: nobody has more.
DEPTH: Final = 32


def refuse_nested(path: str, status: os.stat_result, device: int) -> None:
    """Raises ``UsageError`` for a path with this status that lies in the mount with this device
    number. May block.
    """
    if any(number == device for number in filesystems_below(status)):
        raise UsageError(
            f"{path}: is in the volume that is to be copied: choose a place outside of it"
        )


def filesystems_below(status: os.stat_result) -> Iterator[int]:
    """The device numbers of all filesystems that a file or a block device depends on, as far as
    that can be told.
    """
    waiting = [(status.st_rdev, True) if stat.S_ISBLK(status.st_mode) else (status.st_dev, False)]
    seen = set(waiting)
    while waiting and len(seen) <= DEPTH:
        number, is_block_device = waiting.pop()
        if is_block_device:
            found = _below_device(number)
        else:
            yield number
            found = _below_filesystem(number)
        for one in found:
            if one not in seen:
                seen.add(one)
                waiting.append(one)


def _below_device(number: int) -> list[tuple[int, bool]]:
    """What a block device stands on: filesystems of files, and other devices."""
    with contextlib.suppress(OSError, SnapfsError), pin(node(number)) as pinned:
        if pinned.is_block_device and pinned.status().st_rdev == number:
            descriptor = pinned.open(os.O_RDONLY)
            try:
                return [
                    (one.storage.device, False) if one.storage.device else (one.storage.inode, True)
                    for one in below(descriptor)
                ]
            finally:
                os.close(descriptor)
    return []


def _below_filesystem(number: int) -> list[tuple[int, bool]]:
    """What a filesystem stands on: its block device, or what it is mounted from."""
    if os.major(number):
        return [(number, True)]
    mount = next((one for one in reversed(mounts()) if one.device == number), None)
    if mount is not None:
        with contextlib.suppress(OSError, SnapfsError), pin(_source(mount)) as pinned:
            status = pinned.status()
            return [(status.st_rdev, True) if pinned.is_block_device else (status.st_dev, False)]
    return []


def _source(mount: Mount) -> str:
    """The path of what is mounted, as its daemon says if it is one of ours. Raises ``SnapfsError``
    when nobody says.
    """
    if mount.is_ours:
        with client.of_mount(mount, client.Patience(ANSWER_SECONDS)) as daemon:
            return str(daemon.call("hello")["image"])
    return mount.source if mount.source.startswith("/") else ""
