"""``snapfs umount`` and ``umount.snapfs``: unmount, and return when the image is released.

The kernel says that a FUSE mount is gone before its daemon has finished; this waits for the end of the daemon's process, which
has then committed, closed the image and given back its lock.
"""

from __future__ import annotations

import argparse
import errno
import getopt
import os
import select
import subprocess
from collections.abc import Sequence
from typing import Final

from snapfs.cli.arguments import Parser
from snapfs.cli.exits import ERROR, MOUNT_FAILED, MOUNT_SYSTEM, MOUNT_USAGE, OK, CommandFailed
from snapfs.control import client, mounts
from snapfs.control.mounts import Mount
from snapfs.device.base import NO_PATH, is_memory
from snapfs.errors import SnapfsError

#: Flags of umount2(2).
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="the mount point, or the image")
    parser.add_argument("--lazy", "-l", action="store_true", help="detach now, end when the last file is closed; do not wait")


def run(arguments: argparse.Namespace) -> int:
    """Unmount."""
    _unmount(_find(arguments.mountpoint), lazy=arguments.lazy)
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
    """The mount on a mount point, or of an image. Raises ``CommandFailed`` when there is none of ours."""
    mount = mounts.mount_at(place)
    if mount is None:
        daemon = client.of_image(place)
        if daemon is None:
            if is_memory(place) and not os.path.lexists(place):
                raise CommandFailed(f"{place}: {NO_PATH}")
            raise CommandFailed(f"{place}: {'not mounted' if os.path.lexists(place) else 'no such mount point'}")
        with daemon:
            found = daemon.call("hello")["mounted"]
        mount = mounts.mount_at(found)
        if mount is None:
            raise CommandFailed(f"{place}: its mount on {found} cannot be seen from here")
    if not mount.is_ours:
        raise CommandFailed(f"{place}: not a snapfs mount (it is {mount.fstype}): use umount")
    return mount


def _unmount(mount: Mount, *, lazy: bool) -> None:
    daemon = None if lazy else _daemon(mount)
    try:
        if os.geteuid() == 0:
            _by_system_call(mount.path, lazy=lazy)
        else:
            _by_fusermount(mount.path, lazy=lazy)
        if daemon is not None:
            select.select([daemon], [], [])  # readable when the process has ended
    finally:
        if daemon is not None:
            os.close(daemon)


def _daemon(mount: Mount) -> int | None:
    """A descriptor of the daemon's process (pidfd_open(2)), or None for a dead mount or another user's."""
    try:
        with client.of_mount(mount) as daemon:
            return os.pidfd_open(daemon.pid)
    except (SnapfsError, OSError):
        return None


def _by_system_call(path: str, *, lazy: bool) -> None:
    """umount2(2): what umount(8) does, without calling this helper again."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EBUSY:
        raise CommandFailed(f"{path}: in use: close what uses it (fuser -vm shows what does), or give --lazy")
    raise CommandFailed(f"{path}: {os.strerror(code)}")


def _by_fusermount(path: str, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandFailed("fusermount3 is missing: install the package fuse3", MOUNT_SYSTEM) from None
    if result.returncode == 0:
        return
    reason = result.stderr.strip().splitlines()[-1:] or [f"fusermount3 ended with {result.returncode}"]
    if "busy" in reason[0].lower():
        raise CommandFailed(f"{path}: in use: close what uses it (fuser -vm shows what does), or give --lazy")
    raise CommandFailed(f"{path}: {reason[0].removeprefix('fusermount3: ')}")
