"""The file of a copy map that is outside of the volume: where it is, how it is made and opened, and
how it goes again.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from snapfs.blocks.map_sector import SECTOR_BYTES, decode_first
from snapfs.copying.named import open_named
from snapfs.copying.target import CopyTarget, Refuse, anywhere
from snapfs.device import ImageDevice, Lock, RamDevice, pin_name
from snapfs.device.base import MEMORY_PREFIX
from snapfs.errors import CopyError, DeviceError, SnapfsError

#: Behind the name of a target that is a file: its map.
MAP_SUFFIX: Final = ".copymap"

#: Where maps of block devices are, for root; others have them among what their programs keep.
STATE_DIRECTORY: Final = "/var/lib/snapfs"


def map_path(target: CopyTarget) -> str:
    """Where the map of a copy to ``target`` is."""
    if target.sparse:
        return target.path + MAP_SUFFIX
    state = (
        STATE_DIRECTORY
        if os.geteuid() == 0
        else os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    )
    directory = state if os.geteuid() == 0 else os.path.join(state, "snapfs")
    return os.path.join(directory, target.path.strip("/").replace("/", "-") + MAP_SUFFIX)


def make_map(path: str, size: int, *, force: bool, refuse: Refuse = anywhere) -> ImageDevice:
    """An empty map file. ``force``: also where a file is; ``refuse`` raises for a directory where
    none may be.

    Raises ``CopyError``, ``DeviceError``.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with pin_name(path) as pinned:
            refuse(path, pinned.directory_status())
            if pinned.exists:
                if not force or not pinned.remove():
                    raise CopyError(
                        f"{path}: is in the way of the copy's map: give --force to overwrite it"
                    )
                pinned.forget()
            pinned.make()
            try:
                device = ImageDevice(pinned.open(os.O_RDWR), path, 0, read_only=False)
                device.resize(size)
            except OSError:
                pinned.remove()
                raise
            device.pinned = pinned.copied()
            return device
    except OSError as exc:
        raise DeviceError(f"{path}: the copy's map cannot be made: {exc.strerror}") from exc


def discard(device: ImageDevice) -> None:
    """Nobody wants the map that was made."""
    device.remove_name()
    device.close()


def map_in_memory(size: int) -> ImageDevice:
    """The map of a copy in memory."""
    device = RamDevice(MEMORY_PREFIX + "map", size)
    device.path = device.place
    return device


def open_map(path: bytes, owners: Collection[int] | None) -> ImageDevice:
    """The map of a copy that goes on. Raises ``CopyError``, ``DeviceError``, ``VolumeBusy``."""
    return open_named(os.fsdecode(path), owners=owners, lock=Lock.SHARED)


def remove_map(path: bytes, copy_id: bytes, owners: Collection[int] | None) -> None:
    """Remove a map that nobody needs any more, if it is that copy's: what a volume says may be a
    stranger's.
    """
    with suppress(SnapfsError):
        device = open_named(os.fsdecode(path), owners=owners, lock=Lock.NONE, read_only=True)
        try:
            found, _, _ = decode_first(device.read(0, SECTOR_BYTES))
            if found == copy_id:
                device.remove_name()
        finally:
            device.close()
