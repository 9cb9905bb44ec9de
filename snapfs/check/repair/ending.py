"""Ending a running copy: whatever repair writes, the copy may need what was there, and nobody copies that first.

So the copy must be known to be at an end before anything else is written. No commit can do that, for it writes blocks before it counts.
Therefore the block that describes the copy is cleared in place: from then on the volume is only read, until repair is through.
"""

from __future__ import annotations

from snapfs.check.reach import Reach
from snapfs.check.repair.salvage import Tell
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.store.copies import CopyBlock
from snapfs.store.recovery import read_copy
from snapfs.store.volume import Volume


def forget_copy(volume: Volume, tell: Tell) -> CopyBlock | None:
    """Have the next commit forget the running copy: what it has on the volume is free then. The block that describes it, None without."""
    copies = volume.copies
    place = copies.place
    if place is None:
        return None
    try:
        where = f" to {read_copy(volume, place).destination.decode(errors='replace')!r}"
    except (CorruptBlock, DeviceError):
        where = ""
    tell(f"the copy{where} that was running has ended, it would lack what is mended now: start it again")
    copies.place = copies.trouble = None
    copies.put(None)
    return place


def clear_description(volume: Volume, place: CopyBlock | None, reach: Reach) -> None:
    """Clear the block that described the copy, unless the walk has found that something else is in it."""
    if place is not None and not reach.mask(place.block):
        volume.device.write(place.block * volume.geometry.block_size, bytes(volume.geometry.block_size))
        volume.device.flush()
