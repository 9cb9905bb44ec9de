"""Measures snapfs against the empty filesystem beside this file, in the same run, on the same machine, in turns.

Prints one table: the median of each measurement for both, and the ratio. A ratio above 1 means that snapfs is faster; it also does
what the other does not: store. ``--json`` prints the numbers, every round of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FILES = 1000
CHUNK = 1 << 20
SEQUENTIAL = 64 << 20
RANDOM_WRITES = 2000
SNAPSHOTS = 20

#: Values of one round: name -> (value, unit). Always a rate or a number of which more is better, except milliseconds.
Values = dict[str, tuple[float, str]]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def drop_caches() -> bool:
    """Forget names and pages, so that what follows reaches the daemon. Needs root."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def measure(mount: Path, number: int) -> Values:
    """One round on a mount."""
    values: Values = {}
    place = mount / f"round-{number}"
    place.mkdir()
    names = [place / f"file-{index}" for index in range(FILES)]

    def create() -> None:
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))

    def stat() -> None:
        for name in names:
            os.stat(name)

    values["create + close"] = FILES / timed(create), "/s"
    if drop_caches():
        values["stat, cold"] = FILES / timed(stat), "/s"
    values["stat, warm"] = FILES / timed(stat), "/s"

    chunk = random.Random(number).randbytes(CHUNK)
    big = os.open(place / "big", os.O_CREAT | os.O_RDWR, 0o644)

    def write() -> None:
        for offset in range(0, SEQUENTIAL, CHUNK):
            os.pwrite(big, chunk, offset)
        os.fsync(big)

    def read() -> None:
        for offset in range(0, SEQUENTIAL, CHUNK):
            os.pread(big, CHUNK, offset)

    def scatter() -> None:
        dice = random.Random(number)
        for _ in range(RANDOM_WRITES):
            os.pwrite(big, chunk[:4096], dice.randrange(SEQUENTIAL // 4096) * 4096)
        os.fsync(big)

    values["write 1 MiB, fsync"] = (SEQUENTIAL >> 20) / timed(write), "MiB/s"
    os.posix_fadvise(big, 0, 0, os.POSIX_FADV_DONTNEED)
    values["read 1 MiB"] = (SEQUENTIAL >> 20) / timed(read), "MiB/s"
    values["write 4 KiB random, fsync"] = RANDOM_WRITES / timed(scatter), "/s"
    os.close(big)

    def delete() -> None:
        for name in names:
            os.unlink(name)

    values["unlink"] = FILES / timed(delete), "/s"
    os.unlink(place / "big")
    return values


def measure_snapshots(mount: Path, number: int) -> Values:
    """What the other filesystem does not have."""
    paths = [mount / ".snap" / f"bench-{number}-{index}" for index in range(SNAPSHOTS)]
    seconds = [timed(path.mkdir) for path in paths]
    for path in paths:
        path.rmdir()
    return {"snapshot create": (statistics.median(seconds) * 1000, "ms")}


@contextlib.contextmanager
def snapfs_mount(place: Path) -> Iterator[Path]:
    image, mount = place / "bench.img", place / "snapfs"
    mount.mkdir()
    command = [sys.executable, "-m", "snapfs.cli"]
    subprocess.run([*command, "mkfs", str(image), "--size", "4G"], check=True)
    subprocess.run([*command, "mount", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run([*command, "umount", str(mount)], check=True)


@contextlib.contextmanager
def empty_mount(place: Path) -> Iterator[Path]:
    mount = place / "empty"
    mount.mkdir()
    script = Path(__file__).with_name("empty_filesystem.py")
    with subprocess.Popen([sys.executable, script, mount], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("bench: the empty filesystem did not mount")
        try:
            yield mount
        finally:
            subprocess.run(["fusermount3", "-u", str(mount)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {"snapfs": {}, "empty": {}}
    units: dict[str, str] = {}

    def keep(side: str, values: Values) -> None:
        for name, (value, unit) in values.items():
            units[name] = unit
            results[side].setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory(prefix="snapfs-bench-") as directory:
        place = Path(directory)
        with snapfs_mount(place) as ours, empty_mount(place) as empty:
            for number in range(arguments.rounds):
                keep("snapfs", measure(ours, number))
                keep("empty", measure(empty, number))
                keep("snapfs", measure_snapshots(ours, number))
    if arguments.json:
        print(json.dumps({"rounds": arguments.rounds, "units": units, "results": results}, indent=2))
        return 0
    print(f"{'median of ' + str(arguments.rounds) + ' rounds':<28}{'snapfs':>12}{'empty':>12}   {'unit':<6}{'ratio':>6}")
    for name, unit in units.items():
        mine = statistics.median(results["snapfs"][name])
        others = results["empty"].get(name)
        other = statistics.median(others) if others else None
        yardstick, ratio = (f"{other:,.1f}", f"{mine / other:.2f}") if other else ("-", "-")
        print(f"{name:<28}{mine:>12,.1f}{yardstick:>12}   {unit:<6}{ratio:>6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
