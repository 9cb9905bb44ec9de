"""Standard error of a process that is about to mount: kept from the user until it is known what to
say.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


class Captured:
    """What was written to descriptor 2 since ``captured`` began, by whatever library or child
    process.
    """

    def __init__(self) -> None:
        sys.stderr.flush()
        self._shown: int | None = os.dup(2)
        self._hidden = os.memfd_create("stderr")
        os.dup2(self._hidden, 2)

    def release(self) -> None:
        """Give descriptor 2 back. Further calls do nothing."""
        if self._shown is not None:
            sys.stderr.flush()
            os.dup2(self._shown, 2)
            os.close(self._shown)
            self._shown = None

    def text(self) -> str:
        """The last line, without the name of the program that wrote it."""
        sys.stderr.flush()
        size = os.fstat(self._hidden).st_size
        lines = os.pread(self._hidden, size, 0).decode(errors="replace").strip().splitlines()
        line = lines[-1].strip() if lines else ""
        for program in ("fusermount3: ", "fuse: "):
            line = line.removeprefix(program)
        return line

    def close(self) -> None:
        """Release, and forget."""
        self.release()
        os.close(self._hidden)


@contextlib.contextmanager
def captured() -> Iterator[Captured]:
    """Capture until ``release`` or the end of the block."""
    complaints = Captured()
    try:
        yield complaints
    finally:
        complaints.close()
