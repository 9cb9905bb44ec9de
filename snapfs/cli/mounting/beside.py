"""``snapfs mount`` of a volume that is mounted already: refused, or of one of its snapshots, which
the running daemon mounts beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from snapfs.cli.exits import MOUNT_FAILED, MOUNT_USAGE, OK, CommandFailed, report
from snapfs.control.socket import client, mounts
from snapfs.control.socket.protocol import MOUNT_SNAPSHOT, ControlError
from snapfs.errors import SnapfsError, UsageError

if TYPE_CHECKING:
    from snapfs.fuse.mount.options import MountOptions

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
    """Have the daemon mount the snapshot, read-only. ``words`` are the
    options as they were given.
    """
    try:
        daemon.call(MOUNT_SNAPSHOT, name=options.snapshot, mountpoint=mountpoint, options=words)
    except SnapfsError as exc:
        raise CommandFailed(
            str(exc), MOUNT_USAGE if isinstance(exc, UsageError) else MOUNT_FAILED
        ) from exc
    return OK
