"""H3, I11: two ways to the same bytes meet in one lock, whichever is taken first; ways to different
bytes do not.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs.device import Lock, open_device
from snapfs.device.storage import Storage, above, below
from snapfs.errors import VolumeBusy

MIB = 1 << 20
START, LENGTH = 2 * MIB, 8 * MIB

Loop = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 24 * MIB)
    return path


@pytest.fixture
def partition(disk: Path, make_loop: Loop) -> Iterator[Path]:
    device = make_loop(disk)
    made = subprocess.run(
        ["addpart", device, "1", str(START >> 9), str(LENGTH >> 9)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if made.returncode:
        pytest.skip(f"the kernel makes no partitions of loop devices here: {made.stderr.strip()}")
    yield Path(f"{device}p1")
    subprocess.run(["delpart", device, "1"], check=True, timeout=30)


def within(make_loop: Loop, path: Path, start: int = START, length: int = LENGTH) -> Path:
    return make_loop(path, "--offset", str(start), "--sizelimit", str(length))


def exclude_one_another(first: Path, second: Path) -> None:
    for one, other in ((first, second), (second, first)):
        for reads in (False, True):
            device = open_device(str(one), read_only=reads)
            try:
                with pytest.raises(VolumeBusy, match="in use"):
                    open_device(str(other))
            finally:
                device.close()
        open_device(str(other)).close()  # nothing is left of it


def live_together(first: Path, second: Path) -> None:
    for one, other in ((first, second), (second, first)):
        device = open_device(str(one))
        try:
            open_device(str(other)).close()
        finally:
            device.close()


def test_a_file_and_a_loop_device_over_it(disk: Path, make_loop: Loop) -> None:
    exclude_one_another(disk, make_loop(disk))


def test_two_loop_devices_over_a_file(disk: Path, make_loop: Loop) -> None:
    exclude_one_another(make_loop(disk), make_loop(disk))


def test_loop_devices_over_loop_devices(disk: Path, make_loop: Loop) -> None:
    lower = make_loop(disk)
    upper = within(make_loop, lower)
    exclude_one_another(disk, upper)
    exclude_one_another(lower, upper)
    exclude_one_another(within(make_loop, disk), upper)
    live_together(within(make_loop, disk, START + LENGTH), upper)


def test_parts_of_a_file(disk: Path, make_loop: Loop) -> None:
    part = within(make_loop, disk)
    exclude_one_another(disk, part)
    exclude_one_another(make_loop(disk), part)
    exclude_one_another(within(make_loop, disk, START + MIB), part)
    exclude_one_another(make_loop(disk, "--offset", str(START + LENGTH - 4096)), part)
    live_together(make_loop(disk, "--offset", str(START + LENGTH)), part)
    live_together(within(make_loop, disk, 0, START), part)


def test_a_partition_and_what_it_is_of(disk: Path, partition: Path, make_loop: Loop) -> None:
    exclude_one_another(disk, partition)
    exclude_one_another(Path(str(partition)[:-2]), partition)
    exclude_one_another(within(make_loop, disk), partition)
    live_together(within(make_loop, disk, START + LENGTH), partition)
    assert os.stat(partition).st_rdev in above(os.stat(str(partition)[:-2]).st_rdev)


@pytest.mark.parametrize("kind", ["hard link", "symbolic link"])
def test_two_names_of_a_file(kind: str, disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if kind == "hard link":
        other.hardlink_to(disk)
    else:
        other.symlink_to(disk)
    exclude_one_another(disk, other)


def test_two_nodes_of_a_device(disk: Path, make_loop: Loop, tmp_path: Path) -> None:
    device = make_loop(disk)
    other = tmp_path / "node"
    os.mknod(other, 0o600 | os.stat(device).st_mode & 0o170000, os.stat(device).st_rdev)
    try:
        exclude_one_another(device, other)
    except PermissionError:
        pytest.skip("device nodes do not work in the temporary directory")


def test_a_file_that_has_another_name_by_now_is_not_taken_for_the_one_below(
    disk: Path, make_loop: Loop, tmp_path: Path
) -> None:
    """What is at the old path is another file: it is not locked, and its
    users are not disturbed.
    """
    device = make_loop(disk)
    disk.rename(tmp_path / "moved")
    disk.write_bytes(bytes(MIB))
    stranger = open_device(str(disk))
    try:
        exclude_one_another(tmp_path / "moved", device)
    finally:
        stranger.close()
    assert not list(tmp_path.glob("*lock*"))
    (tmp_path / "moved").rename(disk)  # where the fixture looks


def test_what_is_below_is_told_as_it_is(disk: Path, make_loop: Loop) -> None:
    descriptor = os.open(within(make_loop, within(make_loop, disk), MIB, MIB), os.O_RDONLY)
    try:
        found = list(below(descriptor))
    finally:
        os.close(descriptor)
    assert [(one.start, one.length) for one in found] == [(MIB, MIB), (START + MIB, MIB)]
    assert found[1].storage == Storage.of(os.stat(disk))


def test_who_shares_by_another_way_keeps_the_owner_of_the_whole_out(
    disk: Path, make_loop: Loop
) -> None:
    reader = open_device(str(make_loop(disk)), read_only=True, lock=Lock.SHARED)
    try:
        with pytest.raises(VolumeBusy):
            open_device(str(disk))
        open_device(str(disk), read_only=True, lock=Lock.SHARED).close()
        open_device(str(disk), read_only=True, lock=Lock.NONE).close()
    finally:
        reader.close()


def test_one_writer_among_those_who_share(disk: Path, make_loop: Loop) -> None:
    """Of several who have a copy's target, by whatever way, one fills it."""
    devices = [open_device(str(make_loop(disk)), lock=Lock.SHARED) for _ in range(2)]
    try:
        devices[0].be_writer()
        with pytest.raises(VolumeBusy):
            devices[1].be_writer()
    finally:
        for device in devices:
            device.close()
