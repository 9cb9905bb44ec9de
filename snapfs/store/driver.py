"""Runs the core where nothing else happens meanwhile: offline commands and tests. ``fuse.edge`` does the same for a mount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from snapfs.errors import CommitNeeded, DeviceError, NotCached
from snapfs.store.volume import Volume

T = TypeVar("T")


def drive(volume: Volume, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function`` until it is through: fetch what it misses, commit when it needs that."""
    while True:
        try:
            return function(*args, **kwargs)
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))
        except CommitNeeded:
            # Blocks may be waiting for a commit, or for background work that comes before it.
            while volume.allocator.more_to_come() and _fetching(volume, volume.allocator.reclaim):
                pass
            commit(volume)


def _fetching(volume: Volume, function: Callable[[], T]) -> T:
    while True:
        try:
            return function()
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))
        except CommitNeeded:
            commit(volume)


def commit(volume: Volume) -> None:
    """Make everything durable. Does nothing when nothing is dirty. Raises ``DeviceError``."""
    if not volume.dirty:
        return
    while True:
        try:
            sealed = volume.seal()
            break
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))
    try:
        sealed.write()
    except DeviceError as exc:
        volume.failed(sealed, exc)
        raise
    volume.committed(sealed)
