"""What each row is to reach, as a ratio, and which rows do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Rows of real work, in which the filesystem that stores nothing is to be no faster.
_WORK = (
    "create",
    "create+write 4 KiB",
    "rename",
    "unlink",
    "open+read 4 KiB cold",
    "open+read 4 KiB warm",
    "random write 4 KiB, one fsync",
    "copy a tree, files",
    "remove a tree, files",
)

#: Closing a file makes the kernel ask for its attributes again where it writes back (fuse_flush in
#: fs/fuse/file.c); where it does not, only writing does. What was not written is then remembered,
#: by those who have no writeback cache: not compared.
_ANOTHER_MATTER = "stat, first after create, empty"

_TWICE = ("sequential", "random", "fsync")


def goal(row: str, target: str) -> float | None:
    """The least ratio of snapfs to a target; None where nothing is promised."""
    if row == _ANOTHER_MATTER:
        return None
    match target:
        case "empty":
            return 1.0 if row in _WORK else None
        case "bindfs":
            return 1.0
        case "zfs-fuse":
            return 2.0 if any(word in row for word in _TWICE) else 1.0
        case "s3ql":
            return 2.5
        case "host":
            return {
                "sequential write+fsync": 0.8,
                "sequential read cold": 0.6,
                "random read 4 KiB cold": 0.5,
            }.get(row)
        case "btrfs":
            return {
                "stat, second pass": 0.9,
                "sequential read warm": 0.9,
                "write 4 KiB + fsync each": 1.0,
            }.get(row)
    return None


#: Of a snapshot to the same without one; of a large volume to a small one.
VIEW_GOAL = 0.95
GROWTH_GOAL = 0.9

#: MiB resident after 100,000 files were touched; bytes written for each byte of large writes.
MEMORY_GOAL = 120.0
AMPLIFICATION_GOAL = 1.1


#: Two medians of the very same thing differ by so much: the kernel alone answers some rows.
NOISE = 0.03


@dataclass(frozen=True)
class Missed:
    """A row below its goal; for memory and write amplification, above it."""

    row: str
    against: str
    found: float
    wanted: float

    @property
    def mark(self) -> str:
        """In tables."""
        return "~" if abs(self.found / self.wanted - 1) <= NOISE else "*"

    def __str__(self) -> str:
        return f"{self.row}: {self.found:.2f}, {self.against}; wanted: {self.wanted:g}"


def mark(row: str, found: float, wanted: float | None) -> str:
    """What stands beside a ratio in tables and in the picture."""
    return Missed(row, "", found, wanted).mark if wanted is not None and found < wanted else ""


def missed(medians: dict[str, dict[str, float]]) -> Iterator[Missed]:
    """``medians``: row -> target -> rate."""
    for row, rates in medians.items():
        for target, rate in rates.items():
            wanted = goal(row, target)
            if wanted is not None and "snapfs" in rates and rates["snapfs"] / rate < wanted:
                yield Missed(row, f"of {target}", rates["snapfs"] / rate, wanted)
