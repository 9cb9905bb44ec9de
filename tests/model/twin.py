"""A second, fresh mount of what a mounted volume is at this moment: what a kernel shows that has
been told nothing before.

Mounting takes as long as loading the program does. Here a process that has loaded it forks for each
mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from snapfs.control.socket import client, mounts

#: umount2(2).
MNT_FORCE, MNT_DETACH = 1, 2

#: Seconds that the end of a daemon may take, and that one may take to stop.
LIMIT = 60.0

#: What the process does: for every line it forks a child that mounts, and answers with the exit
#: code of that.
_LOADED = """
import os, sys
import pyfuse3, trio
import snapfs.cli.main, snapfs.cli.commands.mount, snapfs.cli.mounting.serving
import snapfs.cli.mounting.before_mount, snapfs.fuse.mount.mounting, snapfs.control.socket.server
for line in sys.stdin:
    image, mountpoint, options = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os._exit(snapfs.cli.main.main(["mount", image, mountpoint, *options.split()], "snapfs"))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Mounter:
    """Mounts as ``snapfs mount IMAGE MOUNTPOINT`` does, sooner."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def mount(self, image: Path, mountpoint: Path, options: str = "") -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{image}\t{mountpoint}\t{options}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "0\n", f"{image} could not be mounted"

    def close(self) -> None:
        self._process.communicate()


def daemon_of(mountpoint: Path) -> int:
    """The process that serves a mount."""
    mount = mounts.mount_at(os.fspath(mountpoint))
    assert mount is not None
    with client.of_mount(mount) as found:
        return found.pid


def unmount(mountpoint: Path, pid: int) -> None:
    """Unmount, and wait for the end of the daemon ``pid``."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = os.pidfd_open(pid)
    try:
        if libc.umount2(os.fsencode(mountpoint), 0):
            code = ctypes.get_errno()
            libc.umount2(os.fsencode(mountpoint), MNT_FORCE | MNT_DETACH)
            raise OSError(code, os.strerror(code), os.fspath(mountpoint))
        assert select.select([watch], [], [], LIMIT)[0], "the daemon goes on after its mount"
    finally:
        os.close(watch)


@contextlib.contextmanager
def _stopped(pid: int, wait_until: Callable[..., None]) -> Iterator[None]:
    """The daemon does nothing meanwhile, so that its image holds still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _states(pid) == {"T"}, limit=LIMIT, what="the daemon's stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> set[str]:
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.add((thread / "stat").read_text().rpartition(") ")[2][0])
    return found


class Twins:
    """Makes twins of one mounted volume, in ``directory``."""

    def __init__(self, mounter: Mounter, directory: Path, wait_until: Callable[..., None]) -> None:
        self._mounter = mounter
        self._directory = directory
        self._wait_until = wait_until
        self._made = 0

    @contextlib.contextmanager
    def of(self, image: Path, pid: int) -> Iterator[Path]:
        """The mount point of a twin. All that it is to show must have been synced."""
        self._made += 1
        copy, mountpoint = (
            self._directory / f"twin{self._made}.img",
            self._directory / f"twin{self._made}",
        )
        with _stopped(pid, self._wait_until):
            _copy(image, copy)
        mountpoint.mkdir()
        self._mounter.mount(copy, mountpoint, "-o ro")
        daemon = daemon_of(mountpoint)
        try:
            yield mountpoint
        finally:
            unmount(mountpoint, daemon)
            mountpoint.rmdir()
            copy.unlink()


def _copy(source: Path, target: Path) -> None:
    """What has been written of a sparse file."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        end = 0
        while True:
            try:
                start = os.lseek(reader.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: no more
                break
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            while start < end:
                start += os.copy_file_range(
                    reader.fileno(), writer.fileno(), end - start, start, start
                )
        writer.truncate(size)
