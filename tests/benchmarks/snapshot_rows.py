"""What snapshots cost: against the same without a snapshot, on a volume and on one that is 20 times as large and as full.

``measure`` gives, for each row, the values of every round by column. Columns ``small`` and ``large`` are rates on the two volumes.
``small, without`` and ``large, without`` are the same work where there is no snapshot: in the base, or before one was made.
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

from snapfs.control.client import Client

#: How many times as large as the small volume the large one is, in everything.
TIMES = 20

VOLUME_SIZE = 384 * MIB
FILES, DATA = 500, 32 * MIB

#: What is read and written, in both volumes as much.
PART = 16 * MIB
RANDOM = 1500

REPEATED = 5
SNAPSHOTS = 100

#: Of the small volume: what is changed before each restore, in both volumes as much.
CHANGED_FILES, CHANGED_BLOCKS = FILES // 100, DATA // BLOCK // 100

#: Rows that are compared with the same work without a snapshot, and rows that are compared between the volumes.
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

#: Row -> column -> one value for each round.
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
    """Reads and writes in the first bytes of the large file, the same in every tree: MiB, or operations, in a second."""

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
            return PART / MIB / seconds(lambda: [os.preadv(descriptor, [buffer], offset) for offset in range(0, PART, MIB)])

    def read_small(self, tree: Path) -> float:
        make_cold()
        buffer = bytearray(self.chunk[:BLOCK])
        with opened(tree / "large") as descriptor:
            return len(self.places) / seconds(lambda: [os.preadv(descriptor, [buffer], offset) for offset in self.places])


@dataclass
class Round:
    """One round on one volume that is mounted; fills ``values``, several for each row and column, whose median counts."""

    volume: Volume
    client: Client
    number: int
    values: dict[str, dict[str, list[float]]]

    @property
    def top(self) -> Path:
        return self.volume.mount

    def keep(self, row: str, value: float, *, without: bool = False) -> None:
        column = self.volume.name + (", without" if without else "")
        self.values.setdefault(row, {}).setdefault(column, []).append(value)

    def snapshot(self, name: str) -> Path:
        path = self.top / ".snap" / name
        path.mkdir()
        return path

    def settle(self) -> None:
        """Everything is durable, and nothing waits to be freed in the background."""
        with opened(self.top / "large") as descriptor:
            os.fsync(descriptor)
        os.sync()

    def compared(self) -> None:
        """The same work without a snapshot and with one; which of them comes first changes."""
        dice = random.Random(self.number)
        work = Work(dice.randbytes(MIB), [offset * BLOCK for offset in dice.sample(range(PART // BLOCK), RANDOM)])
        for turn in range(REPEATED):
            with_first = turn % 2 == 0
            for row, write in zip(COMPARED[:2], (work.write_large, work.write_small), strict=True):
                for has_snapshot in (with_first, not with_first):
                    self.settle()
                    path = self.snapshot("before") if has_snapshot else None
                    self.keep(row, write(self.top), without=not has_snapshot)
                    if path is not None:
                        path.rmdir()
            view = self.snapshot("view")
            for row, read in zip(COMPARED[2:4], (work.read_large, work.read_small), strict=True):
                for in_view in (with_first, not with_first):
                    self.keep(row, read(view if in_view else self.top), without=not in_view)
            view.rmdir()
            for row, write in zip(COMPARED[4:], (work.write_large, work.write_small), strict=True):
                for in_view in (with_first, not with_first):
                    view = self.top
                    if in_view:
                        view = self.snapshot("view")
                    self.settle()
                    self.keep(row, write(view), without=not in_view)
                    if in_view:
                        view.rmdir()

    def change(self, turn: int) -> None:
        """As much in every volume, whatever its size."""
        dice = random.Random(f"{self.number} {turn}")
        for number in dice.sample(range(FILES), CHANGED_FILES):
            (self.top / f"directory-{number // 100}" / f"file-{number}").write_bytes(dice.randbytes(BLOCK))
        with opened(self.top / "large") as descriptor:
            for block in dice.sample(range(DATA // BLOCK), CHANGED_BLOCKS):
                os.pwrite(descriptor, dice.randbytes(BLOCK), block * BLOCK)

    def growing(self) -> None:
        made = []
        for number in range(SNAPSHOTS):
            (self.top / "directory-0" / "file-0").write_bytes(b"%d" % number)
            path = self.top / ".snap" / f"s{number}"
            self.keep("create a snapshot", 1 / seconds(path.mkdir))
            made.append(path)
        for path in made[10 : SNAPSHOTS : SNAPSHOTS // REPEATED]:
            self.settle()
            self.keep("delete 1 of 100", 1 / seconds(path.rmdir))
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
        self.snapshot("back")
        for turn in range(REPEATED):
            self.change(turn)
            self.settle()
            self.keep("restore after 1 % changed", 1 / seconds(lambda: self.client.call("restore", name="back")))
        for path in (self.top / ".snap").iterdir():
            path.rmdir()


def measure(directory: str | None, rounds: int, *, quick: bool, progress: Callable[[str], None]) -> Values:
    results: Values = {}
    times = TIMES // 5 if quick else TIMES
    with tempfile.TemporaryDirectory(prefix="snapfs-bench-", dir=directory) as place:
        progress("snapshots: two volumes are filled")
        volumes = [make(Path(place), "small", 1), make(Path(place), "large", times)]
        for number in range(rounds):
            of_round: dict[str, dict[str, list[float]]] = {}
            for volume in volumes if number % 2 == 0 else volumes[::-1]:
                progress(f"round {number + 1} of {rounds}, snapshots: {volume.name} volume")
                with mounted(volume.image, volume.mount) as client:
                    one = Round(volume, client, number, of_round)
                    one.compared()
                    one.growing()
            for turn in range(2 * REPEATED):
                for volume in volumes if turn % 2 == 0 else volumes[::-1]:
                    taken = seconds(lambda volume=volume: snapfs("mount", volume.image, volume.mount))
                    of_round.setdefault("mount", {}).setdefault(volume.name, []).append(1 / taken)
                    snapfs("umount", volume.mount)
            for row, columns in of_round.items():
                for column, values in columns.items():
                    results.setdefault(row, {}).setdefault(column, []).append(statistics.median(values))
    return {row: results[row] for row in ROWS}


def ratios(values: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Of one row: what is compared -> ratio, and its goal."""
    found = {column: statistics.median(rates) for column, rates in values.items()}
    if "small, without" not in found:
        return {"large to small": (found["large"] / found["small"], GROWTH_GOAL)}
    return {f"{name}: with to without": (found[name] / found[f"{name}, without"], VIEW_GOAL) for name in ("small", "large")}


def missed(values: Values) -> Iterator[Missed]:
    for row, columns in values.items():
        for what, (ratio, goal) in ratios(columns).items():
            if ratio < goal:
                yield Missed(row, what, ratio, goal)
