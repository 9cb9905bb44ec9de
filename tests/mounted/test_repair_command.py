"""``snapfs check --repair`` and ``fsck.snapfs -y`` on images with real files: exit codes, undo
file, and what users find afterwards.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.device import open_device
from snapfs.filesystem import Filesystem
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume

Run = Callable[..., subprocess.CompletedProcess[str]]

CONTENT = {f"file{number}": os.urandom(6000) for number in range(20)}


@pytest.fixture
def damaged(mount_volume: Callable[..., Any], images: Any) -> Path:
    """An image whose directory ``dir`` cannot be read, in the base and in a snapshot; ``other``
    can.
    """
    mounted = mount_volume()
    (mounted / "dir").mkdir()
    (mounted / "other").write_bytes(b"other" * 1000)
    for name, content in CONTENT.items():
        (mounted / "dir" / name).write_bytes(content)
    mounted.snapshot("before")
    mounted.unmount()
    images.expect_damage(mounted.image)
    device = open_device(str(mounted.image), read_only=True)
    fs = Filesystem(open_volume(device, read_only=True))
    directory = drive(fs.volume, fs.lookup, fs.base, ROOT_INO, b"dir")
    place = (directory.names.root[0] & BLOCK_MASK) * fs.volume.geometry.block_size
    device.close()
    with open(mounted.image, "r+b") as file:
        file.seek(place + 30)
        byte = file.read(1)
        file.seek(place + 30)
        file.write(bytes([byte[0] ^ 4]))
    return Path(mounted.image)


def undo_files(image: Path) -> list[Path]:
    return sorted(image.parent.glob(f"{image.name}.undo-*"))


def test_repair_is_not_what_fsck_says_it_is(
    run_snapfs: Run, damaged: Path, mount_volume: Callable[..., Any]
) -> None:
    found = run_snapfs("check", damaged, code=4).stdout
    assert "unreadable" in found and not undo_files(damaged)
    out = run_snapfs("check", "--repair", damaged, code=1).stdout
    assert "dir (inode" in out and "lost+found" in out and "mended" in out
    (undo_file,) = undo_files(damaged)
    assert str(undo_file) in out and stat.S_IMODE(undo_file.stat().st_mode) == 0o600
    assert run_snapfs("check", damaged).stdout.endswith("clean\n")
    assert run_snapfs("check", "--repair", damaged).stdout.endswith("clean\n")
    assert undo_files(damaged) == [undo_file], "nothing was written"
    mounted = mount_volume(image=damaged)
    for top in (mounted.path, mounted.view("before")):
        assert sorted((top / "dir").iterdir()) == []
        recovered = sorted(path.read_bytes() for path in (top / "lost+found").iterdir())
        assert recovered == sorted(CONTENT.values())
        assert (top / "other").read_bytes() == b"other" * 1000
        assert stat.S_IMODE((top / "lost+found").stat().st_mode) == 0o700
    mounted.unmount()
    result = run_snapfs("check", "--undo", undo_file, damaged, code=16)
    assert "changed after" in result.stderr and len(result.stderr.splitlines()) == 1


def unclaimed(data: bytes) -> bytes:
    """An image without who has it open, or had it last."""
    return data[:CLAIM_PLACE] + data[CLAIM_PLACE + CLAIM_BYTES :]


def test_undo_does_not_take_back_a_repair(run_snapfs: Run, damaged: Path, tmp_path: Path) -> None:
    before = damaged.read_bytes()
    place = tmp_path / "kept here"
    document = json.loads(
        run_snapfs("check", "--repair", "--undo-file", place, "--json", damaged, code=1).stdout
    )
    assert (
        document["clean"]
        and document["findings"]
        and document["actions"]
        and document["left"] == []
    )
    assert document["undo_file"] == str(place)
    assert damaged.read_bytes() != before
    assert "taken back" in run_snapfs("check", "--undo", place, damaged).stdout
    assert unclaimed(damaged.read_bytes()) == unclaimed(before)
    run_snapfs("check", damaged, code=4)


def test_fsck_repairs_when_it_was_not_told_to(
    snapfs_command: Callable[..., list[str]], damaged: Path, tmp_path: Path
) -> None:
    helper = tmp_path / "fsck.snapfs"
    interpreter = snapfs_command()[0]
    helper.write_text(
        f"#!{interpreter}\nimport sys\nfrom snapfs.cli.main import main\nsys.exit(main())\n"
    )
    helper.chmod(0o755)

    def fsck(*options: str) -> int:
        return subprocess.run(
            [helper, *options, damaged], check=False, capture_output=True, timeout=120
        ).returncode

    assert [fsck("-n"), fsck(), fsck("-n", "-y")] == [4, 4, 4]
    assert fsck("-y") == 1
    assert [fsck("-a"), fsck("-n"), fsck("-p")] == [0, 0, 0]


def test_a_mounted_volume_is_repaired(run_snapfs: Run, mounted: Any) -> None:
    result = run_snapfs("check", "--repair", mounted.image, code=8)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [("--undo-file", "x"), ("--repair", "--undo", "x"), ("--undo",)],
    ids=["no repair to undo", "both", "no file"],
)
def test_wrong_arguments_change_something(
    run_snapfs: Run, volume_image: Path, words: tuple[str, ...]
) -> None:
    before = volume_image.read_bytes()
    result = run_snapfs("check", volume_image, *words, code=16)
    assert "Traceback" not in result.stderr
    assert volume_image.read_bytes() == before
