"""Each row of the requirements that says how records, bitmaps and views behave, end to end: on a
real mount, and where it speaks of blocks and bits, on what the image holds after it.

What the image holds is read through the core (``Inspection``): which blocks a file lies in, what
both bitmaps say of them, who holds them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import select
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs import ids, snapshots
from snapfs.blocks.pointer import WRITES_MAX, WRITES_SHIFT
from snapfs.device import open_device
from snapfs.filesystem import Filesystem
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume

BLOCK = 4096
Tree = dict[str, bytes | None]


# --- looking --------------------------------------------------------------------------------------


def info(mounted) -> dict[str, Any]:
    return json.loads(mounted.run("info", mounted.image, "--json").stdout)


def counters(mounted) -> dict[str, int]:
    return info(mounted)["counters"]


def listed(mounted) -> dict[str, int]:
    """Names of the snapshots, and their bits."""
    return {
        one["name"]: one["id"]
        for one in json.loads(mounted.run("snapshot", "list", mounted.image, "--json").stdout)
    }


def tree(top: Path) -> Tree:
    """Relative path to content, None for directories."""
    found: Tree = {}
    for directory, directories, files in os.walk(top):
        here = Path(directory)
        found |= {str((here / name).relative_to(top)): None for name in directories}
        found |= {str((here / name).relative_to(top)): (here / name).read_bytes() for name in files}
    return found


def write_at(path: Path, offset: int, data: bytes, *, sync: bool = True) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(mounted) -> None:
    """A generation: what was only logged does not count the blocks of
    pointers yet that it takes.
    """
    mounted.path.chmod(stat.S_IMODE(mounted.path.stat().st_mode))  # no record of the log tells that
    sync(mounted)


def sync(mounted) -> None:
    descriptor = os.open(mounted.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settled(mounted, wait_until: Callable[..., None], instances: int) -> dict[str, int]:
    """The counters when the background has done all it has to do, and that is durable."""
    wait_until(
        lambda: counters(mounted)["instances"] == instances,
        limit=30,
        what="the end of the background deletion",
    )
    sync(mounted)
    return counters(mounted)


class Inspection:
    """An image that nobody has mounted, read through the core."""

    def __init__(self, image: Path) -> None:
        self.device = open_device(os.fspath(image), read_only=True)
        self.volume = open_volume(self.device, read_only=True)
        self.fs = Filesystem(self.volume)

    def __enter__(self) -> Inspection:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return drive(self.volume, function, *args)

    def view(self, snapshot: str | None) -> Any:
        return (
            self.fs.base if snapshot is None else self.fs.view(snapshots.get(self.fs, snapshot).id)
        )

    def blocks(self, name: str, snapshot: str | None = None) -> list[int]:
        """The blocks that a file in the root lies in, in the file's order."""
        view = self.view(snapshot)
        inode = self.call(self.fs.lookup, view, ids.ROOT_INO, name.encode())
        return self._blocks_of(view, inode)

    def _blocks_of(self, view: Any, inode: Any) -> list[int]:
        plan = self.call(self.fs.plan_read, view, inode.ino, 0, inode.size)
        return [
            number
            for start, length in plan.runs
            for number in range(start // BLOCK, (start + length) // BLOCK)
        ]

    def bits(self, block: int) -> tuple[bool, bool]:
        """Of the block allocation bitmap, of the snapshot allocation bitmap."""
        allocator = self.volume.allocator
        self.call(allocator.need_block, block)
        group = allocator.groups[block // self.volume.geometry.group_span]
        return bool(group.blocks[block - group.start]), bool(group.snapshot[block - group.start])

    def runs(self, first: int, count: int) -> list[tuple[int, int, set[int]]]:
        """The records of ``count`` blocks: (blocks from the first, length, holders); blocks without
        a record are left out.
        """
        allocator = self.volume.allocator
        self.call(allocator.need, [(first, count)])
        return [
            (start - first, length, self._ids(self.volume.holders.holders(number)))
            for start, length, number in allocator.pieces(first, count)
            if number is not None
        ]

    @staticmethod
    def _ids(mask: int) -> set[int]:
        return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}

    def writes(self, name: str) -> list[int]:
        """The counters of a file's pointers, of one pointer block at most."""
        inode = self.call(self.fs.lookup, self.fs.base, ids.ROOT_INO, name.encode())
        blocks = -(-inode.size // BLOCK)
        found = []
        for _, words, slot, count in self.call(lambda: list(inode.map.spans(0, blocks))):
            found += [
                words[2 * index] >> WRITES_SHIFT & WRITES_MAX for index in range(slot, slot + count)
            ]
        return found

    def reached(self, snapshot: str | None) -> set[int]:
        """All data blocks of a view's files, by a walk from the root."""
        view = self.view(snapshot)
        found: set[int] = set()
        directories = [ids.ROOT_INO]
        while directories:
            directory, after = directories.pop(), 0
            while entries := self.call(self.fs.entries, view, directory, after, 100):
                after = entries[-1].cookie
                for entry in entries:
                    if stat.S_ISDIR(entry.type):
                        directories.append(entry.ino)
                    elif stat.S_ISREG(entry.type):
                        found.update(
                            self._blocks_of(view, self.call(self.fs.inode, view, entry.ino))
                        )
        return found

    def prove_bitmaps(self) -> None:
        """Recompute from all views what bitmaps and records must say of every data block (I1, I2,
        I3).
        """
        base = self.reached(None)
        holders: dict[int, set[int]] = {}
        for instance in snapshots.all(self.fs):
            for block in self.reached(instance.name) - base:
                holders.setdefault(block, set()).add(instance.id)
        for block in base:
            assert self.bits(block) == (True, False), block
        for block, expected in holders.items():
            assert self.bits(block) == (True, True), block
            assert self.runs(block, 1) == [(0, 1, expected)], block


@pytest.fixture
def inspect(mounted) -> Callable[[], contextlib.AbstractContextManager[Inspection]]:
    """Unmounts for as long as one looks, then mounts again."""

    @contextlib.contextmanager
    def look() -> Iterator[Inspection]:
        options = mounted.options
        mounted.unmount()
        with Inspection(mounted.image) as inspection:
            yield inspection
        mounted.mount(options)

    return look


# --- A: records, instances and the two bitmaps ----------------------------------------------------


def prove_that_data_stays_in_the_volume(mounted) -> None:
    data = [os.urandom(1 << 20) for _ in range(2)]
    write_at(mounted / "file", 0, data[0])
    size = os.stat(mounted.image).st_size
    mounted.snapshot("s")
    sync(mounted)
    before = counters(mounted)
    write_at(mounted / "file", 0, data[1])
    after = counters(mounted)
    assert 256 <= before["free_blocks"] - after["free_blocks"] < 256 + 20
    assert 256 <= after["snapshot_blocks"] - before["snapshot_blocks"] < 256 + 20
    assert os.stat(mounted.image).st_size == size
    for _ in range(2):
        assert (mounted / "file").read_bytes() == data[1]
        assert (mounted.view("s") / "file").read_bytes() == data[0]
        mounted.remount()


def test_a1_two_images_at_once(mount_volume) -> None:
    """A1: several volumes at once; what is written after a snapshot goes to free space of the same
    volume.
    """
    volumes = [mount_volume(), mount_volume(block_size=8192)]
    idle = counters(volumes[1])["free_blocks"]
    prove_that_data_stays_in_the_volume(volumes[0])
    assert counters(volumes[1])["free_blocks"] == idle
    assert len({volume.pid for volume in volumes}) == 2
    assert listed(volumes[0]).keys() == {"s"}
    assert listed(volumes[1]) == {}
    volumes[0].snapshot("later")
    (volumes[1] / "file").write_bytes(b"other")
    volumes[1].snapshot("s")
    assert (volumes[1].view("s") / "file").read_bytes() == b"other"
    volumes[0].unmount()
    assert (volumes[1] / "file").read_bytes() == b"other"
    assert len({os.stat(volume.path).st_dev for volume in volumes}) == 2


def test_a1_a_loop_device(loop_device: Path, mount_volume) -> None:
    """A1: on a block device, beside an image."""
    beside = mount_volume()
    mounted = mount_volume(loop_device)
    try:
        (beside / "file").write_bytes(b"beside")
        prove_that_data_stays_in_the_volume(mounted)
        mounted.run("restore", mounted.path, "s")
        assert (beside / "file").read_bytes() == b"beside"
        assert stat.S_ISBLK(os.stat(info(mounted)["image"]).st_mode)
    finally:
        mounted.unmount()  # before the device is checked and detached


def test_a2_a_snapshot_has_all_that_was_written_while_writers_go_on(mounted) -> None:
    """A2: whatever a write() or a store returned for is in it, also what only the kernel's cache
    has; nobody is held up for long.
    """
    slots, writers = 256, 3
    done = [0] * (writers + 1)
    stop = threading.Event()
    failed: list[BaseException] = []

    def record(number: int) -> bytes:
        return b"%015d\n" % number

    def append(index: int) -> None:
        with (mounted / f"log{index}").open("wb", buffering=0) as file:
            while not stop.is_set():
                file.write(record(done[index]))
                done[index] += 1

    def store(index: int) -> None:
        with (
            (mounted / "mapped").open("r+b") as file,
            mmap.mmap(file.fileno(), slots * BLOCK) as memory,
        ):
            while not stop.is_set():
                place = done[index] % slots * BLOCK
                memory[place : place + 16] = record(done[index])
                done[index] += 1

    def guarded(function: Callable[[int], None], index: int) -> None:
        try:
            function(index)
        except BaseException as exc:
            failed.append(exc)

    (mounted / "mapped").write_bytes(bytes(slots * BLOCK))
    threads = [threading.Thread(target=guarded, args=(append, index)) for index in range(writers)]
    threads.append(threading.Thread(target=guarded, args=(store, writers)))
    asked: list[list[int]] = []
    answered: list[list[int]] = []
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            asked.append(list(done))
            (mounted / ".snap" / f"s{number}").mkdir()
            answered.append(list(done))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed
    assert all(late > early for early, late in zip(asked[0], done, strict=True))
    # They went on while snapshots were made, each of them.
    assert all(late > early for early, late in zip(asked[0], answered[-1], strict=True))
    for number in range(6):
        for index in range(writers):
            past = mounted.view(f"s{number}") / f"log{index}"
            if not past.exists():
                assert asked[number][index] == 0
                continue
            data = past.read_bytes()
            assert len(data) >= 16 * asked[number][index]
            whole = len(data) // 16
            assert data[: whole * 16] == b"".join(map(record, range(whole)))
        memory = (mounted.view(f"s{number}") / "mapped").read_bytes()
        count = asked[number][writers]
        for step in range(max(0, count - slots), count):
            found = memory[step % slots * BLOCK :][:16]
            assert int(found.split(b"\n")[0] or b"0") >= step


def test_a2_the_pause_waits_for_writes_and_nothing_is_torn(mounted) -> None:
    """A2: a write that is in flight is in the snapshot wholly or not at all."""
    size = 1 << 17
    path = mounted / "file"
    path.write_bytes(b"\0" * size)
    stop = threading.Event()

    def fill() -> None:
        with path.open("r+b", buffering=0) as file:
            for value in itertools.cycle(range(1, 256)):
                if stop.is_set():
                    return
                os.pwrite(file.fileno(), bytes([value]) * BLOCK, 0)
                os.pwrite(file.fileno(), bytes([value]) * BLOCK, size - BLOCK)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        for number in range(8):
            (mounted / ".snap" / f"s{number}").mkdir()
    finally:
        stop.set()
        thread.join(60)
    for number in range(8):
        data = (mounted.view(f"s{number}") / "file").read_bytes()
        first, last = data[:BLOCK], data[-BLOCK:]
        assert len(set(first)) == len(set(last)) == 1
        # The second write follows the first: it may be missing, never ahead.
        assert first[0] == last[0] or first[0] % 255 == (last[0] + 1) % 255


def test_a2_what_is_in_a_snapshot_has_what_its_program_did_before(mounted) -> None:
    """A2: writes that the kernel caches and requests that it sends at once are in it in the order
    in which a program made them.
    """
    stop = threading.Event()
    failed: list[BaseException] = []
    path = mounted.path
    size = 16

    def record(number: int) -> bytes:
        return b"%015d\n" % number

    def names_after_contents() -> None:
        """A new file each time: its content is cached, its name is not."""
        for number in itertools.count():
            if stop.is_set():
                return
            descriptor = os.open(path / "new", os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(descriptor, record(number))
            os.rename(path / "new", path / "named")
            os.close(descriptor)

    def directories_after_contents() -> None:
        """One that is opened each time, and the size of a directory."""
        (path / "opened").write_bytes(record(0))
        (path / "count").mkdir()
        for number in itertools.count(1):
            if stop.is_set():
                return
            descriptor = os.open(path / "opened", os.O_RDWR)
            os.pwrite(descriptor, record(number), 0)
            os.mkdir(path / "count" / str(number))
            os.close(descriptor)

    def appends() -> None:
        """Where to write is asked for while the file is locked; two files in turn."""
        with (
            (path / "first").open("wb", buffering=0) as first,
            (path / "second").open("wb", buffering=0) as second,
        ):
            for number in itertools.count():
                if stop.is_set():
                    return
                for file in (first, second):
                    file.seek(0, os.SEEK_END)
                    file.write(record(number))

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as exc:
            failed.append(exc)

    threads = [
        threading.Thread(target=guarded, args=(each,))
        for each in (names_after_contents, directories_after_contents, appends)
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            (mounted / ".snap" / f"s{number}").mkdir()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed
    for number in range(10):
        view = mounted.view(f"s{number}")
        if (view / "named").exists():
            assert len((view / "named").read_bytes()) == size
        if (view / "count").exists():
            made = len(list((view / "count").iterdir()))
            assert int((view / "opened").read_bytes()) in (made, made + 1)
        if (view / "second").exists():
            one, other = ((view / name).read_bytes() for name in ("first", "second"))
            assert one == b"".join(map(record, range(len(one) // size)))
            assert other == one[: len(other)]
            assert len(one) - len(other) in (0, size)


def test_a3_only_the_first_write_preserves(mounted, inspect) -> None:
    """A3: writes since the latest snapshot are counted, saturating; the first binds the old block,
    later ones bind nothing.
    """
    write_at(mounted / "file", 0, os.urandom(8 * BLOCK))
    mounted.snapshot("s")
    commit(mounted)
    start = counters(mounted)
    write_at(mounted / "file", 0, os.urandom(BLOCK))
    commit(mounted)
    first = counters(mounted)
    assert first["snapshot_blocks"] > start["snapshot_blocks"]
    data = b""
    for _ in range(30):
        data = os.urandom(BLOCK)
        write_at(mounted / "file", 0, data)
    commit(mounted)
    later = counters(mounted)
    for name in ("snapshot_blocks", "record_runs", "record_blocks", "free_blocks"):
        assert later[name] == first[name], name
    with inspect() as image:
        counts = image.writes("file")
        assert counts[0] >= 2
        assert counts[1:] == [counts[1]] * 7
        assert counts[1] < counts[0]
    for number in range(300):
        data = bytes([number % 256]) * BLOCK
        write_at(mounted / "file", 0, data)
    with inspect() as image:
        assert image.writes("file")[0] == WRITES_MAX
    assert (mounted / "file").read_bytes()[:BLOCK] == data
    assert counters(mounted)["snapshot_blocks"] == first["snapshot_blocks"]
    mounted.snapshot("t")
    write_at(mounted / "file", 0, os.urandom(BLOCK))
    assert counters(mounted)["snapshot_blocks"] > first["snapshot_blocks"]


def test_a4_bits_are_given_back_and_used_again(mounted, wait_until) -> None:
    """A4: one bit for each instance; a deleted one's is given to another, which does not inherit
    what the first one held.
    """
    contents = {}
    for name in ("a", "b", "c"):
        contents[name] = os.urandom(3 * BLOCK)
        write_at(mounted / "file", 0, contents[name])
        mounted.snapshot(name)
    before = listed(mounted)
    assert len(set(before.values())) == 3
    write_at(mounted / "file", 0, b"now" * BLOCK)
    mounted.run("snapshot", "delete", mounted.path, "b")
    settled(mounted, wait_until, 2)
    mounted.snapshot("d")
    after = listed(mounted)
    assert after == {"a": before["a"], "c": before["c"], "d": before["b"]}
    contents["d"] = b"now" * BLOCK
    write_at(mounted / "file", 0, b"later")
    for _ in range(2):
        for name in after:
            assert (mounted.view(name) / "file").read_bytes() == contents[name]
        mounted.remount()
    for name in after:
        (mounted / ".snap" / name).rmdir()
    final = settled(mounted, wait_until, 0)
    assert (final["snapshot_blocks"], final["holder_sets"]) == (0, 0)


def test_a4_holders_are_sets_of_bits(mounted, inspect) -> None:
    """A4: a block that several instances need is bound to exactly these."""
    write_at(mounted / "file", 0, os.urandom(4 * BLOCK))
    for number in range(4):
        mounted.snapshot(f"s{number}")
        write_at(mounted / "file", number * BLOCK, os.urandom(BLOCK))
    bits = listed(mounted)
    with inspect() as image:
        for block in range(4):
            number = image.blocks("file", "s0")[block]
            assert image.runs(number, 1) == [
                (0, 1, {bits[f"s{which}"] for which in range(block + 1)})
            ]


def test_a5_what_no_snapshot_needs_goes_straight_on(mounted, inspect) -> None:
    """A5: without a snapshot, and for files that are newer than the latest,
    nothing is preserved.
    """
    data = os.urandom(64 * BLOCK)
    write_at(mounted / "old", 0, data)
    commit(mounted)
    start = counters(mounted)
    for _ in range(5):
        write_at(mounted / "old", 0, os.urandom(64 * BLOCK))
    commit(mounted)
    now = counters(mounted)
    assert (now["snapshot_blocks"], now["record_runs"], now["record_blocks"]) == (0, 0, 0)
    assert now["free_blocks"] == start["free_blocks"]
    mounted.snapshot("s")
    write_at(mounted / "new", 0, data)
    commit(mounted)
    start = counters(mounted)
    for _ in range(5):
        data = os.urandom(64 * BLOCK)
        write_at(mounted / "new", 0, data)
    commit(mounted)
    now = counters(mounted)
    for name in ("snapshot_blocks", "record_runs", "record_blocks", "free_blocks"):
        assert now[name] == start[name], name
    with inspect() as image:
        assert all(image.runs(block, 1) == [] for block in image.blocks("new"))
    assert (mounted / "new").read_bytes() == data


@pytest.mark.volume(options="commit=3600")
def test_a6_a_preserved_block_is_in_both_bitmaps_together_with_its_record(mounted) -> None:
    """A6: what one fsync made durable has the COW block, its bits and its record, though the daemon
    never got to end.
    """
    write_at(mounted / "file", 0, os.urandom(64 * BLOCK))
    mounted.snapshot("s")
    write_at(mounted / "file", 10 * BLOCK, os.urandom(30 * BLOCK))
    held = counters(mounted)["snapshot_blocks"]
    mounted.kill()
    with Inspection(mounted.image) as image:
        past, base = image.blocks("file", "s"), image.blocks("file")
        instance = snapshots.get(image.fs, "s").id
        for place in range(64):
            if 10 <= place < 40:
                assert past[place] != base[place]
                assert image.bits(past[place]) == (True, True)
                assert image.runs(past[place], 1) == [(0, 1, {instance})]
            else:
                assert past[place] == base[place]
            assert image.bits(base[place]) == (True, False)
        assert image.volume.statistics()["snapshot_blocks"] == held
        image.prove_bitmaps()
    mounted.mount()


def overwrite_scattered(path: Path, blocks: int, step: int = 2) -> None:
    """Every ``step``-th block of a file: as many preserved pieces as there are writes."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        for number in range(0, blocks, step):
            os.pwrite(descriptor, os.urandom(BLOCK), number * BLOCK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_a7_record_storage_grows_and_shrinks(mounted, wait_until, inspect) -> None:
    """A7: records take free blocks, which are in both bitmaps, and give them back."""
    write_at(mounted / "file", 0, os.urandom(6000 * BLOCK))
    write_at(mounted / "other", 0, os.urandom(BLOCK))
    start = counters(mounted)
    assert start["record_blocks"] == 0
    sizes = []
    for number, step in enumerate((2, 3)):
        mounted.snapshot(f"s{number}")
        overwrite_scattered(mounted / "file", 6000, step)
        sizes.append(counters(mounted)["record_blocks"])
    assert 0 < sizes[0] < sizes[1]
    with inspect() as image:
        storage = [pointer for group in _loaded(image) for pointer in group.spill]
        assert storage
        allocator = image.volume.allocator
        assert (
            sum(entry.snapshot for entry in allocator.entries)
            == image.volume.statistics()["snapshot_blocks"]
        )
    past = (mounted.view("s0") / "file").read_bytes()
    mounted.run("snapshot", "delete", mounted.path, "s1")
    shrunk = settled(mounted, wait_until, 1)
    assert shrunk["record_blocks"] < sizes[1]
    assert (mounted.view("s0") / "file").read_bytes() == past
    mounted.run("snapshot", "delete", mounted.path, "s0")
    end = settled(mounted, wait_until, 0)
    for name in ("record_blocks", "snapshot_blocks", "record_runs", "holder_sets", "free_blocks"):
        assert end[name] == start[name], name


def _loaded(image: Inspection) -> list[Any]:
    allocator = image.volume.allocator
    image.call(allocator.need_groups, range(len(allocator.entries)))
    return list(allocator.groups.values())


def test_a8_freed_blocks_leave_both_bitmaps(mounted, wait_until, inspect) -> None:
    """A8: a COW block that nobody needs any more is in neither."""
    write_at(mounted / "file", 0, os.urandom(100 * BLOCK))
    sync(mounted)
    start = counters(mounted)
    mounted.snapshot("s")
    write_at(mounted / "file", 0, os.urandom(100 * BLOCK))
    with inspect() as image:
        past = image.blocks("file", "s")
        assert {image.bits(block) for block in past} == {(True, True)}
    mounted.run("snapshot", "delete", mounted.path, "s")
    end = settled(mounted, wait_until, 0)
    assert (end["free_blocks"], end["snapshot_blocks"]) == (start["free_blocks"], 0)
    with inspect() as image:
        now = set(image.blocks("file"))
        assert {image.bits(block) for block in past if block not in now} <= {(False, False)}
        assert all(image.runs(block, 1) == [] for block in past)
        image.prove_bitmaps()


def test_a9_deleting_frees_what_no_other_instance_holds(mounted, wait_until, inspect) -> None:
    """A9: the name is gone at once; blocks of its own come back, what others need stays, writers go
    on.
    """
    write_at(mounted / "shared", 0, os.urandom(500 * BLOCK))
    write_at(mounted / "own", 0, os.urandom(1000 * BLOCK))
    mounted.snapshot("a")
    write_at(mounted / "own", 0, os.urandom(1000 * BLOCK))
    mounted.snapshot("b")
    (mounted / "shared").unlink()
    write_at(mounted / "own", 0, os.urandom(1000 * BLOCK))
    past = tree(mounted.view("b"))
    before = counters(mounted)
    assert before["snapshot_blocks"] >= 2500
    (mounted / ".snap" / "a").rmdir()
    assert os.listdir(mounted / ".snap") == ["b"]
    assert listed(mounted).keys() == {"b"}
    write_at(mounted / "meanwhile", 0, b"written")
    after = settled(mounted, wait_until, 1)
    assert 1000 <= before["snapshot_blocks"] - after["snapshot_blocks"] <= 1020
    assert 990 <= after["free_blocks"] - before["free_blocks"] <= 1020
    assert tree(mounted.view("b")) == past
    with inspect() as image:
        image.prove_bitmaps()
    assert tree(mounted.view("b")) == past
    (mounted / ".snap" / "b").rmdir()
    assert settled(mounted, wait_until, 0)["snapshot_blocks"] == 0


@pytest.mark.volume(options="commit=3600")
@pytest.mark.parametrize("commits", [0, 1, 3])
def test_a9_deleting_goes_on_after_a_crash(commits: int, mounted, wait_until, inspect) -> None:
    """A9: killed before or while the space came back, the next mount brings back the rest."""
    write_at(mounted / "file", 0, os.urandom(6000 * BLOCK))
    fresh = counters(mounted)["free_blocks"]
    mounted.snapshot("kept")
    overwrite_scattered(mounted / "file", 6000, 3)
    mounted.snapshot("gone")
    overwrite_scattered(mounted / "file", 6000, 2)
    present, past = (mounted / "file").read_bytes(), (mounted.view("kept") / "file").read_bytes()
    pid = mounted.pid
    ended = os.pidfd_open(pid)
    (mounted / ".snap" / "gone").rmdir()
    for _ in range(commits):
        sync(mounted)
    os.kill(pid, 9)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    mounted.run("umount", mounted.path)
    mounted.is_mounted = False
    mounted.run("check", mounted.image)
    with Inspection(mounted.image) as image:
        assert [one.name for one in snapshots.all(image.fs)] == ["kept"]
        if not commits:
            assert [one.name for one in image.volume.instances.going()] == ["gone"]
    mounted.mount()
    settled(mounted, wait_until, 1)
    assert listed(mounted).keys() == {"kept"}
    assert (mounted / "file").read_bytes() == present
    assert (mounted.view("kept") / "file").read_bytes() == past
    with inspect() as image:
        image.prove_bitmaps()
    (mounted / ".snap" / "kept").rmdir()
    assert settled(mounted, wait_until, 0)["free_blocks"] == fresh


def make_history(mounted) -> dict[str, Tree]:
    """Four snapshots with every kind of change between them; what each must show."""
    top: Path = mounted.path
    states: dict[str, Tree] = {}

    def snapshot(name: str) -> None:
        mounted.snapshot(name)
        states[name] = tree(top)

    (top / "d" / "e").mkdir(parents=True)
    for number in range(30):
        (top / "d" / f"file{number}").write_bytes(os.urandom(number * 997))
    (top / "big").write_bytes(os.urandom(300 * BLOCK))
    snapshot("one")
    write_at(top / "big", 100 * BLOCK + 17, os.urandom(3 * BLOCK))
    for number in range(0, 30, 3):
        (top / "d" / f"file{number}").unlink()
    os.rename(top / "d" / "file1", top / "d" / "e" / "moved")
    snapshot("two")
    os.truncate(top / "big", 150 * BLOCK + 5)
    (top / "new").write_bytes(b"new")
    (top / "d" / "file2").write_bytes(b"replaced")
    (mounted.view("one") / "in the past").write_bytes(b"changed")
    states["one"] = tree(mounted.view("one"))
    snapshot("three")
    write_at(top / "big", 500 * BLOCK, b"far behind")
    os.rename(top / "new", top / "newer")
    snapshot("four")
    (top / "d" / "file4").write_bytes(b"only live")
    (top / "d" / "e" / "moved").unlink()
    return states


@pytest.mark.parametrize("name", ["one", "two", "three", "four"])
@pytest.mark.parametrize("how", ["live", "while mounting"])
def test_a10_restoring_leaves_every_other_snapshot_exact(
    how: str, name: str, mounted, inspect
) -> None:
    """A10: the base is what the snapshot is; older and newer ones, and the state from before, read
    exactly as they did.
    """
    states = make_history(mounted)
    present = tree(mounted.path)
    if how == "live":
        mounted.run("restore", mounted.path, name)
    else:
        mounted.remount(f"restore={name}")
    (undo,) = listed(mounted).keys() - states.keys()
    assert undo.startswith("before-restore-")
    for _ in range(2):
        assert tree(mounted.path) == states[name]
        assert tree(mounted.view(undo)) == present
        for other, expected in states.items():
            assert tree(mounted.view(other)) == expected
        mounted.remount()
    # From here on all of them are isolated again (B3).
    write_at(mounted / "big", 0, os.urandom(50 * BLOCK))
    (mounted / "d" / "after").write_bytes(b"after")
    changed = tree(mounted.path)
    for other, expected in {**states, undo: present}.items():
        assert tree(mounted.view(other)) == expected
    with inspect() as image:
        image.prove_bitmaps()
    mounted.run("restore", mounted.path, undo)
    assert tree(mounted.path) == present
    (second,) = listed(mounted).keys() - states.keys() - {undo}
    assert tree(mounted.view(second)) == changed
    for other, expected in {**states, undo: present}.items():
        assert tree(mounted.view(other)) == expected


@pytest.mark.parametrize("how", ["live", "while mounting", "image"])
def test_a10_where_nothing_differs_nothing_happens(how: str, mounted) -> None:
    """A10: no exchange, no undo snapshot."""
    (mounted / "file").write_bytes(os.urandom(10 * BLOCK))
    mounted.snapshot("s")
    (mounted / "file").read_bytes()  # an access time is no difference
    sync(mounted)
    before, names = counters(mounted), listed(mounted)
    epoch = info(mounted)["epoch"]
    if how == "live":
        assert json.loads(mounted.run("restore", mounted.path, "s", "--json").stdout) == {
            "name": "s",
            "changed": False,
            "undo": None,
        }
    elif how == "image":
        mounted.unmount()
        assert json.loads(mounted.run("restore", mounted.image, "s", "--json").stdout) == {
            "name": "s",
            "changed": False,
            "undo": None,
        }
        mounted.mount()
    else:
        mounted.remount("restore=s")
    assert listed(mounted) == names
    after = counters(mounted)
    for name in ("free_blocks", "snapshot_blocks", "record_blocks", "instances"):
        assert after[name] == before[name], name
    assert info(mounted)["epoch"] == epoch


@pytest.mark.volume(size="512M")
def test_a10_restoring_costs_what_changed(mounted) -> None:
    """A10: going back over one changed block in 200 MiB copies nothing and reads little."""
    for number in range(200):
        (mounted / f"file{number}").write_bytes(os.urandom(1 << 20))
    mounted.snapshot("s")
    write_at(mounted / "file77", 5 * BLOCK, os.urandom(BLOCK))
    mounted.remount()
    before = counters(mounted)
    mounted.run("restore", mounted.path, "s")
    after = counters(mounted)
    assert after["blocks_written"] - before["blocks_written"] < 40
    assert after["blocks_read"] - before["blocks_read"] < 40
    assert abs(after["free_blocks"] - before["free_blocks"]) < 40


def test_a11_after_restores_both_bitmaps_tell_the_truth(mounted, wait_until, inspect) -> None:
    """A11: blocks only an outdated state used are free, blocks of live states are marked:
    recomputed from scratch.
    """
    states = make_history(mounted)
    outdated: set[int] = set()
    for name in ("two", "one", "four"):
        mounted.run("restore", mounted.path, name)
        write_at(mounted / "big", 40 * BLOCK, os.urandom(20 * BLOCK))
        with inspect() as image:
            image.prove_bitmaps()
            for one in snapshots.all(image.fs):
                outdated |= image.reached(one.name)
            outdated |= image.reached(None)
    keep = "three"
    gone = [name for name in listed(mounted) if name != keep]
    mounted.run("restore", mounted.path, keep)
    mounted.run("snapshot", "delete", mounted.path, *gone)
    (undo,) = listed(mounted).keys() - {keep}
    mounted.run("snapshot", "delete", mounted.path, undo)
    settled(mounted, wait_until, 1)
    assert tree(mounted.path) == tree(mounted.view(keep)) == states[keep]
    with inspect() as image:
        image.prove_bitmaps()
        live = image.reached(None) | image.reached(keep)
        assert len(outdated - live) > 200
        # Metadata may lie by now where data has been; the snapshot bitmap has nothing of what is
        # outdated but metadata of `keep`.
        still = [block for block in outdated - live if image.bits(block)[0]]
        assert len(still) < 40
        assert image.volume.statistics()["snapshot_blocks"] < 40
    mounted.run("snapshot", "delete", mounted.path, keep)
    end = settled(mounted, wait_until, 0)
    assert (end["snapshot_blocks"], end["record_blocks"], end["record_runs"]) == (0, 0, 0)


# --- B: instant copy with pointer tables ----------------------------------------------------------


def test_b1_the_original_stays_where_it_was_behind_a_pointer(mounted, inspect) -> None:
    """B1: writing to the base leaves the original in its block for the snapshot; either area may be
    written.
    """
    data = os.urandom(20 * BLOCK)
    write_at(mounted / "file", 0, data)
    mounted.snapshot("s")
    with inspect() as image:
        original = image.blocks("file")
        assert image.blocks("file", "s") == original
    write_at(mounted / "file", 0, os.urandom(20 * BLOCK))
    with inspect() as image:
        assert image.blocks("file", "s") == original
        assert not set(image.blocks("file")) & set(original)
    assert (mounted.view("s") / "file").read_bytes() == data
    write_at(mounted.view("s") / "file", 3 * BLOCK, b"x" * BLOCK)
    with inspect() as image:
        now = image.blocks("file", "s")
        assert [place for place in range(20) if now[place] != original[place]] == [3]
    assert (mounted.view("s") / "file").read_bytes() == data[: 3 * BLOCK] + b"x" * BLOCK + data[
        4 * BLOCK :
    ]


def device_traffic(pid: int) -> dict[str, int]:
    return {
        key: int(value)
        for key, value in (
            line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines()
        )
    }


def test_b2_a_whole_block_write_in_a_snapshot_copies_nothing(mounted) -> None:
    """B2: only the new data is stored: as many blocks are taken as written, and nothing is read for
    it.
    """
    size = 8 << 20
    blocks = size // BLOCK
    data = os.urandom(size)
    write_at(mounted / "file", 0, data)
    write_at(mounted / "small", 0, data[: size // 2])
    mounted.snapshot("s")
    mounted.remount()  # nothing is cached, neither by the kernel nor by the daemon
    pid = mounted.pid
    os.stat(mounted.view("s") / "file")
    before, traffic = counters(mounted), device_traffic(pid)
    write_at(mounted.view("s") / "file", 0, bytes(reversed(data)))
    after, now = counters(mounted), device_traffic(pid)
    taken = before["free_blocks"] - after["free_blocks"]
    assert blocks <= taken < blocks + 40  # pointer blocks, an inode
    # What the daemon reads has the data of the requests in it, once: reading the old blocks would
    # double it.
    assert now["rchar"] - traffic["rchar"] < size * 3 // 2
    # The measure sees such reads: half a block must be filled up with what was there.
    traffic = device_traffic(pid)
    descriptor = os.open(mounted.view("s") / "small", os.O_RDWR)
    for place in range(0, size // 2, BLOCK):
        os.pwrite(descriptor, b"x" * 100, place + 50)
    os.fsync(descriptor)
    os.close(descriptor)
    assert device_traffic(pid)["rchar"] - traffic["rchar"] > size * 3 // 4
    assert (mounted / "file").read_bytes() == data
    assert (mounted.view("s") / "file").read_bytes() == bytes(reversed(data))
    # Writing the same blocks once more takes nothing.
    before = counters(mounted)
    write_at(mounted.view("s") / "file", 0, data)
    assert before["free_blocks"] - counters(mounted)["free_blocks"] < 10


def test_b3_neither_sees_the_others_later_writes(mounted) -> None:
    """B3: every kind of change, in both directions, through caches and without them."""
    top = mounted.path
    (top / "d").mkdir()
    for name in ("both", "base", "view", "d/gone", "d/stays"):
        (top / name).write_bytes(name.encode() * 3000)
    os.setxattr(top / "both", "user.who", b"origin")
    past = mounted.snapshot("s")
    for place, sign in ((top, b"base"), (past, b"view")):
        write_at(place / "both", 5000, sign, sync=False)
        os.setxattr(place / "both", "user.who", sign)
        os.chmod(place / "both", 0o600 if sign == b"base" else 0o640)
        (place / sign.decode()).unlink()
        (place / f"new in {sign.decode()}").write_bytes(sign)
    os.truncate(top / "d" / "stays", 10)
    os.rename(past / "d" / "gone", past / "moved")
    (past / "d" / "stays").unlink()
    (past / "d").rmdir()
    for _ in range(2):
        for place, sign in ((top, b"base"), (past, b"view")):
            expected = bytearray(b"both" * 3000)
            expected[5000:5004] = sign
            assert (place / "both").read_bytes() == expected
            assert os.getxattr(place / "both", "user.who") == sign
            assert (place / f"new in {sign.decode()}").read_bytes() == sign
        assert stat.S_IMODE((top / "both").stat().st_mode) == 0o600
        assert stat.S_IMODE((past / "both").stat().st_mode) == 0o640
        assert set(tree(top)) == {"both", "view", "d", "d/gone", "d/stays", "new in base"}
        assert set(tree(past)) == {"both", "base", "moved", "new in view"}
        assert (top / "d" / "gone").read_bytes() == b"d/gone" * 3000
        assert (past / "moved").read_bytes() == b"d/gone" * 3000
        mounted.remount()


def test_b4_blocks_move_names_and_offsets_do_not(mounted, inspect) -> None:
    """B4: the base maps logical places to physical ones, and changes that map."""
    data = bytearray(os.urandom(50 * BLOCK))
    write_at(mounted / "file", 0, bytes(data))
    number = (mounted / "file").stat().st_ino
    seen = []
    for round_number in range(4):
        if round_number == 2:
            mounted.snapshot("s")
        with inspect() as image:
            seen.append(image.blocks("file"))
        place = (round_number * 7 + 3) * BLOCK
        data[place : place + 2 * BLOCK] = os.urandom(2 * BLOCK)
        write_at(mounted / "file", place, bytes(data[place : place + 2 * BLOCK]))
        assert (mounted / "file").read_bytes() == data
        assert (mounted / "file").stat().st_ino == number
    with inspect() as image:
        seen.append(image.blocks("file"))
    for round_number, (before, after) in enumerate(itertools.pairwise(seen)):
        moved = [place for place in range(50) if before[place] != after[place]]
        assert moved == [round_number * 7 + 3, round_number * 7 + 4]
    assert (mounted / "file").read_bytes() == data


def test_b5_pieces_of_different_sizes_are_one_record_each(mounted, inspect) -> None:
    """B5: the size of what is preserved stands with its pointer: a run is
    one record, however long.
    """
    sizes = (1, 7, 64, 300)
    write_at(mounted / "file", 0, os.urandom(600 * BLOCK))
    mounted.snapshot("s")
    bit = listed(mounted)["s"]
    places = []
    place = 3
    for size in sizes:
        write_at(mounted / "file", place * BLOCK, os.urandom(size * BLOCK))
        places.append(place)
        place += size + 10
    with inspect() as image:
        blocks = image.blocks("file", "s")
        assert blocks == list(
            range(blocks[0], blocks[0] + 600)
        )  # written at once, on an empty volume
        found = image.runs(blocks[0], 600)
        assert found == [(place, size, {bit}) for place, size in zip(places, sizes, strict=True)]
        assert Counter(length for _, length, _ in found) == Counter(sizes)


@pytest.mark.parametrize(
    ("where", "count"),
    [(0, 1), (150, 1), (299, 1), (0, 300), (100, 100)],
    ids=["start", "middle", "end", "all", "third"],
)
def test_b6_a_write_splits_a_range_where_it_falls(where: int, count: int, mounted, inspect) -> None:
    """B6: a range of unchanged pointers is one pair; a write at its start, middle or end leaves
    exactly the rest.
    """
    old, new = os.urandom(300 * BLOCK), os.urandom(300 * BLOCK)
    write_at(mounted / "file", 0, old)
    mounted.snapshot("a")
    mounted.snapshot("b")
    bits = listed(mounted)
    both = set(bits.values())
    write_at(mounted / "file", 0, new)
    with inspect() as image:
        first = image.blocks("file", "a")[0]
        assert image.runs(first, 300) == [(0, 300, both)]
    patch = os.urandom(count * BLOCK)
    write_at(mounted.view("a") / "file", where * BLOCK, patch)
    with inspect() as image:
        pieces = [
            (0, where, both),
            (where, count, {bits["b"]}),
            (where + count, 300 - where - count, both),
        ]
        assert image.runs(first, 300) == [piece for piece in pieces if piece[1]]
    changed = old[: where * BLOCK] + patch + old[(where + count) * BLOCK :]
    assert (mounted.view("a") / "file").read_bytes() == changed
    assert (mounted.view("b") / "file").read_bytes() == old
    assert (mounted / "file").read_bytes() == new
    # The other holder lets go, too: the range is whole again, or gone where nobody needs it.
    write_at(mounted.view("b") / "file", where * BLOCK, patch)
    with inspect() as image:
        assert image.runs(first, 300) == [piece for piece in (pieces[0], pieces[2]) if piece[1]]
        image.prove_bitmaps()


# --- C: designated subsets ------------------------------------------------------------------------


def test_c5_reading_mixes_preserved_blocks_with_live_ones(mounted, inspect) -> None:
    """C5: what changed since comes from preserved blocks, the rest from those that the base still
    uses.
    """
    data = os.urandom(64 * BLOCK)
    write_at(mounted / "file", 0, data)
    mounted.snapshot("s")
    for place in range(1, 64, 2):
        write_at(mounted / "file", place * BLOCK, os.urandom(BLOCK), sync=False)
    os.truncate(mounted / "file", 60 * BLOCK)
    assert (mounted.view("s") / "file").read_bytes() == data
    with inspect() as image:
        past, base = image.blocks("file", "s"), image.blocks("file")
        assert [place for place in range(60) if past[place] == base[place]] == list(range(0, 60, 2))
        assert {image.bits(past[place]) for place in [*range(1, 60, 2), 60, 61, 62, 63]} == {
            (True, True)
        }
        assert {image.bits(past[place]) for place in range(0, 60, 2)} == {(True, False)}
    with (mounted.view("s") / "file").open("rb") as file:
        file.seek(10 * BLOCK + 100)
        assert file.read(30 * BLOCK) == data[10 * BLOCK + 100 : 40 * BLOCK + 100]
    assert (mounted.view("s") / "file").read_bytes() == data


def test_c6_snapshots_of_different_overlapping_and_equal_subsets(mounted, wait_until) -> None:
    """C6: each at its own time and of its own part, independently readable,
    writable and deletable.
    """
    top = mounted.path
    parts = {"all": "", "a": "a", "a again": "a", "ab": "a/b", "c": "c", "all again": ""}
    (top / "a" / "b").mkdir(parents=True)
    (top / "c").mkdir()
    expected: dict[str, Tree] = {}

    def change(number: int) -> None:
        for directory in ("", "a", "a/b", "c"):
            (top / directory / "counter").write_bytes(b"%d" % number * 5000)
            (top / directory / f"only {number}").write_bytes(os.urandom(3000))
            if number > 1:
                (top / directory / f"only {number - 2}").unlink()

    for number, (name, part) in enumerate(parts.items()):
        change(number)
        (top / part / ".snap" / name).mkdir()
        expected[name] = tree(top / part)
    change(len(parts))

    def prove() -> None:
        for name in expected:
            assert tree(top / parts[name] / ".snap" / name) == expected[name], name

    prove()
    mounted.remount()
    prove()
    assert {
        one: json.loads(mounted.run("snapshot", "show", top, one, "--json").stdout)["path"]
        for one in parts
    } == {name: f"/{part}" for name, part in parts.items()}
    for number, name in enumerate(parts):
        view = top / parts[name] / ".snap" / name
        (view / "counter").write_bytes(b"written in %d" % number)
        (view / "added").mkdir()
        expected[name] |= {"counter": b"written in %d" % number, "added": None}
        prove()
    for name in ("a", "all", "ab"):
        (top / parts[name] / ".snap" / name).rmdir()
        del expected[name]
        prove()
    settled(mounted, wait_until, len(expected))
    prove()
    mounted.remount()
    prove()
    for name in list(expected):
        (top / parts[name] / ".snap" / name).rmdir()
    assert settled(mounted, wait_until, 0)["snapshot_blocks"] == 0


def test_c6_each_can_be_gone_back_to(mounted) -> None:
    """C6: in any order, whatever the others cover; the others do not notice."""
    top = mounted.path
    (top / "part").mkdir()
    states: dict[str, Tree] = {}
    for number in range(4):
        (top / "file").write_bytes(b"%d" % number * 10_000)
        (top / "part" / f"in {number}").write_bytes(os.urandom(5000))
        (top / "part" / ".snap" / f"part {number}").mkdir()
        (top / ".snap" / f"all {number}").mkdir()
        states[f"all {number}"] = tree(top)
    part = {
        f"part {number}": tree(top / "part" / ".snap" / f"part {number}") for number in range(4)
    }
    for name in ("all 2", "all 0", "all 3", "all 1"):
        mounted.run("restore", top, name)
        assert tree(top) == states[name]
        for other, state in states.items():
            assert tree(mounted.view(other)) == state
        for other, state in part.items():
            assert tree(top / "part" / ".snap" / other) == state


def test_c6_and_c7_parts_go_back_alone(mounted) -> None:
    """C6, C7: snapshots of overlapping directories at different times, each restored alone; all
    else stays.
    """
    for place in ("a", "a/inner", "b"):
        (mounted / place).mkdir()
        (mounted / place / "file").write_bytes(b"first")
    (mounted / "a" / ".snap" / "outer").mkdir()
    (mounted / "a" / "inner" / "file").write_bytes(b"second")
    (mounted / "a" / "inner" / ".snap" / "inner").mkdir()
    for place in ("a", "a/inner", "b"):
        (mounted / place / "file").write_bytes(b"third")
    (mounted / "a" / "inner" / "lost").write_bytes(b"only now")
    mounted.run("restore", mounted.path, "inner")
    assert {place: (mounted / place / "file").read_bytes() for place in ("a", "a/inner", "b")} == {
        "a": b"third",
        "a/inner": b"second",
        "b": b"third",
    }
    assert not (mounted / "a" / "inner" / "lost").exists()
    mounted.run("restore", mounted.path, "outer")
    assert {place: (mounted / place / "file").read_bytes() for place in ("a", "a/inner", "b")} == {
        "a": b"first",
        "a/inner": b"first",
        "b": b"third",
    }
    assert (mounted / "a" / "inner" / ".snap" / "inner" / "file").read_bytes() == b"second"
    mounted.remount()
    assert (mounted / "a" / "inner" / ".snap" / "inner" / "file").read_bytes() == b"second"
    assert (mounted / "a" / "file").read_bytes() == b"first"


def test_c8_a_file_is_not_covered_when_it_was_stored_in_a_designated_directory(mounted) -> None:
    """C8: designated first, stored after, covered by the policy's snapshot; what is beside it is
    not.
    """
    (mounted / "album").mkdir()
    os.setxattr(mounted / "album", "user.snapfs.designate", b"nightly")
    (mounted / "album" / "new").mkdir()
    (mounted / "album" / "new" / "photo").write_bytes(b"stored after")
    (mounted / "beside").write_bytes(b"not designated")
    assert os.getxattr(mounted / "album" / "new" / "photo", "user.snapfs.designate") == b"nightly"
    mounted.run("snapshot", "create", mounted.path, "n1", "--designated", "nightly")
    (mounted / "album" / "new" / "photo").unlink()
    assert (mounted / "album" / ".snap" / "n1" / "new" / "photo").read_bytes() == b"stored after"
    mounted.remount("snapshot=n1")
    assert sorted(str(path.relative_to(mounted.path)) for path in mounted.path.rglob("*")) == [
        "album",
        "album/new",
        "album/new/photo",
    ]
