"""Going on with a copy after its process has ended, in whatever way (D4).

Whoever opens a volume to write that remembers a running copy must ``attach`` it first, before
anything is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Sequence

from snapfs import probes
from snapfs.blocks.copy_mark import FAILED, FILLING, PLACE_BYTES, PLACES, PREPARING, CopyMark
from snapfs.blocks.map_sector import SECTOR_BYTES, decode_first
from snapfs.copying.as_it_was import AsItWas
from snapfs.copying.before_write import without_copy
from snapfs.copying.copy import Copy
from snapfs.copying.copy_map import CopyMap, MapPlace
from snapfs.copying.job import CopyJob, Wishes, detach
from snapfs.copying.map_file import open_map, remove_map
from snapfs.copying.map_on_volume import place_on, unregister
from snapfs.copying.named import owners_of
from snapfs.copying.opening import read_mark
from snapfs.copying.patience import Abandonable
from snapfs.copying.target import CopyTarget, clear_mark, reopen, write_mark
from snapfs.device import ImageDevice
from snapfs.errors import CopyError, CorruptBlock, SnapfsError
from snapfs.printable import quoted
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.superblocks import newest_superblock
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.copies import RunningCopy

log = logging.getLogger("snapfs.copying")


def attach(volume: Volume) -> CopyJob | None:
    """Let the copy that a volume remembers go on before anything is written. Commits when it
    cannot, and is forgotten.

    Raises ``CopyError`` when it cannot and comes first.
    """
    record = volume.copies.current
    if record is None or volume.read_only:
        return None
    where = os.fsdecode(record.destination)
    try:
        return _resumed(volume, record)
    except _Over as why:
        log.info("the copy to %s %s", where, why)
    except SnapfsError as exc:
        detach(volume)
        if record.on_error == "write":
            raise CopyError(
                f"{volume.device.path}: the copy to {where} comes first, and cannot go on: {exc}; "
                "make that possible, or give it up with 'snapfs copy cancel "
                f"{quoted(volume.device.path)}'"
            ) from exc
        log.warning("the copy to %s has failed: %s", where, exc)
    forget(volume)
    return None


def forget(volume: Volume) -> None:
    """The copy that the volume remembers has ended, in whatever way; durable when this returns.
    Raises ``DeviceError``, ``NoSpace``.
    """
    record = volume.copies.current
    if record is None:
        return
    if record.map_runs:
        place = _on_volume(volume, record.map_runs)
        place.begin(record.id, record.generation, failed=True)
    drive(volume, unregister, volume)
    commit(volume)
    if record.map_path:
        remove_map(record.map_path, record.id, owners_of(without_copy(volume.device)))


def give_up(volume: Volume) -> bool:
    """End the copy that the volume remembers and nobody goes on with; was its target removed,
    because it was made for the copy?

    Raises ``CopyError`` when there is none, ``DeviceError``, ``NoSpace``.
    """
    record = volume.copies.current
    if record is None:
        raise CopyError(f"{volume.device.path}: no copy of it is running")
    forget(volume)
    path = os.fsdecode(record.destination)
    with contextlib.suppress(SnapfsError):
        target = reopen(path, owners=owners_of(without_copy(volume.device)))
        try:
            mark = read_mark(target.device)
            if mark is not None and mark.id == record.id:
                write_mark(target.device, mark.changed(FAILED, "it was cancelled"))
                return mark.made and target.device.remove_name()
        finally:
            target.device.close()
    return False


class _Over(Exception):
    """There is nothing left to be done."""


def _resumed(volume: Volume, record: RunningCopy) -> CopyJob:
    path = os.fsdecode(record.destination)
    if _says_failed(volume, record):
        probes.COPY_HAD_FAILED.hit()
        raise _Over("has failed, or was given up")
    owners = owners_of(without_copy(volume.device))
    with contextlib.ExitStack() as opened:
        target = reopen(path, owners=owners)
        opened.callback(target.device.close)
        mark = read_mark(target.device)
        if mark is None:
            if newest_superblock(target.device).uuid == volume.superblock.uuid:
                for place in PLACES:  # the crash may have left a part of a mark
                    if any(target.device.read(place, PLACE_BYTES)):
                        clear_mark(target.device, place)
                probes.COPY_WAS_COMPLETE.hit()
                raise _Over("was complete already")
            raise CopyError(f"{path}: holds something else now")
        if mark.id == record.id and mark.state != FILLING:
            never = mark.state == PREPARING
            (probes.COPY_WAS_NOT_SET_UP if never else probes.COPY_HAD_FAILED).hit()
            raise _Over(
                "was never set up, and is forgotten"
                if mark.state == PREPARING
                else f"has failed: {mark.reason}"
            )
        check_mark(path, mark, record.id)
        target = CopyTarget(target.device, path, mark.made, target.sparse)
        map_file = _map_file(record.map_path, owners, opened)
        wishes = Wishes(record.on_error == "write", record.rate, record.paused)
        job = _job(
            volume,
            target,
            mark,
            record.map_runs,
            map_file,
            wishes,
            since_ns=record.since_ns,
            owner=record.owner,
        )
        job.resumed(record, record.map_runs, map_file)
        probes.COPY_WENT_ON.hit()
        opened.pop_all()
        return job


def _says_failed(volume: Volume, record: RunningCopy) -> bool:
    """Does the volume itself say that its copy has failed? Until the map is
    there, it says nothing.
    """
    try:
        found = decode_first(_on_volume(volume, record.map_runs).read(0, SECTOR_BYTES))
    except CorruptBlock:
        return False
    return found == (record.id, record.generation, True)


def resume_unregistered(volume: Volume, path: str, *, since_ns: int, owner: int) -> CopyJob:
    """Go on with a copy that its source does not know of, which must not have changed. Raises
    ``CopyError``.
    """
    with contextlib.ExitStack() as opened:
        target = reopen(path)
        opened.callback(target.device.close)
        mark = read_mark(target.device)
        if mark is None:
            raise CopyError(f"{path}: not an unfinished copy")
        check_mark(path, mark, mark.id)
        if mark.uuid != volume.superblock.uuid or mark.registered:
            raise CopyError(f"{path}: a copy of something else")
        if mark.generation != volume.generation or volume.unsaved:
            raise CopyError(
                f"{path}: its source {volume.device.path} has been changed since: start "
                "the copy again with --force"
            )
        target = CopyTarget(target.device, path, mark.made, target.sparse)
        map_file = _map_file(mark.map_path, owners_of(target.device), opened)
        wishes = Wishes(
            copy_first=True
        )  # nobody writes the source: the copy can always be gone on with later
        job = _job(volume, target, mark, (), map_file, wishes, since_ns=since_ns, owner=owner)
        job.resumed(None, (), map_file)
        opened.pop_all()
        return job


def check_mark(path: str, mark: CopyMark, copy_id: bytes) -> None:
    """Raises ``CopyError`` when the target is not that copy, or it has failed."""
    if mark.id != copy_id:
        raise CopyError(f"{path}: is the target of another copy now")
    if mark.state == FAILED:
        raise CopyError(f"{path}: the copy has failed: {mark.reason}")


def _map_file(
    path: bytes, owners: Collection[int], opened: contextlib.ExitStack
) -> ImageDevice | None:
    if not path:
        return None
    device = open_map(path, owners)
    opened.callback(device.close)
    return device


def _job(
    volume: Volume,
    target: CopyTarget,
    mark: CopyMark,
    runs: Sequence[tuple[int, int]],
    map_file: ImageDevice | None,
    wishes: Wishes,
    *,
    since_ns: int,
    owner: int,
) -> CopyJob:
    source, geometry = without_copy(volume.device), volume.geometry
    place = (
        MapPlace(map_file, [(0, map_file.size)])
        if map_file is not None
        else _on_volume(volume, runs)
    )
    copy_map = CopyMap(mark.id, mark.generation, geometry.blocks, place)
    if copy_map.failed:
        raise CopyError(f"{target.path}: the copy has failed")
    # What is copied is in the target, and what is not is in the source unchanged: enough to read
    # the group table of that moment.
    device = Abandonable(target.device)
    past = open_volume(
        AsItWas(Copy(source, device, copy_map, geometry, [], sparse=target.sparse)), read_only=True
    )
    if (past.generation, past.superblock.uuid) != (mark.generation, volume.superblock.uuid):
        raise CopyError(f"{target.path}: does not hold the generation that was to be copied")
    copy = Copy(source, device, copy_map, geometry, past.allocator.entries, sparse=target.sparse)
    return CopyJob(volume, target, copy, mark, wishes, since_ns=since_ns, owner=owner)


def _on_volume(volume: Volume, runs: Sequence[tuple[int, int]]) -> MapPlace:
    return place_on(without_copy(volume.device), runs, volume.geometry.block_size)
