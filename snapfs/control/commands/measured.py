"""What a daemon alone can tell about itself: how long requests and commits took, and what it logs.

Whoever may ask the daemon may also change what it logs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from snapfs.control.socket.caller import Remote
from snapfs.control.socket.protocol import Request, Result
from snapfs.errors import UsageError

#: How long things took.
LATENCIES: Final = "latencies"

#: What is logged; with ``level``, what is logged from now on.
LOG_LEVEL: Final = "loglevel"

log = logging.getLogger("snapfs")


class MeasuringAnswers(Protocol):
    """Answers all other commands."""

    async def handle(self, request: Request, uid: int, caller: Remote) -> Result:
        """See ``Handlers.handle``."""


@dataclass(frozen=True)
class Measured:
    """Answers a daemon's callers. ``figures``: see ``Metrics.figures``; ``levels``: what a log
    level can be.
    """

    others: MeasuringAnswers
    figures: Callable[[], dict[str, dict[str, Any]]]
    levels: tuple[str, ...]

    async def handle(self, request: Request, uid: int, caller: Remote) -> Result:
        """See ``Handlers.handle``."""
        if request.command == LATENCIES:
            return {"latencies": self.figures()}
        if request.command == LOG_LEVEL:
            return self._log_level(uid, **request.arguments)
        return await self.others.handle(request, uid, caller)

    def _log_level(self, uid: int, level: object = None, **more: object) -> Result:
        if more or level not in (None, *self.levels):
            raise UsageError(f"{LOG_LEVEL}: its only argument is level: {', '.join(self.levels)}")
        if isinstance(level, str):
            log.setLevel(level.upper())
            # Whoever reads the log must be able to tell why it falls silent.
            said = logging.getLogger("snapfs.report")
            said.info("log level %s from now on, by user %d", level, uid)
        return {"level": logging.getLevelName(log.level).lower()}
