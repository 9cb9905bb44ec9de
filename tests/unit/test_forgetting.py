"""What the kernel shall forget in the background: nothing is lost, and what waits while the kernel
takes its time has a bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from snapfs.fuse.kernel.forgetting import Forgetting


class SlowKernel:
    """Takes what it is told when ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.told: list[tuple[object, ...]] = []

    def forget_name(self, parent: int, name: bytes) -> None:
        assert self.go.wait(20)
        self.told.append((parent, name))

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        assert self.go.wait(20)
        self.told.append((node, attributes_only))

    def expire_name(self, parent: int, name: bytes) -> None:
        raise NotImplementedError

    def expire_all(self) -> None:
        raise NotImplementedError


@pytest.fixture
def kernel() -> Iterator[SlowKernel]:
    made = SlowKernel()
    yield made
    made.go.set()


async def test_what_waits_for_the_kernel_grows_with_every_request(
    kernel: SlowKernel, nursery: trio.Nursery
) -> None:
    forgetting = Forgetting(lambda: kernel)
    nursery.start_soon(forgetting.run)
    first = forgetting.forget([(1, b"first")], [])
    await trio.testing.wait_all_tasks_blocked()
    later = [
        forgetting.forget(
            [(1, b"%d" % (number % 3))], [number % 5], attributes_only=number % 5 != 0
        )
        for number in range(10_000)
    ]
    assert not first.is_set()
    kernel.go.set()
    with trio.fail_after(20):
        await first.wait()
        for one in later:
            await one.wait()
    names = [(1, b"0"), (1, b"1"), (1, b"2")]
    assert kernel.told[0] == (1, b"first")
    assert sorted(kernel.told[1:4]) == names
    assert kernel.told[4:] == [(1, True), (2, True), (3, True), (4, True), (0, False)]
    nursery.cancel_scope.cancel()


async def test_whoever_wants_pages_forgotten_gets_attributes_alone(
    kernel: SlowKernel, nursery: trio.Nursery
) -> None:
    """In whatever order they come, and nobody hears that it is done before it is."""
    forgetting = Forgetting(lambda: kernel)
    waiting = [
        forgetting.forget([], [7], attributes_only=attributes_only)
        for attributes_only in (True, False, True)
    ]
    kernel.go.set()
    assert not any(one.is_set() for one in waiting)
    nursery.start_soon(forgetting.run)
    with trio.fail_after(20):
        await waiting[0].wait()
    assert kernel.told == [(7, False)]
    nursery.cancel_scope.cancel()
