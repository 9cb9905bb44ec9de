"""Facts about snapshots on real mounts: read-only ones, holds, descriptions, tags; commands,
`.snap`, attributes, JSON, errors.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def fails(expected: int, function: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[expected]


def shown(volume: Any, name: str) -> dict[str, Any]:
    """What `snapshot show --json` says of a snapshot of a mount."""
    found: dict[str, Any] = json.loads(
        volume.run("snapshot", "show", volume.path, name, "--json").stdout
    )
    return found


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def change_everything(view: Path) -> dict[str, Callable[[], object]]:
    """Every kind of change to a view with the file ``file`` and the empty directory ``empty``."""
    file, new = view / "file", view / "new"
    return {
        "write": lambda: file.open("r+b"),
        "append": lambda: file.open("ab"),
        "truncate on opening": lambda: file.open("wb"),
        "truncate": lambda: os.truncate(file, 0),
        "create": lambda: new.open("xb"),
        "mkdir": new.mkdir,
        "mknod": lambda: os.mkfifo(new),
        "symlink": lambda: new.symlink_to("file"),
        "link": lambda: os.link(file, new),
        "unlink": file.unlink,
        "rmdir": (view / "empty").rmdir,
        "rename": lambda: file.rename(new),
        "chmod": lambda: file.chmod(0o600),
        "chmod of the root": lambda: view.chmod(0o700),
        "chown": lambda: os.chown(file, 1, 1),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.kept"),
    }


def fill(volume: Any) -> None:
    (volume / "file").write_bytes(b"as it was")
    (volume / "empty").mkdir()
    os.setxattr(volume / "file", "user.kept", b"value")


# --- read-only ----------------------------------------------------------------------------------


def test_a_read_only_snapshot_can_be_changed(mounted: Any) -> None:
    """I6: every change through `.snap/NAME` ends with EROFS; made writable it works, and after a
    mount all is as it was left.
    """
    fill(mounted)
    mounted.run("snapshot", "create", mounted.path, "one", "--read-only")
    view = mounted.view("one")
    for what, change in change_everything(view).items():
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS, what
    assert ((view / "file").read_bytes(), sorted(os.listdir(view))) == (
        b"as it was",
        ["empty", "file"],
    )
    assert (shown(mounted, "one")["read_only"], shown(mounted, "one")["changed"]) == (True, False)
    mounted.run("snapshot", "set", mounted.path, "one", "--writable")
    (view / "file").write_bytes(b"changed")
    mounted.run("snapshot", "set", mounted.path, "one", "--read-only")
    mounted.remount()
    assert (view / "file").read_bytes() == b"changed"
    fails(errno.EROFS, (view / "file").open, "r+b")
    assert (shown(mounted, "one")["read_only"], shown(mounted, "one")["changed"]) == (True, True)
    (mounted / "file").write_bytes(b"the base goes on")
    (view / ".snap" / "copy").mkdir()  # a snapshot of it is another view, and is writable
    (view / ".snap" / "copy" / "file").write_bytes(b"in the copy")
    assert (view / "file").read_bytes() == b"changed"


@pytest.mark.parametrize("writeback", ["on", "off"])
def test_a_file_that_was_open_is_written_when_its_snapshot_is_read_only(
    mount_volume: Any, wait_until: Any, writeback: str
) -> None:
    """I6: what was written before is in the snapshot. What is written after is refused, with the
    next fsync where the kernel writes back.

    Then nobody sees any of it, neither changed bytes nor a longer file.
    """
    mounted = mount_volume(options=f"writeback={writeback}")
    fill(mounted)
    view = mounted.snapshot("one")
    changing, growing = (
        os.open(view / "file", os.O_RDWR),
        os.open(view / "empty" / "log", os.O_WRONLY | os.O_CREAT),
    )
    os.write(changing, b"AS IT")
    os.write(growing, b"begun")
    mounted.run("snapshot", "set", mounted.path, "one", "--read-only")
    for file, at in ((changing, 0), (growing, 5)):
        if writeback == "off":
            fails(errno.EROFS, os.pwrite, file, b"refused", at)
        else:
            os.pwrite(file, b"refused", at)
            fails(errno.EROFS, os.fsync, file)
    for file in (changing, growing):
        with contextlib.suppress(OSError):  # closing, too, may say that the write failed
            os.close(file)

    def as_it_was() -> bool:
        return [(view / "file").read_bytes(), (view / "empty" / "log").read_bytes()] == [
            b"AS IT was",
            b"begun",
        ]

    wait_until(as_it_was, what="that nobody sees what was refused")
    mounted.remount()
    assert [(view / "file").read_bytes(), (view / "empty" / "log").read_bytes()] == [
        b"AS IT was",
        b"begun",
    ]


def test_writes_that_were_returned_are_not_in_a_snapshot_that_becomes_read_only(
    mounted: Any,
) -> None:
    """A2's promise for `set --read-only`: pages that the kernel holds back belong to it."""
    fill(mounted)
    view = mounted.snapshot("one")
    with (view / "file").open("r+b", buffering=0) as file:
        file.truncate(0)
        file.write(b"x" * 1_000_000)
        mounted.run("snapshot", "set", mounted.path, "one", "--read-only")
    mounted.kill()
    mounted.mount()
    assert (view / "file").read_bytes() == b"x" * 1_000_000


