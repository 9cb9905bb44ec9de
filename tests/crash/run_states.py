"""Run the crash states of a scenario, and say how to run a failing one alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

from recording import State, states
from scenarios import SCENARIOS, Stage


def tell(name: str, seed: int) -> Stage:
    """Play a scenario from beginning to end, recorded."""
    story, blocks = SCENARIOS[name]
    stage = Stage(blocks, seed=seed)
    story(stage)
    return stage


def bounds(stage: Stage, state: State) -> tuple[int, int]:
    """The generation that must survive a crash in this state, and the newest that may come up."""
    promised = 0
    for number, segment in enumerate(stage.device.segments[: state.segment + 1]):
        for writes, generation in segment.promises:
            # Within the segment of the crash a promise counts if everything before it may already have been written.
            if number < state.segment or writes == 0:
                promised = max(promised, generation)
    return promised, max(stage.oracle.generations)


def judge(stage: Stage, state: State) -> None:
    """Recover from one state. Raises ``AssertionError`` or whatever recovery raises."""
    promised, newest = bounds(stage, state)
    stage.oracle.judge(state.build(stage.device.segments), promised, newest)


def run(name: str, seed: int, samples: int, limit: int | None = None) -> int:
    """Judge the states of a scenario; how many there were. A failure says how to replay it."""
    stage = tell(name, seed)
    count = 0
    for state in chosen(stage, seed, samples, limit):
        try:
            judge(stage, state)
        except Exception as exc:
            raise AssertionError(f"replay with: judge(tell({name!r}, {seed}), {state!r}): {type(exc).__name__}: {exc}") from exc
        count += 1
    return count


def chosen(stage: Stage, seed: int, samples: int, limit: int | None) -> Iterator[State]:
    """All states, or as many spread over the whole recording."""
    every = list(states(stage.device.segments, random.Random(seed), samples))
    if limit is not None and len(every) > limit:
        every = random.Random(seed).sample(every, limit)
    return iter(every)
