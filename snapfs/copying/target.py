"""What a copy goes to, and the file of a map that is outside: made, or taken, without ever overwriting something by mistake."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from snapfs.blocks.copy_mark import PLACE_BYTES, CopyMark
from snapfs.blocks.map_sector import SECTOR_BYTES
from snapfs.device import Device, ImageDevice, Lock, RamDevice, open_device
from snapfs.device.base import MEMORY_PREFIX
from snapfs.device.locking import take_lock
from snapfs.errors import CopyError, DeviceError, UsageError
from snapfs.filesystem.occupied import refuse_occupied

#: Behind the name of a target that is a file: its map, when that is outside.
MAP_SUFFIX: Final = ".copymap"

#: Where maps of block devices are, for root and for others.
STATE_DIRECTORY: Final = "/var/lib/snapfs"


@dataclass(frozen=True)
class Target:
    """An open target. ``made``: a file that is there only for the copy. ``sparse``: what is not written reads as zeros.

    One in memory is known as ``shown``, and ends with this process, with all that is known of the copy.
    """

    device: ImageDevice
    path: str
    made: bool
    sparse: bool
    in_memory: bool = False
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.path


def in_memory(shown: str, size: int, publish: Callable[[str, str], str]) -> Target:
    """A target in memory; ``publish`` gives it a path for others. Raises ``DeviceError``, ``UsageError``."""
    device = RamDevice(shown, size)
    try:
        path = publish(shown, device.place)
    except BaseException:
        device.close()
        raise
    return Target(device, path, made=True, sparse=True, in_memory=True, shown=shown)


def map_in_memory(size: int) -> ImageDevice:
    """The map of a copy in memory."""
    device = RamDevice(MEMORY_PREFIX + "map", size)
    device.path = device.place
    return device


def prepare(path: str, source: Device, volume_bytes: int, *, force: bool) -> Target:
    """Make or take the target, locked for this process alone. Raises ``CopyError``, ``DeviceError``, ``VolumeBusy``, ``Occupied``."""
    with contextlib.suppress(OSError):
        if os.path.samefile(path, source.path):
            raise UsageError(f"{path}: source and destination of a copy cannot be the same")
    made = False
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        made, kind = True, stat.S_IFREG
        _make(path)
    except OSError as exc:
        raise DeviceError(f"{path}: {exc.strerror}") from exc
    try:
        device = open_device(path)
        try:
            if not force:
                refuse_occupied(path)
            device.be_writer()
            if kind == stat.S_IFREG and (force or device.size != source.size):  # else it is all zeros, and as long as it must be
                _resize(device, source.size)
            elif device.size < volume_bytes:
                raise CopyError(f"{path}: too small: the volume has {volume_bytes} bytes, the device {device.size}")
        except BaseException:
            device.close()
            raise
    except BaseException:
        if made:
            os.unlink(path)
        raise
    return Target(device, path, made, kind == stat.S_IFREG)


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # all that is in it can be read in it
        _flush_directory(path)
    except OSError as exc:
        raise DeviceError(f"{path}: cannot be made: {exc.strerror}") from exc


def _resize(device: ImageDevice, size: int) -> None:
    """An empty file of that size, whatever it was."""
    try:
        os.ftruncate(device._descriptor, 0)
        os.ftruncate(device._descriptor, size)
    except OSError as exc:
        raise DeviceError(f"{device.path}: cannot have {size} bytes: {exc.strerror}") from exc
    device.size = size


def share(target: Target) -> None:
    """Let others read it from now on."""
    take_lock(target.device._descriptor, target.path, Lock.SHARED)


def reopen(path: str, *, made: bool) -> Target:
    """Open the target of a copy that goes on. Raises ``DeviceError``, ``VolumeBusy``."""
    device = open_device(path, lock=Lock.SHARED)
    try:
        device.be_writer()
    except BaseException:
        device.close()
        raise
    return Target(device, path, made, stat.S_ISREG(os.stat(path).st_mode))


def write_mark(device: Device, mark: CopyMark) -> None:
    """Let a target say what it is; durable when this returns. Raises ``DeviceError``, ``UsageError``."""
    offset, data = mark.encode()
    device.write(offset, data)
    device.flush()


def clear_mark(device: Device, place: int) -> None:
    """Let there be no mark in a place; durable when this returns. Raises ``DeviceError``.

    Its first sector goes alone: whatever part of the rest a crash leaves, there is no mark and not a damaged one.
    """
    for start, end in ((place, place + SECTOR_BYTES), (place + SECTOR_BYTES, place + PLACE_BYTES)):
        device.write(start, bytes(end - start))
        device.flush()


def map_path(target: str) -> str:
    """Where the map of a copy to ``target`` is when it is outside."""
    if stat.S_ISBLK(os.stat(target).st_mode):
        state = STATE_DIRECTORY if os.geteuid() == 0 else os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        directory = state if os.geteuid() == 0 else os.path.join(state, "snapfs")
        return os.path.join(directory, target.strip("/").replace("/", "-") + MAP_SUFFIX)
    return target + MAP_SUFFIX


def make_map(path: str, size: int, *, force: bool) -> ImageDevice:
    """An empty map file. Raises ``CopyError``, ``DeviceError``."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if force:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CopyError(f"{path}: is in the way of the copy's map: give --force to overwrite it") from None
    except OSError as exc:
        raise DeviceError(f"{path}: the copy's map cannot be made: {exc.strerror}") from exc
    try:
        os.ftruncate(descriptor, size)
        _flush_directory(path)
    except OSError as exc:
        os.close(descriptor)
        os.unlink(path)
        raise DeviceError(f"{path}: the copy's map cannot be made: {exc.strerror}") from exc
    return ImageDevice(descriptor, path, size, read_only=False)


def _flush_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
