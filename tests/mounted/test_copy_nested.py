"""Full copies that would have the daemon wait for itself, and full copies of full volumes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from snapfs.control import client, mounts
from snapfs.errors import SnapfsError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and bind mounts need root")

INSIDE = "is in the volume that is to be copied"


@pytest.fixture
def undone() -> Iterator[ExitStack]:
    """What is called when the test ends, before the mounts go."""
    with ExitStack() as stack:
        yield stack


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@needs_root
@pytest.mark.volume(size="200M")
def test_a_volume_is_copied_into_itself(mounted, mount_volume, undone: ExitStack, tmp_path: Path) -> None:
    """D1, D7: refused wherever it can be told, before anything is opened or made: the daemon would wait for itself."""
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", mounted.path, bind], check=True)
    undone.callback(lambda: subprocess.run(["umount", bind], check=True))
    link = tmp_path / "link"
    link.symlink_to(mounted / "through a link")
    sparse(mounted / "there", 200 << 20)
    for place in (mounted / "new", bind / "new", link, mounted / "there", bind / "there"):
        result = mounted.run("copy", mounted.path, place, "--force", code=2)
        assert INSIDE in result.stderr, result.stderr
    assert os.listdir(mounted.path) == ["there"]


@needs_root
@pytest.mark.volume(size="300M")
def test_a_volume_is_copied_into_a_device_that_stands_on_it(
    mounted, mount_volume, make_loop: Callable[..., Path], undone: ExitStack, tmp_path: Path
) -> None:
    """As above: a loop device, one over that, a filesystem on one, and another volume whose image lies there."""
    loop = make_loop(sparse(mounted / "t", 61 << 20))
    over = make_loop(loop)
    cases = [loop, over]
    image = sparse(mounted / "inner.img", 80 << 20)
    mounted.run("mkfs", image)
    inner = mount_volume(image)
    undone.callback(inner.unmount)
    cases += [inner / "copy.img", make_loop(sparse(inner / "t", 61 << 20))]
    for place in cases:
        result = mounted.run("copy", mounted.path, place, "--force", code=2)
        assert INSIDE in result.stderr, (place, result.stderr)
    assert sorted(os.listdir(inner.path)) == ["t"]
    # The other way round nothing waits for itself.
    mounted.run("copy", inner.path, tmp_path / "copy.img", "--wait")
    for device in (cases[3], over, loop):
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def altered(mounted, wait_until) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Mounts the volume by a daemon that has executed some lines before: constants are others, or something is not noticed."""
    started: list[subprocess.Popen[bytes]] = []

    def mount(lines: str) -> subprocess.Popen[bytes]:
        mounted.unmount()
        program = f"{lines}\nfrom snapfs.cli.main import main\nmain(['mount', '--foreground', *sys.argv[1:]], 'snapfs')"
        command = [sys.executable, "-c", f"import sys\n{program}", mounted.image, mounted.path]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started.append(process)
        wait_until(lambda: mounts.mount_at(str(mounted.path)) is not None and control_answers(mounted), 60, "the mount")
        return process

    yield mount
    for process in started:
        process.terminate()
        process.wait(60)


def control_answers(mounted: Any) -> bool:
    found = mounts.mount_at(str(mounted.path))
    assert found is not None
    with suppress(SnapfsError), client.of_mount(found):
        return True
    return False


@needs_root
def test_a_map_goes_into_the_volume_itself(mounted, altered: Callable[..., Any], make_loop: Callable[..., Path], tmp_path: Path) -> None:
    """D5: the map of a copy to a device is among the user's own files, which may be in the volume that is copied."""
    device = make_loop(sparse(tmp_path / "t", 64 << 20))
    altered(f"from snapfs.copying import map_file; map_file.STATE_DIRECTORY = {str(mounted / 'state')!r}")
    result = mounted.run("copy", mounted.path, device, "--force", "--map", "outside", code=2)
    assert INSIDE in result.stderr, result.stderr
    assert not os.listdir(mounted / "state")
    mounted.run("copy", mounted.path, device, "--force", "--wait")


def fill(mounted: Any) -> None:
    """Until not even the smallest file finds room."""
    for size in (1 << 20, 4096):
        with suppress(OSError):
            for number in itertools.count():
                with (mounted / f"{size}-{number}").open("wb") as file:
                    file.write(b"x" * size)
                    file.flush()
                    os.fsync(file.fileno())


@pytest.mark.volume(size="64M")
def test_a_full_volume_cannot_be_saved(mounted, images, mount_volume, tmp_path: Path) -> None:
    """D5: with its map outside a copy needs no room on the volume; without, it says what to do."""
    fill(mounted)
    names = sorted(os.listdir(mounted.path))
    result = mounted.run("copy", mounted.path, tmp_path / "copy.img", code=1)
    assert "--map outside" in result.stderr
    assert "copy.img" not in os.listdir(tmp_path)
    mounted.run("copy", mounted.path, tmp_path / "saved.img", "--map", "outside", "--wait")
    images.watch(tmp_path / "saved.img")
    copy = mount_volume(tmp_path / "saved.img")
    assert sorted(os.listdir(copy.path)) == names
