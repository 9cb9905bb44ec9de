"""Finding the newest superblock of a volume: in the ring at the front, and in its copy at the end.

Apart from ``recovery``, so that commands which only ask what a device holds load little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.geometry import BLOCK_SIZES, SLOT_BYTES, Geometry
from snapfs.blocks.superblock import Superblock
from snapfs.errors import (
    CorruptBlock,
    DeviceError,
    NotAVolume,
    SnapfsError,
    Truncated,
    UnsupportedVersion,
    UsageError,
)

if TYPE_CHECKING:
    from snapfs.device.base import Device


def check_size(device: Device, superblock: Superblock) -> None:
    """Raises ``Truncated`` when the device is shorter than the volume."""
    if superblock.geometry.size > device.size:
        raise Truncated(
            f"{device.path}: truncated: the volume has {superblock.geometry.size} "
            f"bytes, the image only {device.size}; "
            "if the rest was lost, it cannot be mounted: restore the image from a backup"
        )


def newest_superblock(device: Device) -> Superblock:
    """The valid superblock of the highest generation, from the ring at the front and its copy at
    the end.

    Where the copy is follows from the ring at the front. Only when that is lost altogether are the
    possible places looked at, and then no two volumes may be found: what files contain can look
    like a superblock.
    """
    failures: list[SnapfsError] = []
    front, _ = Geometry(BLOCK_SIZES[0], 1 << 20).slot_offsets()
    found = intact(device, front, failures)
    newer = [exc for exc in failures if isinstance(exc, UnsupportedVersion)]
    if newer:
        raise UnsupportedVersion(f"{device.path}: {newer[0]}")
    if found:
        newest = max(found, key=lambda one: one.generation)
        copies = intact(device, newest.geometry.slot_offsets()[1], failures)
        found += [
            one for one in copies if (one.uuid, one.geometry) == (newest.uuid, newest.geometry)
        ]
        if max(found, key=lambda one: one.generation).generation > newest.generation:
            probes.COPY_OF_RING_AHEAD.hit()
    else:
        for size in BLOCK_SIZES:
            try:
                shape = Geometry.for_size(size, device.size)
            except UsageError:
                continue
            found += [
                one
                for one in intact(device, shape.slot_offsets()[1], failures)
                if one.geometry == shape
            ]
        if len({(one.uuid, one.block_size) for one in found}) > 1:
            raise CorruptBlock(
                f"{device.path}: the superblocks at the front are lost, and at the end "
                "there is more than one volume"
            )
        if found:
            probes.RING_LOST.hit()
    if found:
        return max(found, key=lambda one: one.generation)
    for failure in failures:
        if not isinstance(failure, NotAVolume):
            raise CorruptBlock(f"{device.path}: no superblock is intact: {failure}") from failure
    raise NotAVolume(f"{device.path}: not a snapfs volume; 'snapfs mkfs' makes one")


def intact(device: Device, offsets: list[int], failures: list[SnapfsError]) -> list[Superblock]:
    """The superblocks that are whole in these slots of a ring; why the others are not."""
    found = []
    for slot, offset in enumerate(offsets):
        if 0 <= offset <= device.size - SLOT_BYTES:
            try:
                found.append(Superblock.decode(device.read(offset, SLOT_BYTES), slot))
            except (NotAVolume, CorruptBlock, UnsupportedVersion, DeviceError) as exc:
                failures.append(exc)
    if found and any(isinstance(exc, CorruptBlock) for exc in failures):
        probes.TORN_SUPERBLOCK.hit()
    return found
