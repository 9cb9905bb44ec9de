"""D1, D3, D5: threads that write, copy behind, make ready and read at once, on files: whoever reads
the copy sees the moment it began.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs.blocks.copy_mark import OWN
from snapfs.copying import CopyJob, Wishes, copy, unfinished
from snapfs.copying.as_it_was import AsItWas
from snapfs.copying.map_file import make_map
from snapfs.copying.opening import open_unfinished, read_mark
from snapfs.copying.target import prepare
from snapfs.copying.unfinished import UnfinishedCopy
from snapfs.device import Device, Lock, open_device
from snapfs.errors import CopyError, DeviceError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

BLOCK = 4096
BLOCKS = 1200


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change places all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """Threads that go on until the first one fails, or all that have an end are through."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.is_over = threading.Event()
        self._with_end: list[threading.Thread] = []
        self._others: list[threading.Thread] = []

    def add(self, function: Callable[[], None], *, repeat: bool = False) -> None:
        def run() -> None:
            try:
                function()
                while repeat and not self.is_over.is_set():
                    function()
            except BaseException as exc:
                self.errors.append(exc)
                self.is_over.set()

        (self._others if repeat else self._with_end).append(
            threading.Thread(target=run, daemon=True)
        )

    def run(self) -> None:
        for thread in self._with_end + self._others:
            thread.start()
        for thread in self._with_end:
            thread.join(120)
            assert not thread.is_alive(), "a thread waits for ever"
        self.is_over.set()
        for thread in self._others:
            thread.join(60)
            assert not thread.is_alive(), "a thread waits for ever"
        if self.errors:
            raise self.errors[0]


class Copied:
    """A volume in a file, of which a copy is set up, and nothing more than its initial part is
    copied.
    """

    def __init__(self, where: Path, *, outside: bool) -> None:
        source_path, self.path = str(where / "source"), str(where / "target")
        (where / "source").write_bytes(bytes(BLOCKS * BLOCK))
        self.source = open_device(source_path)
        format_volume(self.source, block_size=BLOCK)
        self.volume = volume = open_volume(self.source)
        fs = Filesystem(volume)
        rng = random.Random(5)
        for number in range(20):
            inode = drive(volume, fs.make, fs.base, ROOT_INO, b"%d" % number, 0o100644, 0, 0)
            drive(volume, fs.write, fs.base, inode.ino, 0, rng.randbytes(40 * BLOCK))
        commit(volume)
        drive(volume, volume.allocator.need_groups, [0])
        self.needed = {block for block in range(BLOCKS) if volume.allocator.groups[0].blocks[block]}
        target = prepare(self.path, self.source, BLOCKS * BLOCK, force=False)
        self.job = job = CopyJob.begin(
            volume, target, Wishes(), registered=True, source_path=source_path, owner=0
        )
        self.image = self.source.read(0, BLOCKS * BLOCK)
        job.copy_initial_part([])
        if outside:
            job.map_file = make_map(self.path + ".copymap", job.copy.map.size, force=False)
        job.record = drive(volume, job.register, volume)
        commit(volume)
        job.put_map()
        job.set_up()
        self.map_blocks = {
            block for start, length in job.record.map_runs for block in range(start, start + length)
        }

    def reader(self) -> UnfinishedCopy:
        """Another process that reads the copy."""
        mark = read_mark(self.job.target.device)
        assert mark is not None
        return open_unfinished(open_device(self.path, read_only=True, lock=Lock.SHARED), mark)

    def check(self, found: bytes, first: int, count: int) -> None:
        """Are these blocks what they were? Of the marks and the claim a volume knows nothing."""
        seen = bytearray(found)
        for start, end in OWN:
            if first * BLOCK <= start < (first + count) * BLOCK:
                seen[start - first * BLOCK : end - first * BLOCK] = bytes(end - start)
        for block in range(first, first + count):
            if block in self.needed:
                at = (block - first) * BLOCK
                assert seen[at : at + BLOCK] == self.image[block * BLOCK : (block + 1) * BLOCK], (
                    f"block {block}"
                )

    def left(self) -> int:
        """A block that the copy needs and does not have."""
        return next(
            block
            for block in sorted(self.needed)
            if self.job.before.must_wait([(block * BLOCK, BLOCK)])
        )

    def finish(self) -> None:
        while not self.job.copy.complete:
            if not self.job.step():
                self.job.settle()
        self.job.finish()

    def close(self) -> None:
        self.job.close("complete")
        self.source.close()


@pytest.fixture(params=[False, True], ids=["map on the volume", "map outside"])
def copied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Copied]:
    monkeypatch.setattr(copy, "AHEAD_BYTES", BLOCK)
    found = Copied(tmp_path, outside=request.param)
    yield found
    found.close()


class Overtaken:
    """A source from which somebody reads, and just before that something happens, once."""

    def __init__(self, reader: UnfinishedCopy, event: Callable[[], None]) -> None:
        self._below: Device = reader._source
        self._event: Callable[[], None] | None = event
        reader._source = self  # type: ignore[assignment]

    def read(self, offset: int, length: int) -> bytes:
        event, self._event = self._event, None
        if event is not None:
            event()
        return self._below.read(offset, length)


def test_a_reader_sees_what_overtook_it(copied: Copied) -> None:
    """D1, D3: it has looked at the map, and before it reads the source, the block is copied and
    overwritten.
    """
    reader, block = copied.reader(), copied.left()
    Overtaken(reader, lambda: copied.job.before.write(block * BLOCK, b"x" * BLOCK))
    copied.check(reader.read(block * BLOCK, BLOCK), block, 1)
    reader.close()


