"""What is measured of one mount: the requests in progress, and how long requests and commits took.

A request's time runs from when the daemon saw that it was there to when its answer was given to the
kernel; what the kernel did before and after is not in it. Only memory is written here: a request
that is answered at once costs one addition, one that waits is in a set meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.protocol.wire import Op, Piece
from snapfs.latency import Histogram

#: A generation is sealed: nothing else runs meanwhile.
SEAL: Final = "seal"

#: Its bytes are written and flushed, with the superblock that makes it count.
COMMIT: Final = "commit"

#: A record of the log is written and flushed: what most calls of fsync take.
LOG: Final = "log record"

#: The device makes durable what it was given: twice in a commit, once in a record of the log.
DEVICE_FLUSH: Final = "device flush"

#: More than any number of a request.
_OPERATIONS: Final = max(Op) + 1


@dataclass(eq=False, slots=True)
class InProgress:
    """A request that is not answered yet. ``arrived``: when it was seen (``time.perf_counter``)."""

    unique: int
    opcode: int
    node: int
    arrived: float
    #: What the numbers of inodes mean: a daemon can serve several mounts.
    numbers: Numbers
    coroutine: Coroutine[Any, Any, Any]


class Metrics:
    """One mount's. ``quick`` has the counts of each request by number: see ``latency.SHORT``."""

    def __init__(self) -> None:
        #: Requests that have had to wait.
        self.waiting: set[InProgress] = set()
        self._operations = [Histogram() for _ in range(_OPERATIONS)]
        self.quick = [histogram.counts for histogram in self._operations]
        self._others = {name: Histogram() for name in (SEAL, COMMIT, LOG, DEVICE_FLUSH)}

    def answered(self, opcode: int, seconds: float) -> None:
        """A request was answered."""
        if opcode < _OPERATIONS:
            self._operations[opcode].note(seconds)

    def observed(
        self, opcode: int, began: float, _message: Piece, reply: Sequence[Piece], /
    ) -> None:
        """The same as an ``Observer``, for requests that pyfuse3's own loop reads."""
        if reply:
            self.answered(opcode, time.perf_counter() - began)

    def note(self, name: str, seconds: float) -> None:
        """``SEAL``, ``COMMIT``, ``LOG`` or ``DEVICE_FLUSH`` has taken so long."""
        self._others[name].note(seconds)

    def figures(self) -> dict[str, dict[str, Any]]:
        """What there has been, by name, requests in lower case. See ``Histogram.summary``."""
        named = {op.name.lower(): self._operations[op] for op in Op}
        found = {name: one.summary() for name, one in (*named.items(), *self._others.items())}
        return {name: figures for name, figures in found.items() if figures["count"]}
