"""How much memory there is, and how much of it is left, for this machine and for the control groups
that this process is in.

A process that takes more than its group may have is ended by the kernel, with all that it keeps in
memory; so whoever keeps much asks here before. Figures are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

MEMINFO: Final = "/proc/meminfo"
MEMBERSHIP: Final = "/proc/self/cgroup"
GROUPS: Final = "/sys/fs/cgroup"

#: Limits from here on are none: what cgroup v1 shows for "unlimited" is near 2^63.
_UNLIMITED: Final = 1 << 60


@dataclass(frozen=True)
class _Interface:
    """What the files of a memory controller are called, and what of its statistics the kernel would
    give up for others.
    """

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


_V1: Final = _Interface(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_V2: Final = _Interface("memory.max", "memory.current", ("inactive_file", "active_file"))


def total() -> int:
    """Memory and swap that this process could have if it were alone."""
    figures = _figures(MEMINFO)
    whole = 1024 * (figures.get("MemTotal", 0) + figures.get("SwapTotal", 0))
    return min([whole, *(limit for _, _, limit in _groups())])


def available() -> int:
    """Memory and swap that this process can still take without anything being ended for it, as far
    as the kernel knows.
    """
    figures = _figures(MEMINFO)
    left = [1024 * (figures.get("MemAvailable", 0) + figures.get("SwapFree", 0))]
    for place, names, limit in _groups():
        usage = _number(f"{place}/{names.usage}")
        if usage is not None:
            statistics = _figures(f"{place}/memory.stat")
            left.append(limit - usage + sum(statistics.get(name, 0) for name in names.reclaimable))
    return max(0, min(left))


def _groups() -> Iterator[tuple[str, _Interface, int]]:
    """The directories of this process's control groups, up to the root, that have a limit of
    memory, and that limit.
    """
    try:
        with open(MEMBERSHIP, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (f"{GROUPS}/memory", _V1) if controllers else (GROUPS, _V2)
        for above in (path, *map(str, PurePosixPath(path).parents)):
            place = root + above.rstrip("/")
            limit = _number(f"{place}/{names.limit}")
            if limit is not None and limit < _UNLIMITED:
                yield place, names, limit


def _figures(path: str) -> dict[str, int]:
    """Lines of a name and a number. Empty when there is no such file."""
    out: dict[str, int] = {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                name, *rest = line.replace(":", " ", 1).split()
                if rest and rest[0].isdecimal():
                    out[name] = int(rest[0])
    except OSError:
        return {}
    return out


def _number(path: str) -> int | None:
    """The number in a file; None when there is none, as for "max"."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
