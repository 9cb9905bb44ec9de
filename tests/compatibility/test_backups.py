"""Backup programs on mounts of snapshots, as ``doc/guide/backups.md`` has it: what has not changed
since the snapshot before is not read again.

They know a file again by its path, size, times and inode number. So each snapshot is mounted in one
place, and shows the live tree's numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Files that are backed up, and the one that changes between the snapshots.
FILES, CHANGED = 30, "d/file7"

#: One more, which is the newest in the first snapshot. Borg reads such again: it might have changed
#: at the moment of the backup.
LAST = "d/last-file"

CLOCK_REALTIME_COARSE = 5  # linux/time.h: what files are stamped with


@pytest.fixture
def snapshots(
    mounted: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> Callable[[str], Any]:
    """Two snapshots, of which a program is told one at a time: mounted, while users go on, in one
    place.
    """
    (mounted / "d").mkdir()
    for number in range(FILES):
        (mounted / f"d/file{number}").write_bytes(f"{number}".encode() * 5000)
        os.utime(mounted / f"d/file{number}", (10**9, 10**9))
    newest = (mounted / f"d/file{FILES - 1}").stat().st_ctime_ns
    wait_until(
        lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > newest,
        what="the next tick of the kernel's clock",
    )
    (mounted / LAST).touch()
    mounted.run("snapshot", "create", mounted.path, "monday", "--read-only")
    (mounted / CHANGED).write_text("changed")
    os.utime(mounted / CHANGED, (10**9 + 1, 10**9 + 1))
    mounted.run("snapshot", "create", mounted.path, "tuesday", "--read-only")
    place = tmp_path / "then"
    place.mkdir()

    def during(name: str, program: Callable[[Path], Any]) -> Any:
        mounted.run("mount", mounted.image, place, "-o", f"snapshot={name}")
        try:
            (mounted / "d/file0").write_text(f"users go on during {name}")
            return program(place)
        finally:
            mounted.run("umount", place)

    return during


def needed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (apt install {package})")
    return found


def output(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_restic_reads_all_anew_for_each_snapshot(
    snapshots: Callable[..., Any], tmp_path: Path
) -> None:
    restic = needed("restic", "restic")
    more = {
        "RESTIC_PASSWORD": "x",
        "RESTIC_REPOSITORY": str(tmp_path / "restic"),
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }
    output(restic, "init", **more)

    def backup(place: Path) -> dict[str, Any]:
        lines = output(restic, "backup", "--json", place, **more).splitlines()
        (summary,) = [json.loads(line) for line in lines if '"summary"' in line]
        return summary

    first, second = snapshots("monday", backup), snapshots("tuesday", backup)
    assert first["files_new"] == FILES + 1
    assert (second["files_new"], second["files_changed"], second["files_unmodified"]) == (
        0,
        1,
        FILES,
    )
    again = snapshots("monday", backup)
    assert again["files_changed"] == 1


def test_borg_reads_all_anew_for_each_snapshot(
    snapshots: Callable[..., Any], tmp_path: Path
) -> None:
    borg = needed("borg", "borgbackup")
    more = {
        "BORG_REPO": str(tmp_path / "borg"),
        "BORG_BASE_DIR": str(tmp_path),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    output(borg, "init", "--encryption=none", **more)

    def backup(place: Path) -> dict[str, str]:
        listed = output(
            borg,
            "create",
            "--list",
            "--files-cache=ctime,size,inode",
            f"::{place.name}-{len(made)}",
            place,
            **more,
        )
        made.append(listed)
        found = (line.split(maxsplit=1) for line in listed.splitlines())
        return {Path(path).name: status for status, path in found if "file" in path}

    made: list[str] = []
    first, second = snapshots("monday", backup), snapshots("tuesday", backup)
    assert set(first.values()) == {"A"}
    read = {name for name, status in second.items() if status != "U"}
    assert read == {Path(CHANGED).name, Path(LAST).name}
    assert len(second) == FILES + 1
