"""Writing the log: is a record enough for what has happened, and what does it say (I8)?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from snapfs import probes
from snapfs.blocks.log_record import FILES_MAX, FileChange, encode_record
from snapfs.blocks.pointer import BLOCK_MASK, pointer_runs
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.interrupts import NotCached
from snapfs.store.commit.sync_log import LogWrite

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

#: A record has so many blocks at most: after larger changes a commit costs little more.
RECORD_BLOCKS: Final = 8


def may_tell(volume: Volume) -> bool:
    """Is a record likely to be enough for all that has happened since the last one?"""
    return volume.sync_log.is_ours and volume.account.is_told and not volume.has_dirty_tables


def begin(volume: Volume) -> LogWrite | None:
    """A record of all that happened since the last one; None where only a commit makes that
    durable. One at a time.

    From now on the blocks that it names are not overwritten in place (I4).
    """
    account = volume.account
    if (
        volume.read_only
        or volume.in_flight is not None
        or not account.is_told
        or volume.has_dirty_tables
    ):
        return None
    if not volume.sync_log.is_ours:
        volume.sync_log.wanted = True
        return None
    if not 0 < len(account.files) <= FILES_MAX:
        return None
    changes = _changes(volume)
    return _write(volume, changes) if changes is not None else None


def _changes(volume: Volume) -> list[FileChange] | None:
    """What the record says. None also where the medium would have to be waited for: a commit
    can do that.
    """
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


def _write(volume: Volume, changes: list[FileChange]) -> LogWrite | None:
    log, block_size = volume.sync_log, volume.geometry.block_size
    data, checksum = encode_record(
        volume.superblock.uuid, volume.generation, log.number, log.previous, changes
    )
    blocks = -(-len(data) // block_size)
    assert log.region is not None  # noqa: S101 - as long as it is ours there is one
    start, length = log.region
    runs = [
        run
        for change in changes
        for _, words in change.runs
        for run in pointer_runs(words, 0, len(words) // 2, BLOCK_MASK)
    ]
    fresh = all(volume.allocator.is_fresh(first, count) for first, count, _ in runs)
    if blocks > RECORD_BLOCKS or log.position + blocks > length or not fresh:
        if log.position + blocks > length:
            probes.LOG_FULL.hit()
        return None
    volume.allocator.keep([(first, count) for first, count, _ in runs])
    volume.account.files = {}
    offset = (start + log.position) * block_size
    log.position += blocks
    log.number += 1
    log.previous = checksum
    return LogWrite(volume.device, offset, data.ljust(blocks * block_size, b"\0"))