# --- holds --------------------------------------------------------------------------------------


def test_a_held_snapshot_is_deleted(mounted: Any) -> None:
    """Neither rmdir nor the command, nor root, deletes it, mounted or not, until every hold is
    released.
    """
    fill(mounted)
    view = mounted.snapshot("one")
    mounted.run("snapshot", "hold", mounted.path, "one", "--reason", "until the tape is written")
    mounted.run("snapshot", "hold", mounted.path, "one", "--as", "audit")
    fails(errno.EBUSY, view.rmdir)
    one_line(
        mounted.run("snapshot", "delete", mounted.path, "one", code=1),
        "'one'",
        "until the tape is written",
        "audit",
        "release",
    )
    view.rename(mounted.view("renamed"))
    fails(errno.EBUSY, mounted.view("renamed").rmdir)
    holds = shown(mounted, "renamed")["holds"]
    assert [(hold["name"], hold["reason"], hold["owner"]) for hold in holds] == [
        ("hold", "until the tape is written", os.getuid()),
        ("audit", "", os.getuid()),
    ]
    mounted.unmount()
    one_line(mounted.run("snapshot", "delete", mounted.image, "renamed", code=1), "held")
    mounted.run("snapshot", "release", mounted.image, "renamed")
    one_line(mounted.run("snapshot", "delete", mounted.image, "renamed", code=1), "audit")
    mounted.mount()
    mounted.run("snapshot", "release", mounted.path, "renamed", "--as", "audit")
    mounted.view("renamed").rmdir()


def test_a_hold_is_lost_with_the_daemon(mounted: Any) -> None:
    """I8: a hold, a release and what else was set is durable when the command returns."""
    fill(mounted)
    mounted.snapshot("one")
    mounted.run("snapshot", "hold", mounted.path, "one")
    mounted.run(
        "snapshot",
        "set",
        mounted.path,
        "one",
        "--description",
        "kept",
        "--tag",
        "k=v",
        "--read-only",
    )
    mounted.kill()
    mounted.mount()
    one = shown(mounted, "one")
    assert (
        [hold["name"] for hold in one["holds"]],
        one["description"],
        one["tags"],
        one["read_only"],
    ) == (
        ["hold"],
        "kept",
        {"k": "v"},
        True,
    )
    fails(errno.EBUSY, mounted.view("one").rmdir)
    mounted.run("snapshot", "release", mounted.path, "one")
    mounted.kill()
    mounted.mount()
    mounted.view("one").rmdir()


