"""Is there something on an image file or a device that must not be overwritten by mistake?"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from snapfs.device import Lock, open_device
from snapfs.errors import NotAVolume, Occupied, SnapfsError
from snapfs.store.volume import Volume

#: Where the signatures of filesystems and partition tables are: this much at both ends of a device.
SIGNATURE_SPAN: Final = 1 << 20

_CHUNK: Final = 1 << 20


def refuse_occupied(path: str) -> None:
    """Raises ``Occupied`` when something is there: any byte of a file that is not zero, or either end of a device."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
            spans = [(0, min(SIGNATURE_SPAN, end)), (max(0, end - SIGNATURE_SPAN), end)]
        else:
            spans = list(_data_spans(file.fileno(), end))
        if not any(_has_data(file.fileno(), start, stop) for start, stop in spans):
            return
    what = "a snapfs volume" if _is_volume(path) else "something else's data"
    raise Occupied(f"{path}: holds {what}: give --force to overwrite it")


def _data_spans(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file is not a hole."""
    place = 0
    while place < end:
        try:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        place = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, place


def _has_data(descriptor: int, start: int, stop: int) -> bool:
    while start < stop:
        chunk = os.pread(descriptor, min(_CHUNK, stop - start), start)
        if not chunk:
            return False
        if chunk.count(0) != len(chunk):
            return True
        start += len(chunk)
    return False


def _is_volume(path: str) -> bool:
    device = open_device(path, read_only=True, lock=Lock.NONE)
    try:
        Volume.open(device, read_only=True)
    except NotAVolume:
        return False
    except SnapfsError:
        return True  # damaged or newer, but one of ours
    finally:
        device.close()
    return True
