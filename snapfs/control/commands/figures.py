"""Figures of space as commands report them: in bytes, of one moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from snapfs.control.socket.protocol import Result
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Instance, SetDeletion, space


def of_volume(fs: Filesystem) -> Result:
    """See ``space.Usage``."""
    block_size = fs.volume.geometry.block_size
    return {
        name: blocks * block_size for name, blocks in dataclasses.asdict(space.usage(fs)).items()
    }


def of_snapshots(fs: Filesystem, instances: Iterable[Instance]) -> list[Result]:
    """For each what its view reaches (None: unknown), and what deleting it alone frees."""
    block_size = fs.volume.geometry.block_size
    alone = space.only_here(fs)
    out = []
    for one in instances:
        refers = space.refers(one)
        out.append(
            {
                "refers": None if refers is None else refers * block_size,
                "only_here": alone.get(one.id, 0) * block_size,
            }
        )
    return out


def of_deletion(fs: Filesystem, deletion: SetDeletion) -> Result:
    """What becomes of a set that is (or would be) deleted."""
    return {
        "names": [one.name for one in deletion.deleted],
        "frees": deletion.blocks * fs.volume.geometry.block_size,
        "refused": [
            {"name": name, "reason": str(reason)} for name, reason in deletion.refused.items()
        ],
    }
