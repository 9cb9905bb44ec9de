"""The command ``snapshot.hot``: what was written most since a snapshot. It tells names, so not to
everybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from snapfs import snapshots
from snapfs.control.commands.comparing import Comparing
from snapfs.control.socket.protocol import Result
from snapfs.errors import UsageError
from snapfs.snapshots.hot import HOT_LIMIT, HOT_LIMIT_MAX, Heat


class Hot(Comparing):
    """Looks at the present as it is sealed, beside a snapshot."""

    async def hot(
        self, call: Callable[..., Any], settle: Callable[[], Any], name: str, limit: int | None
    ) -> Result:
        """The files and the blocks that were written most, ``limit`` of each."""
        wanted = HOT_LIMIT if limit is None else limit
        if not 0 < wanted <= HOT_LIMIT_MAX:
            raise UsageError(f"a limit is between 1 and {HOT_LIMIT_MAX}")
        chosen = await call(snapshots.get, self._fs, name)
        await call(snapshots.check_permitted, self._fs, chosen, self._look)
        await settle()
        self._check_settled(with_present=True)
        with self._fs.volume.allocator.readers.open() as reader:
            heat = Heat(self._fs.volume, snapshots.get(self._fs, chosen).copy(), limit=wanted)
            await self._drive(reader, heat.steps(), dict, lambda: heat.compared)
        return {
            "name": name,
            "block_size": self._fs.volume.geometry.block_size,
            "files": [
                {
                    "path": _path(one.path),
                    "ino": one.ino,
                    "writes": one.writes,
                    "blocks": one.blocks,
                    "saturated": one.saturated,
                }
                for one in heat.files
            ],
            "blocks": [
                {
                    "path": _path(one.path),
                    "ino": one.ino,
                    "index": one.index,
                    "writes": one.writes,
                    "saturated": one.saturated,
                }
                for one in heat.blocks
            ],
        }


def _path(path: bytes | None) -> str | None:
    return None if path is None else os.fsdecode(b"/" + path)
