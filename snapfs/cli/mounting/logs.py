"""Where a daemon's log goes: standard error in the foreground, syslog behind, or a file.

The tracebacks of a fault go to the same place, as far as that can be: see ``faults``.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from typing import Any, Final

from snapfs.cli.exits import MOUNT_USAGE, CommandFailed
from snapfs.cli.mounting import faults
from snapfs.printable import printable

#: Where syslog listens. A machine without it keeps no log of its daemons.
SYSLOG: Final = "/dev/log"


class OneLine(logging.Formatter):
    """A record is one line, whatever names from an image are in it: none looks like two. Lines of a
    traceback follow it, indented.
    """

    def __init__(self, form: str, encoding: str) -> None:
        super().__init__(form)
        self._encoding = encoding

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a method of logging's
        """See ``logging``."""
        return printable(super().formatMessage(record), self._encoding)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        """See ``logging``."""
        return "\n".join(
            "  " + printable(line, self._encoding)
            for line in super().formatException(ei).splitlines()
        )


def log_to_stderr() -> None:
    """One line per record, as other messages of snapfs; to the present standard error, whatever
    becomes of descriptor 2.
    """
    encoding = sys.stderr.encoding
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding=encoding)
    faulthandler.enable(stream)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("snapfs: %(levelname)s: %(message)s", encoding))
    _use(handler)


def log_to_file(path: str) -> None:
    """Append to a file, which may be renamed meanwhile: then it is made anew. Raises
    ``CommandFailed``.
    """
    from logging.handlers import WatchedFileHandler

    try:
        handler = WatchedFileHandler(path, encoding="utf-8")
        fault = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except OSError as exc:
        raise CommandFailed(f"logfile: {path}: {exc.strerror or exc}", MOUNT_USAGE) from exc
    faulthandler.enable(fault)  # open until the process ends
    form = f"%(asctime)s snapfs[{os.getpid()}]: %(levelname)s: %(message)s"
    handler.setFormatter(OneLine(form, "utf-8"))
    _use(handler)


def log_to_syslog() -> None:
    """Facility daemon, with the process id."""
    from logging.handlers import SysLogHandler

    try:
        handler: logging.Handler = SysLogHandler(SYSLOG, SysLogHandler.LOG_DAEMON)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(OneLine(f"snapfs[{os.getpid()}]: %(levelname)s: %(message)s", "utf-8"))
    faults.to_journal()
    _use(handler)


def _use(handler: logging.Handler) -> None:
    logger = logging.getLogger("snapfs")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = (
        False  # a log that cannot be written is no reason to write somewhere else
    )
