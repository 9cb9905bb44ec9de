"""What a full copy costs those who write meanwhile: nothing running, and a copy at several rates,
in the same run, in turns.

Two volumes with the same data: one with three times as much free space, and one that is 90 % full.
Of the full one the old files are deleted as soon as the copy has begun, and what was free is
filled: everything that is written goes where the copy still needs what was, so that it is copied
before. Every measurement has a volume and a copy of its own, on the same disk, and begins when the
copy behind does.

Prints one table: each row is the median of its rounds, and ``ratio`` compares its speed with that
of no copy. ``during`` is what was copied while it was measured: at rate 0 only what those who wrote
were about to destroy. ``left`` is what was still to be copied at the end: where that is 0, the copy
ran for a part of the measurement only. The load of the machine before and after stands below:
measured beside other work, latencies are those of waiting for a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20

#: Of the copy; None: there is none.
RATES: tuple[str | None, ...] = (None, "0", "50M", "200M", "max")

#: Name of a volume -> how many times as large as its data it is.
VOLUMES = {"roomy": 4.0, "90 % full": 1 / 0.9}

#: Of the data: files that are deleted, and a part that is overwritten at random.
OLD_FILE = 4 * MIB
SHARE_OVERWRITTEN = 8

#: How long writes and their fsyncs are measured: a copy of the default size without a limit takes
#: about as long.
SCATTERED_SECONDS = 3.0


#: Writes to a mount whose volume has so much data; returns operations a second, and the seconds of
#: each.
Workload = Callable[[Path, int], tuple[float, list[float]]]


@dataclass(frozen=True)
class Round:
    """One measurement: MiB or writes in a second; latencies in milliseconds; what was copied in
    MiB.
    """

    speed: float
    p50: float
    p99: float
    longest: float
    during: float
    left: float


def snapfs(*arguments: str | Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "snapfs.cli", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def status(mount: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(snapfs("copy", "status", mount, "--json"))
    return found


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def make_volume(image: Path, mount: Path, size: int, data: int) -> None:
    """A volume with so much data in it, all of it old."""
    snapfs("mkfs", image, "--size", str(size))
    snapfs("mount", image, mount)
    dice = random.Random(1)
    with (mount / "overwritten").open("wb") as file:
        for _ in range(data // SHARE_OVERWRITTEN // MIB):
            file.write(dice.randbytes(MIB))
    (mount / "old").mkdir()
    for number in range((data - data // SHARE_OVERWRITTEN) // OLD_FILE):
        (mount / "old" / str(number)).write_bytes(dice.randbytes(OLD_FILE))
    snapfs("umount", mount)


def fill(path: Path, length: int) -> None:
    chunk = random.Random(2).randbytes(MIB)
    with path.open("wb") as file:
        for _ in range(length // MIB):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


# --- workloads ------------------------------------------------------------------------------------


def sequential(mount: Path, data: int) -> tuple[float, list[float]]:
    """Writes of 1 MiB to a new file, then fsync: MiB/s, the fsync included."""
    chunk = random.Random(3).randbytes(MIB)
    count = data // 2 // MIB
    descriptor = os.open(mount / "new", os.O_CREAT | os.O_WRONLY, 0o644)
    seconds = [
        timed(lambda offset=number * MIB: os.pwrite(descriptor, chunk, offset))
        for number in range(count)
    ]
    last = timed(lambda: os.fsync(descriptor))
    os.close(descriptor)
    return count / (sum(seconds) + last), seconds


def scattered(mount: Path, data: int) -> tuple[float, list[float]]:
    """Writes of 4 KiB into an old file, each with its fsync, for some seconds: pairs a second."""
    dice = random.Random(4)
    chunk = dice.randbytes(4096)
    descriptor = os.open(mount / "overwritten", os.O_WRONLY)
    blocks = data // SHARE_OVERWRITTEN // 4096

    def write() -> None:
        os.pwrite(descriptor, chunk, dice.randrange(blocks) * 4096)
        os.fsync(descriptor)

    seconds: list[float] = []
    end = time.monotonic() + SCATTERED_SECONDS
    while time.monotonic() < end:
        seconds.append(timed(write))
    os.close(descriptor)
    return len(seconds) / sum(seconds), seconds


WORKLOADS: dict[str, tuple[str, Workload]] = {
    "1 MiB in order": ("MiB/s", sequential),
    "4 KiB + fsync": ("/s", scattered),
}


#: All that is measured.
ROWS = [(volume, workload, rate) for volume in VOLUMES for workload in WORKLOADS for rate in RATES]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(
    prepared: Path, place: Path, copies: Path, rate: str | None, workload: Workload, data: int
) -> Round:
    image, target, mount = place / "volume.img", copies / "copy.img", place / "mount"
    subprocess.run(["cp", "--sparse=always", prepared, image], check=True)
    fsync(image)
    snapfs("mount", image, mount)
    try:
        free = os.statvfs(mount)
        if rate is not None:
            snapfs("copy", mount, target, "--rate", "0")
        if free.f_bfree < free.f_blocks // 2:
            for path in (mount / "old").iterdir():
                path.unlink()
            fsync(mount / "old")
            fill(mount / "filling", free.f_bavail * free.f_frsize)
        before = status(mount)["copied"] if rate is not None else 0
        if rate not in (None, "0"):
            snapfs("copy", "resume", mount, "--rate", rate)
        done, seconds = workload(mount, data)
        after = status(mount) if rate is not None else {"copied": 0, "total": 0}
        if rate is not None and after["state"] not in ("copying", "complete"):
            raise SystemExit(f"copying: the copy is {after['state']}: {after['reason']}")
    finally:
        snapfs("umount", mount)
        target.unlink(missing_ok=True)
    ranks = sorted(second * 1000 for second in seconds)
    p99 = ranks[int(len(ranks) * 0.99)]
    left = after["total"] - after["copied"]
    return Round(
        done, statistics.median(ranks), p99, ranks[-1], (after["copied"] - before) / MIB, left / MIB
    )


def table(results: dict[str, list[Round]], rounds: int) -> None:
    head = ("copy", "speed", "unit", "ratio", "p50 ms", "p99 ms", "max ms", "during", "left MiB")
    print(f"{f'median of {rounds} rounds':<28}" + "".join(f"{word:>10}" for word in head))
    for volume, workload, rate in ROWS:
        rows = [asdict(one) for one in results[key(volume, workload, rate)]]
        found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        none = statistics.median(one.speed for one in results[key(volume, workload, None)])
        print(
            f"{volume + ', ' + workload:<28}{rate or 'none':>10}"
            f"{found['speed']:>10,.1f}{WORKLOADS[workload][0]:>10}"
            f"{found['speed'] / none:>10.2f}{found['p50']:>10.2f}"
            f"{found['p99']:>10.2f}{found['longest']:>10.1f}"
            f"{found['during']:>10.1f}{found['left']:>10.1f}"
        )


def key(volume: str, workload: str, rate: str | None) -> str:
    return f"{volume}, {workload}, copy {rate or 'none'}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every round there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--size", type=int, default=1024, metavar="MIB", help="data in each volume (default 1024)"
    )
    parser.add_argument(
        "--directory", help="where images are made (default: where temporary files are)"
    )
    parser.add_argument(
        "--copies",
        metavar="DIRECTORY",
        help="where copies go (default: beside the images, on the same disk)",
    )
    arguments = parser.parse_args()
    data = arguments.size * MIB
    results: dict[str, list[Round]] = {}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="snapfs-bench-", dir=arguments.directory) as directory:
        place = Path(directory)
        (place / "mount").mkdir()
        prepared = {name: place / f"{number}.img" for number, name in enumerate(VOLUMES)}
        for name, image in prepared.items():
            make_volume(image, place / "mount", int(data * VOLUMES[name]), data)
        for number in range(arguments.rounds):
            # Every round begins with another row: what a row gets from the one before is not always
            # the same.
            turn = number * len(ROWS) // arguments.rounds
            for volume, workload, rate in ROWS[turn:] + ROWS[:turn]:
                one = measure(
                    prepared[volume],
                    place,
                    Path(arguments.copies or place),
                    rate,
                    WORKLOADS[workload][1],
                    data,
                )
                results.setdefault(key(volume, workload, rate), []).append(one)
    load.append(os.getloadavg()[0])
    table(results, arguments.rounds)
    print(f"load of the machine: {load[0]:.1f} before, {load[1]:.1f} after")
    if arguments.json:
        every = {name: [asdict(one) for one in found] for name, found in results.items()}
        document = {
            "rounds": arguments.rounds,
            "data_mib": arguments.size,
            "load": load,
            "results": every,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
