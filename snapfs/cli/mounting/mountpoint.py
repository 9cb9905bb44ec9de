"""The place where a volume is about to be mounted: what may be there, and what is taken away first,
a dead mount of the same volume.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from snapfs.cli.exits import MOUNT_FAILED, MOUNT_USAGE, CommandFailed
from snapfs.cli.mounting.source import Source
from snapfs.cli.waiting import looked
from snapfs.control.socket import mounts
from snapfs.control.socket.client import Patience
from snapfs.device.mountinfo import Mount
from snapfs.errors import UnmountFailed
from snapfs.fuse.mount import unmounting
from snapfs.fuse.options import MountOptions
from snapfs.printable import quoted

#: What looking at a mount ends with when its daemon is gone.
DEAD: Final = (errno.ENOTCONN, errno.ECONNABORTED)

#: Seconds for the daemon of a mount to answer the kernel.
_ANSWER_SECONDS: Final = 10.0


def check(path: str, source: Source, options: MountOptions) -> Mount | None:
    """Raise ``CommandFailed`` when nothing can be mounted there; the dead mount that has to go
    first, if one is there.
    """
    mount = mounts.mount_at(path)
    if mount is not None and mount.is_ours:
        if not _is_dead(mount):
            raise _busy(path, mount)
        if not _is_of(mount, source, options):
            away = f"snapfs umount --lazy {quoted(path)}"
            raise CommandFailed(
                f"{path}: a mount of {mount.source} is left there whose daemon has "
                f"ended: run '{away}'",
                MOUNT_FAILED,
            )
        return mount
    try:
        status = os.stat(path)
    except OSError as exc:
        if exc.errno == errno.ENOENT:
            raise CommandFailed(
                f"{path}: no such mount point: make the directory first", MOUNT_FAILED
            ) from exc
        if exc.errno in DEAD:
            raise CommandFailed(
                f"{path}: a mount is left there whose daemon has ended: unmount it first",
                MOUNT_FAILED,
            ) from exc
        why = mounts.why_closed(path) or exc.strerror
        raise CommandFailed(
            f"{path}: {why}", MOUNT_USAGE if exc.errno == errno.EACCES else MOUNT_FAILED
        ) from exc
    if not stat.S_ISDIR(status.st_mode):
        raise CommandFailed(f"{path}: not a directory", MOUNT_FAILED)
    # systemd's automount waits on the mount point for exactly this.
    if mount is not None and mount.fstype != "autofs":
        raise _busy(path, mount)
    return None


def take_away(mount: Mount) -> None:
    """Unmount a dead mount, whoever has something open in it. Raises ``CommandFailed``."""
    carried = unmounting.carried_by(mount)
    if carried:
        what = f"{carried[0].source} ({carried[0].fstype}) is mounted in it, on {carried[0].path}"
        raise CommandFailed(
            f"{mount.path}: a dead mount is left there, and {what}: unmount that first",
            MOUNT_FAILED,
        )
    try:
        unmounting.unmount(mount, lazy=True)
    except (UnmountFailed, OSError) as exc:
        raise CommandFailed(
            f"{mount.path}: the dead mount that is left there cannot be taken away: {exc}",
            MOUNT_FAILED,
        ) from exc


def _is_dead(mount: Mount) -> bool:
    """Whether its daemon has ended. One that does not answer lives."""
    try:
        # The kernel might answer stat from its memory; for this it asks the daemon.
        looked(mount.path, Patience(_ANSWER_SECONDS), os.statvfs, mount.path)
    except OSError as exc:
        return exc.errno in DEAD
    except CommandFailed:
        return False
    return False


def _is_of(mount: Mount, source: Source, options: MountOptions) -> bool:
    """Whether a mount was of the volume that is to be mounted now."""
    if mount.source in {options.fsname, source.given, source.in_mountinfo}:
        return True
    return (
        not source.in_memory
        and os.path.isabs(mount.source)
        and os.path.realpath(mount.source) == os.path.realpath(source.given)
    )


def _busy(path: str, mount: Mount) -> CommandFailed:
    what = f"{mount.source} ({mount.fstype})"
    return CommandFailed(
        f"{path}: busy: {what} is mounted there: unmount it first, or choose another directory",
        MOUNT_FAILED,
    )
