"""What snapfs takes: memory for files that were touched, and bytes written to the image for each
byte that a user wrote.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from goals import AMPLIFICATION_GOAL, MEMORY_GOAL, Missed
from rows import BLOCK, MIB
from targets import IMAGE_SIZE, mounted, snapfs

FILES = 100_000
IN_DIRECTORY = 1000
LARGE = 256 * MIB
SMALL = 2000


def memory_row(files: int) -> str:
    return f"resident memory after {files:,} files, MiB"


MEMORY = memory_row(FILES)
AMPLIFICATIONS = (
    "bytes written per byte: 1 MiB in order, one fsync",
    "bytes written per byte: 4 KiB at random, one fsync",
    "bytes written per byte: 4 KiB at random, fsync each",
)
ROWS = (MEMORY, *AMPLIFICATIONS)


def resident(pid: int) -> float:
    """MiB."""
    return next(
        int(line.split()[1]) / 1024 for line in status(pid, "status") if line.startswith("VmRSS:")
    )


def written(pid: int) -> int:
    """Bytes that a process has written: to the image, and some for each reply to the kernel.

    ``write_bytes`` would be those to storage alone, but counts a whole folio of the page cache for
    each block that is written in it.
    """
    return next(int(line.split()[1]) for line in status(pid, "io") if line.startswith("wchar:"))


def status(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def memory(mount: Path, pid: int, files: int) -> tuple[float, float]:
    """MiB before, and after so many files were made, listed and looked at."""
    before = resident(pid)
    for start in range(0, files, IN_DIRECTORY):
        directory = mount / f"directory-{start}"
        directory.mkdir()
        for number in range(start, min(start + IN_DIRECTORY, files)):
            os.close(os.open(directory / f"file-{number}", os.O_CREAT | os.O_WRONLY, 0o644))
    for start in range(0, files, IN_DIRECTORY):
        with os.scandir(mount / f"directory-{start}") as entries:
            for entry in entries:
                entry.stat()
    return before, resident(pid)


def amplification(mount: Path, pid: int, large: int, small: int) -> Iterator[float]:
    """In the order of ``AMPLIFICATIONS``."""
    dice = random.Random(1)
    chunk = dice.randbytes(MIB)
    descriptor = os.open(mount / "large", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        before = written(pid)
        for offset in range(0, large, MIB):
            os.pwrite(descriptor, chunk, offset)
        os.fsync(descriptor)
        yield (written(pid) - before) / large
        for each in (False, True):
            offsets = [
                place * BLOCK
                for place in dice.sample(range(large // BLOCK), small // (4 if each else 1))
            ]
            before = written(pid)
            for offset in offsets:
                os.pwrite(descriptor, chunk[:BLOCK], offset)
                if each:
                    os.fsync(descriptor)
            os.fsync(descriptor)
            yield (written(pid) - before) / (len(offsets) * BLOCK)
    finally:
        os.close(descriptor)


def measure(
    directory: str | None, *, quick: bool, progress: Callable[[str], None]
) -> dict[str, float]:
    files = FILES // 10 if quick else FILES
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="snapfs-bench-", dir=directory) as place:
        image, mount = Path(place) / "volume.img", Path(place) / "mount"
        mount.mkdir()
        snapfs("mkfs", image, "--size", str(IMAGE_SIZE))
        with mounted(image, mount) as client:
            progress("bytes written")
            found |= zip(
                AMPLIFICATIONS,
                amplification(mount, client.pid, LARGE // (4 if quick else 1), SMALL),
                strict=True,
            )
        with mounted(image, mount) as client:
            progress(f"memory: {files:,} files are made")
            found["resident memory after mounting, MiB"], found[memory_row(files)] = memory(
                mount, client.pid, files
            )
    return found


def missed(found: dict[str, float]) -> Iterator[Missed]:
    for row, goal in ((MEMORY, MEMORY_GOAL), (AMPLIFICATIONS[0], AMPLIFICATION_GOAL)):
        if row in found and found[row] > goal:
            yield Missed(row, "at most", found[row], goal)
