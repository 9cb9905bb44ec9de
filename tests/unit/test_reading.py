"""Reading in the loop: only from what answers promptly, only while nobody else has anything to wait
for.
"""

from __future__ import annotations

from snapfs.device.base import SoleUse
from snapfs.filesystem import ReadPlan
from snapfs.fuse.serving import reading
from snapfs.fuse.serving.reading import AHEAD, Reading

BLOCK = 4096


class TimedDevice(SoleUse):
    """Takes ``seconds`` of a time of its own for each read that is not at hand already."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.at_hand = False
        self.reads: list[tuple[int, int]] = []
        self.prefetched: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.now += self.seconds
        self.reads.append((offset, length))
        return bytes(length)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        return bytes(length) if self.at_hand else None

    def prefetch(self, offset: int, length: int) -> None:
        self.prefetched.append((offset, length))


class Reader:
    def __init__(self, seconds: float) -> None:
        self.device = TimedDevice(seconds)
        self.alone = True
        self.reading = Reading(lambda: self.device, lambda: self.alone, lambda: self.device.now)  # type: ignore[arg-type, return-value]

    def read(self, *runs: tuple[int, int]) -> bool:
        """Whether the loop read."""
        size = sum(length for _, length in runs)
        parts = self.reading.parts(ReadPlan(list(runs), [], 0, size, BLOCK))
        assert parts is None or [len(part) for part in parts] == [length for _, length in runs]
        return parts is not None


def test_a_prompt_device_is_left_to_threads() -> None:
    reader = Reader(50e-6)
    assert all(reader.read((index * 10 * BLOCK, BLOCK)) for index in range(1000))
    assert len(reader.device.reads) == 1000


def test_a_slow_device_keeps_the_loop_waiting_again_and_again() -> None:
    reader = Reader(20e-3)
    done = [reader.read((index * 10 * BLOCK, BLOCK)) for index in range(1000)]
    assert all(done[:2])  # nothing is known of it yet
    assert (
        4 <= sum(done) <= 20
    )  # and it is tried again, or a device that has become prompt would be slow for ever


def test_a_device_that_has_become_prompt_stays_with_threads_for_ever() -> None:
    reader = Reader(1.0)
    assert all(reader.read((index * 10 * BLOCK, BLOCK)) for index in range(2))
    reader.device.seconds = 10e-6
    done = [reader.read((index * 10 * BLOCK, BLOCK)) for index in range(1000)]
    assert not done[0]
    assert all(done[-500:])


def test_one_slow_read_among_prompt_ones_ends_reading_in_the_loop() -> None:
    reader = Reader(10e-6)
    assert all(reader.read((index * 10 * BLOCK, BLOCK)) for index in range(50))
    reader.device.seconds = 1.0
    reader.read((0, BLOCK))
    reader.device.seconds = 10e-6
    assert reader.read((10 * BLOCK, BLOCK))


def test_a_device_that_is_slow_now_and_then_is_left_to_threads_for_ever_longer_times() -> None:
    reader = Reader(10e-6)
    done = []
    for index in range(200_000):
        reader.device.seconds = 50e-3 if index % 5000 < 3 else 10e-6
        done.append(reader.read((index * 10 * BLOCK, BLOCK)))
    assert sum(done) > 0.9 * len(done)


def test_more_bytes_are_allowed_more_time() -> None:
    reader = Reader(reading.PROMPT + reading.PROMPT_MIB / 2)
    assert all(reader.read((index << 22, 1 << 20)) for index in range(50))
    assert not all(reader.read((index << 22, BLOCK)) for index in range(50))


def test_the_loop_waits_for_a_device_while_others_have_requests_in_progress() -> None:
    reader = Reader(10e-6)
    reader.alone = False
    assert not reader.read((0, BLOCK))
    assert not reader.device.reads
    reader.device.at_hand = True
    assert reader.read((0, BLOCK))  # which takes no time
    reader.device.at_hand, reader.alone = False, True
    assert reader.read((0, BLOCK))


def test_reads_of_many_pieces_are_done_in_the_loop() -> None:
    reader = Reader(10e-6)
    assert not reader.read(*((index * 10 * BLOCK, BLOCK) for index in range(50)))
    assert not reader.device.reads
    assert reader.read((0, BLOCK), (10 * BLOCK, BLOCK))


def test_reads_that_follow_one_another_are_not_prefetched() -> None:
    reader = Reader(10e-6)
    size = 128 << 10
    for index in range(4):
        assert reader.read((index * size, size))
    assert reader.device.prefetched == [((index + 1) * size, AHEAD) for index in range(1, 4)]


def test_reads_here_and_there_and_small_ones_are_prefetched() -> None:
    reader = Reader(10e-6)
    for index in (5, 3, 9, 1):
        reader.read((index << 20, 128 << 10))
    for index in range(5):
        reader.read((index * BLOCK, BLOCK))
    assert not reader.device.prefetched
