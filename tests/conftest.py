"""Fixtures that every test may use. What they promise:

``run_snapfs(*arguments, code=0, ...)``
    Runs the command line in a process of its own, fails unless it exits with ``code``, and returns
    the ``CompletedProcess`` (text). ``code=None`` accepts any.

``snapfs_command(*arguments) -> list[str]``
    The same command line as a list, for a test that starts the process itself.

``start(command, **options) -> subprocess.Popen``
    Starts a process that the test goes on beside. When the test ends, however it does, so does the
    process, first by SIGTERM.

``images``
    Makes volumes: ``images.make(size="64M", block_size=4096, label="", name="volume.img") ->
    Path``. When the test ends, every one of them is checked; findings fail the test, and the image
    is kept (the message says where). ``images.expect_damage(path)`` takes one out of that, for
    tests that damage it on purpose.

``volume_image``
    One fresh volume of 64 MiB: its path, checked at the end as above.

``mounted``
    A fresh volume, mounted through the command line. The object has

    - ``path``     the mount point (``mounted / "name"`` is short for ``mounted.path / "name"``)
    - ``image``    the image or device behind it
    - ``run(*arguments, code=0)``           as ``run_snapfs``
    - ``snapshot(name)``, ``view(name)``    make a snapshot; the path of ``.snap/NAME``
    - ``unmount()``, ``mount(options="")``, ``remount(options="")``
    - ``kill()``   kill -9 the daemon and detach the dead mount

    At the end it is unmounted and the image checked, as above. Mount options or another size come
    by a marker: ``@pytest.mark.volume(size="1G", options="noatime", block_size=8192)``.

``mount_volume``
    The same for tests that need several: ``mount_volume(image=None, options="", size="64M") ->
    Mounted``.

``loop_device``
    A formatted loop device (needs root): its path. ``make_loop(path, *options)`` gives a loop
    device for a file; options are of losetup(8).

``wait_until(condition, limit=10.0, what="...")``
    Waits, without a fixed sleep, until ``condition()`` is true; fails after ``limit`` seconds.

Images live in pytest's ``tmp_path``. The image of a failing check is moved to the directory that
``SNAPFS_KEEP`` names (default: ``snapfs-kept`` in the temporary directory).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE)]

import tally  # noqa: E402 - it lies here

#: The tree under test, for every process that a test starts, whether or not it is installed; and
#: what looks over its shoulder.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(_HERE.parent), str(_HERE / "daemons"), os.environ.get("PYTHONPATH")])
)

# Operations and commits are held against what they had set aside, in this process as in those.
if os.environ.get("SNAPFS_TALLY") != "0":
    tally.install()

#: No command of a test may take longer than this; a hang is a failure with the command's name on
#: it.
COMMAND_LIMIT = 120.0

#: Flags of umount2(2).
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

#: Exit codes of ``snapfs check`` that mean "clean".
CLEAN = 0


def snapfs_command(*arguments: str | os.PathLike[str]) -> list[str]:
    """The command line as the tests call it: the interpreter that runs the tests, the tree under
    test.
    """
    return [sys.executable, "-m", "snapfs.cli", *map(os.fspath, arguments)]


def _run(
    *arguments: str | os.PathLike[str],
    code: int | None = 0,
    env: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    command = snapfs_command(*arguments)
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=options.pop("limit", COMMAND_LIMIT),
        env={**os.environ, **(env or {})},
        **options,
    )
    if code is not None and result.returncode != code:
        pytest.fail(
            f"snapfs {' '.join(command[3:])}\nexit code {result.returncode}, expected {code}\n"
            f"--- stdout\n{result.stdout}--- stderr\n{result.stderr}"
        )
    return result


@pytest.fixture(scope="session", name="snapfs_command")
def snapfs_command_fixture() -> Callable[..., list[str]]:
    return snapfs_command


#: Seconds in which a process that a test has left behind may end by itself, after SIGTERM.
ENDING_LIMIT = 30.0


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Nothing that was started is left to the collector, which would complain of it in the middle
    of another test.
    """
    started: list[subprocess.Popen[Any]] = []

    def start_one(
        command: Sequence[str | os.PathLike[str]], **options: Any
    ) -> subprocess.Popen[Any]:
        process = subprocess.Popen(command, **options)
        started.append(process)
        return process

    yield start_one
    for process in started:
        _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(ENDING_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(
                BrokenPipeError
            ):  # what was not yet written is of no use to a process that has ended
                pipe.close()


@pytest.fixture(scope="session")
def run_snapfs() -> Callable[..., subprocess.CompletedProcess[str]]:
    return _run


def wait_for(
    condition: Callable[[], object], limit: float = 10.0, what: str = "the condition"
) -> None:
    """Return as soon as ``condition()`` is true; fail after ``limit`` seconds."""
    pause = threading.Event()  # never set: its wait is the polling interval
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true within {limit:g} s")
        pause.wait(0.005)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return wait_for


# --- images -------------------------------------------------------------------------------------


def keep(image: Path, test: str) -> Path:
    """Move an image with findings out of pytest's temporary directory, which is removed."""
    directory = Path(os.environ.get("SNAPFS_KEEP") or Path(tempfile.gettempdir()) / "snapfs-kept")
    directory.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in test)
    kept = directory / f"{name}-{os.getpid()}-{image.name}"
    if image.is_block_device():
        subprocess.run(["cp", "--sparse=always", image, kept], check=True)
    else:
        shutil.move(image, kept)
    return kept


