"""The C library's heap, told to keep what it has: requests of up to a MiB come and go all the time.

Left alone it maps every such buffer anew, and the kernel clears each page of it at the first touch: that takes longer than reading.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

#: Bytes of buffers that come from the heap, and bytes at its end that are not given back.
_LARGEST: Final = 8 << 20
_KEPT: Final = 16 << 20


def keep_buffers() -> None:
    """Do that for this process. Does nothing where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
