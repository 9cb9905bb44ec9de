"""What the log says of a request that the device or damage made fail: which file, in which view.

Users get EIO and no more; whoever reads the log must be able to find the file, and must not be
drowned in lines about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.protocol.numbers import WRITER_BIT, Numbers
from snapfs.ids import BASE_VIEW
from snapfs.printable import printable
from snapfs.snapshots.naming import ancestry, path_of

#: Requests whose second argument is a name in the directory that is the first.
_WITH_NAME: Final = frozenset(
    {"lookup", "mknod", "mkdir", "symlink", "create", "unlink", "rmdir", "rename"}
)

#: Seconds for which the same kind of trouble with the same inode is not told again.
QUIET_SECONDS: Final = 60.0

#: What was told that is remembered.
_REMEMBERED: Final = 1000


class Trouble:
    """Finds the words for one mount."""

    def __init__(
        self, edge: Edge, numbers: Numbers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._edge = edge
        self._numbers = numbers
        self._clock = clock
        self._told: dict[tuple[str, object, type], float] = {}

    async def words(
        self, request: str, arguments: tuple[object, ...], exc: Exception
    ) -> str | None:
        """The request, the file and its view; None when that was said a moment ago."""
        node = arguments[0] if arguments and isinstance(arguments[0], int) else None
        if not self._is_new((request, node, type(exc))):
            return None
        if node is None:
            return request
        name = arguments[1] if request in _WITH_NAME and isinstance(arguments[1], bytes) else b""
        view_id, ino = self._numbers.split(node & ~WRITER_BIT)
        path = await self._path(view_id, ino)
        if name:
            path = f"{path.rstrip('/')}/{name.decode(errors='replace')}"
        return (
            f"{request} of {printable(path)} (inode "
            f"{ino}{', the directory' if name else ''}) in {self._view(view_id)}"
        )

    def _is_new(self, key: tuple[str, object, type]) -> bool:
        now = self._clock()
        if now - self._told.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[key] = now
        return True

    def _view(self, view_id: int) -> str:
        instance = self._edge.volume.instances.table.get(view_id)
        if view_id == BASE_VIEW:
            return "the base"
        return f"snapshot {instance.name}" if instance else f"view {view_id}"

    async def _path(self, view_id: int, ino: int) -> str:
        try:
            return await self._edge.call(_path, self._edge.fs, view_id, ino)
        except SnapfsError:  # what leads there may be what is damaged
            return "?"


def _path(fs: Filesystem, view_id: int, ino: int) -> str:
    view = fs.view(view_id)
    inode = view.inode(ino)
    ancestry(view, inode)  # ends where directories form a cycle
    return path_of(fs, view, inode)