def test_a_reader_sees_what_came_after_the_copy_was_complete(copied: Copied) -> None:
    """D1, D4: before it reads the source the copy is complete, the map given back, and its blocks
    and all others used again.
    """

    def end() -> None:
        copied.finish()
        for each in [block, *copied.map_blocks]:
            copied.source.write(each * BLOCK, bytes(BLOCK))

    reader, block = copied.reader(), copied.left()
    Overtaken(reader, end)
    copied.check(reader.read(block * BLOCK, BLOCK), block, 1)
    copied.check(reader.read(0, BLOCKS * BLOCK), 0, BLOCKS)
    reader.close()


@pytest.mark.parametrize("is_given_back", [False, True])
def test_a_reader_sees_what_came_after_the_copy_has_failed(
    copied: Copied, monkeypatch: pytest.MonkeyPatch, is_given_back: bool
) -> None:
    """D7: the target does not even take that it has failed."""

    def fail() -> None:
        monkeypatch.setattr(copied.job.target.device, "write", broken)
        copied.job.before.write(block * BLOCK, b"x" * BLOCK)
        assert copied.job.before.failed is not None
        for each in copied.map_blocks if is_given_back else ():
            copied.source.write(each * BLOCK, bytes(BLOCK))

    def broken(*_: object) -> None:
        raise DeviceError("planted")

    reader, block = copied.reader(), copied.left()
    Overtaken(reader, fail)
    with pytest.raises(DeviceError, match="the copy has failed"):
        reader.read(block * BLOCK, BLOCK)
    with pytest.raises(CopyError, match="the copy has failed"):
        copied.reader()
    reader.close()


def test_a_reader_that_comes_late_believes_a_mark_that_has_gone(copied: Copied) -> None:
    """D4: between its look at the mark and its opening all of it, the copy is complete, and its map
    used for something else.
    """
    mark = read_mark(copied.job.target.device)
    assert mark is not None
    block = copied.left()
    copied.finish()
    for each in [block, *copied.map_blocks]:
        copied.source.write(each * BLOCK, bytes(BLOCK))
    reader = open_unfinished(open_device(copied.path, read_only=True, lock=Lock.SHARED), mark)
    copied.check(reader.read(0, BLOCKS * BLOCK), 0, BLOCKS)
    reader.close()


def test_a_sector_that_is_being_written_is_taken_for_damage(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5: a reader meets a sector of the map of which half is new; the next time it is whole."""
    reader, block = copied.reader(), copied.left()
    decode, half = unfinished.decode_first, [b"half"]

    def torn(data: bytes) -> tuple[bytes, int, bool]:
        return decode(half.pop() * 128 if half else data)

    monkeypatch.setattr(unfinished, "decode_first", torn)
    copied.check(reader.read(block * BLOCK, BLOCK), block, 1)
    assert not half
    reader.close()


@pytest.mark.usefixtures("hasty")
def test_a_thread_sees_or_destroys_what_another_has_not_copied(copied: Copied) -> None:
    """D1, D3, D5"""
    job = copied.job
    # From here on the volume is only bytes: what the copy does not read by itself is overwritten.
    ring = copied.volume.geometry.ring_blocks
    blocks = [block for block in range(ring, BLOCKS - ring) if block not in copied.map_blocks]
    random.Random(5).shuffle(blocks)
    crowd = Crowd()
    seen = {"waited": 0, "read": 0}
    # before anything is copied behind: how often is then no matter of how threads are scheduled
    some_waited = 21

    def writer(blocks: list[int], own: random.Random) -> None:
        for block in blocks:
            place = [(block * BLOCK, BLOCK)]
            if job.before.must_wait(place):
                seen["waited"] += 1
                job.before.make_ready(place)
                assert not job.before.must_wait(place)
            job.before.write(block * BLOCK, own.randbytes(BLOCK))
            if own.random() < 0.05:
                job.before.flush()

    def behind() -> None:
        if seen["waited"] >= some_waited and (
            not job.step(random.choice([1, 2, 5]) * BLOCK) or random.random() < 0.3
        ):
            job.settle()
        crowd.is_over.wait(0.002)  # or nothing would be left to be copied before it is overwritten

    outsider, insider = copied.reader(), AsItWas(job.copy)

    def reader(device: AsItWas | UnfinishedCopy) -> None:
        count = random.choice([1, 3, 17])
        first = random.randrange(BLOCKS - count)
        copied.check(device.read(first * BLOCK, count * BLOCK), first, count)
        seen["read"] += 1

    for number in range(3):
        crowd.add(lambda number=number: writer(blocks[number::3], random.Random(number)))
    crowd.add(behind, repeat=True)
    crowd.add(lambda: reader(outsider), repeat=True)
    crowd.add(lambda: reader(outsider), repeat=True)
    crowd.add(lambda: reader(insider), repeat=True)
    crowd.run()
    assert job.before.failed is None and seen["waited"] >= some_waited and seen["read"] > 50, seen
    copied.check(outsider.read(0, BLOCKS * BLOCK), 0, BLOCKS)
    copied.finish()
    copied.check(job.target.device.read(0, BLOCKS * BLOCK), 0, BLOCKS)
    copied.check(outsider.read(0, BLOCKS * BLOCK), 0, BLOCKS)
    assert read_mark(job.target.device) is None
    outsider.close()
