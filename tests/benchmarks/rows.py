"""What is measured on every target, the same for all: names, contents, and whole trees. Each row is
a rate: more is better.

Rows that need the same files are one scene. A scene begins in a directory of its own and leaves
nothing behind. *Cold* means that the kernel has forgotten names and pages, of the target and of the
image below it; what a daemon remembers by itself it may use.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from targets import Target

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB

PER_SECOND, MIB_PER_SECOND = "/s", "MiB/s"

#: What the kernel answers alone is over in no time: more of it gives a value that means something.
WARM_PASSES = 10

#: Seconds that a daemon is given, after the kernel has forgotten, for the requests that tell it so.
#: They are nobody's row.
SETTLING = 0.2


@dataclass(frozen=True)
class Counts:
    """How much is done for one value."""

    files: int = 2000
    tree: int = 2000
    sequential: int = 256 * MIB
    reads: int = 4000
    writes: int = 8000
    fsyncs: int = 500


QUICK = Counts(files=400, tree=400, sequential=64 * MIB, reads=1000, writes=2000, fsyncs=100)


@dataclass(frozen=True)
class Value:
    """One measurement; ``requests``: what its daemon answered for it, by kind, per operation."""

    rate: float
    requests: dict[str, float]


@dataclass
class Recorder:
    """Measures rows on one target."""

    target: Target
    values: dict[str, Value] = field(default_factory=dict)

    def time(self, row: str, count: float, work: Callable[[], object]) -> None:
        """``count``: operations, or MiB, that ``work`` does."""
        before = self.target.requests()
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        after = self.target.requests()
        kinds = {kind: (number - before.get(kind, 0)) / count for kind, number in after.items()}
        self.values[row] = Value(
            count / took, {kind: number for kind, number in kinds.items() if number}
        )


def make_cold() -> None:
    """Have the kernel forget all names and pages. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(SETTLING)


# --- scenes -------------------------------------------------------------------------------------


def names(place: Path, counts: Counts, recorder: Recorder) -> None:
    """Files in one directory: made, looked at, read, renamed, removed."""
    empty, full = place / "empty", place / "full"
    empty.mkdir()
    full.mkdir()
    count = counts.files
    empties = [os.fspath(empty / f"file-{number}") for number in range(count)]
    fulls = [os.fspath(full / f"file-{number}") for number in range(count)]
    moved = [os.fspath(full / f"moved-{number}") for number in range(count)]
    content = random.Random(0).randbytes(BLOCK)

    def create() -> None:
        for path in empties:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))

    def create_and_write() -> None:
        for path in fulls:
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
            os.write(descriptor, content)
            os.close(descriptor)

    def stat(paths: list[str], times: int = 1) -> None:
        for path in paths * times:
            os.stat(path)

    def list_and_stat() -> None:
        with os.scandir(full) as entries:
            for entry in entries:
                entry.stat()

    def read(times: int = 1) -> None:
        for path in fulls * times:
            descriptor = os.open(path, os.O_RDONLY)
            os.read(descriptor, BLOCK)
            os.close(descriptor)

    def rename() -> None:
        for old, new in zip(fulls, moved, strict=True):
            os.rename(old, new)

    def unlink() -> None:
        for path in moved:
            os.unlink(path)

    recorder.time("create", count, create)
    recorder.time("stat, first after create, empty", count, lambda: stat(empties))
    recorder.time("create+write 4 KiB", count, create_and_write)
    recorder.time("stat, first after create", count, lambda: stat(fulls))
    recorder.time("stat, second pass", count * WARM_PASSES, lambda: stat(fulls, WARM_PASSES))
    make_cold()
    recorder.time("list+stat cold", count, list_and_stat)
    make_cold()
    recorder.time("stat cold", count, lambda: stat(fulls))
    make_cold()
    recorder.time("open+read 4 KiB cold", count, read)
    recorder.time("open+read 4 KiB warm", count * WARM_PASSES, lambda: read(WARM_PASSES))
    recorder.time("rename", count, rename)
    recorder.time("unlink", count, unlink)


