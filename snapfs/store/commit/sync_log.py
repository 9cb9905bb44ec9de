"""The log: a few blocks in which fsync is told in one write, instead of a commit (I8).
``doc/format.md`` section 13.

A superblock names the region; its records belong to that generation, and say what has happened
since. For the bitmaps of every generation these blocks are free; who writes the volume keeps them
out of allocation, in memory. What a durable superblock names may hold what users were promised: the
region is given back only when a generation that names none is durable. What a record means is the
business of the layer above.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from snapfs import probes
from snapfs.blocks.log_record import FILES_MAX, FileChange, LogRecord, decode_log, encode_record
from snapfs.blocks.pointer import BLOCK_MASK, pointer_runs
from snapfs.errors import CorruptBlock, DeviceError, NotCached

if TYPE_CHECKING:
    from snapfs.device.base import Device
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.sealing import Sealing

log = logging.getLogger("snapfs.store")

#: Blocks of a log; on a small volume, the part of it that it takes at most.
LOG_BLOCKS: Final = 64
LOG_SHARE: Final = 64

#: A record has so many blocks at most: after larger changes a commit costs little more.
RECORD_BLOCKS: Final = 8

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

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.wanted = False
        #: (block, length), as the newest sealed superblock names it, kept out of allocation.
        self.region: tuple[int, int] | None = None
        #: What the log of the generation that was opened tells, for the layer above to repeat, and
        #: how many of them that has done.
        self.pending: list[LogRecord] = []
        self.repeated = 0
        self.records = 0  # written since the volume was opened
        self._is_ours = False  # has this volume sealed the generation that names the region?
        self.number = 0  # records in the log of the newest generation
        self._position = self._previous = 0

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
        volume = self._volume
        if not volume.superblock.log_blocks:
            return
        try:
            self._read((volume.superblock.log_block, volume.superblock.log_blocks))
        except (CorruptBlock, DeviceError) as exc:
            if not volume.read_only:
                raise
            log.warning(
                "%s: what was synced since the last commit cannot be read: %s",
                volume.device.path,
                exc,
            )

    def _read(self, region: tuple[int, int]) -> None:
        volume, (start, length) = self._volume, region
        number, low = divmod(start, volume.geometry.group_span)
        while number not in volume.allocator.groups:
            try:
                volume.allocator.need_groups([number])
            except NotCached as exc:
                volume.admit(volume.read_wants(exc.wants))
        if volume.allocator.groups[number].busy.count(1, low, low + length):
            # Nobody has ever written a record there.
            log.warning(
                "%s: the log is said to be in blocks %d to %d, which are in use",
                volume.device.path,
                start,
                start + length - 1,
            )
            return
        block_size = volume.geometry.block_size
        data = volume.device.read(start * block_size, length * block_size)
        self.pending, end = decode_log(data, block_size, volume.superblock.uuid, volume.generation)
        if end is not None:
            log.warning(
                "%s: the log ends after %d records: %s", volume.device.path, len(self.pending), end
            )
        if not volume.read_only:
            self._hold(region)

    # Having a place

    def _hold(self, region: tuple[int, int]) -> None:
        """Keep these free blocks from being given out."""
        allocator, (start, length) = self._volume.allocator, region
        number, low = divmod(start, self._volume.geometry.group_span)
        group = allocator.groups[number]
        group.busy[low : low + length] = 1
        group.available -= length
        group.pinned += 1
        allocator.available -= length
        self.region = region

    def _let_go(self) -> None:
        """They may be given out when the generation that is being sealed is durable (I5)."""
        assert self.region is not None  # noqa: S101 - asked by whoever calls
        allocator, (start, length) = self._volume.allocator, self.region
        number, low = divmod(start, self._volume.geometry.group_span)
        allocator.waiting.append((number, low, length))
        allocator.groups[number].pinned -= 1
        self.region = None

    def _choose(self) -> tuple[int, int] | None:
        """The end of the longest run of free blocks where blocks are being taken from; None where
        space is short.
        """
        allocator, blocks = self._volume.allocator, self._volume.geometry.blocks
        length = min(LOG_BLOCKS, blocks // LOG_SHARE)
        if self._has_room(2, ROOM_TO_HAVE * length):
            for number in allocator.window:
                group = allocator.groups.get(number)
                for start, size in group.free_runs(1) if group else ():
                    if size >= length:
                        return start + size - length, length
        return None

    def _has_room(self, reserves: int, blocks: int) -> bool:
        return (
            self._volume.allocator.available >= reserves * self._volume.allocator.reserve + blocks
        )

    def give_up(self) -> bool:
        """Have none with the next commit: somebody needs its space, or wants the volume as it is
        without. Was there one?
        """
        self.wanted = False
        return self.region is not None

    def seal(self, sealing: Sealing) -> tuple[int, int] | None:
        """The region that the generation names which is being sealed; nothing is allocated in it
        any more.
        """
        wanted = self.wanted and self._volume.copies.current is None
        if self.region is not None and not (
            wanted and self._has_room(1, ROOM_TO_KEEP * self.region[1])
        ):
            probes.LOG_GIVEN_UP.hit()
            self._let_go()
            self.wanted = False
        elif self.region is None and wanted and (region := self._choose()) is not None:
            self._hold(region)
            # What was in these blocks before must not look like records, whoever wrote it.
            zeros = bytes(self._volume.geometry.block_size)
            sealing.blocks.update((block, zeros) for block in range(region[0], sum(region)))
        self._is_ours = self.region is not None
        self._position = self.number = self._previous = 0
        return self.region

    # Writing

    @property
    def may_tell(self) -> bool:
        """Is a record likely to be enough for all that has happened since the last one?"""
        volume = self._volume
        return self._is_ours and volume.account.is_told and not volume.has_dirty_tables

    def begin(self) -> LogWrite | None:
        """A record of all that happened since the last one; None where only a commit makes that
        durable. One at a time.

        From now on the blocks that it names are not overwritten in place (I4).
        """
        volume = self._volume
        account = volume.account
        if (
            volume.read_only
            or volume.in_flight is not None
            or not account.is_told
            or volume.has_dirty_tables
        ):
            return None
        if not self._is_ours:
            self.wanted = True
            return None
        if not 0 < len(account.files) <= FILES_MAX:
            return None
        changes = self._changes()
        return self._write(changes) if changes is not None else None

    def _changes(self) -> list[FileChange] | None:
        """What the record says. None also where the medium would have to be waited for: a commit
        can do that.
        """
        volume = self._volume
        with contextlib.suppress(
            CorruptBlock, DeviceError
        ):  # what is wrong is said by the commit that meets it
            while True:
                try:
                    return volume.contents.logged_changes(
                        RECORD_BLOCKS * volume.geometry.block_size // 16
                    )
                except NotCached as exc:
                    loaded = volume.read_wants_nowait(exc.wants)
                if loaded is None:
                    break
                volume.admit(loaded)
        return None

    def _write(self, changes: list[FileChange]) -> LogWrite | None:
        volume = self._volume
        block_size = volume.geometry.block_size
        data, checksum = encode_record(
            volume.superblock.uuid, volume.generation, self.number, self._previous, changes
        )
        blocks = -(-len(data) // block_size)
        assert self.region is not None  # noqa: S101 - as long as it is ours there is one
        start, length = self.region
        runs = [
            run
            for change in changes
            for _, words in change.runs
            for run in pointer_runs(words, 0, len(words) // 2, BLOCK_MASK)
        ]
        fresh = all(volume.allocator.is_fresh(first, count) for first, count, _ in runs)
        if not fresh:
            probes.LOG_NAMES_OLD_BLOCKS.hit()
            return None
        if blocks > RECORD_BLOCKS or self._position + blocks > length:
            probes.LOG_FULL.hit()
            return None
        volume.allocator.keep([(first, count) for first, count, _ in runs])
        volume.account.files = {}
        offset = (start + self._position) * block_size
        self._position += blocks
        self.number += 1
        self._previous = checksum
        return LogWrite(volume.device, offset, data.ljust(blocks * block_size, b"\0"))
