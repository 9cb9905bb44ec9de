"""Where in its mount a snapshot is seen: in the snapshot directories of what it covers, in the live
tree or in the snapshot it is of.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from snapfs.cli.target import Session
from snapfs.cli.waiting import looked
from snapfs.control.socket.mounts import is_below, seen_from_here
from snapfs.errors import NoSuchSnapshot
from snapfs.printable import printable, quoted


def seen_at(volume: Session, one: dict[str, Any]) -> list[str]:
    """Paths from here at which a snapshot can be entered; none of a volume that is not mounted, or
    of one of files alone.
    """
    return [
        place
        for _, place in _places(volume, one)
        if looked(place, volume.patience, os.path.isdir, place)
    ]


def shown(path: str, encoding: str | None) -> str:
    """A path for people, who copy it; as a word for a shell where it cannot be shown."""
    return path if printable(path, encoding) == path else quoted(path, encoding)


def _places(
    volume: Session, one: dict[str, Any], below: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """What a snapshot shows, by its path in the volume, with the path from here at which it would
    be. ``below``: snapshots of it.
    """
    if (
        volume.device is None or one["name"] in below
    ):  # an image can say that a snapshot is of itself
        return []
    above = (
        [("/", "")]
        if one["origin"] is None
        else _of_origin(volume, one["origin"], [*below, one["name"]])
    )
    found = []
    for path in one["paths"]:
        for root, place in above:
            if is_below(path, root):
                # In the live tree, where some mount shows it; in a snapshot, where that does.
                there = (
                    os.path.join(place, path[len(root) :].lstrip("/"))
                    if place
                    else seen_from_here(path, volume.device)
                )
                if there is not None:
                    found.append((path, os.path.join(there, volume.snapdir, one["name"])))
                    break
    return found


def _of_origin(volume: Session, name: str, below: Sequence[str]) -> list[tuple[str, str]]:
    try:
        return _places(volume, volume.call("snapshot.show", name=name), below)
    except NoSuchSnapshot:  # it has gone in this moment
        return []
