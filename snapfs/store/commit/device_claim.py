"""Which devices are claimed (I11): that of a volume that is opened to write, and one that is to get
a volume; of a third it is only asked whether another host has it. ``store.commit.claiming`` has the
protocol.
"""

from __future__ import annotations

import logging

from snapfs.blocks.claim import INTERVAL
from snapfs.blocks.geometry import SUPERBLOCK_SLOTS
from snapfs.blocks.superblock import KNOWN_READ_ONLY_COMPATIBLE, Superblock
from snapfs.device.base import Device
from snapfs.device.identity import Identity
from snapfs.device.image import ImageDevice
from snapfs.errors import DeviceFull, SnapfsError
from snapfs.store.commit.claiming import Claiming
from snapfs.store.commit.superblocks import newest_superblock

log = logging.getLogger("snapfs.store")


def claim(device: ImageDevice, interval: float | None = INTERVAL) -> None:
    """Have a volume's device for this host, from now until it is closed; it must be locked. Without
    ``interval`` nothing is claimed.

    May wait, for as long as a claim of somebody else must be watched. Raises ``VolumeBusy`` when he
    is alive, ``DeviceError``. What is not a volume, or not to be written by this snapfs, is left as
    it is: whoever opens it says so.
    """
    if interval is None:
        return
    claiming = Claiming(device, Identity.of_this_process(), device.storage, interval)
    try:
        seen = claiming.look()
        try:
            superblock = newest_superblock(device)
        except SnapfsError:
            superblock = None
        if superblock is None or not _can_be_written(device, superblock):
            claiming.close()
            return
        give_way(device, superblock)
        claiming.take(seen)
    except DeviceFull as exc:
        # As of a commit: nothing is lost, and deleting may help.
        log.warning("%s: other hosts are not told that it is in use: %s", device.path, exc)
        claiming.close()
        return
    except BaseException:
        claiming.close()
        raise
    claiming.start()
    device.guard = claiming


def claim_storage(device: ImageDevice) -> None:
    """The same of a device on which no volume is, or none that is to stay."""
    claiming = Claiming(device, Identity.of_this_process(), device.storage, INTERVAL)
    try:
        claiming.take(claiming.look())
    except BaseException:
        claiming.close()
        raise
    claiming.start()
    device.guard = claiming


def refuse_claimed(device: ImageDevice) -> None:
    """Raises ``VolumeBusy`` when another host has the device open, whatever is on it; may wait to
    see that. Writes nothing.
    """
    claiming = Claiming(device, Identity.of_this_process(), device.storage, INTERVAL)
    try:
        claiming.look()
    finally:
        claiming.close()


def _can_be_written(device: Device, superblock: Superblock) -> bool:
    return (
        not superblock.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE
        and superblock.geometry.size <= device.size
    )


def give_way(device: Device, superblock: Superblock) -> None:
    """Have the newest superblock elsewhere, if a snapfs without claims has put it where claims are.
    Raises ``DeviceError``.
    """
    if superblock.slot == SUPERBLOCK_SLOTS:
        # To the place of the oldest, as a commit. It is in the ring at the end as well, perhaps.
        device.write(0, superblock.encode())
        device.flush()
