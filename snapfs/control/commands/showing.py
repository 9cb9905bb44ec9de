"""One command more than ``handlers`` has, for daemons alone: serve a snapshot beside the volume.
Whoever may ask the daemon may do that.

The event ``{"source": text}`` says that the command shall mount now, with this as what mountinfo
shows, and hand the descriptor over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from snapfs.control.commands.handlers import Handlers
from snapfs.control.socket.caller import Remote
from snapfs.control.socket.protocol import (
    MOUNT_SNAPSHOT,
    Request,
    Result,
)
from snapfs.errors import UsageError

#: All of them are texts, and needed.
_ARGUMENTS: Final = ("name", "mountpoint", "options")


@dataclass(frozen=True)
class Showing:
    """Answers a daemon's callers.

    ``show`` serves a snapshot of that name on a mount point, with options as after ``-o``, and a
    function that has it mounted.
    """

    handlers: Handlers
    show: Callable[[str, str, str, Callable[[str], Awaitable[int]]], Awaitable[None]]

    async def handle(self, request: Request, uid: int, caller: Remote) -> Result:
        """See ``Handlers.handle``."""
        if request.command != MOUNT_SNAPSHOT:
            return await self.handlers.handle(request, uid, caller)
        name, mountpoint, options = (request.arguments.get(argument) for argument in _ARGUMENTS)
        if (
            not (isinstance(name, str) and isinstance(mountpoint, str) and isinstance(options, str))
            or len(request.arguments) != 3
        ):
            raise UsageError(
                f"{MOUNT_SNAPSHOT}: its arguments are {', '.join(_ARGUMENTS)}, which are texts"
            )

        async def mount(source: str) -> int:
            await caller.tell({"source": source})
            return await caller.descriptor()

        await self.show(name, mountpoint, options, mount)
        return {"mounted": mountpoint}
