"""What the kernel says about mounts: ``/proc/self/mountinfo``, read without asking any filesystem.

A path in a mount whose daemon hangs or has died can be placed by this, where ``stat`` would hang or fail.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

#: The type that the kernel shows for our mounts.
FSTYPE: Final = "fuse.snapfs"

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``device`` is the ``st_dev`` of everything in it; ``owner`` the uid that mounted it."""

    device: int
    path: str
    fstype: str
    source: str
    options: frozenset[str]
    owner: int

    @property
    def is_ours(self) -> bool:
        """A snapfs mount, alive or dead."""
        return self.fstype == FSTYPE


def mounts() -> list[Mount]:
    """All mounts that this process sees, oldest first."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [parse_line(line) for line in file]


def parse_line(line: bytes) -> Mount:
    """Read one line (proc(5)): ``ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS``."""
    before, _, after = line.rstrip(b"\n").partition(b" - ")
    words, (fstype, source, more) = before.split(b" "), after.split(b" ", 2)
    major, minor = words[2].split(b":")
    options = frozenset(_text(words[5]).split(",")) | frozenset(_text(more).split(","))
    owner = next((int(option[8:]) for option in options if option.startswith("user_id=")), 0)
    return Mount(os.makedev(int(major), int(minor)), _text(words[4]), _text(fstype), _text(source), options, owner)


def mount_at(path: str) -> Mount | None:
    """The mount whose root ``path`` is, the topmost if there are several; None when nothing is mounted there."""
    place = canonical(path)
    return next((mount for mount in reversed(mounts()) if mount.path == place), None)


def mount_with_device(device: int) -> Mount | None:
    """The snapfs mount that files with this ``st_dev`` belong to, or None."""
    return next((mount for mount in reversed(mounts()) if mount.device == device and mount.is_ours), None)


def canonical(path: str) -> str:
    """The path as mountinfo has it: absolute, no links. The last component is not followed into a dead mount."""
    return os.path.realpath(path)


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
