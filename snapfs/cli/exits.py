"""Exit codes, and the one line on standard error that goes with those that are not 0."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final

from snapfs.printable import printable

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2

#: diff(1)
DIFFERENT: Final = 1
TROUBLE: Final = 2

#: scrub, as of fsck(8)
DAMAGED: Final = 4

#: mount(8)
MOUNT_USAGE: Final = 1
MOUNT_SYSTEM: Final = 2
MOUNT_FAILED: Final = 32

#: fsck(8)
CHECK_CORRECTED: Final = 1
CHECK_UNCORRECTED: Final = 4
CHECK_OPERATION: Final = 8
CHECK_USAGE: Final = 16
CHECK_CANCELLED: Final = 32

#: What a shell reports for a process that an interrupt ended.
INTERRUPTED: Final = 130

#: Set this to see where an unexpected error comes from.
DEBUG_VARIABLE: Final = "SNAPFS_DEBUG"


class CommandFailed(Exception):
    """Ends a command: this line, this exit code."""

    def __init__(self, message: str, code: int = ERROR) -> None:
        super().__init__(message)
        self.code = code


def report(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    print("snapfs: " + printable(message.strip(" \n"), sys.stderr.encoding), file=sys.stderr)


def describe_unexpected(exc: BaseException) -> str:
    """The line for an error that nobody foresaw; the traceback goes to standard error only when it
    is asked for.
    """
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(exc)
    text = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    return f"internal error: {text}; please report it ({DEBUG_VARIABLE}=1 shows where)"


def describe_os_error(exc: OSError) -> str:
    """What and where."""
    where = f"{os.fsdecode(exc.filename)}: " if isinstance(exc.filename, str | bytes) else ""
    return f"{where}{exc.strerror or exc}"
