"""Opening what may be a copy that is not complete, wherever a volume is opened."""

from __future__ import annotations

import contextlib
import os

from snapfs.blocks.claim import INTERVAL
from snapfs.blocks.copy_mark import CopyMark, newest_mark
from snapfs.copying.copy_map import MapPlace
from snapfs.copying.named import open_named, owners_of
from snapfs.copying.unfinished import UnfinishedCopy, refuse
from snapfs.device import Device, Lock, Pinned, open_device, open_pinned, pin_image
from snapfs.errors import CopyError, DeviceError, SnapfsError
from snapfs.printable import quoted
from snapfs.store.commit.device_claim import claim
from snapfs.store.commit.superblocks import newest_superblock


def mark_of(path: str) -> CopyMark | None:
    """The mark of an unfinished copy, or None. Raises ``DeviceError``, ``CorruptBlock``."""
    with pin_image(path) as pinned:
        return _mark_of(pinned)


def _mark_of(pinned: Pinned) -> CopyMark | None:
    device = open_pinned(pinned, read_only=True, lock=Lock.NONE)
    try:
        return read_mark(device)
    finally:
        device.close()


def read_mark(device: Device) -> CopyMark | None:
    """The same of an open device; one that is too small for a volume has none."""

    def read(offset: int, length: int) -> bytes:
        return device.read(offset, length) if offset + length <= device.size else bytes(length)

    return newest_mark(read)


def open_image(
    path: str, *, read_only: bool, unfinished: bool = False, interval: float | None = INTERVAL
) -> Device:
    """Open an image for this process alone; or, to read, a copy that somebody may be filling (D1).

    ``unfinished``: such a copy is opened to be read although writing was asked for: ``read_only``
    of the device tells. To write, it is claimed for this host as well, and that is renewed within
    ``interval`` seconds; None: other hosts do not matter. Raises ``DeviceError``, ``VolumeBusy``;
    ``CopyError`` for an unfinished copy that cannot be used in this way.
    """
    with pin_image(path) as pinned:
        mark = _mark_of(pinned)
        if mark is None:
            device = open_pinned(pinned, read_only=read_only)
            try:
                mark = read_mark(device)  # somebody may have begun to copy to it
                if mark is None:
                    if not read_only:
                        claim(device, interval)
                    return device
            except BaseException:
                device.close()
                raise
            device.close()
        refuse(path, mark)
        if pinned.status().st_uid not in (0, os.geteuid()):
            # It names other files, and what they hold would show in it.
            raise CopyError(
                f"{path}: a copy that is not complete, and belongs to somebody else, "
                "who alone can use it"
            )
        if not (read_only or unfinished):
            raise CopyError(
                f"{path}: this copy is not complete: until then it can only be read "
                f"('snapfs copy status {quoted(path)}')"
            )
        return open_unfinished(open_pinned(pinned, read_only=True, lock=Lock.SHARED), mark)


def open_unfinished(target: Device, mark: CopyMark) -> UnfinishedCopy:
    """The point in time that a copy being filled is; ``target`` belongs to it from now on. Raises
    ``CopyError`` when it cannot be had.
    """
    path = target.path
    with contextlib.ExitStack() as opened:
        opened.callback(target.close)

        def kept(device: Device) -> Device:
            opened.callback(device.close)
            return device

        source_path = os.fsdecode(mark.source)
        try:
            # A source that knows of the copy takes care of it. Any other must not change.
            source = kept(
                open_device(
                    source_path, read_only=True, lock=Lock.NONE if mark.registered else Lock.SHARED
                )
            )
            found = newest_superblock(source)
        except SnapfsError as exc:
            raise CopyError(
                f"{path}: this copy is not complete, and what is missing cannot be read "
                f"from its source: {exc}"
            ) from exc
        if found.uuid != mark.uuid:
            raise CopyError(
                f"{path}: this copy is not complete, and {source_path}, which it is of, "
                "holds another volume"
            )
        if not mark.registered and found.generation != mark.generation:
            raise CopyError(
                f"{path}: this copy is not complete, and its source {source_path} has "
                "been changed since: start it again"
            )
        size = found.geometry.block_size
        blocks = MapPlace(
            source, [(start * size, length * size) for start, length in mark.map_runs]
        )
        place = blocks
        if mark.map_path:
            map_file = kept(
                open_named(
                    os.fsdecode(mark.map_path),
                    owners=owners_of(target),
                    read_only=True,
                    lock=Lock.NONE,
                )
            )
            place = MapPlace(map_file, [(0, map_file.size)])
        try:
            device = UnfinishedCopy(
                target, source, place, mark, found.geometry, blocks if mark.map_runs else place
            )
        except DeviceError as exc:
            raise CopyError(str(exc)) from exc
        opened.pop_all()
        return device
