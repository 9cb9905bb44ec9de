"""Ending what is under way: the log, which is taken over as by a mount; and a running copy.

Whatever repair writes, the copy may need what was there, and nobody copies that first. So the copy
must be known to be at an end before anything else is written. No commit can do that, for it writes
blocks before it counts. Therefore the block that describes the copy is cleared in place: from then
on the volume is only read, until repair is through.
"""

from __future__ import annotations

from collections.abc import Iterable

from snapfs.check.repair.salvage import Tell
from snapfs.check.walk.reach import Reach
from snapfs.device.base import Device
from snapfs.errors import CorruptBlock, DeviceError, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.store.commit.driver import commit
from snapfs.store.commit.recovery import open_volume, read_copy
from snapfs.store.commit.superblocks import newest_superblock
from snapfs.store.commit.volume import Volume


def take_over_log(device: Device, tell: Tell) -> None:
    """Have a generation with what the log tells, and without a log, before anything else is
    written.

    If that cannot be, because of the damage, what follows does without: then it is told that this
    is lost.
    """
    if not newest_superblock(device).log_blocks:
        return
    pending = "what was"
    try:
        volume = open_volume(device)
        pending = f"{len(volume.sync_log.pending)} changes that were"
        fs = Filesystem(volume)
        fs.volume.check_writable()
        commit(fs.volume)
    except SnapfsError as exc:
        tell(f"{pending} synced since the last commit cannot be taken over from the log: {exc}")
        return
    if volume.sync_log.repeated:
        tell(
            f"{volume.sync_log.repeated} changes that were synced since the last commit "
            "were taken over from the log"
        )


def forget_copy(volume: Volume, tell: Tell) -> list[int]:
    """Have the next commit forget the running copy: what it has on the volume is free then.

    The blocks that say that it runs: the one that describes it, and the first of its map. None
    without a copy.
    """
    copies = volume.copies
    place = copies.place
    if place is None:
        return []
    blocks = [place.block]
    try:
        copy = read_copy(volume, place)
        where = f" to {copy.destination.decode(errors='replace')!r}"
        blocks += [start for start, _ in copy.map_runs[:1] if start < volume.geometry.blocks]
    except (CorruptBlock, DeviceError):
        where = ""
    tell(
        f"the copy{where} that was running has ended, it would lack what is mended now: "
        "start it again"
    )
    copies.place = copies.trouble = None
    copies.put(None)
    return blocks


def clear_description(volume: Volume, blocks: Iterable[int], reach: Reach) -> None:
    """Clear the blocks that said so, unless the walk has found that something else is in them, or
    they are fixed metadata.
    """
    size, span = volume.geometry.block_size, volume.geometry.group_span
    for block in blocks:
        low, high = volume.geometry.usable_range(block // span)
        if low <= block % span < high and not reach.mask(block):
            volume.device.write(block * size, bytes(size))
            volume.device.flush()
