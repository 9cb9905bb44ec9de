"""What a volume remembers of a copy that is running, on the command line: it is told, and damage to
it is (D1, D3).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.device import open_device
from snapfs.store.commit.copy_map_space import allocate_map
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.copies import CopyBlock, RunningCopy

Run = Callable[..., subprocess.CompletedProcess[str]]

ID = b"sixteen bytes id"


def register(image: Path, map_blocks: int) -> CopyBlock:
    device = open_device(str(image))
    volume = open_volume(device)
    runs = drive(volume, allocate_map, volume, map_blocks) if map_blocks else ()
    destination = b"/backup/\xffa\x1b[2J.img"
    volume.copies.put(
        RunningCopy(
            ID,
            1,
            destination,
            runs,
            b"" if runs else b"/backup/a.map",
            since_ns=1_700_000_000_000_000_000,
            owner=3,
        )
    )
    commit(volume)
    device.close()
    assert volume.copies.place is not None
    return volume.copies.place


@pytest.mark.parametrize(("map_blocks", "where"), [(4, "on the volume"), (0, "in /backup/a.map")])
def test_nobody_is_told_of_a_copy_that_is_running(
    run_snapfs: Run, volume_image: Path, map_blocks: int, where: str
) -> None:
    assert json.loads(run_snapfs("info", volume_image, "--json").stdout)["copy"] is None
    assert "Copy" not in run_snapfs("info", volume_image).stdout
    register(volume_image, map_blocks)
    text = run_snapfs("info", volume_image).stdout
    assert "\x1b" not in text and "by user 3" in text and where in text and "/backup/" in text
    found = json.loads(run_snapfs("info", volume_image, "--json").stdout)["copy"]
    assert os.fsencode(found.pop("destination")) == b"/backup/\xffa\x1b[2J.img"
    assert found == {
        "id": ID.hex(),
        "generation": 1,
        "map": None if map_blocks else "/backup/a.map",
        "map_blocks": map_blocks,
        "on_error": "copy",
        "rate": None,
        "paused": False,
        "since_at": "2023-11-14T22:13:20.000000000Z",
        "owner": 3,
    }
    assert run_snapfs("check", volume_image).stdout.endswith("clean\n")


def test_what_is_remembered_is_damaged_and_the_volume_is_written(
    run_snapfs: Run, mount_volume: Callable[..., Any], images: Any, tmp_path: Path
) -> None:
    """Everything can be read; whoever wants to write is told in one line what to do; repair ends
    the copy, and all is as before.
    """
    mounted = mount_volume()
    (mounted / "file").write_bytes(b"content")
    mounted.unmount()
    place = register(mounted.image, 4)
    with open(mounted.image, "r+b") as file:
        file.seek(place.block * 4096 + 5)
        file.write(b"?")
    refused = run_snapfs("snapshot", "create", mounted.image, "s", code=1)
    assert (
        refused.stderr.count("\n") == 1
        and "check --repair" in refused.stderr
        and "copy" in refused.stderr
    )
    mounted.mount()
    assert (mounted / "file").read_bytes() == b"content"
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "more").touch()
    assert "check --repair" in run_snapfs("info", mounted.path).stdout
    mounted.unmount()
    assert "running copy" in run_snapfs("check", mounted.image, code=4).stdout
    assert (
        "start it again"
        in run_snapfs(
            "check", "--repair", mounted.image, "--undo-file", tmp_path / "undo", code=1
        ).stdout
    )
    mounted.mount()
    assert (mounted / "file").read_bytes() == b"content"
    (mounted / "more").touch()
    assert json.loads(run_snapfs("info", mounted.path, "--json").stdout)["copy"] is None
