"""Snapshots of directories on a real mount: ``mkdir D/.snap/NAME`` (C1 to C5)."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
NAME = "user.snapfs.designate"


@pytest.fixture
def project(mounted: Any) -> Path:
    """``project/src/file`` and ``elsewhere/file``, 8 MiB each, and a snapshot ``before`` of
    ``project``.
    """
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


def test_a_snapshot_of_several_paths_covers_something_else(mounted: Any, project: Path) -> None:
    """C1, C2: directories and files, under their real paths; what lies within another of them is
    one with it.
    """
    (mounted / "etc").mkdir()
    for name in ("conf", "secret"):
        (mounted / "etc" / name).write_bytes(name.encode() * 100_000)
    os.sync()
    words = ["--path", project / "src", "--path", "etc/conf", "--path", "/project", "--json"]
    created = json.loads(mounted.run("snapshot", "create", mounted.path, "several", *words).stdout)
    assert (created["path"], created["paths"]) == (None, ["/etc/conf", "/project"])
    shown = mounted.run("snapshot", "show", mounted.path, "several").stdout
    assert "/etc/conf, /project" in shown
    assert str(project / ".snap" / "several") in shown
    assert "/etc/conf, /project" in mounted.run("snapshot", "list", mounted.path).stdout
    held = only_by_snapshots(mounted)
    overwrite(mounted / "elsewhere" / "file")
    (mounted / "etc" / "secret").write_bytes(b"new")
    assert only_by_snapshots(mounted) - held < 128 << 10
    (mounted / "etc" / "conf").write_bytes(b"new")
    assert 300_000 < only_by_snapshots(mounted) - held < 700_000
    for place, there in (
        (project, True),
        (project / "src", True),
        (mounted / "etc", False),
        (mounted.path, False),
    ):
        assert (place / ".snap" / "several").exists() == there
    (line,) = mounted.run("diff", mounted.path, "several").stdout.splitlines()
    assert line.split()[0] == "M"
    assert line.endswith(" etc/conf")
    mounted.run("snapshot", "create", mounted.path, "again", "--of", "several", "--path", "etc")
    for name, paths in (
        ("several", ["etc", "etc/conf", "project", "project/src", "project/src/file"]),
        ("again", ["etc", "etc/conf"]),
    ):
        mounted.remount(f"snapshot={name}")
        assert (
            sorted(str(path.relative_to(mounted.path)) for path in mounted.path.rglob("*")) == paths
        )
        assert (mounted / "etc" / "conf").read_bytes() == b"conf" * 100_000
    mounted.remount()
    os.rmdir(project / ".snap" / "several")
    mounted.run("snapshot", "delete", mounted.path, "again", "before")


def test_more_paths_than_a_snapshot_can_have_make_one_of_some(mounted: Any) -> None:
    """One line says so, whatever there is too much of, and no snapshot is made."""
    words = []
    for number in range(129):
        (mounted / f"{number}").mkdir()
        words += ["--path", f"{number}"]
    result = mounted.run("snapshot", "create", mounted.path, "many", *words, code=2)
    assert result.stderr == (
        "snapfs: a snapshot has 128 paths at most, these are 129: name a directory "
        "above some of them\n"
    )
    assert mounted.run("snapshot", "list", mounted.path).stdout == ""


def test_a_policy_covers_what_was_designated_before_only(mounted: Any) -> None:
    """C8, C2: designated while it is being stored, inherited below; its snapshot costs nothing for
    what lies elsewhere.
    """
    for place in ("photos/2024", "mail", "cache"):
        (mounted / place).mkdir(parents=True)
    refused = mounted.run(
        "snapshot", "create", mounted.path, "none", "--designated", "nightly", code=1
    ).stderr
    assert refused == (
        "snapfs: no directory is designated 'nightly': set the extended attribute "
        "user.snapfs.designate of one to that\n"
    )
    os.setxattr(mounted / "photos", NAME, b"nightly")
    os.setxattr(mounted / "mail", NAME, b"nightly")
    for place in ("photos/2024", "mail", "cache"):
        (mounted / place / "file").write_bytes(place.encode() * (4 * MIB // len(place)))
    (mounted / "photos" / "2025").mkdir()
    for place in ("photos/2024/file", "photos/2025", "mail/file"):
        assert os.getxattr(mounted / place, NAME) == b"nightly"
        assert os.listxattr(mounted / place) == []
    assert os.listxattr(mounted / "photos") == [NAME]
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(mounted / "cache" / "file", NAME)
    created = json.loads(
        mounted.run(
            "snapshot", "create", mounted.path, "n1", "--designated", "nightly", "--json"
        ).stdout
    )
    assert sorted(created["paths"]) == ["/mail", "/photos"]
    held = only_by_snapshots(mounted)
    overwrite(mounted / "cache" / "file")
    assert only_by_snapshots(mounted) - held < 128 << 10
    overwrite(mounted / "mail" / "file")
    assert 3 * MIB <= only_by_snapshots(mounted) - held < 5 * MIB
    assert (mounted / "mail" / ".snap" / "n1" / "file").read_bytes().startswith(b"mailmail")
    os.removexattr(mounted / "mail", NAME)
    mounted.remount()
    created = json.loads(
        mounted.run(
            "snapshot", "create", mounted.path, "n2", "--designated", "nightly", "--json"
        ).stdout
    )
    assert created["path"] == "/photos"


def test_a_designation_that_means_nothing_is_taken(mounted: Any) -> None:
    """C8: of a file EOPNOTSUPP; with what is no policy's name EINVAL; and the commands refuse what
    nothing is designated with.
    """
    (mounted / "d").mkdir()
    (mounted / "f").touch()
    for place, value, code in (
        ("f", b"x", errno.EOPNOTSUPP),
        ("d", b"a/b", errno.EINVAL),
        ("d", b"x" * 65, errno.EINVAL),
    ):
        with pytest.raises(OSError, match=os.strerror(code)):
            os.setxattr(mounted / place, NAME, value)
    os.setxattr(mounted.path, NAME, b"all")
    assert os.getxattr(mounted / "f", NAME) == b"all"
    assert (
        json.loads(
            mounted.run(
                "snapshot", "create", mounted.path, "n", "--designated", "all", "--json"
            ).stdout
        )["path"]
        == "/"
    )


def test_a_file_is_designated_by_a_directory_that_it_left(mounted: Any) -> None:
    """C8: it was made there, and has other names. What it answers of a directory that is gone must
    not be an error, either.
    """
    name = "user.snapfs.designate"
    for place, policy in (("d", b"nightly"), ("other", b"weekly")):
        (mounted / place).mkdir()
        os.setxattr(mounted / place, name, policy)
    (mounted / "d" / "file").touch()
    for link in ("top", "other/file"):
        os.link(mounted / "d" / "file", mounted / link)
    assert os.getxattr(mounted / "top", name) == b"nightly"
    (mounted / "d" / "file").unlink()
    (mounted / "d").rmdir()
    assert os.getxattr(mounted / "other" / "file", name) == b"weekly"
    (mounted / "other" / "file").unlink()
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(mounted / "top", name)
    mounted.remount()
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(mounted / "top", name)
