"""I11: the protocol of claims, exhaustively: two hosts, every order of their steps, time that
passes anywhere.

A host looks, claims, writes, renews, is stopped for any time between two steps, closes, comes
again. ``Claiming`` itself runs, one step (a look, a claim, a write) at a time; the model only
decides who goes on, and how much time passes. What must never happen is that a host writes when
another has begun to use the volume after him. One exception, as
``doc/design/one-writer.md`` says: who has opened it within the same two seconds may not have read
his claim again since, for a tenth of a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from snapfs.device import MemoryDevice
from snapfs.device.identity import Identity
from snapfs.device.storage import Storage
from snapfs.errors import DeviceError, VolumeBusy
from snapfs.store.commit import claiming as module
from snapfs.store.commit.claiming import (
    RECHECK,
    UNSETTLED,
    Claiming,
    margin,
)

INTERVAL = 5.0
NOBODY = Identity("", bytes(16), bytes(16), 0, 0, 0, "")

#: What a host does, a letter each: open, write to the volume, renew, close.
LIVES = ("ow", "oww", "orw", "owrw", "ocow")

#: Seconds that pass before a step: nothing, a moment, more than a recheck, until it settles, until
#: a renewal is due, long.
PAUSES = (0.0, RECHECK + 0.01, UNSETTLED + 0.01, INTERVAL + 0.01, INTERVAL + margin(INTERVAL) + 1)


class World:
    """The slot, and the time. ``wrong``: who has written what was another's by then."""

    def __init__(self) -> None:
        self.device = MemoryDevice(1 << 20)
        self.now = 1000.0
        self.holder: Claiming | None = None
        self.was_unsettled: dict[Claiming, float] = {}
        self.wrong: list[str] = []

    def opened(self, claiming: Claiming) -> None:
        """Somebody begins to use the volume."""
        if self.holder is not None and self.now < self.holder._unsettled_until:
            self.was_unsettled[self.holder] = self.now
        self.holder = claiming

    def written(self, claiming: Claiming, name: str) -> None:
        """Somebody has written to it."""
        if (
            claiming is not self.holder
            and self.now >= self.was_unsettled.get(claiming, 0.0) + RECHECK
        ):
            self.wrong.append(f"{name} at {self.now:g}")


class Host:
    """One host's steps: each ``next()`` is one operation that takes effect at once."""

    def __init__(self, world: World, number: int, life: str) -> None:
        self.world, self.number = world, number
        self.identity = replace(NOBODY, host=f"host{number}", pid=number, boot=bytes([number]) * 16)
        self.steps = self._live(life)

    def _live(self, life: str) -> Iterator[None]:
        claiming: Claiming | None = None
        for letter in life:
            try:
                if letter == "o":
                    claiming = self._new()
                    seen = claiming.look()
                    yield
                    claiming.take(seen)
                    self.world.opened(claiming)
                elif claiming is not None and letter == "w":
                    claiming.check()
                    self.world.written(claiming, self.identity.host)
                elif claiming is not None and letter == "r":
                    claiming.renew()
                elif claiming is not None:
                    claiming.release()
                    claiming = None
            except (VolumeBusy, DeviceError):
                return
            yield

    def _new(self) -> Claiming:
        return Claiming(
            self.world.device,
            self.identity,
            Storage(1, self.number),
            INTERVAL,
            lambda: self.world.now,
            self._wait,
        )

    def _wait(self, seconds: float) -> None:
        self.world.now += seconds


def run(lives: tuple[str, str], order: tuple[int, ...], pauses: tuple[float, ...]) -> list[str]:
    """Who wrote wrongly, when the hosts go on in this order."""
    world = World()
    hosts = [Host(world, number + 1, life) for number, life in enumerate(lives)]
    for who, pause in zip(order, pauses, strict=True):
        world.now += pause
        next(hosts[who].steps, None)
    for host in hosts:
        for _ in host.steps:
            pass
    return world.wrong


def stories() -> Iterator[tuple[tuple[str, str], tuple[int, ...], tuple[float, ...]]]:
    """Every order of the first steps, each step after one pause of all but one kind at most."""
    for lives in itertools.product(LIVES, repeat=2):
        for order in itertools.product((0, 1), repeat=6):
            for place, pause in itertools.product(range(6), PAUSES):
                pauses = [0.01] * 6
                pauses[place] = pause
                yield lives, order, tuple(pauses)
    for order in itertools.product((0, 1), repeat=6):
        for pauses in itertools.product(PAUSES, repeat=6):
            yield ("oww", "oww"), order, pauses


def wrong_stories(step: int = 1) -> Iterator[tuple[object, list[str]]]:
    for story in itertools.islice(stories(), 0, None, step):
        if wrong := run(*story):
            yield story, wrong


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.log, "warning", lambda *_: None)
    monkeypatch.setattr(module.log, "critical", lambda *_: None)


def test_two_hosts_write_in_turn() -> None:
    """Whoever has lost the volume knows before he writes."""
    found = next(wrong_stories(step=61), None)
    assert found is None, found


@pytest.mark.parametrize(
    "broken",
    ["never looks again", "does not watch", "trusts a late renewal", "does not look before taking"],
)
def test_the_model_misses_a_mistake(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule of the protocol is needed: without it there is a story with two writers."""
    changes: dict[str, tuple[str, Callable[..., object]]] = {
        "never looks again": ("check", lambda _self: None),
        "does not watch": ("_watch", lambda self, _data, _found: self._clock()),
        "does not look before taking": ("look", lambda self: self._clock()),
        "trusts a late renewal": ("_is_own", lambda self, _data: self._own is not None),
    }
    name, function = changes[broken]
    monkeypatch.setattr(Claiming, name, function)
    assert next(wrong_stories(), None) is not None
