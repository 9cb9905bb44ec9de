"""Paths that commands are given: every command takes them for the same files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.cli.main import main

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may bind mounts")


@pytest.fixture
def project(mounted) -> Any:
    """``/d/f`` and ``/f`` with other contents, in a snapshot and changed since, and ``/d/gone``,
    which is gone since.
    """
    (mounted / "d").mkdir()
    for name in ("f", "d/f", "d/gone"):
        (mounted / name).write_text(name)
    mounted.snapshot("s")
    for name in ("f", "d/f"):
        (mounted / name).write_text(f"{name}, changed")
    (mounted / "d" / "gone").unlink()
    return mounted


def answers(target: object, path: str, cwd: Path) -> dict[str, object]:
    """What each command takes a path for; of those that change something, what they say that they
    would.
    """

    def document(*words: object, found: Callable[[Any], object]) -> object:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main([*map(str, words), "--json"], "snapfs")
        return err.getvalue().strip() if code else found(json.loads(out.getvalue()))

    def changes(one: Any) -> list[str]:
        return [change["path"] or change["old_path"] for change in one["changes"]]

    return {
        "diff": document("diff", target, "s", "--path", path, found=changes),
        "restore": document("restore", target, "s", "--dry-run", "--path", path, found=changes),
        "versions": document(
            "versions", target, "--path", path, found=lambda one: one["path"].lstrip("/")
        ),
        "purge": document(
            "purge", target, path, "--dry-run", found=lambda one: one["paths"][0].lstrip("/")
        ),
    }


def same(path: str) -> dict[str, object]:
    return {"diff": [path], "restore": [path], "versions": path, "purge": path}


@contextlib.contextmanager
def bound(what: Path, where: Path) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "--bind", what, where], check=True, timeout=30)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True, timeout=30)


@pytest.mark.parametrize("name", ["d/f", "d/gone"])
def test_commands_take_a_path_for_different_files(project, name: str, tmp_path: Path) -> None:
    run, expected = project.run, same(name)
    # From here: absolute, relative to the working directory wherever that is, and through links.
    assert answers(project.path, str(project / name), Path("/")) == expected
    assert answers(project.path, f"{project.path.name}/{name}", tmp_path) == expected
    assert answers(project.path, f"./{project.path.name}/d/../{name}", tmp_path) == expected
    assert answers("..", os.path.basename(name), project / "d") == expected
    (tmp_path / "way").symlink_to(project / "d")
    assert answers(project.path, f"way/{os.path.basename(name)}", tmp_path) == expected
    # In the volume: what does not lead into the mount from here.
    assert answers(project.path, f"/{name}", tmp_path) == expected
    assert answers(project.path, name, tmp_path) == expected
    # By the image, with which the daemon is found as well.
    assert answers(project.image, f"{project.path.name}/{name}", tmp_path) == expected
    # Alone, where a command takes it so.
    alone = run("versions", f"{project.path.name}/{name}", "--json", cwd=tmp_path)
    assert json.loads(alone.stdout)["path"] == f"/{name}"
    alone = run("purge", f"way/{os.path.basename(name)}", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(alone.stdout)["paths"] == [f"/{name}"]


def test_the_file_of_that_name_in_the_root_is_taken_instead(project, tmp_path: Path) -> None:
    """``f`` in the directory where one is means that one, and not ``/f``."""
    assert answers(project.path, "f", project / "d") == same("d/f")
    assert answers(project.path, "/f", project / "d") == same("f")
    assert answers(project.path, "../f", project / "d") == same("f")
    made = project.run(
        "snapshot",
        "create",
        ".",
        "here",
        "--path",
        "f",
        "--path",
        "../f",
        "--json",
        cwd=project / "d",
    )
    assert json.loads(made.stdout)["paths"] == ["/d/f", "/f"]
    project.run("restore", ".", "s", "--path", "f", cwd=project / "d")
    assert ((project / "f").read_text(), (project / "d" / "f").read_text()) == ("f, changed", "d/f")
    project.run("restore", "mnt", "s", "--path", "mnt/f", cwd=tmp_path)
    assert (project / "f").read_text() == "f"


def test_the_wrong_files_are_copied_first(project, tmp_path: Path) -> None:
    """A file that goes first is copied when the command returns: nothing else is at this rate."""
    (project / "mnt").mkdir()
    for where in ("d", "mnt"):
        (project / where / "large").write_bytes(os.urandom(3 << 20))
    for path, refused in (("mnt/d/large", False), ("mnt/large", True)):
        command = ("copy", "mnt", "copy.img", "--first", path, "--rate", "0", "--json")
        result = project.run(*command, cwd=tmp_path, code=1 if refused else 0)
        if refused:
            assert "/large: not in the volume" in result.stderr
            continue
        assert json.loads(result.stdout)["copied"] > 3 << 20
        project.run("copy", "cancel", "mnt", cwd=tmp_path)


@needs_root
def test_a_bind_mount_leads_to_no_file_or_to_another(project, tmp_path: Path) -> None:
    run = project.run
    with bound(project.path, tmp_path / "all"), bound(project / "d", tmp_path / "part"):
        for target in (project.path, tmp_path / "all", tmp_path / "part", project.image):
            for name in ("d/f", "d/gone"):
                assert answers(target, str(tmp_path / "all" / name), Path("/")) == same(name)
                assert answers(
                    target, str(tmp_path / "part" / os.path.basename(name)), Path("/")
                ) == same(name)
            assert answers(target, "part/f", tmp_path) == same("d/f")
            assert answers(target, "f", tmp_path / "part") == same("d/f")
            assert answers(target, str(project / "d" / "f"), tmp_path / "part") == same("d/f")
        assert json.loads(run("info", tmp_path / "part", "--json").stdout)["mounted"] == str(
            project.path
        )
        assert (
            json.loads(run("versions", tmp_path / "part" / "gone", "--json").stdout)["path"]
            == "/d/gone"
        )
        made = run(
            "snapshot",
            "create",
            tmp_path / "part",
            "bound",
            "--path",
            tmp_path / "part" / "f",
            "--json",
        )
        assert json.loads(made.stdout)["paths"] == ["/d/f"]
        run("restore", tmp_path / "part", "s", "--path", tmp_path / "part" / "gone")
        assert (project / "d" / "gone").read_text() == "d/gone"
        assert json.loads(run("purge", tmp_path / "part" / "gone", "--yes", "--json").stdout)[
            "paths"
        ] == ["/d/gone"]
        assert not (project.view("s") / "d" / "gone").exists()


@needs_root
def test_a_path_of_another_volume_is_taken_for_one_of_this(
    project, mount_volume, tmp_path: Path
) -> None:
    """What lies in another mount is not in this one, and that is said about the path as it was
    given.
    """
    other = mount_volume()
    (other / "d").mkdir()
    (other / "d" / "f").touch()
    found = answers(project.path, str(other / "d" / "f"), tmp_path)
    assert all(str(other / "d" / "f") in str(line) for line in found.values()), found


def test_a_path_that_could_be_two_is_guessed(mounted, tmp_path: Path) -> None:
    twice = mounted.path / str(mounted.path).lstrip("/")
    twice.mkdir(parents=True)
    for place in (mounted.path, twice):
        (place / "f").write_text(str(place))
    mounted.snapshot("s")
    (mounted.path / "f").unlink()
    (twice / "f").write_text("changed")
    for path in (str(mounted / "f"), str(mounted / "gone")):
        found = answers(mounted.path, path, tmp_path)
        assert all(
            "could be" in str(line) and str(line).count("\n") == 0 for line in found.values()
        ), found
    line = str(answers(mounted.path, str(mounted / "f"), tmp_path)["restore"])
    first, second = line.split("'")[1::2]
    assert answers(mounted.path, first, tmp_path) == same("f")
    assert answers(mounted.path, second, tmp_path) == same(
        str(twice / "f").removeprefix(str(mounted.path)).lstrip("/")
    )
    assert mounted.run("restore", mounted.path, "s", "--path", mounted / "f", code=2).stdout == ""
    assert answers(mounted.path, f"{mounted.path.name}/f", tmp_path) == same("f")
    # Where there is no such path in the volume, there is nothing to guess.
    (mounted / "new").touch()
    assert answers(mounted.path, str(mounted / "new"), tmp_path)["diff"] == ["new"]


@pytest.mark.volume(options="snapdir=.zfs")
def test_a_path_in_a_snapshot_is_taken_for_one_in_the_present(mounted, tmp_path: Path) -> None:
    (mounted / "f").touch()
    mounted.run("snapshot", "create", mounted.path, "s")
    (mounted / ".snap").mkdir()
    (mounted / ".snap" / "f").touch()  # a directory like any other here
    path = mounted / ".zfs" / "s" / "f"
    for words in (
        ("diff", mounted.path, "s", "--path", path),
        ("restore", mounted.path, "s", "--path", path),
        ("snapshot", "create", mounted.path, "t", "--path", path),
        ("purge", mounted.path, path, "--yes"),
        ("purge", path, "--yes"),
        ("copy", mounted.path, tmp_path / "copy.img", "--first", path),
    ):
        assert "as the present has it" in mounted.run(*words, code=2).stderr
    assert json.loads(mounted.run("versions", path, "--json").stdout)["path"] == "/f"
    assert mounted.run("diff", mounted.path, "s", "--path", mounted / ".snap" / "f").stdout


def test_a_working_directory_that_is_gone_is_none_in_the_volume(project) -> None:
    (project / "d" / "deep").mkdir()
    (project / "d" / "deep" / "f").write_text("deep")
    project.snapshot("t")
    command = f'cd {project / "d" / "deep"} && rm -r ../deep && exec "$@"'
    words = [*project_command("restore", project.path, "t", "--path", "f")]
    result = subprocess.run(
        ["sh", "-c", command, "sh", *words], check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert (project / "d" / "deep" / "f").read_text() == "deep"


def project_command(*words: object) -> list[str]:
    import sys

    return [sys.executable, "-m", "snapfs.cli", *map(str, words)]
