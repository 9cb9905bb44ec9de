"""The blocks of the volume that a copy's map has, unless the map is outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapfs.copying.copy import PIECE_BYTES
from snapfs.copying.copy_map import MapPlace, Writable
from snapfs.errors import NoSpace
from snapfs.store.commit.copy_map_space import allocate_map, free_map

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.copies import Runs


def allocated(volume: Volume, size: int) -> Runs:
    """Blocks for a map of ``size`` bytes. Raises ``NotCached``, ``CommitNeeded``, ``NoSpace``."""
    try:
        return allocate_map(volume, -(-size // volume.geometry.block_size))
    except NoSpace as exc:
        text = str(exc)
        raise NoSpace(
            text
            if "--map outside" in text
            else f"{text} for the copy's map: keep it outside (--map outside)"
        ) from exc


def allocated_for_failure(volume: Volume) -> Runs:
    """A block that says whether the copy has failed, for a map that is outside. Raises
    ``NotCached``, ``CommitNeeded``, ``NoSpace``.
    """
    # A full volume can be saved while it is mounted: the one block, and the commit, are of the
    # reserve.
    return allocate_map(volume, 1, urgency=2)


def place_on(device: Writable, runs: Sequence[tuple[int, int]], block_size: int) -> MapPlace:
    """These blocks as the place of a map, reached through ``device``."""
    return MapPlace(device, [(start * block_size, length * block_size) for start, length in runs])


def make_empty(place: MapPlace) -> None:
    """Have zeros in a place. Raises ``DeviceError``."""
    for offset in range(0, place.size, PIECE_BYTES):
        place.write(offset, bytes(min(PIECE_BYTES, place.size - offset)))


def unregister(volume: Volume) -> None:
    """Let the volume forget its copy with the next commit. Raises
    ``NotCached``, ``CorruptBlock``.
    """
    record = volume.copies.current
    if record is not None:
        free_map(volume, record.map_runs)
        volume.copies.put(None)
