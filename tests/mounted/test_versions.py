"""``snapfs versions`` on real mounts and images: the versions of a file, and the names that a
directory has lost.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def versions(run: Run, *arguments: object) -> list[dict[str, Any]]:
    return json.loads(run("versions", *map(str, arguments), "--json").stdout)["versions"]


def short(found: list[dict[str, Any]]) -> list[tuple[int, list[str], bool, list[str]]]:
    return [
        (
            one["size"],
            one["change"],
            one["present"],
            [snapshot["name"] for snapshot in one["snapshots"]],
        )
        for one in found
    ]


def deleted(run: Run, *arguments: object) -> dict[str, str]:
    found = json.loads(run("versions", *map(str, arguments), "--deleted", "--json").stdout)[
        "deleted"
    ]
    return {one["name"]: one["snapshot"] for one in found}


def test_a_file_through_time(mounted) -> None:
    run, file = mounted.run, mounted / "a" / "file"
    (mounted / "a").mkdir()
    mounted.snapshot("before")
    file.write_text("1")
    for name in ("one", "again"):
        mounted.snapshot(name)
    file.write_text("22")
    mounted.snapshot("two")
    file.chmod(0o600)
    mounted.snapshot("mode")
    os.utime(file, ns=(5_000_000_000, 5_000_000_000))
    mounted.snapshot("time")
    file.unlink()
    mounted.snapshot("gone")
    expected = [
        (2, ["time"], False, ["time"]),
        (2, ["attributes"], False, ["mode"]),
        (2, ["data"], False, ["two"]),
        (1, ["first"], False, ["again", "one"]),
    ]
    assert short(versions(run, file)) == expected
    file.write_text("333")
    expected = [(3, ["another file"], True, []), *expected]
    found = versions(run, file)
    assert short(found) == expected
    assert found[1]["mtime"] == "1970-01-01T00:00:05.000000000Z"
    assert (found[1]["mode"], found[3]["mode"]) == ("0600", "0644")
    assert found[0]["file"] != found[1]["file"] == found[4]["file"]
    lines = run("versions", file).stdout.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines[1:]] == [
        "the present",
        "time",
        "mode",
        "two",
        "again, one",
    ]
    # However the file is named.
    assert short(versions(run, mounted.path, "--path", "a/file")) == expected
    assert short(versions(run, mounted.path, "--path", file)) == expected
    assert short(versions(run, mounted.view("one") / "a" / "file")) == expected
    assert short(versions(run, mounted / "a" / ".." / "a" / "file")) == expected
    mounted.unmount()
    assert short(versions(run, mounted.image, "--path", "/a/file")) == expected


def test_what_a_restore_brings_back_is_another_version(mounted) -> None:
    (mounted / "file").write_text("1")
    mounted.snapshot("one")
    (mounted / "file").write_text("22")
    mounted.run("restore", mounted.path, "one")
    (now, undone) = versions(mounted.run, mounted / "file")
    assert (now["present"], [one["name"] for one in now["snapshots"]]) == (True, ["one"])
    assert now["file"] == undone["file"]
    assert undone["snapshots"][0]["name"].startswith("before-restore")


def test_versions_that_were_written_in_snapshots(mounted) -> None:
    (mounted / "file").write_text("1")
    view = mounted.snapshot("s")
    (view / "file").write_text("22")
    assert short(versions(mounted.run, mounted / "file")) == [
        (1, ["data"], True, []),
        (2, ["first"], False, ["s"]),
    ]


def test_links_are_followed_into_a_mount_only(mounted, tmp_path) -> None:
    (mounted / "file").write_text("1")
    (mounted / "link").symlink_to("file")
    (tmp_path / "outside").symlink_to(mounted / "file")
    (tmp_path / "way").symlink_to(mounted.path)
    mounted.snapshot("s")
    assert versions(mounted.run, mounted / "link")[0]["type"] == "symlink"
    assert versions(mounted.run, tmp_path / "outside")[0]["type"] == "file"
    assert versions(mounted.run, tmp_path / "way" / "file")[0]["type"] == "file"
    assert (
        versions(mounted.run, tmp_path / "way", "--path", tmp_path / "way" / "link")[0]["type"]
        == "symlink"
    )
    result = mounted.run("versions", "file", "--json", cwd=mounted.path)
    assert json.loads(result.stdout)["path"] == "/file"
    (mounted / "file").unlink()
    assert (
        len(
            json.loads(mounted.run("versions", "file", "--json", cwd=mounted.path).stdout)[
                "versions"
            ]
        )
        == 1
    )


def test_names_that_a_directory_has_lost(mounted) -> None:
    directory = mounted / "directory"
    directory.mkdir()
    for name in ("early", "late", "stays", "comes back"):
        (directory / name).write_text(name)
    (directory / "sub").mkdir()
    mounted.snapshot("one")
    (directory / "early").unlink()
    (directory / "comes back").unlink()
    mounted.snapshot("two")
    (directory / "sub").rmdir()
    (directory / "late").unlink()
    (directory / "comes back").touch()
    (directory / "never kept").touch()
    (directory / "never kept").unlink()
    expected = {"early": "one", "late": "two", "sub": "two"}
    assert deleted(mounted.run, directory) == expected
    table = mounted.run("versions", directory, "--deleted").stdout
    assert re.search(r"^sub/ +two ", table, re.MULTILINE)
    assert re.search(r"^early +one .* 5 B$", table, re.MULTILINE)
    assert deleted(mounted.run, mounted.path) == {}
    # A directory that is gone itself, one that was made anew.
    subprocess.run(["rm", "-r", directory], check=True)
    assert deleted(mounted.run, directory) == {
        "early": "one",
        "late": "two",
        "sub": "two",
        "stays": "two",
        "comes back": "one",
    }
    assert deleted(mounted.run, mounted.path) == {"directory": "two"}
    directory.mkdir()
    (directory / "stays").touch()
    assert deleted(mounted.run, directory) == {**expected, "comes back": "one"}
    mounted.unmount()
    assert deleted(mounted.run, mounted.image, "--path", "directory") == {
        **expected,
        "comes back": "one",
    }


def test_a_snapshot_of_a_directory_has_what_lies_in_it(mounted) -> None:
    for name in ("in", "out"):
        (mounted / name).mkdir()
        (mounted / name / "file").write_text("1")
    (mounted / "in" / ".snap" / "part").mkdir()
    for name in ("in", "out"):
        (mounted / name / "file").unlink()
    assert short(versions(mounted.run, mounted / "in" / "file")) == [
        (1, ["first"], False, ["part"])
    ]
    one_line(mounted.run("versions", mounted / "out" / "file", code=1), "/out/file", "snapshots")
    assert deleted(mounted.run, mounted / "in") == {"file": "part"}
    assert deleted(mounted.run, mounted / "out") == {}


def test_many_snapshots_are_named_in_part(mounted) -> None:
    (mounted / "file").write_text("1")
    for number in range(20):
        mounted.snapshot(f"s{number:02}")
    assert (
        mounted.run("versions", mounted / "file")
        .stdout.rstrip()
        .endswith("the present, s19, s18, s17, s16, 16 more")
    )
    (one,) = versions(mounted.run, mounted / "file")
    assert [snapshot["name"] for snapshot in one["snapshots"]] == [
        f"s{number:02}" for number in reversed(range(20))
    ]


@pytest.mark.parametrize("words", [[], ["--deleted"]])
def test_what_cannot_be_asked(words: list[str], mounted, tmp_path) -> None:
    run = mounted.run
    (mounted / "directory").mkdir()
    (mounted / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    one_line(run("versions", mounted / "missing", *words, code=1), "/missing", "neither")
    one_line(
        run("versions", tmp_path / "elsewhere", *words, code=1), "elsewhere", "neither in a mounted"
    )
    one_line(
        run("versions", tmp_path / "elsewhere" / "missing", *words, code=1), "neither in a mounted"
    )
    one_line(run("versions", mounted.path, "--path", "../x", *words, code=2), "'..'")
    one_line(run("versions", *words, code=2), "PATH")
    wrong, right = ("file", "directory") if words else ("directory", "file")
    one_line(run("versions", mounted / wrong, *words, code=1), f"/{wrong}", "--deleted")
    run("versions", mounted / right, *words)
    mounted.unmount()
    one_line(run("versions", mounted.image, *words, code=2), "--path")
    one_line(run("versions", mounted.image, "--path", "missing", *words, code=1), "/missing")


def test_times_that_no_calendar_has(mounted) -> None:
    (mounted / "file").touch()
    os.utime(mounted / "file", (0, 1 << 40))
    mounted.snapshot("s")
    os.utime(mounted / "file", ns=(0, -5))
    late = f"@{(mounted.view('s') / 'file').stat().st_mtime_ns // 1_000_000_000}"
    assert [one["mtime"] for one in versions(mounted.run, mounted / "file")] == [
        "1969-12-31T23:59:59.999999995Z",
        f"{late}.000000000",
    ]
    assert late in mounted.run("versions", mounted / "file").stdout
    (change,) = json.loads(mounted.run("diff", mounted.path, "s", "--json").stdout)["changes"]
    assert change["old"]["mtime"].startswith(late)
