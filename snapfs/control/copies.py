"""What commands are told of the copy of a volume that is running."""

from __future__ import annotations

from snapfs.control.protocol import Result
from snapfs.filesystem import Filesystem
from snapfs.snapshots.paths import CODING
from snapfs.store.copies import RunningCopy


def of_volume(fs: Filesystem) -> Result:
    """For ``info``. If what the volume says of a copy is damaged, it is read-only, and that reason is told instead."""
    running = fs.volume.copies.current
    return {"copy": running and of_copy(running)}


def of_copy(one: RunningCopy) -> Result:
    """``map`` is a path, None when the copy map is on the volume; ``rate`` None: no limit."""
    return {
        "id": one.id.hex(),
        "generation": one.generation,
        "destination": one.destination.decode(*CODING),
        "map": one.map_path.decode(*CODING) or None,
        "map_blocks": sum(length for _, length in one.map_runs),
        "on_error": one.on_error,
        "rate": one.rate,
        "paused": one.paused,
        "since_ns": one.since_ns,
        "owner": one.owner,
    }
