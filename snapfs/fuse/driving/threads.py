"""Worker threads, in pools that cannot take one another's: what waits for one thing never keeps
what waits for another from running.

trio's own limit is one for all. With it, forty reads of a slow disk delay every commit, and threads
that wait for the kernel, which waits for a read, have no thread left to read with. Each pool has a
bound of its own, and what comes beyond it waits for its like alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, TypeVar

import trio

T = TypeVar("T")


class Pool(enum.Enum):
    """What threads are for."""

    READS = "data and metadata that requests need"
    COMMITS = "writing commits and records of the log, and reading what the next commit needs"
    DISCARDS = "discarding"
    COPIES = "copying what a write would destroy, which waits for the copy's target"
    KERNEL = "telling the kernel something, which may wait for requests that are being served"
    COMMANDS = "what commands read and write"
    ENDING = "unmounting, which ends all waiting for the kernel"


#: How many of each there are at once. Of commits and discards there is one at a time; of reads
#: trio's own number.
THREADS: Final = {
    Pool.READS: 40,
    Pool.COMMITS: 2,
    Pool.DISCARDS: 1,
    Pool.COPIES: 16,
    Pool.KERNEL: 40,
    Pool.COMMANDS: 20,
    Pool.ENDING: 2,
}

_limiters: trio.lowlevel.RunVar[dict[Pool, trio.CapacityLimiter]] = trio.lowlevel.RunVar("limiters")


async def in_thread(
    pool: Pool, function: Callable[..., T], /, *args: object, abandon_on_cancel: bool = False
) -> T:
    """Run a function in a thread of a pool, as ``trio.to_thread.run_sync`` does. Anything may
    happen meanwhile.
    """
    limiters = _limiters.get({})
    if not limiters:
        limiters.update({one: trio.CapacityLimiter(count) for one, count in THREADS.items()})
        _limiters.set(limiters)
    return await trio.to_thread.run_sync(
        function, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiters[pool]
    )
