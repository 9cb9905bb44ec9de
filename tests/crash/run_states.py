"""Run the crash states of a scenario, and say how to run a failing one alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import xxhash
from recording import State, states
from scenarios import SCENARIOS, Stage


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


def judge(stage: Stage, state: State, data: bytearray | None = None) -> None:
    """Recover from one state. Raises ``AssertionError`` or whatever recovery raises."""
    promised, newest = bounds(stage, state)
    stage.oracle.judge(state.build(stage.device) if data is None else data, promised, newest)


def replay(identity: str) -> None:
    """Judge one state, by what a failure said: ``NAME:SEED:SEGMENT:ARRIVED:TORN``."""
    name, seed, state = identity.split(":", 2)
    judge(tell(name, int(seed)), State.parse(state))


@dataclass
class Run:
    """States judged. Two are the same when they leave the same bytes on the device: however they
    came about, they count once.
    """

    judged: int = 0
    seen: set[bytes] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        return len(self.seen)

    def scenario(self, name: str, seed: int, samples: int, limit: int | None = None) -> None:
        """Judge the states of a scenario, at most ``limit`` that are new. A failure says how to
        replay it.
        """
        stage = tell(name, seed)
        every = list(states(stage.device.segments, random.Random(seed), samples))
        if limit is not None and len(every) > limit:
            every = random.Random(seed).sample(every, limit)
        for state in every:
            data = state.build(stage.device)
            generation, records = bounds(stage, state)[0]
            digest = xxhash.xxh3_128_digest(data, generation << 16 | records)
            if digest in self.seen:
                continue
            try:
                judge(stage, state, data)
            except Exception as exc:
                raise AssertionError(
                    "replay alone with: python tests/crash/replay.py "
                    f"{name}:{seed}:{state}\n{type(exc).__name__}: {exc}"
                ) from exc
            self.seen.add(digest)
            self.judged += 1


def run(name: str, seed: int, samples: int, limit: int | None = None) -> int:
    """Judge the states of one telling of a scenario; how many distinct ones there were."""
    all_of_them = Run()
    all_of_them.scenario(name, seed, samples, limit)
    return all_of_them.distinct
