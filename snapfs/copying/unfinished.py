"""A copy that is still being filled, read as the point in time that it is: what it does not have
yet comes from the source (D1).

Whoever fills it may be another process, at this moment. It copies a block before it overwrites it,
and sets the block's bit before that; so what was read from the source is right when the bit is
still unset afterwards. When the copy is complete its mark goes, before its map is given back. When
it fails the source says so, in the first sector of the map there, before anything is overwritten
that was not copied.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from bitarray import bitarray

from snapfs.blocks.copy_mark import (
    FILLING,
    PLACE_BYTES,
    PLACES,
    CopyMark,
    newest_mark,
    without_mark,
)
from snapfs.blocks.geometry import Geometry
from snapfs.blocks.map_sector import SECTOR_BYTES, decode_first
from snapfs.copying.copy import stretches
from snapfs.copying.copy_map import CopyMap, MapPlace
from snapfs.device import Device, ImageDevice
from snapfs.device.base import Buffer, Unwritable
from snapfs.errors import CopyError, CorruptBlock, DeviceError

T = TypeVar("T")

#: Times that a sector is read which somebody may be writing just now.
TRIES: Final = 3


class UnfinishedCopy(Unwritable):
    """``target`` holds what is copied, ``source`` the rest; ``map_place`` is read while others
    write it.

    ``fail_place`` is where it is said whether the copy has failed. Raises ``DeviceError`` when it
    has.
    """

    def __init__(
        self,
        target: Device,
        source: Device,
        map_place: MapPlace,
        mark: CopyMark,
        geometry: Geometry,
        fail_place: MapPlace,
    ) -> None:
        self.path = target.path
        self.size = target.size
        self._target = target
        self._source = source
        self._devices = {target, source, map_place.device}
        self._fail_place = fail_place
        self._mark = mark
        self._map = CopyMap(mark.id, mark.generation, geometry.blocks, map_place)
        self._block_size = geometry.block_size
        self._end = geometry.size
        self._mark_bytes = b""
        self._lock = threading.Lock()
        self._is_complete = False
        self._has_ended()

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``. Raises ``DeviceError`` when the copy has failed or was cancelled
        meanwhile.
        """
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

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """See ``Device.read_nowait``: what may be in the source may have to be read twice, which is
        for a thread.
        """
        return self._target.read_nowait(offset, length) if self._is_complete else None

    def _now(self, start: int, length: int) -> bitarray:
        """Which of these blocks are copied at this moment."""
        if not self._is_complete:
            try:
                return _steady(lambda: self._map.now(start, length))
            except (CorruptBlock, DeviceError):
                # A map is given back when its copy ends.
                if not self._has_ended():
                    raise
        return bitarray([1]) * length

    def _has_ended(self) -> bool:
        """Is the copy complete by now? Raises ``DeviceError`` when it never will be."""
        if (
            not self._is_complete
            and self._is_marked()
            and self._says_failed()
            and self._is_marked()
        ):
            raise DeviceError(
                f"{self.path}: the copy has failed, or was given up: its source does "
                "not wait for it any more"
            )
        return self._is_complete

    def _is_marked(self) -> bool:
        """Does the target say that it is being filled? If not, it is complete. Raises
        ``DeviceError`` when it says that it has failed.
        """
        found = self._read_marks()
        if found != self._mark_bytes:
            mark = _steady(lambda: newest_mark(self._target.read))
            if mark is None:
                self._is_complete = True
            elif mark.state != FILLING or mark.id != self._mark.id:
                raise DeviceError(f"{self.path}: the copy has failed: {mark.reason or mark.state}")
            else:
                self._mark_bytes = found
        return not self._is_complete

    def _says_failed(self) -> bool:
        """Does the source say so, or has it given back where it would? It does that when the copy
        has ended, in whatever way.
        """
        try:
            found = _steady(lambda: decode_first(self._fail_place.read(0, SECTOR_BYTES)))
        except CorruptBlock:
            return True
        return found != (self._mark.id, self._mark.generation, False)

    def _read_marks(self) -> bytes:
        return b"".join(self._target.read(place, PLACE_BYTES) for place in PLACES)

    def status(self) -> os.stat_result:
        """The open target's, whatever its path leads to by now."""
        assert isinstance(self._target, ImageDevice)  # noqa: S101 - tests alone have others, and ask nothing of this
        return self._target.status()

    def close(self) -> None:
        """Close what it reads."""
        for device in self._devices:
            device.close()


def _steady(read: Callable[[], T]) -> T:
    """What is read while another process may be writing it: half of it may be new. Raises
    ``CorruptBlock`` when that does not pass.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(CorruptBlock):
            return read()
    return read()


def refuse(path: str, mark: CopyMark) -> None:
    """Raises ``CopyError`` when the copy is not, and will not become, a point in time."""
    if mark.state == FILLING:
        return
    if mark.reason:
        raise CopyError(
            f"{path}: a copy that has failed: {mark.reason}; start it again with --force"
        )
    raise CopyError(f"{path}: a copy that was never completely set up: start it again with --force")
