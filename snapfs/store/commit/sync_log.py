"""The log: a few blocks in which fsync is told in one write, instead of a commit (I8).
``doc/format.md`` section 13.

A superblock names the region; its records belong to that generation, and say what has happened
since. For the bitmaps of every generation these blocks are free; who writes the volume keeps them
out of allocation, in memory. What a durable superblock names may hold what users were promised: the
region is given back only when a generation that names none is durable. What a record means is the
business of the layer above.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from snapfs import probes
from snapfs.blocks.log_record import LogRecord, decode_log
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from snapfs.device.base import Device
    from snapfs.store.trees.block_store import BlockStore
    from snapfs.store.trees.sealing import Sealing

log = logging.getLogger("snapfs.store")

#: Blocks of a log; on a small volume, the part of it that it takes at most.
LOG_BLOCKS: Final = 64
LOG_SHARE: Final = 64

#: There must be so many times its blocks available, with the reserve, to have a log, and to keep
#: one.
ROOM_TO_HAVE: Final = 16
ROOM_TO_KEEP: Final = 2


class LogWrite:
    """A record on its way to the device."""

    def __init__(self, device: Device, offset: int, data: bytes) -> None:
        self.device = device
        self.offset = offset
        self.data = data
        #: A flush has failed: nobody knows which writes are on the device, those of file data among
        #: them.
        self.is_unsure = False
        #: What its flush has taken.
        self.flush_seconds: list[float] = []

    def write(self) -> None:
        """Write it, flush: the record and the blocks that it names are durable. Blocks; raises
        ``DeviceError``.
        """
        self.device.write(self.offset, self.data)
        self.is_unsure = True
        start = time.perf_counter()
        self.device.flush()
        self.flush_seconds.append(time.perf_counter() - start)
        self.is_unsure = False


class SyncLog:
    """The log of a volume. ``wanted``: who serves the volume wants one."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.wanted = False
        #: (block, length), as the newest sealed superblock names it, kept out of allocation.
        self.region: tuple[int, int] | None = None
        #: What the log of the generation that was opened tells, for the layer above to repeat, and
        #: how many of them that has done.
        self.pending: list[LogRecord] = []
        self.repeated = 0
        #: Records that were written since the volume was opened.
        self.records = 0
        #: Has this volume sealed the generation that names the region?
        self.is_ours = False
        #: Records in the log of the newest generation.
        self.number = 0
        #: Where the next record goes, in blocks from the region's start; the checksum of the last
        #: one.
        self.position = self.previous = 0

    @property
    def dirty(self) -> bool:
        """Is a commit wanted that names no log?"""
        return self.region is not None and not self.wanted

    # Opening

    def open(self) -> None:
        """Read what the log tells that the superblock names. Raises ``DeviceError``,
        ``CorruptBlock``.

        Of a volume that is only read neither: then what was synced is shown as far as it can be
        had.
        """
        store = self._store
        if not store.superblock.log_blocks:
            return
        try:
            self._read((store.superblock.log_block, store.superblock.log_blocks))
        except (CorruptBlock, DeviceError) as exc:
            if not store.read_only:
                raise
            log.warning(
                "%s: what was synced since the last commit cannot be read: %s",
                store.device.path,
                exc,
            )

    def _read(self, region: tuple[int, int]) -> None:
        store, (start, length) = self._store, region
        number, low = divmod(start, store.geometry.group_span)
        while number not in store.allocator.groups:
            try:
                store.allocator.need_groups([number])
            except NotCached as exc:
                store.admit(store.read_wants(exc.wants))
        if store.allocator.groups[number].busy.count(1, low, low + length):
            # Nobody has ever written a record there.
            log.warning(
                "%s: the log is said to be in blocks %d to %d, which are in use",
                store.device.path,
                start,
                start + length - 1,
            )
            return
        block_size = store.geometry.block_size
        data = store.device.read(start * block_size, length * block_size)
        self.pending, end = decode_log(data, block_size, store.superblock.uuid, store.generation)
        if end is not None:
            log.warning(
                "%s: the log ends after %d records: %s", store.device.path, len(self.pending), end
            )
        if not store.read_only:
            self._hold(region)

    # Having a place

    def _hold(self, region: tuple[int, int]) -> None:
        """Keep these free blocks from being given out."""
        allocator, (start, length) = self._store.allocator, region
        number, low = divmod(start, self._store.geometry.group_span)
        group = allocator.groups[number]
        group.busy[low : low + length] = 1
        group.available -= length
        group.pinned += 1
        allocator.available -= length
        self.region = region

    def _let_go(self) -> None:
        """They may be given out when the generation that is being sealed is durable (I5)."""
        assert self.region is not None  # noqa: S101 - asked by whoever calls
        allocator, (start, length) = self._store.allocator, self.region
        number, low = divmod(start, self._store.geometry.group_span)
        allocator.waiting.append((number, low, length))
        allocator.groups[number].pinned -= 1
        self.region = None

    def _choose(self) -> tuple[int, int] | None:
        """The end of the longest run of free blocks where blocks are being taken from; None where
        space is short.
        """
        allocator, blocks = self._store.allocator, self._store.geometry.blocks
        length = min(LOG_BLOCKS, blocks // LOG_SHARE)
        if self._has_room(2, ROOM_TO_HAVE * length):
            for number in allocator.window:
                group = allocator.groups.get(number)
                for start, size in group.free_runs(1) if group else ():
                    if size >= length:
                        return start + size - length, length
        return None

    def _has_room(self, reserves: int, blocks: int) -> bool:
        return self._store.allocator.available >= reserves * self._store.allocator.reserve + blocks

    def give_up(self) -> bool:
        """Have none with the next commit: somebody needs its space, or wants the volume as it is
        without. Was there one?
        """
        self.wanted = False
        return self.region is not None

    def seal(self, sealing: Sealing, *, copying: bool) -> tuple[int, int] | None:
        """The region that the generation names which is being sealed; nothing is allocated in it
        any more. ``copying``: a copy of the volume is running, which would have to copy the log.
        """
        wanted = self.wanted and not copying
        if self.region is not None and not (
            wanted and self._has_room(1, ROOM_TO_KEEP * self.region[1])
        ):
            probes.LOG_GIVEN_UP.hit()
            self._let_go()
            self.wanted = False
        elif self.region is None and wanted and (region := self._choose()) is not None:
            self._hold(region)
            # What was in these blocks before must not look like records, whoever wrote it.
            zeros = bytes(self._store.geometry.block_size)
            sealing.blocks.update((block, zeros) for block in range(region[0], sum(region)))
        self.is_ours = self.region is not None
        self.position = self.number = self.previous = 0
        return self.region
