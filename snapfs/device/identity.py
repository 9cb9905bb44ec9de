"""Who this process is, for other processes and other hosts: its machine, the machine's boot, its
number, its command.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from typing import Final

from snapfs.device.in_use import command_of

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_MACHINE_ID: Final = "/etc/machine-id"
_NOTHING: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process. ``started``: ticks of its machine's clock since it booted. Ids are all zeros where
    they cannot be known.

    ``namespace``: of processes, where ``pid`` counts.
    """

    host: str
    machine: bytes
    boot: bytes
    pid: int
    started: int
    namespace: int
    command: str

    @classmethod
    def of_this_process(cls) -> Identity:
        """The caller's."""
        pid = os.getpid()
        namespace = 0
        with contextlib.suppress(OSError):
            namespace = os.stat("/proc/self/ns/pid").st_ino
        return cls(
            os.uname().nodename,
            _id(_MACHINE_ID),
            _id(_BOOT_ID),
            pid,
            start_of(pid) or 0,
            namespace,
            command_of(pid),
        )


def start_of(pid: int) -> int | None:
    """When a process was started, None when there is none, or it has ended and only its parent does
    not know yet.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])


def _id(path: str) -> bytes:
    try:
        with open(path, encoding="ascii") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return _NOTHING
