"""Run the crash states of a scenario, and say how to run a failing one alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.crash.recording import State, states
from tests.crash.scenarios import SCENARIOS, Stage
from tests.harness.effort import stratified
from tests.harness.sparse import SparseDevice


def tell(name: str, seed: int) -> Stage:
    """Play a scenario from beginning to end, recorded. The same seed tells the same story, to the
    block.
    """
    story, blocks = SCENARIOS[name]
    stage = Stage(blocks, seed=seed)
    story(stage)
    return stage


def bounds(stage: Stage, state: State) -> tuple[tuple[int, int], int]:
    """The generation that must survive a crash in this state, with how many records of its log, and
    the newest that may come up.
    """
    promised = 0, 0
    for segment in stage.device.segments[: state.segment + 1]:
        # Those within the segment of the crash count as well: it may have come at the end of it,
        # and lost any of its writes.
        promised = max([promised, *segment.promises])
    return promised, max(stage.oracle.generations)


def judge(stage: Stage, state: State, left: SparseDevice | None = None) -> None:
    """Recover from one state. Raises ``AssertionError`` or whatever recovery raises."""
    promised, newest = bounds(stage, state)
    stage.oracle.judge(left or state.build(stage.device), promised, newest)


def replay(identity: str) -> None:
    """Judge one state, by what a failure said: ``NAME:SEED:SEGMENT:ARRIVED:TORN``."""
    name, seed, state = identity.split(":", 2)
    judge(tell(name, int(seed)), State.parse(state))


@dataclass
class Run:
    """States judged. Two are the same when they leave the same bytes on the device: however they
    came about, they count once. ``recoveries``: how many differ in bytes that a recovery reads.
    """

    recoveries: int = 0
    seen: set[int] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        return len(self.seen)

    def scenario(self, name: str, seed: int, samples: int, limit: int | None = None) -> None:
        """Judge the states of a scenario: all, or so many, some of every kind. A failure says how
        to replay it.
        """
        stage = tell(name, seed)
        every = list(states(stage.device.segments, random.Random(seed), samples))
        if limit is not None and len(every) > limit:
            every = stratified(
                every, lambda state: state.kind(stage.device), limit, random.Random(seed)
            )
        for state in every:
            left = state.build(stage.device)
            digest = hash((bounds(stage, state)[0], frozenset(left.pages.items())))
            if digest in self.seen:
                continue
            try:
                judge(stage, state, left)
            except Exception as exc:
                raise AssertionError(
                    "replay alone with: python -m tests.crash.replay "
                    f"{name}:{seed}:{state}\n{type(exc).__name__}: {exc}"
                ) from exc
            self.seen.add(digest)
        self.recoveries += len(stage.oracle.recoveries)


def run(name: str, seed: int, samples: int, limit: int | None = None) -> int:
    """Judge the states of one telling of a scenario; how many distinct ones there were."""
    all_of_them = Run()
    all_of_them.scenario(name, seed, samples, limit)
    return all_of_them.distinct
