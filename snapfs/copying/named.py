"""Files that a volume, or the mark of a copy, names: the target of a copy, the file of its map.

Whoever makes an image can write any path into it. So a file that an image names is believed to be
meant only if it belongs to root or to the image's owner, and links on the way to it are followed
only if they belong to root or to this process's user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection

from snapfs.device import Device, ImageDevice, Lock, open_pinned, pin_name
from snapfs.errors import CopyError, DeviceError


def owners_of(image: Device) -> Collection[int]:
    """The users whose files an image may name."""
    if not isinstance(image, ImageDevice):
        return {0, os.geteuid()}  # it is this process's own
    status = image.status()
    # A block device belongs to the system: whoever may write it need not own it.
    return {0, os.geteuid()} if stat.S_ISBLK(status.st_mode) else {0, status.st_uid}


def open_named(
    path: str, *, owners: Collection[int] | None, lock: Lock, read_only: bool = False
) -> ImageDevice:
    """Open a file or a block device that is there, keeping its name. ``owners`` None: whoever it
    belongs to.

    Raises ``DeviceError``, ``VolumeBusy``; ``CopyError`` when it belongs to somebody else.
    """
    try:
        pinned = pin_name(path)
    except OSError as exc:
        raise DeviceError(f"{path}: cannot be opened: {exc.strerror}") from exc
    with pinned:
        if not pinned.exists:
            raise DeviceError(f"{path}: cannot be opened: No such file or directory")
        owner = pinned.status().st_uid
        if owners is not None and owner not in owners:
            raise CopyError(
                f"{path}: belongs to user {owner}, and the image that names it to "
                "another: it is not touched"
            )
        device = open_pinned(pinned, read_only=read_only, lock=lock)
        device.pinned = pinned.copied()
        return device
