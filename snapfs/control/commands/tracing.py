"""Commands for daemons alone that switch the trace of requests: ``trace.on``, ``trace.off``,
``trace.status``.

A trace has names of everybody's files, so it is for those whom a daemon obeys: root and who has
mounted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from snapfs.control.copies.nested import filesystems_below
from snapfs.control.socket.caller import Remote
from snapfs.control.socket.protocol import Request, Result
from snapfs.control.socket.server import Answers
from snapfs.device.pinned import Pinned
from snapfs.errors import UsageError


class Recorder(Protocol):
    """The daemon's (``fuse.tracing.tracer.Tracer``)."""

    def prepare(
        self, path: str, size: int, check: Callable[[Pinned], None], *, has_data: bool
    ) -> Any:
        """Make the file of a trace, if ``check`` does not refuse its place. May block. Raises
        ``UsageError``.
        """

    def begin(self, prepared: Any) -> None:
        """Record into it, from now on."""

    def end(self) -> None:
        """Record no more."""

    def status(self) -> Result:
        """How it is."""


#: Arguments of each command, and their types.
_ARGUMENTS: Final[dict[str, dict[str, type]]] = {
    "trace.on": {"path": str, "size": int, "has_data": bool},
    "trace.off": {},
    "trace.status": {},
}


@dataclass(frozen=True)
class Tracing:
    """Answers a daemon's callers. ``device``: the number of the mount, in which no trace may be
    written.
    """

    others: Answers
    trace: Recorder
    device: int

    async def handle(self, request: Request, uid: int, caller: Remote) -> Result:
        """See ``server.Answers``."""
        types = _ARGUMENTS.get(request.command)
        if types is None:
            return await self.others.handle(request, uid, caller)
        for name, value in request.arguments.items():
            if name not in types or type(value) is not types[name]:  # True is no number here
                raise UsageError(f"{request.command}: bad argument {name!r}")
        if len(request.arguments) != len(types):
            raise UsageError(f"{request.command}: its arguments are {', '.join(types)}")
        if request.command == "trace.on":
            await self._on(caller, **request.arguments)
        elif request.command == "trace.off":
            self.trace.end()
        return self.trace.status()

    async def _on(self, caller: Remote, path: str, size: int, has_data: bool) -> None:
        if not path.startswith("/") or "\0" in path:
            raise UsageError(f"{path!r}: give the trace by its whole path")
        # In a thread: the path may lead through the mount itself, whose requests are served
        # meanwhile.
        prepared = await caller.in_thread(
            self.trace.prepare, path, size, self._refuse_inside, has_data=has_data
        )
        self.trace.begin(prepared)

    def _refuse_inside(self, pinned: Pinned) -> None:
        """The daemon would wait for itself."""
        if any(number == self.device for number in filesystems_below(pinned.directory_status())):
            raise UsageError(
                f"{pinned.path}: is in the mount that is to be traced: choose a place outside of it"
            )
