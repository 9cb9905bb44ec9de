"""Who uses a mount, and where else its filesystem is mounted, as far as this process may look: from
``/proc`` and ``/sys`` alone.

Nothing is asked of the filesystem itself, whose daemon may hang or have ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from snapfs.device import mountinfo
from snapfs.device.mountinfo import Mount

#: What of a process leads to a place, and how that is called.
_PLACES: Final = (("cwd", "working directory"), ("root", "root directory"), ("exe", "its program"))


@dataclass(frozen=True)
class User:
    """A process, and how it uses the mount."""

    pid: int
    command: str
    how: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}: {self.how})"


def users(mount: Mount, but: Collection[int] = ()) -> list[str]:
    """Who uses this mount, in words: processes, besides those and their children, what is mounted
    in it, and loop devices over its files.

    Of a process of somebody else's an ordinary user is told nothing.
    """
    found = [str(user) for user in _processes(mount, but)]
    found += [
        f"the mount of {each.source} ({each.fstype}) on {each.path}"
        for each in mountinfo.mounts()
        if each.parent == mount.id
    ]
    return found + [f"loop device {name}" for name in _loops(mount)]


def elsewhere(mount: Mount) -> str | None:
    """Where the filesystem of a mount is mounted besides, in words: as this process sees it, or one
    that has other mounts.
    """
    found = _same(mount, mountinfo.mounts())
    if found:
        return f"on {found[-1].path}"
    seen = {_namespace("self")}
    for pid in _pids():
        try:
            namespace = _namespace(pid)
            if namespace in seen:
                continue
            found = _same(mount, mountinfo.mounts(pid))
        except OSError:  # has ended, or is another user's
            continue
        seen.add(namespace)
        if found:
            return f"on {found[-1].path} as process {pid} ({_command(pid)}) sees it"
    return None


def _same(mount: Mount, mounts: list[Mount]) -> list[Mount]:
    # The number alone could be another filesystem's by now.
    return [
        each
        for each in mounts
        if (each.device, each.fstype, each.source) == (mount.device, mount.fstype, mount.source)
    ]


def _processes(mount: Mount, but: Collection[int]) -> Iterator[User]:
    for pid in _pids():
        if pid == os.getpid() or pid in but or _parent(pid) in but:
            continue
        how = next(
            (
                how
                for look in (_by_place, _by_file, _by_map)
                if (how := _tried(look, pid, mount)) is not None
            ),
            None,
        )
        if how is not None:
            yield User(pid, _command(pid), how)


def _tried(look: Callable[[int, Mount], str | None], pid: int, mount: Mount) -> str | None:
    try:
        return look(pid, mount)
    except OSError:  # has ended, or is another user's
        return None


def _by_place(pid: int, mount: Mount) -> str | None:
    for name, how in _PLACES:
        # A link of /proc leads there without a walk, so that nobody is asked.
        place = os.open(f"/proc/{pid}/{name}", os.O_PATH | os.O_CLOEXEC)
        try:
            if mountinfo.mount_number(place) == mount.id:
                return how
        finally:
            os.close(place)
    return None


def _by_file(pid: int, mount: Mount) -> str | None:
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            if mountinfo.mount_number(int(name), pid) == mount.id:
                return "an open file"
        except FileNotFoundError:  # closed meanwhile
            continue
    return None


def _by_map(pid: int, mount: Mount) -> str | None:
    device = f"{os.major(mount.device):02x}:{os.minor(mount.device):02x}".encode()
    with open(f"/proc/{pid}/maps", "rb") as file:
        return (
            "a file in its memory"
            if any(line.split(None, 5)[3] == device for line in file)
            else None
        )


def _loops(mount: Mount) -> Iterator[str]:
    for place in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if os.path.commonpath([place.read_text().rstrip("\n"), mount.path]) == mount.path:
                yield place.parts[3]
        except (OSError, ValueError):  # detached meanwhile; or a path that is not one any more
            continue


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _namespace(pid: int | str) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return "has ended"
