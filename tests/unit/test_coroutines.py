"""Where a coroutine waits: who stops at the first generator would see nothing of a hang."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import AsyncIterator

import trio
import trio.testing

from snapfs.fuse.driving.gate import Gate
from snapfs.fuse.inside.coroutines import frames_of, stack_of, where


@contextlib.asynccontextmanager
async def _behind(gate: Gate) -> AsyncIterator[None]:
    await gate.passed()
    yield


async def _inner(gate: Gate) -> None:
    async with _behind(gate):
        pass


async def _outer(gate: Gate) -> None:
    await _inner(gate)


async def test_frames_are_found_through_context_managers_and_generators(
    autojump_clock: object,
) -> None:
    del autojump_clock
    gate = Gate()
    async with trio.open_nursery() as nursery, gate.closed():
        waiting = _outer(gate)

        async def drive() -> None:
            await waiting

        nursery.start_soon(drive)
        await trio.testing.wait_all_tasks_blocked()
        names = [frame.f_code.co_name for frame in frames_of(waiting)]
        assert names[:2] == ["_outer", "_inner"]
        assert "_behind" in names
        assert names.index("_behind") < names.index("passed")
        found = where(frames_of(waiting))
        assert found.startswith("Gate.passed (fuse/")
        assert found.endswith("await self._opened.wait()")
        assert where(frames_of(waiting), (Gate.passed.__code__,)) == "code of others"
    assert list(frames_of(waiting)) == []  # it is over


def test_there_is_no_stack_of_a_thread_that_runs_nothing_of_ours() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    try:
        assert stack_of(sys._current_frames().get(thread.ident or 0)) == []
        assert stack_of(None) == []
    finally:
        go_on.set()
        thread.join()
