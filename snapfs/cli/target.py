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

from snapfs.cli.exits import CommandFailed, describe_os_error
from snapfs.control import client, mounts
from snapfs.control.mounts import Mount
from snapfs.control.protocol import Request, Result


@dataclass(frozen=True)
class Session:
    """A volume that answers. ``mountpoint`` is None when nobody has it mounted; ``call(command, **arguments)`` as of ``control.client``."""

    call: Callable[..., Result]
    mountpoint: str | None


def locate(target: str) -> Mount | None:
    """The snapfs mount that a path belongs to; None for an image. Raises ``CommandFailed`` for anything else."""
    try:
        status = os.stat(target)
    except OSError as exc:
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
def session(target: str, *, write: bool, damaged: bool = False) -> Iterator[Session]:
    """Ask the daemon of TARGET, or open the image: for changes with ``write``, ``damaged`` or not. Raises errors of snapfs."""
    mount = locate(target)
    found = client.of_mount(mount) if mount else client.of_image(target)
    if found is not None:
        with found:
            place = mount.path if mount else found.call("hello")["mounted"]
            yield Session(found.call, place)
        return

    from snapfs.control import offline
    from snapfs.control.caller import Alone

    with offline.opened(target, write=write, damaged=damaged) as handlers:
        uid = os.geteuid()

        def call(command: str, /, told: Callable[[Result], None] | None = None, **arguments: object) -> Result:
            return offline.run(handlers.handle(Request(command, arguments), uid, Alone(told)))

        yield Session(call, None)