def contents(place: Path, counts: Counts, recorder: Recorder) -> None:
    """One large file: in order, at random, with fsync, and through a mapping."""
    dice = random.Random(1)
    chunk = dice.randbytes(MIB)
    size = counts.sequential
    blocks = size // BLOCK
    reads, writes, fsyncs = (
        [dice.randrange(blocks) * BLOCK for _ in range(number)]
        for number in (counts.reads, counts.writes, counts.fsyncs)
    )
    # Filled once: what fresh memory costs is not the filesystem's doing.
    large, small = bytearray(chunk), bytearray(chunk[:BLOCK])
    path = place / "large"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)

    def write() -> None:
        for offset in range(0, size, MIB):
            os.pwrite(descriptor, chunk, offset)
        os.fsync(descriptor)

    def read(times: int = 1) -> None:
        for offset in [*range(0, size, MIB)] * times:
            os.preadv(descriptor, [large], offset)

    def read_at_random() -> None:
        for offset in reads:
            os.preadv(descriptor, [small], offset)

    def write_at_random() -> None:
        for offset in writes:
            os.pwrite(descriptor, chunk[:BLOCK], offset)
        os.fsync(descriptor)

    def write_and_fsync() -> None:
        for offset in fsyncs:
            os.pwrite(descriptor, chunk[:BLOCK], offset)
            os.fsync(descriptor)

    def read_mapping() -> None:
        with (
            mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapping,
            memoryview(mapping) as view,
        ):
            for offset in range(0, size, MIB):
                large[:] = view[offset : offset + MIB]

    with contextlib.closing(os.fdopen(descriptor)):
        recorder.time("sequential write+fsync", size // MIB, write)
        make_cold()
        recorder.time("sequential read cold", size // MIB, read)
        recorder.time("sequential read warm", size // MIB * WARM_PASSES, lambda: read(WARM_PASSES))
        make_cold()
        recorder.time("random read 4 KiB cold", counts.reads, read_at_random)
        make_cold()
        recorder.time("mmap read cold", size // MIB, read_mapping)
        recorder.time("random write 4 KiB, one fsync", counts.writes, write_at_random)
        recorder.time("write 4 KiB + fsync each", counts.fsyncs, write_and_fsync)
    path.unlink()


def trees(place: Path, counts: Counts, recorder: Recorder) -> None:
    """A tree of small files is copied from the host's filesystem, and removed."""
    source = place.parent.parent / "source"
    if not source.exists():
        make_tree(source, counts.tree)
    read_tree(source)
    copy = place / "copy"
    recorder.time("copy a tree, files", counts.tree, lambda: shutil.copytree(source, copy))
    recorder.time("remove a tree, files", counts.tree, lambda: shutil.rmtree(copy))


def make_tree(top: Path, files: int, in_directory: int = 40) -> None:
    """Files of 1 to 16 KiB."""
    dice = random.Random(2)
    for number in range(files):
        directory = top / f"directory-{number // in_directory}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{number}").write_bytes(dice.randbytes(dice.randrange(1, 17) * KIB))


def read_tree(top: Path) -> None:
    """So that it is in the cache when it is copied."""
    for path in top.rglob("*"):
        if path.is_file():
            path.read_bytes()


@dataclass(frozen=True)
class Scene:
    """Rows, with their units, that are measured together."""

    play: Callable[[Path, Counts, Recorder], None]
    rows: dict[str, str]


SCENES = (
    Scene(
        names,
        dict.fromkeys(
            (
                "create",
                "create+write 4 KiB",
                "stat, first after create",
                "stat, first after create, empty",
                "stat, second pass",
                "list+stat cold",
                "stat cold",
                "open+read 4 KiB cold",
                "open+read 4 KiB warm",
                "rename",
                "unlink",
            ),
            PER_SECOND,
        ),
    ),
    Scene(
        contents,
        {
            "sequential write+fsync": MIB_PER_SECOND,
            "sequential read cold": MIB_PER_SECOND,
            "sequential read warm": MIB_PER_SECOND,
            "mmap read cold": MIB_PER_SECOND,
            "random read 4 KiB cold": PER_SECOND,
            "random write 4 KiB, one fsync": PER_SECOND,
            "write 4 KiB + fsync each": PER_SECOND,
        },
    ),
    Scene(trees, {"copy a tree, files": PER_SECOND, "remove a tree, files": PER_SECOND}),
)


def play(scene: Scene, target: Target, counts: Counts, number: int) -> dict[str, Value]:
    """Measure a scene's rows on a target. ``number``: of the round, for a directory that nobody
    knows yet.
    """
    place = target.path / f"{scene.play.__name__}-{number}"
    place.mkdir()
    os.sync()
    recorder = Recorder(target)
    try:
        scene.play(place, counts, recorder)
    finally:
        shutil.rmtree(place)
    return recorder.values
