"""Runs the core where nothing else happens meanwhile: offline commands and tests.
``fuse.driving.calls`` does the same for a mount.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from snapfs.errors import DeviceError, NoSpace
from snapfs.interrupts import (
    CommitNeeded,
    NotCached,
    NotReady,
)
from snapfs.store.commit import log_writing
from snapfs.store.commit.commit import seal
from snapfs.store.commit.guard import broke_off
from snapfs.store.commit.volume import Volume

if TYPE_CHECKING:
    from snapfs.store.trees.sealed import Sealed

T = TypeVar("T")

#: How often one call is given blocks by a commit that are not enough. Background work may take many
#: commits to give anything back.
COMMIT_TRIES = 1000


def drive(volume: Volume, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function`` until it is through: fetch what it misses, commit when it needs that. What
    broke off ends writing (``guard``).
    """
    commits = 0
    try:
        while True:
            try:
                return function(*args, **kwargs)
            except NotCached as exc:
                volume.admit(volume.read_wants(exc.wants))
            except NotReady as exc:
                volume.device.make_ready(exc.runs)
            except CommitNeeded:
                commits += 1
                if commits > COMMIT_TRIES:
                    raise NoSpace(
                        "no space left on the volume: what commits give back is not enough"
                    ) from None
                _make_room(volume)
    except BaseException as exc:
        broke_off(volume, exc)
        raise


def _make_room(volume: Volume) -> None:
    """Blocks wait for a commit, or for background work that comes before it. Raises ``NoSpace``
    when there is nothing to be done.
    """
    generation = volume.generation
    has_worked = False
    while volume.allocator.more_to_come():
        try:
            more = volume.allocator.reclaim()
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))
        except CommitNeeded:
            before = volume.generation
            commit(volume)
            if volume.generation == before:
                break
        else:
            has_worked = True
            if not more:
                break
    commit(volume)
    if volume.generation == generation and not has_worked:
        raise NoSpace("no space left on the volume")


def commit(volume: Volume) -> None:
    """Make everything durable. Does nothing when all of it is. Raises ``DeviceError``,
    ``ReadOnly``.
    """
    try:
        if volume.in_flight is not None:
            volume.check_writable()
            _write(volume, volume.in_flight)  # the device was full
        while volume.dirty:
            try:
                _write(volume, seal(volume))
            except NotCached as exc:
                volume.admit(volume.read_wants(exc.wants))
        discard(volume)
    except BaseException as exc:
        broke_off(volume, exc, "a commit")
        raise


def discard(volume: Volume) -> None:
    """Discard what waits for that, if anything does."""
    discards = volume.allocator.discards
    while runs := discards.begin():
        discards.done(volume.discard(runs))


def _write(volume: Volume, sealed: Sealed) -> None:
    try:
        sealed.write()
    except DeviceError as exc:
        volume.failed(sealed, exc)
        raise
    volume.committed(sealed)


def sync(volume: Volume) -> bool:
    """Make everything durable: in the log if that can tell it, else by a commit. Was the log
    enough? Raises as ``commit``.
    """
    try:
        if (volume.is_synced and volume.in_flight is None) or _log(volume):
            return True
    except BaseException as exc:
        broke_off(volume, exc, "a record of the log")
        raise
    commit(volume)
    return False


def _log(volume: Volume) -> bool:
    record = log_writing.begin(volume)
    if record is None:
        return False
    try:
        record.write()
    except DeviceError as exc:
        volume.log_failed(record, exc)
        if volume.read_only:
            raise
        return False
    volume.logged(record)
    return True
