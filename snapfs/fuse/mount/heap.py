"""Memory, managed for a process that answers requests: buffers come from a heap that is kept, and
garbage is looked for seldom.

Left alone, the C library maps a buffer of a MiB anew each time, and the kernel clears each page of
it at the first touch: that takes longer than reading. And Python's collector goes through all that
is cached, again and again, where hardly anything is garbage.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

#: malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

#: Bytes of buffers that come from the heap, and bytes at its end that are not given back.
_LARGEST: Final = 8 << 20
_KEPT: Final = 16 << 20


#: Objects that are made between two looks at the newest, and looks until all older ones are gone
#: through as well.
_COLLECT: Final = (20_000, 20, 50)


def prepare() -> None:
    """Do that for this process, which has loaded what it needs. The heap is left alone where the C
    library is another one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
