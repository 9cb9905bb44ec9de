"""6: every path and every command that is printed can be used as it is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from snapfs.cli.main import main


def shown(mounted: Any, name: str, *words: str) -> str:
    """What ``snapshot show`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["snapshot", "show", str(mounted.path), name, *words], "snapfs") == 0
    return out.getvalue()


def facts(mounted: Any, name: str, what: str) -> list[str]:
    return [
        line.partition(":")[2].strip()
        for line in shown(mounted, name).splitlines()
        if line.startswith(what + ":")
    ]


def seen(mounted: Any, name: str) -> list[str]:
    found = facts(mounted, name, "Seen at")
    assert json.loads(shown(mounted, name, "--json"))["seen_at"] == found
    return found


@pytest.mark.parametrize("snapdir", [".snap", ".zfs"])
def test_a_snapshot_is_said_to_be_where_it_is_not(mount_volume, snapdir: str) -> None:
    mounted = mount_volume(options=f"snapdir={snapdir}")
    (mounted / "d" / "e").mkdir(parents=True)
    (mounted / "d" / "e" / "f").write_text("then")
    run, top = mounted.run, mounted.path
    run("snapshot", "create", top, "v")
    run("snapshot", "create", top, "part", "--path", "/d")
    run("snapshot", "create", top, "w", "--of", "v")
    run("snapshot", "create", top, "wd", "--of", "v", "--path", "/d/e")
    run("snapshot", "create", top, "wpart", "--of", "part")
    run("snapshot", "create", top, "deep", "--of", "wpart", "--path", "/d/e")
    run("snapshot", "create", top, "file", "--path", "/d/e/f")
    (mounted / "d" / "e" / "f").write_text("now")
    expected = {
        "v": f"{snapdir}/v",
        "part": f"d/{snapdir}/part",
        "w": f"{snapdir}/v/{snapdir}/w",
        "wd": f"{snapdir}/v/d/e/{snapdir}/wd",
        "wpart": f"d/{snapdir}/part/{snapdir}/wpart",
        "deep": f"d/{snapdir}/part/{snapdir}/wpart/e/{snapdir}/deep",
    }
    below = {"v": "d/e/f", "part": "e/f", "w": "d/e/f", "wd": "f", "wpart": "e/f", "deep": "f"}
    for name, place in expected.items():
        assert seen(mounted, name) == [str(top / place)]
        assert Path(seen(mounted, name)[0], below[name]).read_text() == "then"
    assert seen(mounted, "file") == []
    # What was made from one that is deleted is found where that was.
    run("snapshot", "delete", top, "part")
    (where,) = seen(mounted, "wpart")
    assert Path(where, "e", "f").read_text() == "then"
    mounted.unmount()
    assert json.loads(run("snapshot", "show", mounted.image, "v", "--json").stdout)["seen_at"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may bind mounts")
def test_a_snapshot_is_said_to_be_where_only_others_see_it(mounted, tmp_path: Path) -> None:
    """In a namespace that has a part of the mount only, the paths are those of that part."""
    (mounted / "d" / "e").mkdir(parents=True)
    for name, path in (("whole", "/"), ("part", "/d"), ("deep", "/d/e")):
        mounted.run("snapshot", "create", mounted.path, name, "--path", path)
    (tmp_path / "part").mkdir()
    script = (
        f'mount --bind {mounted / "d"} {tmp_path / "part"} && umount -l {mounted.path} && exec "$@"'
    )
    for name, expected in (("whole", []), ("part", [".snap/part"]), ("deep", ["e/.snap/deep"])):
        words = command("snapshot", "show", tmp_path / "part", name, "--json")
        result = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["seen_at"] == [
            str(tmp_path / "part" / place) for place in expected
        ]


def command(*words: object) -> list[str]:
    import sys

    return [sys.executable, "-m", "snapfs.cli", *map(str, words)]


@pytest.mark.parametrize(
    "name", ["plain", "with blank", "it's", "naïve", "\x1b[2J\n", os.fsdecode(b"\xff'\\x")]
)
def test_a_command_that_is_printed_is_another_one_in_a_shell(
    name: str, images, mount_volume, tmp_path: Path
) -> None:
    images.directory = tmp_path / name
    images.directory.mkdir()
    mounted = mount_volume(images.make(name="v.img"))
    (mounted / name).mkdir()
    mounted.snapshot("s")
    if (
        name.isascii() or name == "naïve"
    ):  # snapshots keep their paths for people to see: without bytes that are not UTF-8
        mounted.run("snapshot", "create", mounted.path, "d", "--path", mounted / name)
        (where,) = json.loads(shown(mounted, "d", "--json"))["seen_at"]
        (line,) = facts(mounted, "d", "Seen at")
        word = line if line.startswith("$'") else f'"{line}"'
        listed = subprocess.run(
            ["bash", "-c", f"cd {word} && pwd"], check=True, capture_output=True, timeout=60
        ).stdout
        assert os.fsdecode(listed).removesuffix("\n") == where
    mounted.unmount()
    out = mounted.run("restore", mounted.image, "s", "--schedule").stdout
    printed = out.partition("; '")[2].rpartition("' takes that back")[0]
    assert printed.startswith("snapfs restore ")
    script = printed.replace("snapfs", '"$0" -m snapfs.cli', 1)
    result = subprocess.run(
        ["bash", "-c", script, command()[0]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, ""), printed
    assert result.stdout.startswith("cancelled")
