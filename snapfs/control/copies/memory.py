"""Copies in memory have names: ``mem:NAME`` is a link to the memory of the daemon that holds it, in
the directory where it listens.

Other processes open it through /proc, as an image; who already has it open keeps it when the daemon
ends.
"""

from __future__ import annotations

import contextlib
import os
import re

from snapfs.control.socket import registry
from snapfs.device.base import MEMORY_PREFIX, is_memory
from snapfs.device.pinned import pin_link
from snapfs.errors import UsageError

#: Behind the name.
_SUFFIX = ".mem"

#: What a name can be: nothing that could be a size, or a path.
_NAME = re.compile(r"[A-Za-z_][\w.:+-]{0,80}", re.ASCII)


def check_name(target: str) -> str:
    """The name in ``mem:NAME``. Raises ``UsageError`` for what cannot be one."""
    name = target.removeprefix(MEMORY_PREFIX)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{target}: a copy in memory is named by letters, digits and signs, "
            "beginning with a letter, as in mem:then"
        )
    return name


def publish(target: str, place: str) -> str:
    """Let ``mem:NAME`` lead to ``place``; the path of the link. Raises ``UsageError`` when the name
    is taken.
    """
    name = check_name(target)
    path = os.path.join(registry.own_directory(name + _SUFFIX), name + _SUFFIX)
    while find(target) is None:
        with contextlib.suppress(FileExistsError):
            os.symlink(place, path)
            return path
        with contextlib.suppress(FileNotFoundError), pin_link(path) as found:
            if not _is_there(path):
                found.remove()  # of a daemon that is gone
    raise UsageError(
        f"{target}: there is one already: choose another name, or give that up ('snapfs "
        f"copy cancel {target}')"
    )


def find(target: str) -> str | None:
    """The path that ``mem:NAME`` leads to; None when there is no such copy."""
    name = target.removeprefix(MEMORY_PREFIX)
    if not is_memory(target) or not _NAME.fullmatch(name):
        return None
    for uid in dict.fromkeys([os.geteuid(), 0]):
        for directory in registry.directories(uid):
            path = os.path.join(directory, name + _SUFFIX)
            if registry.is_private(directory, uid) and _is_there(path):
                return path
    return None


def resolve(target: str) -> str:
    """The path of a copy in memory by its name; anything else as it is."""
    return find(target) or target


def _is_there(path: str) -> bool:
    """Does the daemon still have it? Its descriptor may be another file's by now."""
    try:
        return os.readlink(os.readlink(path)).startswith("/memfd:" + MEMORY_PREFIX)
    except OSError:
        return False
