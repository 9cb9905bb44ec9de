"""``snapfs umount`` and ``umount.snapfs``: unmount, and return when the image is released.

The kernel says that a FUSE mount is gone before its daemon has finished; so the end of the daemon's
process is waited for (``release``).
"""

from __future__ import annotations

import argparse
import getopt
import os
import time
from collections.abc import Collection, Sequence
from typing import Final

from snapfs.cli.arguments import Parser, seconds
from snapfs.cli.exits import (
    ERROR,
    MOUNT_FAILED,
    MOUNT_SYSTEM,
    MOUNT_USAGE,
    OK,
    CommandFailed,
    report,
)
from snapfs.cli.mounting.release import Daemon
from snapfs.cli.waiting import looked
from snapfs.control.socket import client, mounts
from snapfs.control.socket.mounts import Mount
from snapfs.device import mount_users
from snapfs.device.base import NO_PATH, is_memory
from snapfs.errors import MountBusy, MountCovered, SnapfsError
from snapfs.fuse.mount import unmounting

#: Seconds for a daemon to say who it is.
ANSWER_SECONDS: Final = 3.0

#: Seconds in which a mount may become free that is in use: by somebody, and by nobody that can be
#: seen.
USED_SECONDS: Final = 1.0
UNKNOWN_SECONDS: Final = 5.0

#: Seconds between two attempts, at first and at most.
_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.2

#: Of those who use a mount, so many are named.
_NAMED: Final = 5


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="the mount point, or the image")
    parser.add_argument(
        "--lazy",
        "-l",
        action="store_true",
        help="detach now, end when the last file is closed; do not wait",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="fail when the daemon has not let go of the image so long after unmounting",
    )


def run(arguments: argparse.Namespace) -> int:
    """Unmount."""
    _unmount(_find(arguments.mountpoint), lazy=arguments.lazy, timeout=arguments.timeout)
    return OK


def run_helper(words: Sequence[str]) -> int:
    """``umount.snapfs MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE]``, as umount(8) calls it."""
    try:
        options, places = getopt.gnu_getopt(list(words), "flnrvN:t:")
    except getopt.GetoptError as exc:
        raise CommandFailed(str(exc), MOUNT_USAGE) from exc
    if len(places) != 1:
        raise CommandFailed("usage: umount.snapfs [-l] MOUNTPOINT", MOUNT_USAGE)
    try:
        _unmount(_find(places[0]), lazy=("-l", "") in options)
    except CommandFailed as exc:
        raise CommandFailed(str(exc), MOUNT_FAILED if exc.code == ERROR else exc.code) from exc
    return OK


def _find(place: str) -> Mount:
    """The mount on a mount point, or of an image. Raises ``CommandFailed`` when there is none of
    ours.
    """
    mount = mounts.mount_at(place)
    if mount is None:
        daemon = client.of_image(place, client.Patience(say=report))
        if daemon is None:
            if is_memory(place) and not os.path.lexists(place):
                raise CommandFailed(f"{place}: {NO_PATH}")
            raise CommandFailed(
                f"{place}: {'not mounted' if os.path.lexists(place) else 'no such mount point'}"
            )
        with daemon:
            found = daemon.call("hello")["mounted"]
        mount = mounts.mount_at(found)
        if mount is None or not _is_of(mount, daemon.pid):
            other = (
                f": {mount.source} ({mount.fstype}) is mounted there" if mount is not None else ""
            )
            raise CommandFailed(f"{place}: its mount on {found} cannot be seen from here{other}")
    if not mount.is_ours:
        raise CommandFailed(f"{place}: not a snapfs mount (it is {mount.fstype}): use umount")
    return mount


def _is_of(mount: Mount, pid: int) -> bool:
    """Whether a mount is that daemon's: another volume, or something else, may be mounted where it
    once was.
    """
    try:
        with client.of_mount(mount, client.Patience(ANSWER_SECONDS)) as found:
            return mount.is_ours and found.pid == pid
    except SnapfsError:
        return False


def _unmount(mount: Mount, *, lazy: bool, timeout: float | None = None) -> None:
    daemon = _daemon(mount)
    try:
        os.chdir("/")  # or this process itself may use the mount
        _when_free(mount, lazy=lazy, but={daemon.pid} if daemon else set())
        if daemon is not None and not lazy:
            daemon.wait(mount, timeout)
    except MountCovered as exc:
        raise CommandFailed(f"{exc}: unmount that first") from exc
    except FileNotFoundError as exc:
        raise CommandFailed(
            "fusermount3 is missing: install the package fuse3", MOUNT_SYSTEM
        ) from exc
    finally:
        if daemon is not None:
            daemon.close()


def _daemon(mount: Mount) -> Daemon | None:
    """The daemon of a mount, or None for a dead mount or another user's."""
    try:
        with client.of_mount(mount, client.Patience(ANSWER_SECONDS)) as found:
            return Daemon(found.pid)
    except (SnapfsError, OSError):
        return None


def _when_free(mount: Mount, *, lazy: bool, but: Collection[int]) -> None:
    """Unmount, as soon as nobody uses it any more; who is about to end has some time for it. Raises
    ``CommandFailed``.
    """
    waiting = client.Patience(
        None,
        lambda _: report(
            f"{mount.path}: waiting until the daemon has stored what the kernel holds back of it"
        ),
    )
    start, pause = time.monotonic(), _PAUSE
    while True:
        try:
            # In a thread, as nothing interrupts what waits in the kernel.
            return looked(mount.path, waiting, unmounting.unmount, mount, lazy=lazy)
        except MountBusy:
            users = mount_users.users(mount, but)
            if time.monotonic() - start > (USED_SECONDS if users else UNKNOWN_SECONDS):
                raise CommandFailed(_in_use(mount, users)) from None
        time.sleep(pause)  # the kernel tells nobody when a mount is free: it is tried
        pause = min(2 * pause, _LONGEST_PAUSE)


def _in_use(mount: Mount, users: list[str]) -> str:
    advice = "end that first, or give --lazy, which takes along what is mounted in it"
    if not users:
        return (
            f"{mount.path}: in use, by what cannot be seen from here (as root, 'fuser -vm' "
            f"may show more): {advice}"
        )
    more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
    return f"{mount.path}: in use by {', '.join(users[:_NAMED])}{more}: {advice}"
