"""A device that remembers every write and flush, and the states that a power cut could have left it
in.

A flush makes everything before it durable. A discard is a write of garbage: until the range is
written again it may be read as anything. Of the writes after the last flush any subset may have
reached the medium, in any order, and one of them torn at any sector boundary: so between two
flushes lie the states that ALICE and CrashMonkey look at.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.harness.sparse import GARBAGE, SparseDevice

SECTOR = 512

#: A device may reorder the parts of one large write: each piece of so many bytes arrives by itself.
PIECE = 4096

#: Up to so many writes between two flushes, all subsets are tried.
EXHAUSTIVE = 8


class RecordingDevice(SparseDevice):
    """Keeps the writes in segments: each ends with a flush."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.recording = False
        self.discarded = 0
        self.segments: list[Segment] = []
        self._durable: list[SparseDevice] = []

    def start(self) -> None:
        """What is there now is durable; remember what comes."""
        self.recording = True
        self._durable = [self.copy()]
        self.segments = [Segment([], [])]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        super().write(offset, data)
        if self.recording:
            content = bytes(data)
            self.segments[-1].writes += [
                (offset + at, content[at : at + PIECE]) for at in range(0, len(content), PIECE)
            ]

    def discard(self, offset: int, length: int) -> None:
        self.discarded += length
        self.write(offset, GARBAGE * length)

    def flush(self) -> None:
        if self.recording:
            self.segments.append(Segment([], []))

    def durable(self, segment: int) -> SparseDevice:
        """What was durable when a segment began: not to be written."""
        while len(self._durable) <= segment:
            device = self._durable[-1].copy()
            for offset, content in self.segments[len(self._durable) - 1].writes:
                device.write(offset, content)
            self._durable.append(device)
        return self._durable[segment]

    def promise(self, generation: int, records: int = 0) -> None:
        """From here on a crash must not lose this generation, and so many records of its log."""
        self.segments[-1].promises.append((generation, records))


@dataclass
class Segment:
    """The writes between two flushes. ``promises``: (generation, records of its log)."""

    writes: list[tuple[int, bytes]]
    promises: list[tuple[int, int]]


@dataclass(frozen=True)
class State:
    """Which writes of a segment arrived, and of which only how many bytes: enough to make the same
    state again.
    """

    segment: int
    arrived: tuple[int, ...]
    torn: tuple[int, int] | None = None

    def build(self, device: RecordingDevice) -> SparseDevice:
        """The device after the crash."""
        left = device.durable(self.segment).copy()
        for index in self.arrived:
            offset, content = device.segments[self.segment].writes[index]
            if self.torn and self.torn[0] == index:
                content = content[: self.torn[1]]
            left.write(offset, content)
        return left

    def kind(self, device: RecordingDevice) -> tuple[int, str]:
        """In which segment the crash came, and how much of that arrived: what samples have of each
        other kind as well.
        """
        count, arrived = len(device.segments[self.segment].writes), len(self.arrived)
        if self.torn:
            how = "torn"
        elif arrived in {0, count}:
            how = "all" if arrived else "nothing"
        elif self.arrived == tuple(range(arrived)):
            how = "the first ones"
        elif arrived in {1, count - 1}:
            how = "one alone" if arrived == 1 else "all but one"
        else:
            how = "some"
        return self.segment, how

    def __str__(self) -> str:
        """Segment, what arrived, what was torn: ``3:0-4,6,9:6@512``."""
        ranges: list[list[int]] = []
        for index in self.arrived:
            if ranges and ranges[-1][1] == index - 1:
                ranges[-1][1] = index
            else:
                ranges.append([index, index])
        arrived = ",".join(f"{low}-{high}" if high > low else f"{low}" for low, high in ranges)
        return f"{self.segment}:{arrived}:" + ("{}@{}".format(*self.torn) if self.torn else "")

    @classmethod
    def parse(cls, text: str) -> State:
        """What ``str`` gave."""
        segment, ranges, torn = text.split(":")
        arrived: list[int] = []
        for each in filter(None, ranges.split(",")):
            low, _, high = each.partition("-")
            arrived += range(int(low), int(high or low) + 1)
        index, _, length = torn.partition("@")
        return cls(int(segment), tuple(arrived), (int(index), int(length)) if torn else None)


def states(segments: list[Segment], rng: random.Random, samples: int) -> Iterator[State]:
    """Crash states of a recording, each once: exhaustive where a segment is short, else prefixes,
    single losses and samples.
    """
    for number, segment in enumerate(segments):
        count = len(segment.writes)
        everything = tuple(range(count))
        seen: set[State] = set()
        for state in _of_segment(number, segment, count, everything, rng, samples):
            if state not in seen:
                seen.add(state)
                yield state


def _of_segment(
    number: int,
    segment: Segment,
    count: int,
    everything: tuple[int, ...],
    rng: random.Random,
    samples: int,
) -> Iterator[State]:
    if count <= EXHAUSTIVE:
        for size in range(count + 1):
            for arrived in itertools.combinations(everything, size):
                yield State(number, arrived)
        for index in everything:
            for cut in range(SECTOR, len(segment.writes[index][1]), SECTOR):
                yield State(number, everything[: index + 1], (index, cut))
        return
    # A long segment has too many subsets. Prefixes are what an orderly device leaves, single losses
    # and single arrivals what a reordering one does worst; the rest is sampled.
    step = max(1, count // samples)
    for size in range(0, count + 1, step):
        yield State(number, everything[:size])
    for index in rng.sample(everything, min(samples, count)):
        yield State(number, everything[:index] + everything[index + 1 :])
        yield State(number, (index,))
        length = len(segment.writes[index][1])
        if length > SECTOR:
            yield State(
                number, everything[: index + 1], (index, rng.randrange(SECTOR, length, SECTOR))
            )
    for _ in range(samples):
        likely = rng.random()
        arrived = tuple(index for index in everything if rng.random() < likely)
        yield State(number, arrived)
        long = [index for index in arrived if len(segment.writes[index][1]) > SECTOR]
        if long:
            index = rng.choice(long)
            cut = rng.randrange(SECTOR, len(segment.writes[index][1]), SECTOR)
            yield State(number, arrived, (index, cut))
