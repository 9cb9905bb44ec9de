"""Who is told of each request that was answered: a trace, figures about times. The one place where
requests are seen.

Where nobody listens, serving costs what it costs without this. Observers are called in the loop,
after the reply was sent where that is possible, and never wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from snapfs.fuse.protocol.wire import Piece

log = logging.getLogger("snapfs.fuse")


class Observer(Protocol):
    """Is told of a request."""

    def __call__(
        self, opcode: int, began: float, message: Piece, reply: Sequence[Piece], /
    ) -> None:
        """``opcode``: of ``wire.Op``. ``began``: when it was seen, by ``time.perf_counter``.

        ``message``: the request with its header, to be looked at during this call only. ``reply``:
        what was answered, the header first; empty where nothing is answered, and where the answer
        comes later (then it is told then).
        """


class Observers:
    """A list that may change at any time. ``changed`` is called when it has."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        #: Those who are to be told.
        self.all: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> None:
        """Tell this one, too."""
        self.all = (*self.all, observer)
        self._changed()

    def remove(self, observer: Observer) -> None:
        """Tell this one no more. Does nothing for one that is not told."""
        self.all = tuple(each for each in self.all if each != observer)
        self._changed()

    def tell(self, opcode: int, began: float, message: Piece, reply: Sequence[Piece]) -> None:
        """A request was answered."""
        for observer in self.all:
            try:
                observer(opcode, began, message, reply)
            except Exception:  # whoever looks on must not end the mount of those who work
                log.exception("an observer of requests is told no more of them: internal error")
                self.remove(observer)
