"""Which snapfs mount a path or a device number belongs to, as far as this process sees it. See ``device.mountinfo``."""

from __future__ import annotations

import os

from snapfs.device.mountinfo import FSTYPE, Mount, mounts, parse_line

__all__ = ["FSTYPE", "Mount", "canonical", "mount_at", "mount_with_device", "mounts", "parse_line"]


def mount_at(path: str) -> Mount | None:
    """The mount whose root ``path`` is, the topmost if there are several; None when nothing is mounted there."""
    place = canonical(path)
    return next((mount for mount in reversed(mounts()) if mount.path == place), None)


def mount_with_device(device: int) -> Mount | None:
    """The snapfs mount that files with this ``st_dev`` belong to, or None."""
    return next((mount for mount in reversed(mounts()) if mount.device == device and mount.is_ours), None)


def canonical(path: str) -> str:
    """The path as mountinfo has it: absolute, no links. A mount point is not looked at: its daemon may hang, or be waited for."""
    directory, name = os.path.split(path.rstrip("/"))
    if name not in ("", ".", ".."):
        place = os.path.join(os.path.realpath(directory), name)
        if any(mount.path == place for mount in mounts()):
            return place
    return os.path.realpath(path)
