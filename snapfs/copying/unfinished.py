"""A copy that is still being filled, read as the point in time that it is: what it does not have yet comes from the source (D1).

Whoever fills it may be another process, at this moment. It copies a block before it overwrites it, and sets the block's bit before that; so
what was read from the source is right when the bit is still unset afterwards. When the copy ends in any way its mark changes first.
"""

from __future__ import annotations

import threading

from snapfs.blocks.copy_mark import FILLING, PLACE_BYTES, PLACES, CopyMark, newest_mark
from snapfs.blocks.geometry import Geometry
from snapfs.copying.copy_map import CopyMap, MapPlace
from snapfs.device import Device
from snapfs.device.base import Alone, Buffer
from snapfs.errors import CopyError, CorruptBlock, DeviceError


class UnfinishedCopy(Alone):
    """A read-only device. ``target`` holds what is copied, ``source`` the rest; ``map_place`` is read while others write it."""

    read_only = True

    def __init__(self, target: Device, source: Device, map_place: MapPlace, mark: CopyMark, geometry: Geometry) -> None:
        self.path = target.path
        self.size = target.size
        self._target = target
        self._source = source
        self._devices = {target, source, map_place.device}
        self._map = CopyMap(mark.id, mark.generation, geometry.blocks, map_place)
        self._block_size = geometry.block_size
        self._end = geometry.size
        self._mark_bytes = self._read_marks()
        self._lock = threading.Lock()
        self._is_complete = False

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``. Raises ``DeviceError`` when the copy has failed or was cancelled meanwhile."""
        if self._is_complete or offset + length > self._end:
            return self._target.read(offset, length)
        size = self._block_size
        with self._lock:
            parts = []
            position, end = offset, offset + length
            while position < end:
                stop = min(end, (position // size + 1) * size)
                if self._has(position // size):
                    parts.append(self._target.read(position, stop - position))
                else:
                    parts.append(self._uncopied(position, stop - position))
                position = stop
            return b"".join(parts)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """See ``Device.read_nowait``: what is in the source may have to be read twice, which is for a thread."""
        return self._target.read_nowait(offset, length) if self._is_complete else None

    def _has(self, block: int) -> bool:
        try:
            return self._is_complete or self._map.has_now(block)
        except (CorruptBlock, DeviceError):
            # A map is given back when its copy ends.
            if self._has_ended():
                return True
            raise

    def _uncopied(self, offset: int, length: int) -> bytes:
        data = self._source.read(offset, length)
        if self._has(offset // self._block_size) or self._has_ended():
            return self._target.read(offset, length)
        return data

    def _has_ended(self) -> bool:
        """Is the copy complete by now? Raises ``DeviceError`` when it never will be."""
        if self._is_complete or self._read_marks() == self._mark_bytes:
            return self._is_complete
        mark = newest_mark(self._target.read)
        if mark is None:
            self._is_complete = True
        elif mark.state != FILLING:
            raise DeviceError(f"{self.path}: the copy has failed: {mark.reason or mark.state}")
        else:
            self._mark_bytes = self._read_marks()
        return self._is_complete

    def _read_marks(self) -> bytes:
        return b"".join(self._target.read(place, PLACE_BYTES) for place in PLACES)

    def write(self, offset: int, data: Buffer) -> None:
        """Not before it is complete. Raises ``DeviceError``."""
        raise DeviceError(f"{self.path}: a copy cannot be written before it is complete")

    def flush(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Close what it reads."""
        for device in self._devices:
            device.close()


def refuse(path: str, mark: CopyMark) -> None:
    """Raises ``CopyError`` when the copy is not, and will not become, a point in time."""
    if mark.state == FILLING:
        return
    if mark.reason:
        raise CopyError(f"{path}: a copy that has failed: {mark.reason}; start it again with --force")
    raise CopyError(f"{path}: a copy that was never completely set up: start it again with --force")
