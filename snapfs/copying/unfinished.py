"""A copy that is still being filled, read as the point in time that it is: what it does not have yet comes from the source (D1).

Whoever fills it may be another process, at this moment. It copies a block before it overwrites it, and sets the block's bit before that; so
what was read from the source is right when the bit is still unset afterwards. When the copy ends in any way its mark changes first.
"""

from __future__ import annotations

import threading

from bitarray import bitarray

from snapfs.blocks.copy_mark import FILLING, PLACE_BYTES, PLACES, CopyMark, newest_mark, without_mark
from snapfs.blocks.geometry import Geometry
from snapfs.blocks.map_sector import SECTOR_BYTES, decode_first
from snapfs.copying.copy import stretches
from snapfs.copying.copy_map import CopyMap, MapPlace
from snapfs.device import Device
from snapfs.device.base import Unwritable
from snapfs.errors import CopyError, CorruptBlock, DeviceError


class UnfinishedCopy(Unwritable):
    """``target`` holds what is copied, ``source`` the rest; ``map_place`` is read while others write it."""

    def __init__(
        self, target: Device, source: Device, map_place: MapPlace, mark: CopyMark, geometry: Geometry, fail_place: MapPlace
    ) -> None:
        self.path = target.path
        self.size = target.size
        self._target = target
        self._source = source
        self._devices = {target, source, map_place.device}
        self._map = CopyMap(mark.id, mark.generation, geometry.blocks, map_place)
        self._block_size = geometry.block_size
        self._end = geometry.size
        self._mark = mark
        self._fail_place = fail_place
        self._mark_bytes = self._read_marks()
        self._check_first()
        self._lock = threading.Lock()
        self._is_complete = False

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``. Raises ``DeviceError`` when the copy has failed or was cancelled meanwhile."""
        if self._is_complete or offset + length > self._end:
            return self._target.read(offset, length)
        with self._lock:
            return self._read(offset, offset + length)

    def _read(self, begin: int, end: int) -> bytes:
        size = self._block_size
        first = begin // size
        parts = []
        for low, high, copied in stretches(self._now(first, -(-end // size) - first)):
            start, stop = max(begin, (first + low) * size), min(end, (first + high) * size)
            if copied:
                parts.append(without_mark(start, self._target.read(start, stop - start)))
                continue
            data = self._source.read(start, stop - start)
            if self._now(first + low, high - low).any() or self._has_ended():
                data = self._read(start, stop)  # some of it may be what came after
            parts.append(data)
        return b"".join(parts)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """See ``Device.read_nowait``: what may be in the source may have to be read twice, which is for a thread."""
        return self._target.read_nowait(offset, length) if self._is_complete else None

    def _now(self, start: int, length: int) -> bitarray:
        """Which of these blocks are copied at this moment."""
        if not self._is_complete:
            try:
                return self._map.now(start, length)
            except (CorruptBlock, DeviceError):
                # A map is given back when its copy ends.
                if not self._has_ended():
                    raise
        return bitarray([1]) * length

    def _has_ended(self) -> bool:
        """Is the copy complete by now? Raises ``CopyError`` when it never will be."""
        now = self._read_marks()
        if self._is_complete or now == self._mark_bytes:
            return self._is_complete
        mark = newest_mark(self._target.read)
        if mark is None:
            self._is_complete = True
            return True
        if mark.state != FILLING:
            raise DeviceError(f"{self.path}: the copy has failed: {mark.reason or mark.state}")
        self._check_first()
        self._mark_bytes = now
        return False

    def _check_first(self) -> None:
        """Raises ``CopyError`` when the source no longer waits for the copy."""
        try:
            copy_id, _, failed = decode_first(self._fail_place.read(0, SECTOR_BYTES))
        except CorruptBlock:
            copy_id, failed = b"", True
        if failed or copy_id != self._mark.id:
            raise CopyError(f"{self.path}: the copy has failed, or was given up: its source does not wait for it any more")

    def _read_marks(self) -> bytes:
        """What changes before anything is overwritten that is not copied: the marks of the target, and what the source says."""
        marks = b"".join(self._target.read(place, PLACE_BYTES) for place in PLACES)
        return marks + self._fail_place.read(0, SECTOR_BYTES)

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
