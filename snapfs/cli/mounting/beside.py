"""``snapfs mount`` of a volume that is mounted already: refused, or of one of its snapshots, which
the running daemon mounts beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from snapfs.cli.exits import MOUNT_FAILED, MOUNT_USAGE, OK, CommandFailed, report
from snapfs.control.socket import client, mounts
from snapfs.control.socket.protocol import (
    MOUNT_SNAPSHOT,
    ControlError,
    Result,
)
from snapfs.device import mountinfo
from snapfs.errors import SnapfsError, UsageError
from snapfs.fuse.mount import unmounting
from snapfs.fuse.mount.fusermount import mount_read_only

if TYPE_CHECKING:
    from snapfs.fuse.options import MountOptions

#: Seconds that a daemon which has the image already has to say where.
ANSWER_SECONDS: Final = 5.0


def running(image: str, options: MountOptions) -> client.Client | None:
    """The daemon that has an image mounted, or the volume that is mounted on a directory; None
    where nobody has.
    """
    patience = (
        client.Patience(ANSWER_SECONDS) if options.snapshot is None else client.Patience(say=report)
    )
    mount = mounts.mount_at(image) if os.path.isdir(image) else None
    if mount is not None and mount.is_ours:
        return client.of_mount(mount, patience)
    return client.of_image(image, patience)


def check(daemon: client.Client, image: str, options: MountOptions, *, foreground: bool) -> None:
    """Raises ``CommandFailed``, which says where an image is mounted, unless it is a snapshot that
    is to be mounted beside it.

    Only a courtesy: the image's lock is what keeps two daemons apart.
    """
    if options.snapshot is not None and not foreground:
        return
    try:
        place = daemon.call("hello")["mounted"]
    except ControlError:
        raise CommandFailed(
            f"{image}: in use: process {daemon.pid} has it mounted, and does not answer",
            MOUNT_FAILED,
        ) from None
    more = (
        "; its daemon serves the snapshot, too: leave -f out"
        if options.snapshot is not None
        else ""
    )
    raise CommandFailed(
        f"{image}: in use: mounted on {place} by process {daemon.pid}{more}", MOUNT_FAILED
    )


def mount(daemon: client.Client, options: MountOptions, mountpoint: str, words: str) -> int:
    """Mount the snapshot, read-only, and have the daemon serve it. ``words`` are the options as
    they were given.

    The daemon does not mount: see ``fuse.mount.further``. Whether it can serve the snapshot is
    known before anything is mounted.
    """
    descriptors: list[int] = []

    def told(event: Result) -> None:
        descriptors.append(
            mount_read_only(mountpoint, options, str(event.get("source")), daemon.owner())
        )
        daemon.hand_over(descriptors[0], MOUNT_SNAPSHOT)

    before = mountinfo.mounts()
    try:
        daemon.call(
            MOUNT_SNAPSHOT, told, name=options.snapshot, mountpoint=mountpoint, options=words
        )
    except BaseException as exc:
        for descriptor in descriptors:  # it is mounted, and nobody serves it
            device = mountinfo.fuse_device(descriptor, before, mountpoint)
            if device is not None:
                unmounting.take_away(mountinfo.mounts_of(device))
        if isinstance(exc, SnapfsError):
            raise CommandFailed(
                str(exc), MOUNT_USAGE if isinstance(exc, UsageError) else MOUNT_FAILED
            ) from exc
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return OK
