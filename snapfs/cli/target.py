"""TARGET: an image, a mount point, or any path inside a mount.

Decides whether the running daemon is asked or the image opened; commands see no difference.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from snapfs.cli.exits import CommandFailed, describe_os_error, report
from snapfs.cli.waiting import looked, patience
from snapfs.control.copies.memory import resolve
from snapfs.control.socket import client, mounts
from snapfs.control.socket.client import Patience
from snapfs.control.socket.mounts import Mount
from snapfs.control.socket.protocol import Request, Result
from snapfs.device.base import NO_PATH, is_memory

#: How names travel to a daemon: as UTF-8, whatever the locale (``control.commands.comparing``).
CODING: Final = ("utf-8", "surrogateescape")

#: Arguments that are words of the command line: names and texts. Paths are others (``cli.paths``),
#: and what the daemon opens.
WORDS: Final = frozenset(
    {
        "name",
        "new_name",
        "names",
        "old",
        "new",
        "origin",
        "designated",
        "description",
        "tags",
        "untag",
        "hold",
        "reason",
    }
)

#: The name of the directory that shows snapshots, unless a mount is told another.
SNAPDIR: Final = ".snap"

#: Whoever says nothing else waits for ever, and is told so.
NO_LIMIT: Final = patience(None)


@dataclass
class Session:
    """A volume that answers. ``mountpoint`` is None when nobody has it mounted; ``call(command,
    **arguments)`` as of ``control.socket.client``.

    ``device``: the ``st_dev`` of what is in the mount, None when nobody has it mounted.
    """

    call: Callable[..., Result]
    mountpoint: str | None
    device: int | None = None
    patience: Patience = NO_LIMIT

    @functools.cached_property
    def snapdir(self) -> str:
        """The name of the directory that shows the snapshots of another."""
        return (
            str(self.call("hello").get("snapdir", SNAPDIR)) if self.device is not None else SNAPDIR
        )


def locate(target: str, patience: Patience = NO_LIMIT) -> Mount | None:
    """The snapfs mount that a path belongs to; None for an image. Raises ``CommandFailed`` for
    anything else.
    """
    target = resolve(target)
    try:
        status = looked(target, patience, os.stat, target)
    except OSError as exc:
        if exc.errno == errno.ENOENT and is_memory(target):
            raise CommandFailed(f"{target}: {NO_PATH}") from exc
        if exc.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise CommandFailed(
                f"{target}: the daemon of this mount has ended: run 'snapfs umount "
                "--lazy' on it, and mount it again"
            ) from exc
        if exc.errno == errno.EACCES and (why := mounts.why_closed(target)) is not None:
            # The daemon itself obeys root, who may not look at the files.
            if os.geteuid() == 0:
                return mounts.mount_above(target)
            raise CommandFailed(f"{target}: {why}") from exc
        raise CommandFailed(describe_os_error(exc)) from exc
    mount = mounts.mount_with_device(status.st_dev)
    if mount is None and not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise CommandFailed(f"{target}: neither in a mounted snapfs volume nor an image")
    return mount


@contextlib.contextmanager
def session(
    target: str,
    *,
    write: bool,
    timeout: float | None = None,
    hurried: bool = False,
    damaged: bool = False,
    go_on: bool = True,
    discard: bool = False,
) -> Iterator[Session]:
    """Ask the daemon of TARGET, or open the image: see ``offline.opened``. Raises errors of snapfs.

    ``timeout``: seconds without a word of the daemon after which it is given up; None for never.
    ``hurried``: one that is stopped is given up at once. ``discard``: what is freed goes back to
    the host. Of a mounted volume its mount decides that, and must have done so.
    """
    target = resolve(target)
    limit = patience(timeout, hurried=hurried)
    mount = locate(target, limit)
    found = client.of_mount(mount, limit) if mount else client.of_image(target, limit)
    if found is not None:
        with found:
            hello: Result = (
                {"mounted": mount.path, "device": mount.device} if mount else found.call("hello")
            )
            if discard and not found.call("info")["discards"]:
                raise CommandFailed(
                    f"{target}: mounted without discards: mount it with '-o discard', "
                    "or leave --discard out"
                )
            yield Session(_sending(found.call), hello["mounted"], hello.get("device"), limit)
        return

    from snapfs.control.commands import offline
    from snapfs.control.socket.caller import Alone

    with offline.opened(target, write=write, damaged=damaged, go_on=go_on) as handlers:
        uid = os.geteuid()
        discards = handlers.fs.volume.allocator.discards
        discards.wanted = discard
        discards.gave_up = lambda reason: report(
            f"what is freed does not go back to the host: {reason}"
        )

        def call(
            command: str, /, told: Callable[[Result], None] | None = None, **arguments: object
        ) -> Result:
            return offline.run(handlers.handle(Request(command, arguments), uid, Alone(told)))

        yield Session(_sending(call), None)


def as_sent(text: str) -> str:
    """A word of the command line, which the locale has decoded, as it travels."""
    return os.fsencode(text).decode(*CODING)


def _sending(call: Callable[..., Result]) -> Callable[..., Result]:
    """Calls with the words of the command line."""

    def sent(value: object) -> object:
        if isinstance(value, str):
            return as_sent(value)
        if isinstance(value, dict):
            return {sent(key): sent(one) for key, one in value.items()}
        return [sent(one) for one in value] if isinstance(value, list) else value

    def sending(
        command: str, /, told: Callable[[Result], None] | None = None, **arguments: object
    ) -> Result:
        words = {name: sent(value) if name in WORDS else value for name, value in arguments.items()}
        return call(command, told, **words)

    return sending
