"""The file of a trace: made anew, for its owner alone, and never what somebody else has put in its
place.

What requests were about is in it, names of files above all. So nobody else may read it, and it is
never written through a link or into a file that was there. A trace of an earlier mount keeps its
content: it gets another name.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Final

from snapfs.device.pinned import Pinned, pin_name
from snapfs.errors import UsageError
from snapfs.fuse.tracing.record import MAGIC, Header
from snapfs.fuse.tracing.ring import Ring

#: What is put behind the name of the trace that had this name before.
OLD: Final = ".old"


def make_ring(path: str, header: Header, check: Callable[[Pinned], None]) -> Ring:
    """An empty ring in a new file of this name. An older trace of this name is named ``OLD`` from
    now on.

    ``check`` may refuse the place. Raises ``UsageError``, also for anything else that has this
    name, and for a trace that is still written. May block.
    """
    try:
        with pin_name(path) as pinned:
            check(pinned)
            if pinned.exists:
                _put_aside(pinned)
                pinned.forget()
            pinned.make()
            try:
                return _ring(pinned, header)
            except BaseException:
                pinned.remove()
                raise
    except OSError as exc:
        raise UsageError(f"no trace can be written to {path}: {exc.strerror or exc}") from exc


def _ring(pinned: Pinned, header: Header) -> Ring:
    descriptor = pinned.open(os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Ring(descriptor, header)
    except BaseException:
        os.close(descriptor)
        raise


def _put_aside(pinned: Pinned) -> None:
    path = pinned.path
    if not pinned.is_regular:
        raise UsageError(
            f"no trace can be written to {path}: it is there and is no file: choose another name"
        )
    descriptor = pinned.open(os.O_RDONLY)
    try:
        if os.pread(descriptor, len(MAGIC), 0) != MAGIC:
            raise UsageError(
                f"no trace is written to {path}: it is there and is no trace: choose another name"
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"no trace can be written to {path}: another mount writes its trace there"
            ) from None
        pinned.rename(OLD)
    finally:
        os.close(descriptor)
