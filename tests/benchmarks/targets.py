"""What is measured: snapfs, its peers, and the filesystem that all their images lie on. Each is
mounted while its context lasts.

A target that is not there (not installed, no permission, no such driver in the kernel) raises
``Absent`` with the reason, and is left out. All of them keep what they store on the same disk,
below one directory. The options are the defaults of each, as its package sets them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapfs.control.socket.client import Client, of_image

#: Of every image; sparse.
IMAGE_SIZE = 4 << 30

#: Seconds that a daemon may take to come or to go. zfs-fuse takes ten to end.
PATIENCE = 30.0


class Absent(Exception):
    """This target cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Target:
    """``path``: where it is mounted. ``client``: of snapfs alone, its daemon."""

    name: str
    path: Path
    client: Client | None = None

    def requests(self) -> dict[str, int]:
        """How many requests of each kind its daemon has answered since it was mounted; nothing for
        those that do not say.
        """
        return dict(self.client.call("info")["requests"]) if self.client else {}


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of a peer. What it says is shown only when it fails:
    ``Absent`` then names it.
    """
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if check and result.returncode:
        words = result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}"
        raise Absent(f"{Path(command[0]).name}: {words.splitlines()[-1]}")
    return result


def snapfs(*arguments: str | Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "snapfs.cli", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@contextlib.contextmanager
def daemon(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that Ctrl-C on the terminal does not reach: what it serves is unmounted first.

    At the end it is waited for; ``Popen`` as a context does not do that for long after a Ctrl-C.
    """
    process = subprocess.Popen(
        command, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        process.wait(PATIENCE)


def needs(*commands: str, root: bool = False) -> None:
    """Raises ``Absent`` unless these commands are installed."""
    for command in commands:
        if found(command) is None:
            raise Absent(f"{command} is not installed")
    if root and os.geteuid() != 0:
        raise Absent("mounting it needs root")


def found(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def sparse(path: Path, size: int = IMAGE_SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Absent(f"{what} within {PATIENCE:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def snapfs_target(place: Path) -> Iterator[Target]:
    image, mount = place / "snapfs.img", place / "snapfs"
    mount.mkdir()
    snapfs("mkfs", image, "--size", str(IMAGE_SIZE))
    with mounted(image, mount) as client:
        yield Target("snapfs", mount, client)


@contextlib.contextmanager
def mounted(image: Path, mount: Path) -> Iterator[Client]:
    """A volume of snapfs, and its daemon."""
    snapfs("mount", image, mount)
    try:
        client = of_image(str(image))
        assert client is not None
        with client:
            yield client
    finally:
        snapfs("umount", mount)


@contextlib.contextmanager
def empty_target(place: Path) -> Iterator[Target]:
    mount = place / "empty"
    mount.mkdir()
    script = Path(__file__).with_name("empty_filesystem.py")
    with daemon(sys.executable, script, mount, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise Absent("it did not mount: see above")
        try:
            yield Target("empty", mount)
        finally:
            run("fusermount3", "-u", mount)


@contextlib.contextmanager
def bindfs_target(place: Path) -> Iterator[Target]:
    needs("bindfs")
    mount, below = place / "bindfs", place / "bindfs.below"
    mount.mkdir()
    below.mkdir()
    run("bindfs", below, mount)
    try:
        yield Target("bindfs", mount)
    finally:
        run("fusermount3", "-u", mount)


@contextlib.contextmanager
def zfs_target(place: Path) -> Iterator[Target]:
    """A pool on an image. There can be one daemon only: its socket has a fixed place. One that runs
    already is used, and left running.
    """
    needs("zfs-fuse", "zpool", root=True)
    command, zpool = str(found("zfs-fuse")), str(found("zpool"))
    image, mount, log = sparse(place / "zfs.img"), place / "zfs", place / "zfs.log"
    pool = f"snapfsbench{os.getpid()}"
    with contextlib.ExitStack() as stack:
        if run(zpool, "list", check=False).returncode:
            with log.open("wb") as file:
                process = stack.enter_context(
                    daemon(command, "--no-daemon", "--no-kstat-mount", stdout=file, stderr=file)
                )
            stack.callback(process.send_signal, signal.SIGTERM)
            until(
                lambda: (
                    process.poll() is not None or not run(zpool, "list", check=False).returncode
                ),
                "zfs-fuse did not answer",
            )
            if process.poll() is not None:
                raise Absent(f"zfs-fuse ended: {log.read_text().strip()}")
        run(zpool, "create", "-f", "-m", mount, "-o", "cachefile=none", pool, image)
        # Busy for a moment, where files were open until now.
        stack.callback(
            until,
            lambda: not run(zpool, "destroy", "-f", pool, check=False).returncode,
            f"the pool {pool} was not destroyed",
        )
        until(lambda: os.path.ismount(mount), "the pool was not mounted")
        yield Target("zfs-fuse", mount)


@contextlib.contextmanager
def s3ql_target(place: Path) -> Iterator[Target]:
    """Its storage and its cache are directories of the host."""
    needs("mkfs.s3ql", "mount.s3ql", "umount.s3ql")
    mount, below, own = (
        place / "s3ql",
        place / "s3ql.below",
        ("--cachedir", place / "s3ql.cache", "--log", place / "s3ql.log"),
    )
    mount.mkdir()
    below.mkdir()
    run("mkfs.s3ql", "--plain", *own, f"local://{below}")
    run("mount.s3ql", *own, f"local://{below}", mount)
    try:
        yield Target("s3ql", mount)
    finally:
        run("umount.s3ql", mount)


@contextlib.contextmanager
def btrfs_target(place: Path) -> Iterator[Target]:
    needs("mkfs.btrfs", "mount", "losetup", root=True)
    image, mount = sparse(place / "btrfs.img"), place / "btrfs"
    mount.mkdir()
    run(str(found("mkfs.btrfs")), "-q", image)
    run("mount", "-o", "loop", image, mount)
    try:
        yield Target("btrfs", mount)
    finally:
        run("umount", mount)


@contextlib.contextmanager
def host_target(place: Path) -> Iterator[Target]:
    """A directory on the filesystem that holds the images."""
    path = place / "host"
    path.mkdir()
    yield Target("host", path)


#: In the order of the table.
TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Target]]] = {
    "snapfs": snapfs_target,
    "empty": empty_target,
    "bindfs": bindfs_target,
    "zfs-fuse": zfs_target,
    "s3ql": s3ql_target,
    "btrfs": btrfs_target,
    "host": host_target,
}


@dataclass
class Present:
    """The targets that are there, and why the others are not."""

    targets: list[Target] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def present(names: list[str], directory: str | None) -> Iterator[Present]:
    """Mount these, or leave them out; what they store is removed at the end."""
    result = Present()
    with (
        tempfile.TemporaryDirectory(prefix="snapfs-bench-", dir=directory) as place,
        contextlib.ExitStack() as stack,
    ):
        for name in names:
            try:
                result.targets.append(stack.enter_context(TARGETS[name](Path(place))))
            except Absent as why:
                result.absent[name] = str(why)
        yield result


def host_type(path: Path) -> str:
    """The type of the filesystem that a path is on, such as ext4."""
    return (
        run("stat", "--file-system", "--format=%T", path, check=False)
        .stdout.strip()
        .replace("ext2/ext3", "ext4")
    )