def findings(image: Path) -> list[dict[str, Any]]:
    """What ``snapfs check`` says about an unmounted image."""
    result = _run("check", image, "--json", code=None)
    if result.returncode == CLEAN:
        return []
    try:
        found: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    except (ValueError, KeyError):
        found = []
    return found or [{"message": f"check ended with {result.returncode}: {result.stderr.strip()}"}]


@dataclass
class Images:
    directory: Path
    test: str
    made: list[Path] = field(default_factory=list)
    damaged: set[Path] = field(default_factory=set)

    def make(
        self,
        size: str = "64M",
        *,
        block_size: int = 4096,
        label: str = "",
        name: str = "volume.img",
    ) -> Path:
        path = self.directory / name
        number = 1
        while path.exists():
            number += 1
            path = self.directory / f"{Path(name).stem}-{number}{Path(name).suffix}"
        arguments = ["mkfs", str(path), "--size", size, "--block-size", str(block_size)]
        _run(*arguments, *(["--label", label] if label else []))
        return self.watch(path)

    def watch(self, path: Path) -> Path:
        """Check this one, too, when the test ends."""
        if path not in self.made:
            self.made.append(path)
        return path

    def expect_damage(self, path: Path) -> None:
        self.damaged.add(path)

    def check(self) -> None:
        trouble = []
        for image in self.made:
            if image in self.damaged or not image.exists():
                continue
            found = findings(image)
            if found:
                lines = "\n".join(f"  {finding.get('message', finding)}" for finding in found[:20])
                trouble.append(
                    f"{len(found)} findings, image kept as {keep(image, self.test)}:\n{lines}"
                )
        if trouble:
            pytest.fail("\n".join(trouble))


@pytest.fixture
def images(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Images]:
    made = Images(tmp_path, request.node.name)
    yield made
    made.check()


@pytest.fixture
def volume_image(images: Images) -> Path:
    return images.make()


# --- mounts -------------------------------------------------------------------------------------


