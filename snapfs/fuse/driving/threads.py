"""Worker threads, in pools that cannot take one another's: what waits for one thing never keeps
what waits for another from running.

trio's own limit is one for all. With it, forty reads of a slow disk delay every commit, and threads
that wait for the kernel, which waits for a read, have no thread left to read with. Each pool has a
bound of its own, and what comes beyond it waits for its like alone.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(eq=False, slots=True)
class ThreadJob:
    """What a thread does, or will do. ``since``: when it was asked for (``time.perf_counter``)."""

    pool: Pool
    name: str
    since: float
    #: The number of the thread, once one has begun with it.
    thread: int | None = None


def _limiters() -> dict[Pool, trio.CapacityLimiter]:
    return {one: trio.CapacityLimiter(count) for one, count in THREADS.items()}


@dataclass
class _Pools:
    """The pools of one event loop."""

    limiters: dict[Pool, trio.CapacityLimiter] = field(default_factory=_limiters)
    jobs: set[ThreadJob] = field(default_factory=set)


_pools: trio.lowlevel.RunVar[_Pools] = trio.lowlevel.RunVar("pools")


def _current() -> _Pools:
    try:
        return _pools.get()
    except LookupError:
        _pools.set(_Pools())
        return _pools.get()


def jobs() -> set[ThreadJob]:
    """What the threads of this event loop do, and what waits for one. Any thread may copy it."""
    return _current().jobs


async def in_thread(
    pool: Pool, function: Callable[..., T], /, *args: object, abandon_on_cancel: bool = False
) -> T:
    """Run a function in a thread of a pool, as ``trio.to_thread.run_sync`` does. Anything may
    happen meanwhile.
    """
    pools = _current()
    # Reports find this name in the frame.
    job = ThreadJob(pool, getattr(function, "__qualname__", repr(function)), time.perf_counter())
    pools.jobs.add(job)

    def run() -> T:
        job.thread = threading.get_ident()
        try:
            return function(*args)
        finally:
            pools.jobs.discard(job)  # of one that was abandoned not before it has ended

    limiter = pools.limiters[pool]
    try:
        return await trio.to_thread.run_sync(
            run, abandon_on_cancel=abandon_on_cancel, limiter=limiter
        )
    finally:
        if job.thread is None:  # it was cancelled before a thread was free
            pools.jobs.discard(job)
