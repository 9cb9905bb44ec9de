"""Where a daemon's log goes: standard error in the foreground, syslog behind."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

#: Where syslog listens. A machine without it keeps no log of its daemons.
SYSLOG: Final = "/dev/log"


def log_to_stderr() -> None:
    """One line per record, as other messages of snapfs; to the present standard error, whatever becomes of descriptor 2."""
    handler = logging.StreamHandler(os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, errors="backslashreplace"))
    handler.setFormatter(logging.Formatter("snapfs: %(levelname)s: %(message)s"))
    _use(handler)


def log_to_syslog() -> None:
    """Facility daemon, with the process id."""
    from logging.handlers import SysLogHandler

    try:
        handler: logging.Handler = SysLogHandler(SYSLOG, SysLogHandler.LOG_DAEMON)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter(f"snapfs[{os.getpid()}]: %(levelname)s: %(message)s"))
    _use(handler)


def _use(handler: logging.Handler) -> None:
    logger = logging.getLogger("snapfs")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False  # a log that cannot be written is no reason to write somewhere else
