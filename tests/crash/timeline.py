"""Several devices with one history: every write and flush of each, in order, and the states that a
power cut could have left them in.

A flush makes durable what its own device was given, and says nothing of another. So a crash loses
any subset of what each device was given after its last flush, and one write of all may be torn: its
first sectors have arrived, or its last ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from snapfs.errors import DeviceError
from tests.crash.recording import PIECE, SECTOR
from tests.harness.sparse import SparseDevice

#: Up to so many writes that may be lost, all subsets are tried.
EXHAUSTIVE = 4

#: Up to so many, all ways to tear one of them.
TORN = 2


@dataclass(frozen=True, slots=True)
class Write:
    device: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    device: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A crash that is a part of the story: this is what it has left on all devices."""

    contents: tuple[SparseDevice, ...]


class TimedDevice(SparseDevice):
    """Tells its timeline of what it is given. While it is ``broken`` it takes nothing."""

    def __init__(self, timeline: Timeline, number: int, path: str, size: int) -> None:
        super().__init__(size, path)
        self.broken = False
        self._timeline = timeline
        self._number = number

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._check()
        super().write(offset, data)
        content = bytes(data)
        self._timeline.add(
            *(
                Write(self._number, offset + at, content[at : at + PIECE])
                for at in range(0, len(content), PIECE)
            )
        )

    def flush(self) -> None:
        self._check()
        self._timeline.add(Flush(self._number))

    def _check(self) -> None:
        if self.broken:
            raise DeviceError(f"{self.path}: planted")

    # What a ``Stage`` asks of its device

    def start(self) -> None:
        self._timeline.start()

    @property
    def recording(self) -> bool:
        return self._timeline.recording

    def promise(self, generation: int) -> None:
        self._timeline.note("promise", generation)


@dataclass(frozen=True)
class State:
    """A crash before the event ``point``: which writes arrived of those that may be lost, and of
    which only a part.

    ``torn`` is a write and how many of its bytes: the first ones, or if it is negative the last
    ones.
    """

    point: int
    arrived: tuple[int, ...]
    torn: tuple[int, int] | None = None

    def __str__(self) -> str:
        arrived = ",".join(map(str, self.arrived))
        return f"{self.point}:{arrived}:" + ("{}@{}".format(*self.torn) if self.torn else "")

    @classmethod
    def parse(cls, text: str) -> State:
        """What ``str`` gave."""
        point, arrived, torn = text.split(":")
        index, _, length = torn.partition("@")
        return cls(
            int(point),
            tuple(map(int, filter(None, arrived.split(",")))),
            (int(index), int(length)) if torn else None,
        )


@dataclass
class Moment:
    """Before the event ``point``: what is durable on each device, and which writes may be lost."""

    point: int
    durable: list[SparseDevice]
    pending: list[int]


