"""A snapshot as requests are answered about it."""

from __future__ import annotations

from collections.abc import Sequence

from snapfs.control.commands import figures
from snapfs.control.socket.protocol import Result
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Instance


def with_figures(fs: Filesystem, instances: Sequence[Instance]) -> list[Result]:
    """Instances as commands report them, with their figures of space."""
    rows = zip(instances, figures.of_snapshots(fs, instances), strict=True)
    return [{**described(fs, one), **row} for one, row in rows]


def described(fs: Filesystem, instance: Instance) -> Result:
    """An instance as commands report it; ``origin`` is the name of the snapshot that it was
    made from.
    """
    origin = fs.volume.instances.table.get(instance.origin)
    view, facts = fs.views.get(instance.id), instance.facts
    changing = view is not None and view.is_dirty
    return {
        "name": instance.name,
        "id": instance.id,
        "created_ns": instance.created_ns,
        "changed": instance.changed or changing,
        "changed_ns": fs.now() if changing else instance.changed_ns,
        "owner": instance.owner,
        **covered(instance),
        "origin": origin and origin.name,
        "epoch": instance.epoch,
        "undo": instance.undo,
        "read_only": facts.read_only,
        "description": facts.description,
        "tags": dict(facts.tags),
        "holds": [
            {
                "name": one.name,
                "reason": one.reason,
                "since_ns": one.since_ns,
                "owner": one.owner,
            }
            for one in facts.holds
        ],
    }


def covered(instance: Instance) -> Result:
    """What a snapshot covers: its path, if it has one only, and all of them."""
    return {
        "path": instance.paths[0] if len(instance.paths) == 1 else None,
        "paths": instance.paths,
    }
