"""Notes which probes a process has hit, in a directory for all processes of a test run."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from snapfs import probes

#: The environment variable that names the directory.
VARIABLE = "SNAPFS_PROBES"

_NAMES = {id(probe): name for name, probe in probes.PROBES.items()}


@functools.cache
def install() -> None:
    """Note first hits in this process from now on, if there is a directory for that."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    hit = probes.Probe.hit

    def noting(probe: probes.Probe) -> None:
        if not probe.hits:
            # Processes of several users note the same probe.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(Path(directory, _NAMES[id(probe)]), os.O_CREAT | os.O_EXCL))
        hit(probe)

    probes.Probe.hit = noting  # type: ignore[method-assign, assignment]


def reached() -> set[str]:
    """The names of those that were hit in any process of the run."""
    return set(os.listdir(os.environ[VARIABLE]))
