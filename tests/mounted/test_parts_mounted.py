"""Snapshots of directories on a real mount: ``mkdir D/.snap/NAME`` (C1 to C5)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20


@pytest.fixture
def project(mounted: Any) -> Path:
    """``project/src/file`` and ``elsewhere/file``, 8 MiB each, and a snapshot ``before`` of ``project``."""
    for place in ("project/src", "elsewhere"):
        (mounted / place).mkdir(parents=True)
        (mounted / place / "file").write_bytes(place.encode() * (8 * MIB // len(place)))
    os.sync()
    (mounted / "project" / ".snap" / "before").mkdir()
    path: Path = mounted / "project"
    return path


def only_by_snapshots(mounted: Any) -> int:
    document = json.loads(mounted.run("df", mounted.path, "--json").stdout)
    held: int = document["volume"]["snapshots"]
    return held


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"changed" * MIB)
        os.fsync(file.fileno())


def test_changes_outside_take_space_for_the_snapshot(mounted: Any, project: Path) -> None:
    """C2: seen in what snapshots alone hold; a change inside costs what it replaces."""
    before = only_by_snapshots(mounted)
    overwrite(mounted / "elsewhere" / "file")
    for number in range(50):
        (mounted / "elsewhere" / f"new{number}").write_bytes(b"new")
    assert only_by_snapshots(mounted) - before < 128 << 10
    (mounted / "elsewhere" / "file").unlink()
    assert only_by_snapshots(mounted) - before < 128 << 10
    overwrite(project / "src" / "file")
    assert 7 * MIB <= only_by_snapshots(mounted) - before < 8 * MIB


def test_what_was_inside_is_lost(mounted: Any, project: Path) -> None:
    """C1, C4, C5: after changes, a removal of the whole directory, and another mount."""
    content = (project / "src" / "file").read_bytes()
    snapshot = project / ".snap" / "before"
    overwrite(project / "src" / "file")
    assert (snapshot / "src" / "file").read_bytes() == content
    os.rename(project / "src", mounted / "src")
    (mounted / "src" / "file").unlink()
    assert (snapshot / "src" / "file").read_bytes() == content
    (snapshot / "src" / "note").write_text("written in the snapshot")
    mounted.remount()
    assert (snapshot / "src" / "file").read_bytes() == content
    assert (snapshot / "src" / "note").read_text() == "written in the snapshot"
    assert not (mounted.view("before")).exists(), "it is found where it was made, not at the top"


def test_mounting_it_shows_more_than_its_directory(mounted: Any, project: Path) -> None:
    """C1: under its real path, and nothing else, though all names above have changed."""
    content = (project / "src" / "file").read_bytes()
    for number in range(30):
        (mounted / f"{number:0200}").touch()
    project.rename(mounted / "renamed")
    mounted.remount("snapshot=before")
    found = sorted(str(path.relative_to(mounted.path)) for path in mounted.path.rglob("*"))
    assert found == ["project", "project/src", "project/src/file"]
    assert (mounted / "project" / "src" / "file").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        (mounted / "renamed").stat()
