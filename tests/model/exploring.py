"""Visits every state that a small model of a protocol can come to, each state once.

A model is three functions: the states it may begin in, the steps that are possible in a state, and
what is wrong with a state. States are hashable values. All interleavings of the steps are visited.
The search is by breadth, so the story that is told of a wrong state is a shortest one.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import product
from typing import TypeVar

S = TypeVar("S", bound=Hashable)


class Wrong(Exception):
    """A state that must not be. The message tells the steps that lead there."""


def explore(
    beginnings: Iterable[S],
    steps: Callable[[S], Iterable[tuple[str, S]]],
    wrong: Callable[[S], str | None],
    limit: int = 1_000_000,
) -> int:
    """How many states there are. Raises ``Wrong`` with the first that is wrong.

    Raises ``AssertionError`` for more than ``limit`` states.
    """
    collects = gc.isenabled()
    gc.disable()  # all states live to the end, and there are no cycles among them
    try:
        return _explored(dict.fromkeys(beginnings), steps, wrong, limit)
    finally:
        if collects:
            gc.enable()


def _explored(
    came_from: dict[S, tuple[S, str] | None],
    steps: Callable[[S], Iterable[tuple[str, S]]],
    wrong: Callable[[S], str | None],
    limit: int,
) -> int:
    waiting = deque(came_from)
    while waiting:
        state = waiting.popleft()
        if problem := wrong(state):
            raise Wrong(f"{problem}, after: {'; '.join(_story(came_from, state))}")
        for name, following in steps(state):
            if following not in came_from:
                came_from[following] = state, name
                waiting.append(following)
        assert len(came_from) <= limit, "the model is too large to be explored"
    return len(came_from)


def _story(came_from: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    names: list[str] = []
    while (before := came_from[state]) is not None:
        state, name = before
        names.append(name)
    return names[::-1]


def outcomes(pending: tuple[tuple[int, object], ...], torn: object) -> Iterator[dict[int, object]]:
    """What a power cut may leave of writes (place, content) that were not flushed.

    That is any subset of them, and any one of these ``torn``.
    """
    for arrived in product((False, True), repeat=len(pending)):
        kept = [write for write, has_arrived in zip(pending, arrived, strict=True) if has_arrived]
        yield dict(kept)
        for index, (place, _) in enumerate(kept):
            yield (
                dict(kept) | {place: torn}
                if all(place != later for later, _ in kept[index + 1 :])
                else dict(kept)
            )