def test_deleting_several_stops_at_a_held_one(mounted: Any) -> None:
    for name in ("one", "two", "three"):
        mounted.snapshot(name)
    mounted.run("snapshot", "hold", mounted.path, "two")
    one_line(
        mounted.run("snapshot", "delete", mounted.path, "one", "two", "three", code=1), "'two'"
    )
    assert os.listdir(mounted / ".snap") == ["two"]


# --- descriptions and tags ----------------------------------------------------------------------


def test_a_listing_does_not_tell_which_snapshot_is_which(mounted: Any, run_snapfs: Run) -> None:
    fill(mounted)
    mounted.run(
        "snapshot",
        "create",
        mounted.path,
        "daily-1",
        "--description",
        "before the upgrade",
        "--tag",
        "policy=daily",
        "--tag",
        "host=a",
    )
    mounted.run("snapshot", "create", mounted.path, "daily-2", "--tag", "policy=daily")
    mounted.run("snapshot", "create", mounted.path, "other", "--of", "daily-1", "--read-only")
    mounted.run("snapshot", "hold", mounted.path, "other")
    (mounted.view("daily-2") / "file").write_bytes(b"changed")

    def listed(*arguments: str, target: Path = mounted.path) -> list[str]:
        return [
            one["name"]
            for one in json.loads(
                run_snapfs("snapshot", "list", target, *arguments, "--json").stdout
            )
        ]

    assert listed("--name", "daily-*") == ["daily-1", "daily-2"]
    assert listed("--tag", "policy=daily", "--tag", "host") == ["daily-1"]
    assert listed("--tag", "policy=weekly") == []
    assert listed("--held") == ["other"]
    table = run_snapfs("snapshot", "list", mounted.path).stdout
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert lines["daily-1"].rstrip().endswith("before the upgrade")
    assert "changed" in lines["daily-2"]
    assert "held,read-only,of daily-1" in lines["other"]
    text = run_snapfs("snapshot", "show", mounted.path, "daily-1").stdout
    for words in (
        "before the upgrade",
        "host=a",
        "policy=daily",
        "the live tree",
        "Changed: ",
        "never",
    ):
        assert words in text
    assert "Held as" in run_snapfs("snapshot", "show", mounted.path, "other").stdout
    mounted.run(
        "snapshot",
        "set",
        mounted.path,
        "daily-1",
        "--untag",
        "host",
        "--tag",
        "policy=weekly",
        "--description",
        "",
    )
    mounted.remount()
    one = shown(mounted, "daily-1")
    assert (one["tags"], one["description"], one["origin"], one["owner"]) == (
        {"policy": "weekly"},
        "",
        None,
        os.getuid(),
    )
    mounted.unmount()
    assert listed("--tag", "policy=weekly", target=mounted.image) == ["daily-1"]


