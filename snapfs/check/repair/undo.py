"""The undo file of a repair: what was on the device where the repair wrote, so that it can be taken
back.

A msgpack stream: a map that says of which volume, then [offset, bytes] for every write, then a map
with the generation that the repair has left. Each entry is durable before the write that it stands
for begins.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, BinaryIO, Final

import msgpack

from snapfs.device.base import Buffer, Device, SoleUse
from snapfs.device.pinned import pin
from snapfs.errors import DeviceError, DeviceFull, SnapfsError, UsageError
from snapfs.store.commit.superblocks import newest_superblock

VERSION: Final = 1

#: Longest entry that is read back: a write of a commit, and the map around it.
ENTRY_MAX: Final = 64 << 20


class UndoDevice(SoleUse):
    """A device that keeps what is overwritten in a file."""

    def __init__(self, below: Device, path: str) -> None:
        self.path, self.size, self.read_only = below.path, below.size, below.read_only
        self.undo_path = path
        self._below = below
        self._file: BinaryIO | None = None

    @property
    def wrote(self) -> bool:
        """Has anything been written?"""
        return self._file is not None

    def read(self, offset: int, length: int) -> bytes:
        """As the device below."""
        return self._below.read(offset, length)

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """As the device below."""
        return self._below.read_nowait(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """Keep what is there, then write. Raises ``DeviceFull`` when it is the undo file that has
        no room.
        """
        file = self._file or self._begin()
        try:
            old: Buffer = self._below.read(offset, len(data))
        except DeviceError:
            old = b""  # nothing that could be brought back
        self._append(file, [offset, old])
        self._below.write(offset, data)

    def _begin(self) -> BinaryIO:
        superblock = newest_superblock(self._below)
        try:
            descriptor = os.open(
                self.undo_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as exc:
            raise UsageError(
                f"{self.undo_path}: {exc.strerror}: name another place for the undo "
                "file with --undo-file"
            ) from exc
        self._file = os.fdopen(descriptor, "wb")
        header = {
            "snapfs undo": VERSION,
            "uuid": superblock.uuid,
            "size": self.size,
            "generation": superblock.generation,
        }
        self._append(self._file, header)
        return self._file

    def _append(self, file: BinaryIO, entry: object) -> None:
        try:
            file.write(msgpack.packb(entry, use_bin_type=True))
            file.flush()
            os.fsync(file.fileno())
        except OSError as exc:
            raise DeviceFull(
                f"{self.undo_path}: {exc.strerror}: name another place for the undo "
                "file with --undo-file"
            ) from exc

    def flush(self) -> None:
        """As the device below."""
        self._below.flush()

    def discard(self, offset: int, length: int) -> None:
        """Nothing: what a repair frees must come back when it is undone."""

    def close(self) -> None:
        """Finish the undo file; the device below stays open."""
        if self._file is not None:
            with contextlib.suppress(
                SnapfsError
            ):  # without this entry it is taken for that of a repair that was cut off, which it is
                self._append(self._file, {"generation": newest_superblock(self._below).generation})
            self._file.close()
            self._file = None


def undo(device: Device, path: str) -> int:
    """Put back what a repair has overwritten; the number of writes. Raises ``UsageError``,
    ``DeviceError``.
    """
    entries = _entries(path)
    header, last = entries[0], entries[-1]
    superblock = newest_superblock(device)
    if header["uuid"] != superblock.uuid or header["size"] != device.size:
        raise UsageError(f"{path}: it belongs to another volume")
    if type(last) is dict and last["generation"] != superblock.generation:
        raise UsageError(
            f"{path}: the volume was changed after that repair, taking it back would damage it"
        )
    writes = [entry for entry in entries if type(entry) is list]
    for offset, old in reversed(writes):
        device.write(offset, old)
    device.flush()
    return len(writes)


def _entries(path: str) -> list[Any]:
    """What stands in an undo file, checked. What a crash has cut off at its end was never
    overwritten.
    """
    try:
        with pin(path) as pinned:
            if not pinned.is_regular:
                raise UsageError(f"{path}: not an undo file of snapfs")
            with os.fdopen(pinned.open(os.O_RDONLY), "rb") as file:
                entries = list(msgpack.Unpacker(file, raw=False, max_buffer_size=ENTRY_MAX))
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    except (ValueError, msgpack.UnpackException) as exc:
        raise UsageError(f"{path}: not an undo file of snapfs") from exc
    header = entries[0] if entries else None
    if header is None or not _is_header(header):
        raise UsageError(f"{path}: not an undo file of snapfs")
    for place, entry in enumerate(entries[1:], 1):
        is_end = (
            type(entry) is dict
            and type(entry.get("generation")) is int
            and place == len(entries) - 1
        )
        if not is_end and not _is_write(entry, header["size"]):
            raise UsageError(f"{path}: not an undo file of snapfs")
    return entries


def _is_header(value: Any) -> bool:
    if type(value) is not dict or value.get("snapfs undo") != VERSION:
        return False
    return type(value.get("uuid")) is bytes and all(
        type(value.get(key)) is int for key in ("size", "generation")
    )


def _is_write(value: Any, size: int) -> bool:
    """Is it a place on a device of that size, and what stood there?"""
    if type(value) is not list or len(value) != 2:
        return False
    offset, old = value
    return type(offset) is int and type(old) is bytes and 0 <= offset <= size - len(old)
