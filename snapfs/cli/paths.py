"""Paths that commands are given: what they mean, by one rule for all commands.

A path that leads into the mount from here means what it leads to, whether that is still there or
not: relative to the working directory, through links, and through whatever the mount is bound to
elsewhere. Every other path is one in the volume, where ``/`` is the root of the volume. One that
begins with ``/`` and could be both is refused: nobody guesses what shall be restored or purged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from snapfs.cli.exits import USAGE, CommandFailed
from snapfs.cli.target import Session, as_sent, locate
from snapfs.cli.waiting import looked, patience
from snapfs.control.socket.mounts import (
    Mount,
    is_below,
    mount_of,
    seen_from_here,
)
from snapfs.errors import UsageError

#: For the help of every command that takes paths.
PATHS_HELP: Final = (
    "A PATH that leads into the mount from here, relative to the working directory or "
    "not, means that file, also if it is deleted by now; "
    "any other PATH is one in the volume, whose root is /. One that could be both is refused."
)

#: What the kernel puts behind the path of a directory that is no more.
_DELETED: Final = " (deleted)"


@dataclass(frozen=True)
class Resolved:
    """What a path leads to. ``there``: the longest part of it that exists; ``missing``: the names
    behind that.

    ``inside`` is the path in the volume of ``mount``, if that is one of ours.
    """

    there: str
    missing: tuple[str, ...]
    mount: Mount | None
    inside: str


def place_of(path: str, *, follow: bool = False) -> Resolved:
    """Where a path leads to that need not exist. A link at its end is what is meant, unless
    ``follow``, or it leads into a mount.
    """
    there, missing = path, list[str]()
    while True:
        is_last = not missing and not follow
        try:
            descriptor = os.open(
                there, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if is_last else 0)
            )
            break
        except OSError:  # not there, not to be looked at, no name that could be
            if there in ("/", "."):
                raise
            stripped = there.rstrip("/")
            missing.insert(0, os.path.basename(stripped))
            there = os.path.dirname(stripped) or ("/" if there.startswith("/") else ".")
    try:
        mount = mount_of(descriptor)
        found = os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    if is_last and (mount is None or not mount.is_ours) and os.path.islink(there):
        behind = place_of(os.path.realpath(path))
        if behind.mount is not None and behind.mount.is_ours:
            return behind
    if found.endswith(_DELETED) and not os.path.lexists(found):
        found = found.removesuffix(_DELETED)
    inside = "/".join((_inside(mount, found), *missing)) if mount else found
    return Resolved(there, tuple(missing), mount, "/" + inside.strip("/"))


def _inside(mount: Mount, path: str) -> str:
    """The path in the volume of what is at a path in its mount."""
    rest = path[len(mount.path.rstrip("/")) :] if is_below(path, mount.path) else ""
    return mount.root.rstrip("/") + rest


def in_volume(path: str, volume: Session, *, follow: bool = False) -> str:
    """A path of the command line as one in the volume, as it travels. ``follow``: a link at its end
    is not what is meant.

    Raises ``UsageError`` for one that could be two, or lies in a snapshot.
    """
    device = volume.device
    place = (
        looked(path, volume.patience, place_of, path, follow=follow) if device is not None else None
    )
    if place is None or place.mount is None or place.mount.device != device:
        return _in_present(path, path, volume)
    if path.startswith("/"):
        looked(path, volume.patience, _check_one, path, place, place.mount.device)
    return _in_present(path, place.inside, volume)


def _in_present(path: str, inside: str, volume: Session) -> str:
    """As it travels. Raises ``UsageError`` for a path in a snapshot: it could mean that snapshot,
    or all of them.
    """
    if volume.snapdir in inside.split("/"):
        raise UsageError(
            f"{path}: give the path as the present has it, and the snapshot by its "
            "name, as with --snapshot"
        )
    return as_sent(inside)


def _check_one(path: str, place: Resolved, device: int) -> None:
    """Raises ``UsageError`` for a path that leads into the mount from here, if there is such a path
    in the volume as well.
    """
    whole = os.path.normpath(path)
    other = None if whole == place.inside else seen_from_here(whole, device)
    if other is None:
        return
    if os.path.lexists(other) or (place.missing and os.path.lexists(os.path.dirname(other))):
        first, second = (os.path.relpath(one) for one in (path, other))
        raise UsageError(
            f"{path}: could be {place.inside} in the volume, to which it leads from "
            f"here, or {whole} in the volume: give '{first}' for the "
            f"first, '{second}' for the second"
        )


def all_in_volume(paths: Iterable[str], volume: Session, *, follow: bool = False) -> list[str]:
    """The same for several."""
    return [in_volume(path, volume, follow=follow) for path in paths]


class PathAlone:
    """A path in a mount that is the only argument: it is what is asked about, and says which volume
    is asked.

    Raises ``CommandFailed``; ``advice`` says what else an image needs.
    """

    def __init__(self, path: str, advice: str, timeout: float | None) -> None:
        self._path = path
        self._place = looked(path, patience(timeout), place_of, path)
        there = self._place.there
        #: What stands for the volume.
        is_link = not self._place.missing and os.path.islink(there)
        self.target = (os.path.dirname(there.rstrip("/")) or ".") if is_link else there
        if self._place.mount is None or not self._place.mount.is_ours:
            locate(self.target, patience(timeout))
            raise CommandFailed(f"{path}: an image: {advice}", USAGE)

    def in_present(self, volume: Session) -> str:
        """The path in the volume, as it travels. Raises ``UsageError`` for one in a snapshot."""
        return _in_present(self._path, self._place.inside, volume)

    def without_snapshot(self, volume: Session) -> str:
        """The same, of a file in a snapshot the path that the present has it at."""
        parts = self._place.inside.split("/")
        while volume.snapdir in parts:
            at = parts.index(volume.snapdir)
            del parts[at : at + 2]
        return as_sent("/".join(parts))