@dataclass
class Mounted:
    image: Path
    path: Path
    options: str = ""
    is_mounted: bool = False

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def run(
        self, *arguments: str | os.PathLike[str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return _run(*arguments, **options)

    def mount(self, options: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        arguments = ["mount", str(self.image), str(self.path)]
        result = _run(*arguments, *(["-o", options] if options else []), code=code)
        self.options = options
        self.is_mounted = code == 0
        return result

    def unmount(self) -> None:
        if self.is_mounted:
            result = _run("umount", self.path)
            self.is_mounted = False
            # A mount namespace that somebody has made meanwhile, as other test runs on this machine
            # do, has the mount as long as it lives.
            if kept := re.search(r"its daemon \(process (\d+)\) keeps the image", result.stderr):
                with (
                    contextlib.suppress(ProcessLookupError),
                    contextlib.closing(_PidWatch(int(kept[1]))) as watch,
                ):
                    watch.wait(COMMAND_LIMIT)

    def remount(self, options: str = "") -> None:
        """Unmount and mount again, with the options that are given now."""
        self.unmount()
        self.mount(options)

    def snapshot(self, name: str) -> Path:
        _run("snapshot", "create", self.path, name)
        return self.view(name)

    def view(self, name: str) -> Path:
        return self.path / ".snap" / name

    @property
    def pid(self) -> int:
        return int(json.loads(_run("info", self.path, "--json").stdout)["pid"])

    def kill(self, pid: int | None = None) -> None:
        """kill -9 the daemon (``pid``, for a test that must not ask at that moment); the mount
        point is an empty directory afterwards.
        """
        pid = pid or self.pid
        with contextlib.closing(_PidWatch(pid)) as watch:
            os.kill(pid, signal.SIGKILL)
            self._detach()
            watch.wait()
        self.is_mounted = False

    def _detach(self) -> None:
        if os.geteuid() != 0:
            command = ["fusermount3", "-u", "-z", os.fspath(self.path)]
            subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_LIMIT)
            return
        # MNT_FORCE ends the connection: a killed daemon's thread may wait for a lock of the
        # kernel's that somebody holds who waits for the daemon. Not by a command: starting one
        # closes what the test has open on the mount, and that waits for the daemon, too.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self.path), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)

    def close(self) -> None:
        """The fixture's end: unmount, by force if it does not go otherwise."""
        if not self.is_mounted:
            return
        try:
            self.unmount()
        except BaseException:
            self._detach()
            raise


class _PidWatch:
    """Waits for the end of a process that need not be our child."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def wait(self, limit: float = 30.0) -> None:
        import select

        if not select.select([self._fd], [], [], limit)[0]:
            pytest.fail(f"the process did not end within {limit:g} s")

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def mount_volume(images: Images, tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    volumes: list[Mounted] = []

    def mount_one(
        image: Path | None = None, options: str = "", size: str = "64M", block_size: int = 4096
    ) -> Mounted:
        path = tmp_path / f"mnt{len(volumes) or ''}"
        path.mkdir()
        volume = Mounted(image or images.make(size, block_size=block_size), path)
        volume.mount(options)
        volumes.append(volume)
        return volume

    with contextlib.ExitStack() as stack:
        # Every one is closed, whatever happens to the others; this ends before `images` checks.
        stack.callback(lambda: [stack.callback(volume.close) for volume in volumes])
        yield mount_one


@pytest.fixture
def mounted(mount_volume: Callable[..., Mounted], request: pytest.FixtureRequest) -> Mounted:
    marker = request.node.get_closest_marker("volume")
    return mount_volume(**(marker.kwargs if marker else {}))


# --- devices ------------------------------------------------------------------------------------


@pytest.fixture
def make_loop() -> Iterator[Callable[..., Path]]:
    """Gives a loop device for a file. Needs root and the kernel's loop driver: skipped, with the
    reason, without.
    """
    devices: dict[str, str] = {}

    def attach(path: Path, *options: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("loop devices need root")
        result = subprocess.run(
            ["losetup", "--find", "--show", *options, os.fspath(path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        if result.returncode:
            pytest.skip(f"no loop device here: {result.stderr.strip()}")
        device = result.stdout.strip()
        devices[device] = backing(device)
        return Path(device)

    def backing(device: str) -> str:
        """What it is over, by numbers: a file may have been renamed meanwhile."""
        command = ["losetup", "--noheadings", "--output", "BACK-MAJ:MIN,BACK-INO", device]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=30
        ).stdout

    yield attach
    for device, found in devices.items():
        if (
            found and backing(device) == found
        ):  # or the test has detached it, and it is another's by now
            subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


@pytest.fixture
def loop_device(
    make_loop: Callable[[Path], Path], images: Images, tmp_path: Path
) -> Iterator[Path]:
    backing = tmp_path / "backing.img"
    with backing.open("wb") as file:
        file.truncate(64 << 20)
    device = make_loop(backing)
    _run("mkfs", device, "--force")
    yield device
    found = findings(device)
    if found:
        lines = "\n".join(f"  {finding.get('message', finding)}" for finding in found[:20])
        pytest.fail(f"{len(found)} findings, kept as {keep(device, images.test)}:\n{lines}")


def pytest_configure() -> None:
    """Processes that tests start can be interrupted, also when the tests run behind a shell without
    job control.

    Such a shell has what it starts with ``&`` ignore SIGINT, and children inherit that, as they
    should: it is not theirs to change.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that mount are skipped, with the reason, where the kernel offers no FUSE."""
    if Path("/dev/fuse").exists():
        return
    skip = pytest.mark.skip(
        reason="/dev/fuse is missing: load the fuse module, or give the container the device"
    )
    for item in items:
        if {"mounted", "mount_volume"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(skip)


#: Where the tests are that mount and unmount, whose times matter.
MOUNTING = (
    "tests/mounted/",
    "tests/compatibility/",
    "tests/crash/test_kill.py",
    "tests/damage/test_device_errors_mounted.py",
    "tests/damage/test_scrub.py",
    "tests/model/test_mounted_model.py",
    "tests/model/test_warm_kernel.py",
)


@pytest.hookimpl(optionalhook=True)  # of xdist's, for runs in several processes
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """One process has all tests that mount, one after another; the others are for whoever has
    nothing to do.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "mounting" if nodeid.startswith(MOUNTING) else nodeid

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In a run of several processes, those that mount have the processors first."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.nodeid.startswith(MOUNTING):
        os.setpriority(os.PRIO_PROCESS, 0, 10)
