"""Is there something on an image file or a device that must not be overwritten by mistake?"""

from __future__ import annotations

import stat
from typing import Final

from snapfs.device import ImageDevice
from snapfs.errors import NotAVolume, Occupied, SnapfsError
from snapfs.store.commit.recovery import open_volume

#: Where the signatures of filesystems and partition tables are: this much at both ends of a device.
SIGNATURE_SPAN: Final = 1 << 20

_CHUNK: Final = 1 << 20


def refuse_occupied(device: ImageDevice) -> None:
    """Raises ``Occupied`` when something is there: any byte of a file that is not zero, or either
    end of a block device.
    """
    end = device.size
    if stat.S_ISBLK(device.status().st_mode):
        spans = [(0, min(SIGNATURE_SPAN, end)), (max(0, end - SIGNATURE_SPAN), end)]
    else:
        spans = list(device.data_spans(end))
    if not any(_has_data(device, start, stop) for start, stop in spans):
        return
    what = "a snapfs volume" if _is_volume(device) else "something else's data"
    raise Occupied(f"{device.path}: holds {what}: give --force to overwrite it")


def _has_data(device: ImageDevice, start: int, stop: int) -> bool:
    for place in range(start, stop, _CHUNK):
        chunk = device.read(place, min(_CHUNK, stop - place))
        if chunk.count(0) != len(chunk):
            return True
    return False


def _is_volume(device: ImageDevice) -> bool:
    try:
        open_volume(device, read_only=True)
    except NotAVolume:
        return False
    except SnapfsError:
        return True  # damaged or newer, but one of ours
    return True
