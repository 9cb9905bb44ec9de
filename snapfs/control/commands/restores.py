"""What commands are told of restores: the one that is scheduled, and those that were done."""

from __future__ import annotations

from snapfs.control.socket.protocol import Result
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Restored, Scheduled
from snapfs.snapshots.paths import path_text


def of_volume(fs: Filesystem) -> Result:
    """For ``info``; the newest restore comes first."""
    restores = fs.volume.restores
    return {
        "scheduled_restore": restores.scheduled and of_scheduled(fs, restores.scheduled),
        "restores": [of_restored(fs, one) for one in reversed(restores.done)],
    }


def of_scheduled(fs: Filesystem, one: Scheduled) -> Result:
    """``name`` is the one that the snapshot has now, None if damage has cost it. No paths: all that
    it covers.
    """
    instance = fs.volume.instances.table.get(one.instance)
    return {
        "name": instance.name if instance and not instance.going else None,
        "paths": [path_text(path) for path in one.paths],
        "since_ns": one.since_ns,
        "owner": one.owner,
    }


def of_restored(fs: Filesystem, one: Restored) -> Result:
    """Names are those of then; ``undo_exists`` says whether the snapshot of the state from before
    still has its name.
    """
    return {
        "name": one.name,
        "paths": [path_text(path) for path in one.paths],
        "more_paths": one.more,
        "when_ns": one.when_ns,
        "owner": one.owner,
        "undo": one.undo or None,
        "undo_exists": fs.volume.instances.by_name(one.undo) is not None,
        "inodes": one.inodes,
    }
