"""The bound on what the kernel knows: beyond it the kernel is asked to let go of what nobody uses,
in turn, and not in vain for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.pruning import (
    LEAST,
    LIMIT,
    Pruning,
    limit_for,
)
from snapfs.fuse.protocol.numbers import KERNEL_ROOT, Numbers

BOUND = 1000


class Kernel:
    """Lets go of what it is asked for, unless it is in ``used``; an old one does not understand it,
    and only forgets names.
    """

    def __init__(self, known: Known, *, is_old: bool) -> None:
        self._known = known
        self._is_old = is_old
        self.used: set[int] = set()
        self.asked = 0
        self.refusals = 0

    def prune(self, nodes: list[int]) -> None:
        if self._is_old:
            self.refusals += 1
            raise OSError(errno.EINVAL, "what is that?")
        for node in nodes:
            self._let_go(node)

    def forget_name(self, parent: int, name: bytes) -> None:
        assert parent == KERNEL_ROOT
        self._let_go(int(name))

    def _let_go(self, node: int) -> None:
        self.asked += 1
        if node not in self.used and self._known.drop(node, 1):
            self._known.released(node)


@pytest.fixture
def known() -> Iterator[Known]:
    yield Known(Numbers(), lambda _view, _ino: None, BOUND)


def learn(known: Known, node: int) -> None:
    known.add(node)
    known.name(node, stat.S_IFREG, KERNEL_ROOT, b"%d" % node)


@pytest.mark.parametrize("is_old", [False, True])
async def test_the_kernel_knows_more_and_more(
    is_old: bool, known: Known, nursery: trio.Nursery
) -> None:
    kernel = Kernel(known, is_old=is_old)
    nursery.start_soon(Pruning(known, lambda: kernel).run)
    for node in range(100, 100 + 20 * BOUND):
        learn(known, node)
        if known.crowded.is_set():
            await trio.testing.wait_all_tasks_blocked()
            while known.crowded.is_set():  # a thread is at it
                await trio.sleep(0)
        assert len(known) <= BOUND * 5 // 4
    assert kernel.refusals <= 1
    nursery.cancel_scope.cancel()


async def test_a_kernel_that_uses_everything_is_asked_all_the_time(
    known: Known, nursery: trio.Nursery
) -> None:
    kernel = Kernel(known, is_old=False)
    kernel.used = set(range(100, 100 + 4 * BOUND))
    nursery.start_soon(Pruning(known, lambda: kernel).run)
    for node in sorted(kernel.used):
        learn(known, node)
        while known.crowded.is_set():
            await trio.sleep(0)
    assert len(known) == 4 * BOUND
    assert kernel.asked < 30 * BOUND
    nursery.cancel_scope.cancel()


def test_some_are_never_asked_for_or_in_vain(known: Known) -> None:
    """All come by in turn, but the root and what is open for writing."""
    nodes = range(2, 2 + BOUND)
    known.add(KERNEL_ROOT)
    for node in nodes:
        learn(known, node)
    known.opened(700, os.O_RDWR)
    for _ in range(3):
        seen: list[int] = []
        while len(seen) < BOUND - 1:
            some = known.oldest(100)
            assert 0 < len(some) < 200
            seen += some
        assert sorted(seen) == [node for node in nodes if node != 700]


def test_the_bound_follows_the_memory_that_is_given() -> None:
    assert [limit_for(cache) for cache in (None, 1, 10 << 20, 1 << 40)] == [
        LIMIT,
        LEAST,
        10 << 10,
        LIMIT,
    ]