@dataclass
class Timeline:
    """``notes``: (events before it, what, value)."""

    recording: bool = False
    devices: list[TimedDevice] = field(default_factory=list)
    events: list[Write | Flush | Reset] = field(default_factory=list)
    notes: list[tuple[int, str, Any]] = field(default_factory=list)
    beginning: list[SparseDevice] = field(default_factory=list)

    def device(self, path: str, size: int) -> TimedDevice:
        """All of them are made before the story begins."""
        self.devices.append(TimedDevice(self, len(self.devices), path, size))
        return self.devices[-1]

    def start(self) -> None:
        """What is there now is durable; remember what comes."""
        self.recording = True
        self.beginning = [device.copy() for device in self.devices]

    def add(self, *events: Write | Flush | Reset) -> None:
        if self.recording:
            self.events += events

    def note(self, what: str, value: Any = None) -> None:
        if self.recording:
            self.notes.append((len(self.events), what, value))

    def moments(self, points: Iterable[int]) -> Iterator[Moment]:
        """The moments before these events, in order. What is yielded changes with the next one."""
        moment = Moment(0, [content.copy() for content in self.beginning], [])
        for point in sorted(points):
            for index in range(moment.point, point):
                self._pass(moment, index)
            moment.point = point
            yield moment

    def write(self, index: int) -> Write:
        """The event of this number, which is a write."""
        event = self.events[index]
        assert isinstance(event, Write)
        return event

    def _pass(self, moment: Moment, index: int) -> None:
        event = self.events[index]
        if isinstance(event, Write):
            moment.pending.append(index)
        elif isinstance(event, Flush):
            for each in moment.pending:
                write = self.write(each)
                if write.device == event.device:
                    moment.durable[write.device].write(write.offset, write.content)
            moment.pending = [
                each for each in moment.pending if self.write(each).device != event.device
            ]
        else:
            moment.durable, moment.pending = [content.copy() for content in event.contents], []

    def build(self, state: State, moment: Moment) -> list[SparseDevice]:
        """The devices after the crash."""
        found = [content.copy() for content in moment.durable]
        for index in state.arrived:
            write = self.write(index)
            content, offset = write.content, write.offset
            if state.torn and state.torn[0] == index:
                cut = state.torn[1]
                content, offset = (
                    (content[:cut], offset)
                    if cut > 0
                    else (content[cut:], offset + len(content) + cut)
                )
            found[write.device].write(offset, content)
        return found

    def crash(self, rng: random.Random) -> State:
        """A part of the story: the power fails now, and some state is what is left."""
        point = len(self.events)
        (moment,) = self.moments([point])
        state = rng.choice(list(self.of_moment(moment, rng, 6)))
        contents = self.build(state, moment)
        self.add(Reset(tuple(content.copy() for content in contents)))
        for device, content in zip(self.devices, contents, strict=True):
            device.become(content)
            device.broken = False
        return state

    # Which states there are

    def kind(self, state: State) -> tuple[int, tuple[int, ...]]:
        """Is a write torn, and at which end; on which devices has anything arrived."""
        torn = 0 if state.torn is None else 1 if state.torn[1] > 0 else -1
        return torn, tuple(sorted({self.write(index).device for index in state.arrived}))

    def states(self, rng: random.Random, samples: int) -> list[State]:
        """Of every moment at which something may be lost that is durable right after it, and of
        every note.
        """
        points = {index for index, event in enumerate(self.events) if not isinstance(event, Write)}
        points |= {point for point, _, _ in self.notes} | {len(self.events)}
        return [
            state
            for moment in self.moments(points)
            for state in self.of_moment(moment, rng, samples)
        ]

    def of_moment(self, moment: Moment, rng: random.Random, samples: int) -> Iterator[State]:
        """Exhaustive where little may be lost; else nothing, all, one device and no other, the
        first ones, single ones, and samples.
        """
        everything = tuple(moment.pending)
        chosen: set[tuple[int, ...]] = {(), everything}
        if len(everything) <= EXHAUSTIVE:
            chosen |= {
                some
                for size in range(len(everything))
                for some in itertools.combinations(everything, size)
            }
        else:
            for number in range(len(moment.durable)):
                chosen.add(
                    tuple(index for index in everything if self.write(index).device == number)
                )
                chosen.add(
                    tuple(index for index in everything if self.write(index).device != number)
                )
            for index in rng.sample(everything, min(samples, len(everything))):
                chosen.add(tuple(each for each in everything if each < index))
                chosen.add(tuple(each for each in everything if each != index))
                chosen.add((index,))
            for _ in range(samples):
                likely = rng.random()
                chosen.add(tuple(index for index in everything if rng.random() < likely))
        for arrived in sorted(chosen):
            yield State(moment.point, arrived)
            long = [index for index in arrived if len(self.write(index).content) > SECTOR]
            if len(everything) > TORN and long:
                long = [rng.choice(long)]
            for index in long:
                cuts = range(SECTOR, len(self.write(index).content), SECTOR)
                for cut in cuts if len(everything) <= TORN else [rng.choice(cuts)]:
                    yield State(moment.point, arrived, (index, cut))
                    yield State(moment.point, arrived, (index, -cut))


def equal_but(one: Sequence[int] | bytes, other: bytes, ranges: Iterable[tuple[int, int]]) -> bool:
    """Are two contents the same in these ranges, (start, end)?"""
    return all(one[start:end] == other[start:end] for start, end in ranges)
