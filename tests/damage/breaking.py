"""Breaks calls of the core off: an exception that nobody expects, at any call of any function, in
the stories of the crash tests.

It is raised by a trace function, so what it hits is the code as it stands. Afterwards writing has
ended, nothing more reaches the device, and what is on it is the state before or after the step that
broke off, and clean.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import snapfs
from snapfs.store.commit import driver, guard
from tests.damage.ordeal import STORIES, FaultStage, Story
from tests.harness.sparse import SparseDevice

_CORE = str(Path(snapfs.__file__).parent)

#: Files that are not what is broken: they are who has to see it.
_DRIVERS = {driver.__file__, guard.__file__}

#: Where a call is made: the function that is called, and the line from which.
Site = tuple[CodeType, int]


class Broken(MemoryError):
    """What nobody expects."""


class BreakingStage(FaultStage):
    """A stage that notes every call of the core (``at`` is 0), or breaks the one of that number
    off.
    """

    def __init__(self, content: SparseDevice, at: int = 0) -> None:
        super().__init__(content)
        self.at = at
        self.calls = 0
        self.sites: dict[Site, list[int]] = {}
        self.is_begun = False
        self.is_inside = (
            False  # of a driver: what the stage itself does between its steps does not count
        )

    def _begin(self, step: str) -> None:
        self.is_inside = False
        super()._begin(step)

    def start(self) -> None:
        super().start()
        self.is_begun = True

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._traced():
            return super().call(function, *args, **kwargs)

    def commit(self) -> None:
        with self._traced():
            super().commit()

    def sync(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        meanwhile()
        with self._traced():
            super().sync()

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        if not self.is_begun:
            yield
            return
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if code.co_filename in _DRIVERS:
            self.is_inside = True
            return
        if (
            event != "call"
            or not self.is_inside
            or not code.co_filename.startswith(_CORE)
            or caller is None
        ):
            return
        if code.co_flags & inspect.CO_GENERATOR:
            # a generator that is closed is called as well, and nobody hears of what comes out of
            # that
            return
        self.calls += 1
        if not self.at:
            self.sites.setdefault((code, caller.f_lineno), []).append(self.calls)
        elif self.calls == self.at:
            raise Broken


@dataclass
class Breaking:
    """A story, and where it can be broken off."""

    story: Story
    calls: int
    sites: dict[Site, list[int]] = field(repr=False)

    @classmethod
    def learn(cls, name: str) -> Breaking:
        story = Story.learn(name)
        stage = BreakingStage(story.content)
        STORIES[name][0](stage)
        return cls(story, stage.calls, stage.sites)

    def sample(self, count: int, seed: int) -> list[int]:
        """So many calls, of different functions from different places."""
        rnd = random.Random(f"{self.story.name}/{seed}")
        sites = sorted(self.sites.values())
        return [rnd.choice(one) for one in rnd.sample(sites, min(count, len(sites)))]

    def of_functions(self, known: set[CodeType]) -> list[int]:
        """One call of each function that is not known; they are known from now on."""
        rnd = random.Random(self.story.name)
        calls: dict[CodeType, list[int]] = {}
        for (code, _), numbers in self.sites.items():
            if code not in known:
                calls.setdefault(code, []).extend(numbers)
        known.update(calls)
        return [rnd.choice(sorted(one)) for one in calls.values()]

    def suffer(self, at: int) -> str:
        """Break call number ``at`` off: the step that it was in. Raises ``AssertionError``."""
        stage = BreakingStage(self.story.content, at)
        try:
            STORIES[self.story.name][0](stage)
        except Broken:
            self._judge(stage)
            return stage.step
        raise AssertionError("nobody heard of it")

    def _judge(self, stage: BreakingStage) -> None:
        device, volume = stage.faulty, stage.volume
        assert volume.read_only_reason is not None, "writing goes on"
        assert "broke off: Broken" in volume.read_only_reason, volume.read_only_reason
        device.is_armed = False
        Story._serves_and_writes_nothing(stage)
        for left in (device, device.durable):
            self.story.oracle.judge(left, stage.acknowledged, volume.generation)