def test_attributes_of_a_snapshot_say_something_else(mounted: Any) -> None:
    """What the commands say, programs can read from `.snap/NAME`; copying a directory out of a
    snapshot takes none of it along.
    """
    fill(mounted)
    mounted.run(
        "snapshot",
        "create",
        mounted.path,
        "one",
        "--description",
        "ünïcode",
        "--tag",
        "b=2",
        "--tag",
        "a=1",
        "--read-only",
    )
    mounted.run("snapshot", "hold", mounted.path, "one")
    mounted.run("snapshot", "hold", mounted.path, "one", "--as", "audit")
    view = mounted.view("one")
    expected = {
        "name": "one", "owner": str(os.getuid()), "read-only": "yes", "description": "ünïcode",
        "holds": "hold\naudit", "tags": "a=1\nb=2",
        "tag.a": "1", "created": os.getxattr(view, "ceph.snap.btime").decode(),
    }  # fmt: skip
    for directory in (view, view / "empty"):
        assert {
            name: os.getxattr(directory, f"user.snapfs.{name}").decode() for name in expected
        } == expected
        assert os.listxattr(directory) == []
    for path, name in (
        (view, "changed"),
        (view, "tag.c"),
        (mounted.path, "name"),
        (view / "file", "name"),
        (mounted / ".snap", "name"),
    ):
        fails(errno.ENODATA, os.getxattr, path, f"user.snapfs.{name}")
    fails(errno.EPERM, os.setxattr, mounted / "empty", "user.snapfs.description", b"mine")
    shutil.copytree(view / "empty", mounted / "copied")
    assert os.listxattr(mounted / "copied") == []
    mounted.run("snapshot", "set", mounted.path, "one", "--writable")
    (view / "file").write_bytes(b"x")
    mounted.run("snapshot", "create", mounted.path, "two")  # commits
    assert float(os.getxattr(view, "user.snapfs.changed")) > float(
        os.getxattr(view, "user.snapfs.created")
    )
    assert os.getxattr(view, "user.snapfs.read-only") == b"no"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create", "{}", "n", "--description", "d" * 513), 2, ["512", "513"]),
        (("create", "{}", "n", "--description", "a\nb"), 2, ["control"]),
        (("create", "{}", "n", "--tag", "novalue"), 2, ["novalue", "KEY=VALUE"]),
        (("create", "{}", "n", "--tag", "k=" + "v" * 512), 2, ["512"]),
        (
            (
                "create",
                "{}",
                "n",
                *[word for number in range(17) for word in ("--tag", f"{number}=")],
            ),
            2,
            ["16"],
        ),
        (("create", "{}", "n", "--of", "missing"), 1, ["missing"]),
        (("create", "{}", "n", "--of", "one", "--path", "/missing"), 1, ["/missing"]),
        (("set", "{}", "one"), 2, ["nothing to set"]),
        (("set", "{}", "one", "--read-only", "--writable"), 2, ["--writable"]),
        (("set", "{}", "missing", "--read-only"), 1, ["missing"]),
        (("set", "{}", "one", "--untag", "x"), 1, ["'one'", "'x'"]),
        (("hold", "{}", "missing"), 1, ["missing"]),
        (("hold", "{}", "one", "--as", ""), 2, ["empty"]),
        (("hold", "{}", "one", "--as", "held"), 1, ["'one'", "'held'", "already"]),
        (("hold", "{}", "one", "--reason", "r" * 129), 2, ["128"]),
        (("release", "{}", "one"), 1, ["'one'", "'hold'", "'held'"]),
        (("list", "{}", "--tag", "=x"), 2, ["KEY"]),
    ],
)
def test_bad_input_ends_in_more_than_one_line(
    mounted: Any, arguments: tuple[str, ...], code: int, words: list[str]
) -> None:
    mounted.snapshot("one")
    mounted.run("snapshot", "hold", mounted.path, "one", "--as", "held")
    for target in (mounted.path, mounted.image):
        one_line(
            mounted.run(
                "snapshot", *(word.replace("{}", str(target)) for word in arguments), code=code
            ),
            *words,
        )
    assert [
        one["name"]
        for one in json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout)
    ] == ["one"]


def test_a_snapshot_of_a_snapshot_by_command_is_another_one_than_by_mkdir(mounted: Any) -> None:
    """A snapshot of what another one shows now, or of a directory in it; it appears in that one's
    `.snap`.
    """
    fill(mounted)
    (mounted / "d").mkdir()
    (mounted / "d" / "f").write_bytes(b"1")
    one = mounted.snapshot("one")
    (one / "d" / "f").write_bytes(b"2")
    (mounted / "d" / "f").write_bytes(b"3")
    assert (
        mounted.run("snapshot", "create", mounted.path, "whole", "--of", "one").stdout == "whole\n"
    )
    mounted.run("snapshot", "create", mounted.path, "part", "--of", "one", "--path", "/d")
    (one / "d" / "f").write_bytes(b"4")
    assert (
        (one / ".snap" / "whole" / "d" / "f").read_bytes()
        == (one / "d" / ".snap" / "part" / "f").read_bytes()
        == b"2"
    )
    assert (shown(mounted, "whole")["origin"], shown(mounted, "part")["path"]) == ("one", "/d")
    mounted.unmount()
    mounted.run("snapshot", "create", mounted.image, "offline", "--of", "one")
    mounted.mount()
    assert (one / ".snap" / "offline" / "d" / "f").read_bytes() == b"4"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
