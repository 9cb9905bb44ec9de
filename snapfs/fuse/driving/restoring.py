"""What the kernel is asked around a restore in use: what is mounted inside, and what the kernel
believes that is wrong after it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from snapfs import snapshots
from snapfs.errors import MountsInside, SnapfsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapfs.fuse.driving.calls import Calls
    from snapfs.fuse.driving.neighbours import Kernel, Outdated
    from snapfs.snapshots import Instance, RestoreResult

log = logging.getLogger("snapfs.fuse")


async def check_mounts(
    calls: Calls, kernel: Kernel, instance: Instance, paths: Sequence[str]
) -> None:
    """Raises ``MountsInside`` where something is mounted on what would not stay in its place."""
    gone = [
        one.path
        for one in await kernel.mounted_inside()
        if not await calls.call(snapshots.stays, calls.fs, instance, paths, one.way)
    ]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise MountsInside(
            f"mounted on what would not stay there: {gone[0]}{more}; unmount it "
            "first, or detach it by --detach-mounts"
        )


async def find_outdated(kernel: Kernel, result: RestoreResult) -> Outdated | None:
    """What the kernel believes that is wrong after a restore; None when that cannot be found
    out.
    """
    try:
        return await kernel.outdated(result)
    except Exception as exc:
        trace = None if isinstance(exc, SnapfsError) else exc
        log.warning(
            "all that the kernel believes is looked up again, for what of it is "
            "wrong cannot be found out: %s",
            exc,
            exc_info=trace,
        )
        return None
