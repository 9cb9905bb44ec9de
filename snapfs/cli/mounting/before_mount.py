"""Opening a volume that is about to be mounted, and going back first: by ``-o restore``, or because
that was scheduled.

A mount that was asked to go back fails if it cannot. What somebody scheduled earlier does not keep
the volume from being mounted: if it cannot be done, it is dropped, so that it does not happen at
some later mount that nobody connects it with.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from snapfs import snapshots
from snapfs.copying import CopyJob, attach
from snapfs.errors import DeviceFull, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

if TYPE_CHECKING:
    from snapfs.device import Device
    from snapfs.fuse.options import MountOptions

log = logging.getLogger("snapfs")


def opened(
    device: Device, options: MountOptions, warn: Callable[[str], None]
) -> tuple[Filesystem, CopyJob | None]:
    """The volume on a device, restored if need be, and the copy of it that is to go on.

    ``warn`` is told what the user should read although the mount succeeds.
    """
    fs = _open(device, options)
    running = fs.volume.copies.current
    job = attach(fs.volume)
    if running is not None and job is None and not fs.volume.read_only:
        warn(f"the copy to {os.fsdecode(running.destination)} does not go on: see the log")
    if fs.volume.sync_log.dirty:
        with contextlib.suppress(
            DeviceFull
        ):  # the first commit that succeeds has what the log tells, and the log stays until then
            commit(fs.volume)
    fs = _restored(fs, options, warn)
    _tell_hidden(fs, options.snapdir, warn)
    return fs, job


def _tell_hidden(fs: Filesystem, name: str, warn: Callable[[str], None]) -> None:
    """Say that a file or directory cannot be reached, because its name is where snapshots are.
    Where else is told when it is listed.
    """
    with contextlib.suppress(SnapfsError):
        drive(fs.volume, fs.lookup, fs.base, ROOT_INO, name.encode(errors="surrogateescape"))
        warn(
            f"/{name} is hidden by the directory of snapshots: mount with another "
            "snapdir=NAME to reach it"
        )


def _restored(fs: Filesystem, options: MountOptions, warn: Callable[[str], None]) -> Filesystem:
    if options.restore is not None:
        _restore(fs, options.restore, options.uid)
    elif fs.volume.restores.scheduled is not None:
        what = _scheduled(fs)
        if fs.volume.read_only or options.snapshot is not None:
            why = "is read-only" if fs.volume.read_only else "shows a snapshot"
            log.info("%s is scheduled to be restored: not by this mount, which %s", what, why)
            return fs
        try:
            result = drive(
                fs.volume,
                snapshots.restore_scheduled,
                fs,
                lambda uid: snapshots.owner_or_root(uid, options.uid),
            )
            commit(fs.volume)
        except SnapfsError as exc:
            fs = _open(
                fs.volume.device, options
            )  # whatever the attempt has left in memory is not what is on the volume
            warn(
                f"{what} was scheduled to be restored, which is not possible: {exc}; "
                f"nothing was restored, {_drop(fs)}"
            )
        else:
            _tell(fs, changed=result.changed, what=what)
    return fs


def _open(device: Device, options: MountOptions) -> Filesystem:
    volume = open_volume(device, read_only=options.read_only)
    volume.allocator.discards.wanted = bool(options.discard) and not volume.read_only
    return Filesystem(volume)


def _restore(fs: Filesystem, name: str, shown_owner: int | None) -> None:
    """Go back to a snapshot before anyone sees the volume. What was scheduled is meant for this
    mount: it is dropped.
    """
    uid = os.geteuid()
    result = drive(
        fs.volume,
        snapshots.restore,
        fs,
        name,
        owner=uid,
        permit=snapshots.owner_or_root(uid, shown_owner),
    )
    if fs.volume.restores.scheduled is not None:
        log.info(
            "%s is not restored as was scheduled: the mount was asked for the snapshot %s",
            _scheduled(fs),
            name,
        )
        fs.volume.restores.schedule(None)
    commit(fs.volume)
    _tell(fs, changed=result.changed, what=f"the snapshot {name}")


def _tell(fs: Filesystem, *, changed: bool, what: str) -> None:
    log.info(
        "%s",
        snapshots.last_in_words(fs)
        if changed
        else f"nothing differs from {what}: nothing was restored",
    )


def _scheduled(fs: Filesystem) -> str:
    chosen, instance = fs.volume.restores.scheduled, snapshots.scheduled_snapshot(fs)
    name = instance.name if instance else "that no longer exists"
    return snapshots.in_words(name, chosen.paths if chosen else ())


def _drop(fs: Filesystem) -> str:
    """Have nothing scheduled any more; what has become of that, in words."""
    try:
        fs.volume.restores.schedule(None)
        commit(fs.volume)
    except SnapfsError as exc:
        return f"and whether it is tried again is not certain: {exc}"
    return "and the schedule is dropped"
