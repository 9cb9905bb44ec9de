"""TARGET: an image, a mount point, or any path inside a mount.

Decides whether the running daemon is asked or the image opened; commands see no difference.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from snapfs.cli.exits import CommandFailed, describe_os_error, report
from snapfs.control import client, mounts
from snapfs.control.memory import resolve
from snapfs.control.mounts import Mount
from snapfs.control.protocol import Request, Result
from snapfs.device.base import NO_PATH, is_memory

#: How names travel to a daemon: as UTF-8, whatever the locale (``control.comparing``).
CODING: Final = ("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Session:
    """A volume that answers. ``mountpoint`` is None when nobody has it mounted; ``call(command, **arguments)`` as of ``control.client``."""

    call: Callable[..., Result]
    mountpoint: str | None


def locate(target: str) -> Mount | None:
    """The snapfs mount that a path belongs to; None for an image. Raises ``CommandFailed`` for anything else."""
    target = resolve(target)
    try:
        status = os.stat(target)
    except OSError as exc:
        if exc.errno == errno.ENOENT and is_memory(target):
            raise CommandFailed(f"{target}: {NO_PATH}") from exc
        if exc.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise CommandFailed(
                f"{target}: the daemon of this mount has ended: run 'snapfs umount --lazy' on it, and mount it again"
            ) from exc
        raise CommandFailed(describe_os_error(exc)) from exc
    mount = mounts.mount_with_device(status.st_dev)
    if mount is None and not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise CommandFailed(f"{target}: neither in a mounted snapfs volume nor an image")
    return mount


@contextlib.contextmanager
def session(target: str, *, write: bool, damaged: bool = False, go_on: bool = True, discard: bool = False) -> Iterator[Session]:
    """Ask the daemon of TARGET, or open the image: see ``offline.opened``. Raises errors of snapfs.

    ``discard``: what is freed goes back to the host. Of a mounted volume its mount decides that, and must have done so.
    """
    target = resolve(target)
    mount = locate(target)
    found = client.of_mount(mount) if mount else client.of_image(target)
    if found is not None:
        with found:
            place = mount.path if mount else found.call("hello")["mounted"]
            if discard and not found.call("info")["discards"]:
                raise CommandFailed(f"{target}: mounted without discards: mount it with '-o discard', or leave --discard out")
            yield Session(found.call, place)
        return

    from snapfs.control import offline
    from snapfs.control.caller import Alone

    with offline.opened(target, write=write, damaged=damaged, go_on=go_on) as handlers:
        uid = os.geteuid()
        discards = handlers.fs.volume.allocator.discards
        discards.wanted = discard
        discards.gave_up = lambda reason: report(f"what is freed does not go back to the host: {reason}")

        def call(command: str, /, told: Callable[[Result], None] | None = None, **arguments: object) -> Result:
            return offline.run(handlers.handle(Request(command, arguments), uid, Alone(told)))

        yield Session(call, None)


def in_volume(path: str, mountpoint: str | None, *, follow: bool = False) -> str:
    """A path below the mount point becomes one in the volume; any other is one already. ``follow``: also if the last name is a link."""
    if mountpoint and os.path.isabs(path):
        whole = os.path.realpath(path)
        if whole != mountpoint and not follow:
            whole = _without_links(path)
        if whole == mountpoint or whole.startswith(mountpoint.rstrip("/") + "/"):
            return whole[len(mountpoint.rstrip("/")) :] or "/"
    return path


def as_sent(path: str) -> str:
    """A path of the command line as it travels."""
    return os.fsencode(path).decode(*CODING)


def place_of(path: str) -> tuple[str, str]:
    """A path in a mount, which need not be there any more: something that is there, and the whole path without links on the way."""
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there.rstrip("/")) or ("/" if there.startswith("/") else ".")
    if os.path.islink(there):
        if mounts.mount_with_device(os.lstat(there).st_dev) is None:  # a link from elsewhere into a mount
            there = path = os.path.realpath(path)
        else:
            there = os.path.dirname(there) or "."
    return there, _without_links(path)


def _without_links(path: str) -> str:
    if os.path.basename(path) in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
