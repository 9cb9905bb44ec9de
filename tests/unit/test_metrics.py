"""What is measured of a mount: a request that is not counted, or counted for ever, misleads."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pyfuse3
import trio
import trio.testing

from snapfs.fuse.driving.metrics import COMMIT, Metrics
from snapfs.fuse.protocol.wire import Op
from snapfs.fuse.tracing.stock import StockObserved


def test_only_what_there_has_been_has_figures() -> None:
    metrics = Metrics()
    assert metrics.figures() == {}
    metrics.answered(Op.READ, 0.001)
    metrics.answered(9999, 0.001)  # a request of a kernel that is not known yet
    metrics.note(COMMIT, 0.5)
    assert {name: one["count"] for name, one in metrics.figures().items()} == {
        "read": 1,
        "commit": 1,
    }
    assert metrics.quick[Op.READ] is metrics._operations[Op.READ].counts


class Anything:
    """Operations with one handler for everything."""

    def __init__(self, handler: Callable[..., Coroutine[Any, Any, Any]], metrics: Metrics) -> None:
        self.edge = SimpleNamespace(metrics=metrics)
        self._handler = handler

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        return self._handler


async def test_a_request_that_pyfuse3_reads_is_in_progress_until_it_has_ended() -> None:
    """Also when it fails."""
    metrics = Metrics()
    go_on = trio.Event()

    async def readlink(inode: int, ctx: object) -> bytes:
        del inode, ctx
        await go_on.wait()
        raise pyfuse3.FUSEError(5)

    operations = Anything(readlink, metrics)
    stock = StockObserved(operations)
    stock.observers.add(metrics.observed)
    failed = []

    async def ask() -> None:
        try:
            await operations.readlink(17, SimpleNamespace(uid=0, gid=0, pid=1, umask=0))
        except pyfuse3.FUSEError as exc:
            failed.append(exc.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert [(one.opcode, one.node) for one in metrics.waiting] == [(Op.READLINK, 17)]
        assert "readlink" not in metrics.figures()
        go_on.set()
    assert failed == [5]
    assert not metrics.waiting
    assert metrics.figures()["readlink"]["count"] == 1
