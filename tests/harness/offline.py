"""Files that the core makes on an image that nobody has mounted: without the way through the
kernel, which takes several times as long.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapfs import ids
from snapfs.device import open_device
from snapfs.filesystem import Filesystem
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume


@contextmanager
def offline(image: Path) -> Iterator[Filesystem]:
    """The core on an image; what was made is committed at the end."""
    device = open_device(os.fspath(image))
    try:
        volume = open_volume(device)
        fs = Filesystem(volume)
        yield fs
        commit(volume)
    finally:
        device.close()


def make(fs: Filesystem, parent: int, name: str, kind: int = stat.S_IFREG) -> int:
    """Make a file or a directory; gives its inode number."""
    mode = kind | (0o755 if kind == stat.S_IFDIR else 0o644)
    owner = os.geteuid(), os.getegid()
    return drive(fs.volume, fs.make, fs.base, parent, name.encode(), mode, *owner).ino


def fill(fs: Filesystem, start: int, end: int, in_directory: int) -> None:
    """Make ``file N`` for all N from ``start`` to ``end``, each in the directory ``dM`` that begins
    with the number M.
    """
    for first in range(start, end, in_directory):
        directory = make(fs, ids.ROOT_INO, f"d{first}", stat.S_IFDIR)
        for number in range(first, min(first + in_directory, end)):
            make(fs, directory, f"file {number}")