@pytest.mark.volume(options="allow_other")
def test_somebody_else_says_something_about_my_snapshot(mounted: Any) -> None:
    """Only root and the user who mounted may ask the daemon; a hold of theirs binds the owner of
    the directory, too.
    """
    mine = mounted / "mine"
    mine.mkdir()
    os.chown(mine, 1234, 1234)
    (mine / ".snap" / "one").mkdir()
    mounted.run("snapshot", "hold", mounted.path, "one")

    def as_owner() -> None:
        os.setgid(1234)
        os.setuid(1234)

    def delete() -> subprocess.CompletedProcess[str]:
        # By a relative path: into pytest's directories only root comes.
        command = ["rmdir", ".snap/one"]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=mine, preexec_fn=as_owner
        )

    result = delete()
    assert (result.returncode, "busy" in result.stderr) == (1, True), result.stderr
    mounted.run("snapshot", "release", mounted.path, "one")
    assert delete().returncode == 0


# --- what is written most -----------------------------------------------------------------------


def hottest(
    volume: Any, name: str, *arguments: str, target: Path | None = None
) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    found = json.loads(
        volume.run(
            "snapshot", "show", target or volume.path, name, "--hot", *arguments, "--json"
        ).stdout
    )
    return (
        [(one["path"], one["writes"], one["blocks"]) for one in found["files"]],
        [(one["path"], one["offset"], one["writes"]) for one in found["blocks"]],
    )


def test_the_hottest_files_are_others(mounted: Any) -> None:
    """A3: `--hot` counts what was written since, without waiting for a commit, mounted or not; text
    and JSON agree.
    """
    (mounted / "d").mkdir()
    log, odd, cold = mounted / "d" / "log", mounted / os.fsdecode(b"odd\xff\n"), mounted / "cold"
    for file in (log, odd, cold):
        file.write_bytes(b"x" * 40960)
    mounted.snapshot("one")
    assert hottest(mounted, "one") == ([], [])
    assert "nothing" in mounted.run("snapshot", "show", mounted.path, "one", "--hot").stdout
    with log.open("r+b", buffering=0) as file:
        for _ in range(300):
            os.pwrite(file.fileno(), b"again", 8192)
            os.fsync(file.fileno())  # or the kernel makes one write of them
    with odd.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"y" * 8192, 0)  # the kernel holds it back
        expected = (
            [("/d/log", 255, 1), (f"/{odd.name}", 2, 2)],
            [("/d/log", 8192, 255), (f"/{odd.name}", 4096, 1), (f"/{odd.name}", 0, 1)],
        )
        assert hottest(mounted, "one") == expected
    assert hottest(mounted, "one", "--limit", "1") == (expected[0][:1], expected[1][:1])
    text = mounted.run("snapshot", "show", mounted.path, "one", "--hot").stdout
    assert re.search(r"^255\+ +1 +4\.0 KiB +/d/log$", text, re.MULTILINE)
    assert r"/odd\udcff\n" in text
    mounted.unmount()
    assert hottest(mounted, "one", target=mounted.image) == expected
    mounted.mount()
    mounted.snapshot("two")
    assert hottest(mounted, "two") == ([], [])
    for words, code in (
        (["--hot", "--limit", "0"], 2),
        (["--limit", "3"], 2),
        (["--hot", "--limit", "x"], 2),
    ):
        one_line(mounted.run("snapshot", "show", mounted.path, "one", *words, code=code), "limit")
    one_line(mounted.run("snapshot", "show", mounted.path, "missing", "--hot", code=1), "missing")
