"""Opening a volume that has lost some of its tables, to look at what is
left. Never to change it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import fresh_entries
from snapfs.errors import CorruptBlock, DeviceError, SnapfsError, Truncated
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import (
    load_group_table,
    load_tables,
    open_volume,
)
from snapfs.store.commit.superblocks import newest_superblock
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.root_record import RootRecord

if TYPE_CHECKING:
    from snapfs.device import Device


def open_damaged(device: Device) -> tuple[Volume, str | None]:
    """The volume, and why it cannot be opened as usual (None: it can). Tables end where they cannot
    be read.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``DeviceError``; and
    ``CorruptBlock`` when no superblock is intact.
    """
    try:
        return open_volume(device, read_only=True), None
    except Truncated:
        raise
    except (CorruptBlock, DeviceError) as exc:
        reason = str(exc)
    superblock = newest_superblock(device)
    root = RootRecord()
    with suppress(CorruptBlock, DeviceError):
        data = device.read(superblock.root_block * superblock.block_size, superblock.root_length)
        if crc32c(data) == superblock.root_checksum:
            root = RootRecord.decode(data, superblock.geometry)
    volume = Volume(device, superblock, root, fresh_entries(superblock.geometry))
    volume.read_only = True
    with suppress(CorruptBlock, DeviceError):
        drive(volume, load_group_table, volume)
    with suppress(CorruptBlock, DeviceError):
        load_tables(volume)
    return volume, reason


def logged_changes(device: Device) -> int:
    """How many records the log of the newest generation has, which the next mount takes over, as
    far as they can be believed.
    """
    try:
        return len(open_volume(device, read_only=True).sync_log.pending)
    except SnapfsError:
        return 0
