"""What is mounted inside a mount, on its directories and files: going back would take it away from
its users without a word.

The kernel detaches what is mounted on a name, or below it, when the name leads elsewhere. rmdir(2)
and rename(2) say EBUSY before.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from snapfs.device import mountinfo


class Inside(NamedTuple):
    """The names from the root of the filesystem to what something is mounted on; and the mount's
    path, for people.
    """

    way: tuple[bytes, ...]
    path: str


def mounted_inside(device: int) -> list[Inside]:
    """All mounts inside the filesystem with this ``st_dev``, in every namespace of mounts that this
    user can see. Reads ``/proc`` alone.
    """
    found: dict[tuple[bytes, ...], Inside] = {}
    for process in _namespaces():
        with contextlib.suppress(OSError):  # it has ended
            mounts = mountinfo.mounts(process)
            carriers = {mount.id: mount for mount in mounts if mount.device == device}
            for mount in mounts:
                carrier = carriers.get(mount.parent)
                if carrier is not None:
                    way = _way(carrier.root, carrier.path, mount.path)
                    found.setdefault(way, Inside(way, mount.path))
    return sorted(found.values())


def _way(root: str, at: str, path: str) -> tuple[bytes, ...]:
    """The names that lead to ``path`` in a filesystem of which the directory ``root`` is mounted
    ``at``.
    """
    below = os.fsencode(path)[len(os.fsencode(at)) :] if at != "/" else os.fsencode(path)
    return tuple(name for name in (os.fsencode(root) + b"/" + below).split(b"/") if name)


def _namespaces() -> list[int | str]:
    """A process of each namespace of mounts; this one is of the first."""
    found: dict[str, int | str] = {}
    for process in ("self", *filter(str.isdecimal, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # another user's, or it has ended
            found.setdefault(os.readlink(f"/proc/{process}/ns/mnt"), process)
    return list(found.values())
