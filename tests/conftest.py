"""Fixtures that every test may use. What they promise:

``run_snapfs(*arguments, code=0, ...)``
    Runs the command line, fails unless it exits with ``code``, and returns the
    ``CompletedProcess`` (text). ``code=None`` accepts any. As all commands that tests run, it is a
    fork of a process that has snapfs imported, where a fork is as good as a process of its own:
    see ``harness.commands``.

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
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import commands, scheduling, tally, waiting
from tests.harness import images as images_module
from tests.harness.images import Images
from tests.harness.mounts import Mounted

pytest_plugins = ["tests.harness.effort", "tests.harness.probing"]

# Operations and commits are held against what they had set aside, in this process as in those
# that tests start.
if os.environ.get("SNAPFS_TALLY") != "0":
    tally.install()


# --- commands and processes ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def snapfs_command() -> Callable[..., list[str]]:
    return commands.snapfs_command


@pytest.fixture(scope="session")
def run_snapfs() -> Callable[..., subprocess.CompletedProcess[str]]:
    return commands.run_snapfs


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Nothing that was started is left to the collector, which would complain of it in the middle
    of another test.
    """
    started: list[subprocess.Popen[Any]] = []

    def start_one(command: Sequence[commands.Word], **options: Any) -> subprocess.Popen[Any]:
        started.append(commands.start(command, **options))
        return started[-1]

    yield start_one
    for process in started:
        commands.end(process)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return waiting.wait_for


# --- images and mounts --------------------------------------------------------------------------


@pytest.fixture(name="images")
def images_of_the_test(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Images]:
    made = Images(tmp_path, request.node.name)
    yield made
    made.check()


@pytest.fixture
def volume_image(images: Images) -> Path:
    return images.make()


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
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        return result.stdout.strip()

    yield attach
    for device, found in devices.items():
        # It may have been detached, and be another's by now. Nothing is known of one whose file is
        # on a mount that has died.
        now = backing(device)
        if now in (found, ""):
            subprocess.run(["losetup", "--detach", device], check=bool(now), timeout=30)


@pytest.fixture
def loop_device(
    make_loop: Callable[[Path], Path], images: Images, tmp_path: Path
) -> Iterator[Path]:
    backing = tmp_path / "backing.img"
    with backing.open("wb") as file:
        file.truncate(64 << 20)
    device = make_loop(backing)
    commands.run_snapfs("mkfs", device, "--force")
    yield device
    found = images_module.findings(device)
    if found:
        pytest.fail(images_module.explain(found, images_module.keep(device, images.test)))


# --- the run ------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Processes that tests start can be interrupted, also when the tests run behind a shell without
    job control.

    Such a shell has what it starts with ``&`` ignore SIGINT, and children inherit that, as they
    should: it is not theirs to change.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The order of tests is ours, with several processes as well.
    config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that mount are skipped, with the reason, where the kernel offers no FUSE."""
    scheduling.order(items)
    if Path("/dev/fuse").exists():
        return
    skip = pytest.mark.skip(
        reason="/dev/fuse is missing: load the fuse module, or give the container the device"
    )
    for item in items:
        if {"mounted", "mount_volume"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)  # of xdist's, for runs in several processes
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """See ``scheduling``."""
    return scheduling.Scheduling(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of what measures the time of a test
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """See ``scheduling``."""
    with scheduling.turn(item):
        return (yield)
