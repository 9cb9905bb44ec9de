"""Unmounting what is ours, and nothing else: neither what was mounted over it meanwhile, nor what
has got its place or its number.

umount2(2) and fusermount3 take a path, and act on what is mounted there topmost at that moment. So
the path is asked for the mount that it leads to right before. For commands and the daemon; loads
neither trio nor pyfuse3.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from typing import Final

from snapfs.device import mountinfo
from snapfs.device.mountinfo import Mount
from snapfs.errors import MountBusy, MountCovered, UnmountFailed

#: Flags of umount2(2).
_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

#: System calls without a function in every libc, and their arguments (the numbers are those of all
#: architectures but alpha).
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSCONFIG_CMD_CREATE: Final = 6
_CLOSE_ON_EXEC: Final = 1

#: Where the kernel lists connections, if somebody has mounted that.
_CONNECTIONS: Final = "/sys/fs/fuse/connections"


def unmount(mount: Mount, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount this one mount, if it is there still. ``lazy``: although somebody uses it, and with
    all that is mounted in it.

    Returns when the kernel has sent everything that it held back, if it was the last mount of its
    filesystem. Raises ``MountBusy``, ``MountCovered``, ``UnmountFailed`` with what else umount2(2)
    or fusermount3 says, or ``OSError`` where there is no fusermount3.
    """
    if not _is_on_top(mount):
        return
    if os.geteuid() == 0:
        _by_system_call(mount.path, (_MNT_DETACH if lazy else 0) | (_MNT_FORCE if force else 0))
    else:
        _by_fusermount(mount.path, lazy=lazy)


def take_away(mounts: list[Mount]) -> list[str]:
    """End the connection of the filesystem that has these mounts, so that all who wait for an
    answer get an error, and ``detach`` them.

    Whoever calls this has the connection open: else the device's number may be another filesystem's
    by now.
    """
    for device in {mount.device for mount in mounts}:
        abort(device)
    return detach(mounts, force=True)


def detach(mounts: list[Mount], *, force: bool = False) -> list[str]:
    """Unmount what can be reached, whoever uses it; the lines about what cannot be, which is dead
    when its daemon has ended.

    A mount that carries mounts of others stays where it is: they would go with it, with all that is
    in them. ``force``: as ``abort``.
    """
    left = []
    for mount in reversed(mounts):
        try:
            carried = carried_by(mount)
            if carried:
                raise MountBusy(
                    f"{mount.path}: {carried[0].source} ({carried[0].fstype}) is "
                    f"mounted in it, on {carried[0].path}"
                )
            unmount(mount, lazy=True, force=force)
        except (UnmountFailed, OSError) as exc:
            left.append(str(exc))
    return left


def carried_by(mount: Mount) -> list[Mount]:
    """The mounts of other filesystems that are mounted in this one, or in what is."""
    inside, found = {mount.id}, []
    for each in sorted(
        mountinfo.mounts(), key=lambda each: len(each.path)
    ):  # what is mounted in something has a longer path
        if each.parent in inside and each.id not in inside:
            inside.add(each.id)
            if each.device != mount.device:
                found.append(each)
    return found


def abort(device: int) -> None:
    """End the connection of the filesystem with this ``st_dev``, if this user may. See
    ``take_away`` for who may call this.
    """
    name = f"{os.minor(device)}/abort"  # which is the whole number: the major is 0
    try:
        with open(f"{_CONNECTIONS}/{name}", "wb") as file:
            file.write(b"1")
    except OSError:
        with contextlib.suppress(OSError):
            _abort_unmounted(name)


def _is_on_top(mount: Mount) -> bool:
    """Whether it is there, at its path. Raises ``MountCovered`` when it is there and something else
    has its path.
    """
    found = mountinfo.reached(mount.path)
    if found is not None and (found.id, found.device) == (mount.id, mount.device):
        return True
    if not any((each.id, each.device) == (mount.id, mount.device) for each in mountinfo.mounts()):
        return False
    what = (
        f"{found.source} ({found.fstype}) is mounted over it"
        if found is not None
        else "its path cannot be reached"
    )
    raise MountCovered(f"{mount.path}: {what}")


def _by_system_call(path: str, flags: int) -> None:
    """umount2(2): what umount(8) does, without calling our helper again."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags | _UMOUNT_NOFOLLOW) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EBUSY:
        raise MountBusy(f"{path}: in use")
    raise UnmountFailed(f"{path}: {os.strerror(code)}")


def _by_fusermount(path: str, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    result = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},  # its words are looked at
    )
    if result.returncode == 0:
        return
    reason = (
        result.stderr.strip().splitlines() or [f"fusermount3 ended with {result.returncode}"]
    )[-1]
    if "busy" in reason.lower():
        raise MountBusy(f"{path}: in use")
    raise UnmountFailed(f"{path}: {reason.removeprefix('fusermount3: ')}")


def _abort_unmounted(name: str) -> None:
    """Where the kernel's list of connections is mounted nowhere, root has it to itself. Raises
    ``OSError``.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result: int = libc.syscall(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    context = call(_FSOPEN, b"fusectl", _CLOSE_ON_EXEC)
    try:
        call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        directory = call(_FSMOUNT, context, _CLOSE_ON_EXEC, 0)
    finally:
        os.close(context)
    try:
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        os.write(file, b"1")
    finally:
        os.close(file)
