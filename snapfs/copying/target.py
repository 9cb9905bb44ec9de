"""What a copy goes to: made, or taken, without ever overwriting something by mistake."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass

from snapfs.blocks.copy_mark import PLACE_BYTES, CopyMark
from snapfs.blocks.map_sector import SECTOR_BYTES
from snapfs.copying.named import open_named
from snapfs.device import Device, ImageDevice, Lock, Pinned, RamDevice, open_pinned, pin_name
from snapfs.device.locking import take_lock
from snapfs.device.pinned import pin_link
from snapfs.errors import CopyError, DeviceError, UsageError
from snapfs.filesystem.occupied import refuse_occupied
from snapfs.store.commit.device_claim import claim_storage, refuse_claimed

#: Raises for what may not be a target, or a directory where none may be made: its path, and its
#: status.
Refuse = Callable[[str, os.stat_result], None]


def anywhere(_path: str, _status: os.stat_result) -> None:
    """Refuse no place."""


@dataclass(frozen=True)
class CopyTarget:
    """An open target. ``made``: a file that is there only for the copy. ``sparse``: what is not
    written reads as zeros.

    One in memory is known as ``shown``, and ends with this process, with all that is known of the
    copy.
    """

    device: ImageDevice
    path: str
    made: bool
    sparse: bool
    in_memory: bool = False
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or self.path

    def remove(self) -> bool:
        """Remove what was made for a copy that is of no use, if its name still leads to it; whether
        it is gone now. May block.
        """
        return self.made and self.device.remove_name()


def in_memory(shown: str, size: int, publish: Callable[[str, str], str]) -> CopyTarget:
    """A target in memory; ``publish`` gives it a path for others, a link. Raises ``DeviceError``,
    ``UsageError``.
    """
    device = RamDevice(shown, size)
    try:
        path = publish(shown, device.place)
        device.pinned = pin_link(path)
    except BaseException:
        device.close()
        raise
    return CopyTarget(device, path, made=True, sparse=True, in_memory=True, shown=shown)


def prepare(
    path: str, source: Device, volume_bytes: int, *, force: bool, refuse: Refuse = anywhere
) -> CopyTarget:
    """Make or take the target, locked for this process alone. ``refuse`` raises for what, or a
    directory where, no target may be.

    Raises ``CopyError``, ``DeviceError``, ``VolumeBusy``, ``Occupied``.
    """
    if not path.startswith("/"):
        raise UsageError(f"{path!r}: the target of a copy is an absolute path")
    try:
        with pin_name(path) as pinned:
            return _prepared(pinned, source, volume_bytes, force=force, refuse=refuse)
    except OSError as exc:
        raise DeviceError(f"{path}: cannot be the target of a copy: {exc.strerror}") from exc


def _prepared(
    pinned: Pinned, source: Device, volume_bytes: int, *, force: bool, refuse: Refuse
) -> CopyTarget:
    path = pinned.path
    made = not pinned.exists
    refuse(path, pinned.directory_status() if made else pinned.status())
    if made:
        pinned.make()
    elif isinstance(source, ImageDevice) and os.path.samestat(pinned.status(), source.status()):
        raise UsageError(f"{path}: source and destination of a copy cannot be the same")
    try:
        device = open_pinned(pinned)
        try:
            if not force:
                refuse_occupied(device)
            device.be_writer()
            refuse_claimed(device)
            if pinned.is_regular and (
                force or device.size != source.size
            ):  # else it is all zeros, and as long as it must be
                _resize(device, source.size)
            elif device.size < volume_bytes:
                raise CopyError(
                    f"{path}: too small: the volume has {volume_bytes} bytes, the "
                    f"device {device.size}"
                )
            device.pinned = pinned.copied()
            claim_storage(device)
        except BaseException:
            device.close()
            raise
    except BaseException:
        if made:
            pinned.remove()
        raise
    return CopyTarget(device, path, made, pinned.is_regular)


def _resize(device: ImageDevice, size: int) -> None:
    try:
        device.resize(size)
    except OSError as exc:
        raise DeviceError(f"{device.path}: cannot have {size} bytes: {exc.strerror}") from exc


def share(target: CopyTarget) -> None:
    """Let others read it from now on."""
    take_lock(target.device._descriptor, target.path, Lock.SHARED)


def reopen(path: str, *, owners: Collection[int] | None = None) -> CopyTarget:
    """Open the target of a copy that goes on. ``owners``: if it belongs to one of these users.

    Raises ``CopyError``, ``DeviceError``, ``VolumeBusy``.
    """
    device = open_named(path, owners=owners, lock=Lock.SHARED)
    try:
        device.be_writer()
        claim_storage(device)
    except BaseException:
        device.close()
        raise
    return CopyTarget(device, path, made=False, sparse=stat.S_ISREG(device.status().st_mode))


def write_mark(device: Device, mark: CopyMark) -> None:
    """Let a target say what it is; durable when this returns. Raises ``DeviceError``,
    ``UsageError``.
    """
    offset, data = mark.encode()
    device.write(offset, data)
    device.flush()


def clear_mark(device: Device, place: int) -> None:
    """Let there be no mark in a place; durable when this returns. Raises ``DeviceError``.

    Its first sector goes alone: whatever part of the rest a crash leaves, there is no mark and not
    a damaged one.
    """
    for start, end in ((place, place + SECTOR_BYTES), (place + SECTOR_BYTES, place + PLACE_BYTES)):
        device.write(start, bytes(end - start))
        device.flush()
