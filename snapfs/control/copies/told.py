"""What commands are told of the copy of a volume that is running."""

from __future__ import annotations

import os
from typing import Final

from snapfs.control.socket.protocol import Result
from snapfs.copying import SETTING_UP, CopyJob
from snapfs.filesystem import Filesystem
from snapfs.snapshots.paths import CODING
from snapfs.store.tables.copies import RunningCopy

#: The state of a copy that no process goes on with.
INTERRUPTED: Final = "interrupted"


def of_volume(fs: Filesystem) -> Result:
    """For ``info``. If what the volume says of a copy is damaged, it is read-only, and that reason
    is told instead.
    """
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


def of_job(job: CopyJob, image: str) -> Result:
    """For the commands of copies: of one that this process makes, or made last. Bytes; ``rate``
    None: no limit.
    """
    size = job.copy.geometry.block_size
    return {
        "state": job.state,
        "id": job.mark.id.hex(),
        "source": image,
        "destination": str(job.target),
        "generation": job.mark.generation,
        "copied": job.copy.blocks_copied * size,
        "total": max(job.copy.blocks_needed, job.copy.blocks_copied) * size,
        "since_ns": job.since_ns,
        "rate": job.wishes.rate,
        "on_error": "write" if job.wishes.copy_first else "copy",
        "map": "in memory"
        if job.target.in_memory
        else job.map_file.path
        if job.map_file is not None
        else "on-volume",
        "registered": job.mark.registered,
        "reason": job.reason,
    }


def of_record(record: RunningCopy, image: str) -> Result:
    """The same of one that the volume remembers, and that nobody goes on with now."""
    return {
        **of_preparation(os.fsdecode(record.destination), image),
        "state": INTERRUPTED,
        "id": record.id.hex(),
        "generation": record.generation,
        "since_ns": record.since_ns,
        "rate": record.rate,
        "on_error": record.on_error,
        "map": os.fsdecode(record.map_path) or "on-volume",
        "registered": True,
    }


def of_preparation(destination: str, image: str) -> Result:
    """The same of one whose moment has not come yet."""
    unknown = (
        "id",
        "generation",
        "copied",
        "total",
        "since_ns",
        "rate",
        "on_error",
        "map",
        "reason",
    )
    return {
        "state": SETTING_UP,
        "source": image,
        "destination": destination,
        "registered": False,
        **dict.fromkeys(unknown),
    }
