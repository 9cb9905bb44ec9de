"""H3, I11: one volume has one writer, and who is refused is told by which other way, and by whom,
it is in use.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Loop = Callable[..., Path]

MIB = 1 << 20


def refused(result: subprocess.CompletedProcess[str], path: Path, way: Path, pid: int) -> None:
    """One line that names the process and the other way."""
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert result.stderr.startswith(f"snapfs: {path}: in use by process {pid} through {way} ("), (
        result.stderr
    )


def test_h3_whoever_would_write_the_same_storage_is_refused(
    volume_image: Path, make_loop: Loop, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """H3: a mount, formatting, repair, a command, the target of a copy; by the image and by a
    device over it, in either order.
    """
    device = make_loop(volume_image)
    (tmp_path / "spare").mkdir()
    run_snapfs("mkfs", tmp_path / "source", "--size", "4M")
    for way, path in ((volume_image, device), (device, volume_image)):
        mounted = mount_volume(way)
        (mounted / "file").write_text("x")
        writers = [
            (["mount", path, tmp_path / "spare"], 32),
            (["mkfs", "--force", path], 1),
            (["check", "--repair", path], 8),
            (["check", path], 8),
            (["snapshot", "create", path, "s"], 1),
            (["copy", tmp_path / "source", path, "--force"], 1),
            (["copy", mounted.path, path, "--force"], 1),
        ]
        for words, code in writers if way == volume_image else writers[:2]:
            refused(run_snapfs(*words, code=code), path, way, mounted.pid)
        assert not os.path.ismount(tmp_path / "spare")
        if way == device:
            mounted.kill()  # its locks end with it, also those on what lies below
        else:
            mounted.unmount()
    run_snapfs("check", "--repair", volume_image)


def test_h3_another_name_of_the_image(
    volume_image: Path, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """H3: by a hard link or a bind mount the same daemon is found; whoever would write past it is
    refused.
    """
    linked, bound = tmp_path / "linked", tmp_path / "bound"
    linked.hardlink_to(volume_image)
    names = [linked]
    if os.geteuid() == 0:
        bound.touch()
        subprocess.run(["mount", "--bind", volume_image, bound], check=True, timeout=30)
        names.append(bound)
    (tmp_path / "spare").mkdir()
    try:
        mounted = mount_volume(volume_image)
        for name in names:
            assert (
                f"mounted on {mounted.path}"
                in run_snapfs("mount", name, tmp_path / "spare", code=32).stderr
            )
            run_snapfs("snapshot", "create", name, f"by-{name.name}")
            assert mounted.view(f"by-{name.name}").is_dir()
            refused(run_snapfs("mkfs", "--force", name, code=1), name, volume_image, mounted.pid)
        mounted.unmount()
    finally:
        for name in names[1:]:
            subprocess.run(["umount", name], check=True, timeout=30)


def test_h3_parts_of_one_file(
    make_loop: Loop, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """H3: two images that share a file and no byte are mounted at once; what overlaps one of them
    is not.
    """
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 70 * MIB)
    first = make_loop(file, "--offset", str(MIB), "--sizelimit", str(32 * MIB))
    second = make_loop(file, "--offset", str(33 * MIB))
    overlapping = make_loop(file, "--offset", str(8 * MIB), "--sizelimit", str(16 * MIB))
    run_snapfs("mkfs", first)
    run_snapfs("mkfs", second)
    one, two = mount_volume(first), mount_volume(second)
    (one / "file").write_text("one")
    (two / "file").write_text("two")
    refused(run_snapfs("mkfs", "--force", overlapping, code=1), overlapping, first, one.pid)
    result = run_snapfs("mkfs", "--force", file, code=1)
    assert re.search(
        rf"in use by process ({one.pid} through {first}|{two.pid} through {second}) ", result.stderr
    ), result.stderr
    one.unmount()
    two.unmount()
    for device in (first, second):
        run_snapfs("check", device)


def test_h3_a_partition_and_its_disk(
    make_loop: Loop, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """H3: where the kernel itself refuses, the line still says who, and by which way."""
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 70 * MIB)
    disk = make_loop(file)
    made = subprocess.run(
        ["addpart", disk, "1", "2048", "65536"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if made.returncode:
        pytest.skip(f"the kernel makes no partitions of loop devices here: {made.stderr.strip()}")
    partition = Path(f"{disk}p1")
    try:
        run_snapfs("mkfs", partition)
        mounted = mount_volume(partition)
        try:
            for path in (disk, file):
                refused(run_snapfs("mkfs", "--force", path, code=1), path, partition, mounted.pid)
        finally:
            mounted.unmount()
    finally:
        subprocess.run(["delpart", disk, "1"], check=True, timeout=30)
