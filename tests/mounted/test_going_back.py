"""``snapfs restore`` on mounts and images: dry runs, what is arranged for the next mount, what is
remembered (A10, issue 4 point 7).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.device import open_device
from snapfs.filesystem import Filesystem
from snapfs.snapshots import Scheduled
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def info(run: Run, target: object) -> dict[str, Any]:
    return json.loads(run("info", target, "--json").stdout)


def plan(run: Run, target: object, *arguments: str) -> dict[str, Any]:
    return json.loads(run("restore", target, *arguments, "--dry-run", "--json").stdout)


@pytest.fixture(params=["mount", "image"])
def target(request: pytest.FixtureRequest, mounted) -> Path:
    """The snapshot ``s``, and a present that differs in each way."""
    (mounted / "d").mkdir()
    (mounted / "d" / "data").write_text("then")
    (mounted / "mode").write_text("same")
    (mounted / "gone").write_bytes(b"g" * 5000)
    (mounted / "type").write_text("a file")
    (mounted / "old name").write_text("moved")
    mounted.snapshot("s")
    (mounted / "d" / "data").write_text("now, and longer")
    (mounted / "mode").chmod(0o600)
    (mounted / "gone").unlink()
    (mounted / "type").unlink()
    (mounted / "type").mkdir()
    (mounted / "old name").rename(mounted / "new\nname")
    (mounted / "new").write_text("new!")
    if request.param == "image":
        mounted.unmount()
        return mounted.image
    return mounted.path


# Dry runs


def test_a_dry_run_is_not_what_would_change(target: Path, run_snapfs: Run) -> None:
    """In the words of a restore, with sizes, and a total of paths and bytes."""
    lines = run_snapfs("restore", target, "s", "--dry-run").stdout.splitlines()
    assert [re.split("  +", line) for line in lines[:-1]] == [
        ["would change (data)", "15 B -> 4 B", "d/data"],
        ["would come back", "4.9 KiB", "gone"],
        ["would change (attributes)", "4 B", "mode"],
        ["would be removed", "4 B", "new"],
        ["would be renamed", "5 B", "new\\nname -> old name"],
        ["would change its type", "6 B", "type"],
    ]
    assert lines[-1] == (
        "6 paths with 4.9 KiB: 1 would come back (4.9 KiB), 1 would be removed (4 B), 2 "
        "would change (4 B), "
        "1 would change their type (6 B), 1 would be renamed (0 B)"
    )
    told = plan(run_snapfs, target, "s")
    assert (told["name"], told["dry_run"]) == ("s", True)
    assert told["totals"] == {
        "comes_back": {"paths": 1, "bytes": 5000},
        "removed": {"paths": 1, "bytes": 4},
        "changed": {"paths": 2, "bytes": 4},
        "retyped": {"paths": 1, "bytes": 6},
        "renamed": {"paths": 1, "bytes": 0},
    }
    compared = json.loads(run_snapfs("diff", target, ".", "s", "--json").stdout)
    assert told["changes"] == compared["changes"]
    null = run_snapfs("restore", target, "--dry-run", "s", "-0").stdout
    assert null == run_snapfs("diff", target, ".", "s", "-0").stdout
    assert "R old name\0new\nname\0" in null


def test_a_dry_run_changes_something(target: Path, mounted) -> None:
    def state() -> object:
        if not mounted.is_mounted:
            return hashlib.sha256(mounted.image.read_bytes()).hexdigest()
        return [
            one["name"]
            for one in json.loads(mounted.run("snapshot", "list", target, "--json").stdout)
        ], info(mounted.run, target)["restores"]

    before = state()
    mounted.run("restore", target, "s", "--dry-run")
    assert state() == before
    mounted.run("restore", target, "s")
    assert (
        mounted.run("restore", target, "s", "--dry-run").stdout
        == "nothing differs from 's': nothing would change\n"
    )
    assert plan(mounted.run, target, "s")["changes"] == []
    assert mounted.run("restore", target, "s", "--dry-run", "-0").stdout == ""


def test_a_dry_run_shows_what_lies_elsewhere(target: Path, mounted) -> None:
    found = plan(mounted.run, target, "s", "--path", "d", "--path", "/gone")["changes"]
    assert [one["path"] for one in found] == ["d/data", "gone"]
    if mounted.is_mounted:
        assert (
            plan(mounted.run, target, "s", "--path", str(mounted / "d" / "data"))["changes"]
            == found[:1]
        )
    one_line(
        mounted.run("restore", target, "s", "--dry-run", "--path", "nothing", code=1),
        "/nothing",
        "no such path",
    )
    one_line(mounted.run("restore", target, "no", "--dry-run", code=1), "'no'", "snapshot list")
    mounted.run("snapshot", "create", target, "part", "--path", "d")
    assert plan(mounted.run, target, "part")["changes"] == []


# The next mount


def content(mounted) -> str:
    return (mounted / "d" / "data").read_text()


def test_the_next_mount_does_not_go_back(target: Path, mounted) -> None:
    """Durable when the command returns: also for a daemon that is killed, and once only."""
    told = mounted.run("restore", target, "s", "--schedule").stdout
    assert (
        told
        == f"the next mount goes back to 's'; 'snapfs restore {target} --cancel' takes that back\n"
    )
    mounted.run("snapshot", "rename", target, "s", "renamed")
    wanted = info(mounted.run, target)["scheduled_restore"]
    assert (wanted["name"], wanted["paths"], wanted["owner"]) == ("renamed", [], os.geteuid())
    assert "goes back to 'renamed'" in mounted.run("info", target).stdout
    if mounted.is_mounted:
        assert content(mounted) == "now, and longer"
        mounted.kill()
    mounted.mount()
    assert content(mounted) == "then"
    (mounted / "d" / "data").write_text("later")
    mounted.remount()
    assert content(mounted) == "later"
    after = info(mounted.run, mounted.path)
    assert after["scheduled_restore"] is None
    (done,) = after["restores"]
    assert (done["name"], done["paths"], done["owner"], done["undo_exists"]) == (
        "renamed",
        [],
        os.geteuid(),
        True,
    )
    assert re.fullmatch(r"before-restore-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", done["undo"])
    mounted.run("restore", mounted.path, done["undo"])
    assert content(mounted) == "now, and longer"


def test_a_schedule_cannot_be_taken_back_or_replaced(target: Path, mounted) -> None:
    one_line(mounted.run("restore", target, "--cancel", code=1), "nothing to cancel")
    mounted.run("snapshot", "create", target, "t")
    mounted.run("restore", target, "s", "--schedule")
    assert (
        "it does not go back to 's', as was scheduled before"
        in mounted.run("restore", target, "t", "--schedule").stdout
    )
    again = json.loads(mounted.run("restore", target, "--schedule", "s", "--json").stdout)
    assert (again["scheduled"]["name"], again["replaced"]["name"]) == ("s", "t")
    cancelled = mounted.run("restore", target, "--cancel")
    assert cancelled.stdout == "cancelled: the next mount does not go back to 's'\n"
    mounted.remount()
    assert content(mounted) == "now, and longer"


@pytest.mark.parametrize("target", ["mount"], indirect=True)
def test_a_scheduled_snapshot_can_be_deleted(target: Path, mounted) -> None:
    mounted.run("restore", target, "s", "--schedule")
    one_line(
        mounted.run("snapshot", "delete", target, "s", code=1),
        "the next mount goes back to snapshot 's'",
        "--cancel",
    )
    with pytest.raises(OSError, match="busy") as caught:
        mounted.view("s").rmdir()
    assert caught.value.errno == errno.EBUSY
    mounted.unmount()
    one_line(mounted.run("snapshot", "delete", mounted.image, "s", code=1), "'s'", "--cancel")
    mounted.run("restore", mounted.image, "--cancel")
    mounted.run("snapshot", "delete", mounted.image, "s")


@pytest.mark.parametrize("target", ["image"], indirect=True)
def test_a_mount_that_may_not_write_goes_back_or_forgets_it(target: Path, mounted) -> None:
    mounted.run("restore", target, "s", "--schedule")
    for options in ("ro", "snapshot=s"):
        mounted.mount(options)
        assert info(mounted.run, mounted.path)["scheduled_restore"]["name"] == "s"
        mounted.unmount()
    mounted.mount("ro")
    assert content(mounted) == "now, and longer"
    one_line(mounted.run("restore", mounted.path, "--cancel", code=1), "read-only")
    one_line(mounted.run("restore", mounted.path, "s", "--schedule", code=1), "read-only")
    assert len(plan(mounted.run, mounted.path, "s")["changes"]) == 6
    mounted.remount()
    assert content(mounted) == "then"


@pytest.mark.parametrize("target", ["image"], indirect=True)
def test_the_mount_that_is_asked_for_another_snapshot_does_both(target: Path, mounted) -> None:
    mounted.run("snapshot", "create", target, "t")
    mounted.run("restore", target, "s", "--schedule")
    one_line(mounted.mount("restore=none", code=32), "'none'")
    assert info(mounted.run, target)["scheduled_restore"]["name"] == "s"
    mounted.mount("restore=t")
    mounted.remount()
    assert content(mounted) == "now, and longer"
    assert info(mounted.run, mounted.path)["scheduled_restore"] is None


@pytest.mark.parametrize("target", ["image"], indirect=True)
def test_what_cannot_be_restored_keeps_the_volume_from_being_mounted(target: Path, mounted) -> None:
    """The mount is there, and one line on standard error says what it
    lacks; it is not tried again.
    """
    device = open_device(str(target), read_only=False)
    fs = Filesystem(open_volume(device))
    fs.volume.restores.schedule(Scheduled(77))
    drive(fs.volume, fs.unlink, fs.base, 1, b"new")
    commit(fs.volume)
    device.close()
    one_line(
        mounted.mount(),
        "was scheduled to be restored, which is not possible",
        "does not exist any more",
        "the schedule is dropped",
    )
    assert content(mounted) == "now, and longer"
    mounted.unmount()
    assert mounted.mount().stderr == ""


def test_too_many_or_missing_paths_are_scheduled(target: Path, mounted) -> None:
    one_line(
        mounted.run("restore", target, "s", "--schedule", "--path", "nothing", code=1), "/nothing"
    )
    one_line(
        mounted.run("restore", target, "s", "--schedule", "--path", "x" * 2000, code=2), "at most"
    )
    wanted = json.loads(
        mounted.run(
            "restore", target, "s", "--schedule", "--path", "gone", "--path", "d/", "--json"
        ).stdout
    )
    assert wanted["scheduled"]["paths"] == ["/gone", "/d"]
    assert "goes back to 's', only /gone, /d" in mounted.run("info", target).stdout
    mounted.run("restore", target, "--cancel")


# What is remembered


def test_a_restore_leaves_no_trace_in_the_log(
    volume_image: Path, tmp_path: Path, snapfs_command, wait_until, run_snapfs: Run
) -> None:
    """What, from what, by whom, and the name that undoes it, whether it was done live or by the
    mount.
    """
    mount = tmp_path / "mount"
    mount.mkdir()
    run_snapfs("snapshot", "create", volume_image, "empty")

    def serve(work: Callable[[], object]) -> list[str]:
        with subprocess.Popen(
            snapfs_command("mount", volume_image, mount, "-f"), stderr=subprocess.PIPE, text=True
        ) as daemon:
            try:
                wait_until(mount.is_mount, what="the mount")
                work()
            finally:
                run_snapfs("umount", mount)
            assert daemon.stderr is not None
            return [line for line in daemon.stderr if "restored" in line]

    def live() -> None:
        (mount / "file").touch()
        run_snapfs("restore", mount, "empty")
        (mount / "file").touch()
        run_snapfs("restore", mount, "empty", "--schedule")

    line = (
        rf"snapfs: INFO: restored the snapshot empty for user {os.geteuid()}: \d+ inodes differed; "
        r"the state from before is the snapshot (before-restore-\S+)\n"
    )
    (first,) = serve(live)
    (second,) = serve(lambda: None)
    undone = [re.fullmatch(line, one) for one in (first, second)]
    assert all(undone), (first, second)
    done = info(run_snapfs, volume_image)["restores"]
    assert [one["undo"] for one in done] == [found and found[1] for found in reversed(undone)]
    shown = run_snapfs("info", volume_image).stdout
    assert re.search(
        rf"Last restore: \S+ \S+ UTC from 'empty', by user {os.geteuid()}, \d+ inodes; "
        rf"before it: '{done[0]['undo']}'\n",
        shown,
    )
    run_snapfs("snapshot", "delete", volume_image, done[0]["undo"])
    assert "(deleted or renamed since)" in run_snapfs("info", volume_image).stdout
