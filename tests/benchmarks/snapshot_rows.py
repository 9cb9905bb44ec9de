"""What snapshots cost: against the same without a snapshot, on a volume and on one that is 20 times
as large and as full.

``measure`` gives, for each row, all values by column. Columns ``small`` and ``large`` are rates on
the two volumes. ``small, without`` and ``large, without`` are the same work where there is no
snapshot: in the base, or before one was made. What is compared was measured one after the other and
has the same place in its column: ratios are medians of such pairs, which a slower minute of the
machine does not spoil.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from goals import GROWTH_GOAL, VIEW_GOAL, Missed
from rows import BLOCK, MIB, make_cold
from targets import mounted, snapfs

from snapfs.control.socket.client import Client

#: How many times as large as the small volume the large one is, in everything.
TIMES = 20

VOLUME_SIZE = 384 * MIB
FILES, DATA = 500, 32 * MIB

#: What is read and written, in both volumes as much.
PART = 32 * MIB
RANDOM = 2000

#: How often in each round.
REPEATED = 7
SNAPSHOTS, DELETED = 100, 20

#: Of the small volume: what is changed before each restore, in both volumes as much.
CHANGED_FILES, CHANGED_BLOCKS = FILES // 100, DATA // BLOCK // 100

#: Rows that are compared with the same work without a snapshot, and rows that are compared between
#: the volumes.
COMPARED = (
    "overwrite 1 MiB after a snapshot, MiB",
    "overwrite 4 KiB after a snapshot",
    "read 1 MiB in a view cold, MiB",
    "read 4 KiB in a view cold",
    "write 1 MiB in a view, MiB",
    "write 4 KiB in a view",
)
GROWING = ("create a snapshot", "delete 1 of 100", "restore after 1 % changed", "mount")
ROWS = (*COMPARED, *GROWING)

#: Row -> column -> values.
Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Volume:
    """``data``: bytes in its one large file."""

    name: str
    image: Path
    mount: Path
    data: int


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make(place: Path, name: str, times: int) -> Volume:
    """A volume with files in it."""
    image, mount = place / f"{name}.img", place / name
    mount.mkdir()
    volume = Volume(name, image, mount, DATA * times)
    snapfs("mkfs", image, "--size", str(VOLUME_SIZE * times))
    dice = random.Random(1)
    with mounted(image, mount):
        with (mount / "large").open("wb") as file:
            for _ in range(volume.data // MIB):
                file.write(dice.randbytes(MIB))
        for number in range(FILES * times):
            directory = mount / f"directory-{number // 100}"
            directory.mkdir(exist_ok=True)
            (directory / f"file-{number}").write_bytes(dice.randbytes(BLOCK))
    return volume


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass
class Work:
    """Reads and writes in the first bytes of the large file, the same in every tree: MiB, or
    operations, in a second.
    """

    chunk: bytes
    places: list[int]

    def write_large(self, tree: Path) -> float:
        with opened(tree / "large") as descriptor:

            def write() -> None:
                for offset in range(0, PART, MIB):
                    os.pwrite(descriptor, self.chunk, offset)
                os.fsync(descriptor)

            return PART / MIB / seconds(write)

    def write_small(self, tree: Path) -> float:
        with opened(tree / "large") as descriptor:

            def write() -> None:
                for offset in self.places:
                    os.pwrite(descriptor, self.chunk[:BLOCK], offset)
                os.fsync(descriptor)

            return len(self.places) / seconds(write)

    def read_large(self, tree: Path) -> float:
        make_cold()
        buffer = bytearray(self.chunk)
        with opened(tree / "large") as descriptor:
            return (
                PART
                / MIB
                / seconds(
                    lambda: [
                        os.preadv(descriptor, [buffer], offset) for offset in range(0, PART, MIB)
                    ]
                )
            )

    def read_small(self, tree: Path) -> float:
        make_cold()
        buffer = bytearray(self.chunk[:BLOCK])
        with opened(tree / "large") as descriptor:
            return len(self.places) / seconds(
                lambda: [os.preadv(descriptor, [buffer], offset) for offset in self.places]
            )


@dataclass
class Round:
    """One round on one volume that is mounted; fills ``values``."""

    volume: Volume
    client: Client
    number: int
    values: Values

    @property
    def top(self) -> Path:
        return self.volume.mount

    @property
    def snapshots(self) -> Path:
        return self.volume.mount / ".snap"

    def keep(self, row: str, value: float, *, without: bool = False) -> None:
        column = self.volume.name + (", without" if without else "")
        self.values.setdefault(row, {}).setdefault(column, []).append(value)

    def settle(self) -> None:
        """Everything is durable, and nothing is left to be freed in the background."""
        with opened(self.top / "large") as descriptor:
            os.fsync(descriptor)
        while self.client.call("df")["volume"]["leaving"]:
            time.sleep(0.01)
        os.sync()

    @contextlib.contextmanager
    def one_snapshot(self, wanted: bool = True) -> Iterator[Path]:
        """Where to work: in a new snapshot, or in the base without one. It is gone afterwards, with
        all that was only in it.
        """
        path = self.snapshots / "one"
        if wanted:
            path.mkdir()
        self.settle()
        yield path if wanted else self.top
        if wanted:
            path.rmdir()
        self.settle()

    def compared(self, turn: int) -> None:
        """The same work with a snapshot and without one; which of them comes first changes."""
        dice = random.Random(f"{self.number} {turn}")
        work = Work(
            dice.randbytes(MIB),
            [block * BLOCK for block in dice.sample(range(PART // BLOCK), RANDOM)],
        )
        order = (True, False) if turn % 2 else (False, True)
        writes, reads = (work.write_large, work.write_small), (work.read_large, work.read_small)
        for has_snapshot in order:
            for row, write in zip(COMPARED[:2], writes, strict=True):
                with self.one_snapshot(has_snapshot):
                    self.keep(row, write(self.top), without=not has_snapshot)
            for row, write in zip(COMPARED[4:], writes, strict=True):
                with self.one_snapshot(has_snapshot) as tree:
                    self.keep(row, write(tree), without=not has_snapshot)
        with self.one_snapshot() as view:
            for in_view in order:
                for row, read in zip(COMPARED[2:4], reads, strict=True):
                    self.keep(row, read(view if in_view else self.top), without=not in_view)

    def create(self, turn: int) -> None:
        (self.top / "directory-0" / "file-0").write_bytes(b"%d" % turn)
        self.keep("create a snapshot", 1 / seconds((self.snapshots / f"s{turn}").mkdir))

    def delete(self, turn: int) -> None:
        """Each is somewhere in the middle."""
        self.settle()
        self.keep(
            "delete 1 of 100",
            1 / seconds((self.snapshots / f"s{10 + turn * SNAPSHOTS // DELETED * 4 // 5}").rmdir),
        )

    def restore(self, turn: int) -> None:
        """After as much was changed in every volume, whatever its size."""
        dice = random.Random(f"{self.number} {turn}")
        for number in dice.sample(range(FILES), CHANGED_FILES):
            (self.top / f"directory-{number // 100}" / f"file-{number}").write_bytes(
                dice.randbytes(BLOCK)
            )
        with opened(self.top / "large") as descriptor:
            for block in dice.sample(range(DATA // BLOCK), CHANGED_BLOCKS):
                os.pwrite(descriptor, dice.randbytes(BLOCK), block * BLOCK)
        self.settle()
        self.keep(
            "restore after 1 % changed",
            1 / seconds(lambda: self.client.call("restore", name="back")),
        )

    def mount_and_unmount(self) -> None:
        self.keep(
            "mount", 1 / seconds(lambda: snapfs("mount", self.volume.image, self.volume.mount))
        )
        snapfs("umount", self.volume.mount)

    def clear(self) -> None:
        for path in self.snapshots.iterdir():
            path.rmdir()
        self.settle()


def in_turns(rounds: list[Round], times: int, work: Callable[[Round, int], None]) -> None:
    """On both volumes, next to each other in time; which of them comes first changes."""
    for turn in range(times):
        for one in rounds if turn % 2 else rounds[::-1]:
            work(one, turn)


def measure(
    directory: str | None, number_of_rounds: int, *, quick: bool, progress: Callable[[str], None]
) -> Values:
    values: Values = {}
    times = TIMES // 5 if quick else TIMES
    with tempfile.TemporaryDirectory(prefix="snapfs-bench-", dir=directory) as place:
        progress("snapshots: two volumes are filled")
        volumes = [make(Path(place), "small", 1), make(Path(place), "large", times)]
        for number in range(number_of_rounds):
            progress(f"round {number + 1} of {number_of_rounds}, snapshots")
            with contextlib.ExitStack() as stack:
                rounds = [
                    Round(one, stack.enter_context(mounted(one.image, one.mount)), number, values)
                    for one in volumes
                ]
                in_turns(rounds, REPEATED, Round.compared)
                in_turns(rounds, SNAPSHOTS, Round.create)
                in_turns(rounds, DELETED, Round.delete)
                for one in rounds:
                    one.clear()
                    (one.snapshots / "back").mkdir()
                in_turns(rounds, REPEATED, Round.restore)
                for one in rounds:
                    one.clear()
            in_turns(rounds, REPEATED, lambda one, _: one.mount_and_unmount())
    return {row: values[row] for row in ROWS}


def ratio(values: dict[str, list[float]], of: str, to: str) -> float:
    """Of two columns of a row."""
    return statistics.median(one / other for one, other in zip(values[of], values[to], strict=True))


def ratios(values: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Of one row: what is compared -> ratio, and its goal."""
    if "small, without" not in values:
        return {"large to small": (ratio(values, "large", "small"), GROWTH_GOAL)}
    return {
        f"{name}: with to without": (ratio(values, name, f"{name}, without"), VIEW_GOAL)
        for name in ("small", "large")
    }


def missed(values: Values) -> Iterator[Missed]:
    for row, columns in values.items():
        for what, (found, goal) in ratios(columns).items():
            if found < goal:
                yield Missed(row, what, found, goal)
