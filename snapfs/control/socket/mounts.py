"""Which snapfs mount a path or a device number belongs to, as far as this process sees it. See
``device.mountinfo``.
"""

from __future__ import annotations

import os

from snapfs.device.mountinfo import FSTYPE, Mount, mount_number, mounts, parse_line

__all__ = ["FSTYPE", "Mount", "canonical", "mount_at", "mount_with_device", "mounts", "parse_line"]


def mount_at(path: str) -> Mount | None:
    """The mount whose root ``path`` is, the topmost if there are several; None when nothing is
    mounted there.
    """
    place = canonical(path)
    return next((mount for mount in reversed(mounts()) if mount.path == place), None)


def mount_with_device(device: int) -> Mount | None:
    """The snapfs mount that files with this ``st_dev`` belong to, or None. Of several: one that
    shows all of it, the oldest.
    """
    found = [mount for mount in mounts() if mount.device == device and mount.is_ours]
    return next((mount for mount in found if mount.root == "/"), found[0] if found else None)


def mount_of(descriptor: int) -> Mount | None:
    """The mount, of whatever type, that an open file was reached through; None when it cannot be
    seen from here.
    """
    number = mount_number(descriptor)
    return next((mount for mount in mounts() if mount.id == number), None)


def seen_from_here(path: str, device: int) -> str | None:
    """Where a path of the volume is in the mounts of this device, or None when none of them shows
    it.
    """
    for mount in sorted(
        (one for one in mounts() if one.device == device and one.is_ours),
        key=lambda one: len(one.root),
    ):
        if is_below(path, mount.root):
            return (
                mount.path.rstrip("/") + "/" + path[len(mount.root) :].lstrip("/")
                if path != mount.root
                else mount.path
            )
    return None


def is_below(path: str, directory: str) -> bool:
    """Is an absolute path that of a directory, or of something in it?"""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def canonical(path: str) -> str:
    """The path as mountinfo has it: absolute, no links. A mount point is not looked at: its daemon
    may hang, or be waited for.
    """
    directory, name = os.path.split(path.rstrip("/"))
    if name not in ("", ".", ".."):
        place = os.path.join(os.path.realpath(directory), name)
        if any(mount.path == place for mount in mounts()):
            return place
    return os.path.realpath(path)


def why_closed(path: str) -> str | None:
    """Why this process may not look at a path, if that is because of the mount of another user;
    None if it is not, or it may.
    """
    mount = mount_above(path)
    if mount is None or mount.owner == os.geteuid() or "allow_other" in mount.options:
        return None
    return (
        f"mounted on {mount.path} by uid {mount.owner} for that user alone: nobody else "
        "can look into it, root included, "
        "unless it is mounted with '-o allow_other'"
    )


def mount_above(path: str) -> Mount | None:
    """The snapfs mount that a path seems to lie in, by its words alone: where nothing may be looked
    at.
    """
    place = os.path.abspath(path)
    # Of those with the longest path the last one, which is on top.
    mount = max(
        reversed(mounts()), key=lambda one: len(one.path) if is_below(place, one.path) else 0
    )
    return mount if mount.is_ours else None
