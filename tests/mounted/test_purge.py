"""``snapfs purge`` on real mounts and images: what it says, what it asks, what is gone then, and
what is left to who uses it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def purge(run: Run, *arguments: object, code: int = 0) -> dict[str, Any]:
    return json.loads(run("purge", *map(str, arguments), "--yes", "--json", code=code).stdout)


def snapshots_of(found: dict[str, Any]) -> list[str]:
    return [one["snapshot"] for one in found["snapshots"]]


def space(run: Run, target: object) -> int:
    """What only snapshots have."""
    return int(json.loads(run("df", target, "--json").stdout)["volume"]["snapshots"])


@pytest.fixture
def secrets(mounted):
    """A volume with the snapshots ``one``, ``two`` and ``three``, and in each ``secret`` and the
    tree ``d``; ``d`` is deleted since.
    """
    (mounted / "d" / "deep").mkdir(parents=True)
    for number in range(50):
        (mounted / "d" / f"file{number}").write_bytes(b"f" * 5000)
    (mounted / "d" / "deep" / "large").write_bytes(os.urandom(3 << 20))
    os.link(mounted / "d" / "deep" / "large", mounted / "d" / "again")
    for name in ("one", "two", "three"):
        (mounted / "secret").write_text(name)
        mounted.snapshot(name)
    mounted.run("snapshot", "set", mounted.path, "two", "--read-only")
    subprocess.run(["rm", "-r", mounted / "d"], check=True)
    return mounted


# --- what goes ---


def test_the_present_or_another_snapshot_loses_what_was_purged(secrets) -> None:
    """Read-only snapshots are purged as well; the space is there when the command returns."""
    run, view = secrets.run, secrets.view
    assert snapshots_of(
        purge(run, secrets.path, "secret", "--snapshot", "one", "--snapshot", "two")
    ) == ["one", "two"]
    assert (secrets / "secret").read_text() == (view("three") / "secret").read_text() == "three"
    assert os.listdir(view("one")) == os.listdir(view("two")) == ["d"]
    before = space(run, secrets.path)
    found = purge(run, secrets.path, "d")
    assert snapshots_of(found) == ["one", "two", "three"]
    assert found["exact"]
    assert found["frees"] > (3 << 20) + 50 * 8192
    assert (
        abs(found["frees"] - (before - space(run, secrets.path))) < 30 * 4096
    )  # but for the inode tables of three snapshots
    assert [os.listdir(view(name)) for name in ("one", "two", "three")] == [[], [], ["secret"]]
    secrets.remount()
    assert [os.listdir(view(name)) for name in ("one", "two", "three")] == [[], [], ["secret"]]
    assert (secrets / "secret").read_text() == "three"


def test_an_image_is_purged_otherwise_than_a_mount(secrets) -> None:
    secrets.unmount()
    image, run = secrets.image, secrets.run
    dry = json.loads(run("purge", image, "/d/", "secret", "--dry-run", "--json").stdout)
    found = purge(run, image, "d", "/secret")
    assert {**dry, "dry_run": False} == found
    assert [(one["snapshot"], one["path"], one["type"]) for one in found["snapshots"]] == [
        (name, path, kind)
        for name in ("one", "two", "three")
        for path, kind in (("/d", "directory"), ("/secret", "file"))
    ]
    assert found["frees"] > 3 << 20
    assert space(run, image) < 40 * 4096
    secrets.mount()
    assert [os.listdir(secrets.view(name)) for name in ("one", "two", "three")] == [[], [], []]


def test_a_dry_run_changes_something_or_says_something_else(secrets) -> None:
    run = secrets.run
    result = run(
        "purge", secrets.path, "d", "--dry-run", "--snapshot", "one", "--snapshot", "three"
    )
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["SNAPSHOT", "PATH", "MODIFIED", "SIZE"]
    assert [line.split()[0] for line in lines[1:3]] == ["one", "three"]
    assert (
        lines[3] == "purging this from 2 snapshots would free 0 B (0 bytes)"
    )  # the third one has all of it
    assert (secrets.view("one") / "d" / "again").stat().st_nlink == 2
    said = json.loads(run("purge", secrets.path, "d", "--dry-run", "--json").stdout)["frees"]
    assert purge(run, secrets.path, "d")["frees"] == said


def test_a_path_in_a_mount_is_not_enough(secrets, tmp_path: Path) -> None:
    """As ``versions`` takes it; also one that the present has no more, and through a link from
    elsewhere.
    """
    run = secrets.run
    (tmp_path / "link").symlink_to(secrets / "secret")
    assert len(snapshots_of(purge(run, secrets / "d" / "deep" / "large"))) == 3
    assert os.listdir(secrets.view("one") / "d" / "deep") == []
    assert (secrets.view("one") / "d" / "again").stat().st_nlink == 1
    assert len(snapshots_of(purge(run, tmp_path / "link"))) == 3
    assert (secrets / "secret").exists()


def test_names_are_followed_or_mistaken(secrets) -> None:
    """A symbolic link is purged itself; bytes that are no text are what they are."""
    name = os.fsdecode(b"caf\xe9")
    (secrets / "link").symlink_to("secret")
    (secrets / name).write_text("x")
    secrets.snapshot("four")
    purge(secrets.run, secrets.path, "link")
    assert sorted(os.listdir(secrets.view("four"))) == sorted([name, "secret"])
    assert snapshots_of(purge(secrets.run, secrets / name)) == ["four"]
    assert os.listdir(secrets.view("four")) == ["secret"]


def test_a_part_is_purged_where_it_does_not_reach(secrets) -> None:
    """Snapshots of directories: looked at under their own paths; the directory itself goes with the
    snapshot.
    """
    run = secrets.run
    (secrets / "p").mkdir()
    (secrets / "p" / "secret").write_text("x")
    (secrets / "p" / ".snap" / "part").mkdir()
    assert snapshots_of(purge(run, secrets / "p" / "secret")) == ["part"]
    assert os.listdir(secrets / "p" / ".snap" / "part") == []
    result = run("purge", secrets.path, "p", "--yes", code=1)
    one_line(result, "'part'", "/p", "delete the snapshot")


# --- what is refused, and what is asked ---


def test_a_snapshot_that_is_held_is_purged_or_passed_over_in_silence(secrets) -> None:
    run = secrets.run
    run("snapshot", "hold", secrets.path, "two", "--reason", "audit")
    result = run(
        "purge", secrets.path, "secret", "--yes", "--snapshot", "one", "--snapshot", "two", code=1
    )
    one_line(result, "'two'", "held", "audit", "release")
    assert "purged from 1 snapshot" in result.stdout
    result = run("purge", secrets.path, "secret", "--yes")
    assert "because they are held: two" in result.stdout
    assert not result.stderr
    assert (secrets.view("two") / "secret").read_text() == "two"
    assert not (secrets.view("three") / "secret").exists()
    one_line(
        run("purge", secrets.path, "secret", "--yes", code=1),
        "only snapshots that are held have /secret",
    )
    assert purge(run, secrets.path, "secret", code=1)["left_out"][0]["name"] == "two"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nosuch"], 1, "/nosuch: no snapshot has it; nothing was purged"),
        (["secret", "nosuch"], 1, "/nosuch: no snapshot has it; nothing was purged"),
        (["secret/below"], 1, "/secret/below: no snapshot has it"),
        (["nosuch", "--snapshot", "one"], 1, "none of these snapshots has it"),
        (["secret", "--snapshot", "nosuch"], 1, "no snapshot is named 'nosuch'"),
        (["/"], 2, "the root directory cannot be purged"),
        (["d", "."], 2, "the root directory cannot be purged"),
        (["a/../secret"], 2, "'..' has no place"),
        ([".snap/one/secret"], 2, "--snapshot"),
        (["n" * 300], 1, "no snapshot has it"),
    ],
)
def test_what_cannot_be_purged_is(secrets, words: list[str], code: int, line: str) -> None:
    for target in (secrets.path, secrets.image):
        one_line(secrets.run("purge", target, *words, "--yes", code=code), line)
    assert (secrets.view("one") / "secret").exists()


def test_the_mount_point_or_an_image_alone_is_purged(secrets) -> None:
    one_line(
        secrets.run("purge", secrets.path, "--yes", code=2), "the root directory cannot be purged"
    )
    one_line(secrets.run("purge", secrets.image, "--yes", code=2), "an image")
    one_line(secrets.run("purge", secrets.view("one") / "secret", "--yes", code=2), "--snapshot")


def test_a_volume_that_is_mounted_to_read_is_purged(secrets) -> None:
    secrets.remount("ro")
    one_line(secrets.run("purge", secrets.path, "secret", "--yes", code=1), "read-only")
    assert "would free" in secrets.run("purge", secrets.path, "secret", "--dry-run").stdout


def test_nobody_is_asked_where_nobody_answers(secrets) -> None:
    result = secrets.run("purge", secrets.path, "secret", code=2, stdin=subprocess.DEVNULL)
    one_line(result, "--yes", "--dry-run")
    assert (secrets.view("one") / "secret").exists()


@pytest.mark.parametrize(
    ("answer", "code"),
    [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1), ("\x03", 130)],
)
def test_a_purge_begins_without_an_answer(
    secrets, snapfs_command, start, answer: str, code: int
) -> None:
    """On a terminal it says how many snapshots have it, and what it frees;
    anything but yes is no.
    """
    leader, follower = pty.openpty()
    process = start(
        snapfs_command("purge", secrets.path, "d"), stdin=follower, stdout=follower,
        stderr=follower, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(follower)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(leader, 1000)
    assert (secrets.view("one") / "d").exists()
    os.write(leader, answer.encode())
    assert process.wait(60) == code
    os.close(leader)
    assert b"Purge /d from 3 snapshots, which frees 3." in said
    assert b"cannot be undone" in said
    assert (secrets.view("one") / "d").exists() is (code != 0)


# --- what the kernel and its users have of it ---


def test_the_kernel_shows_what_was_purged(secrets) -> None:
    """What was looked at before is gone at once, under its path, in listings, and in the ``.snap``
    of directories.
    """
    (secrets / "d" / "deep").mkdir(parents=True)  # others than those of then
    secrets.snapshot("four")
    files = [
        secrets.view("one") / "d" / "deep" / "large",
        secrets.view("one") / "d" / "file1",
        secrets / "d" / ".snap" / "four",
    ]
    assert all(file.exists() for file in files)
    assert "four" in os.listdir(secrets / "d" / "deep" / ".snap")
    assert "d" in os.listdir(secrets.view("one"))
    links = secrets.view("one").stat().st_nlink
    purge(secrets.run, secrets.path, "d")
    assert not any(file.exists() for file in files)
    assert os.listdir(secrets.view("one")) == ["secret"]
    assert secrets.view("one").stat().st_nlink == links - 1
    assert os.listdir(secrets / "d" / ".snap") == os.listdir(secrets / "d" / "deep" / ".snap") == []
    (secrets.view("one") / "d").mkdir()  # the name is free
    assert os.listdir(secrets.view("one") / "d") == []


def test_who_has_a_file_open_reads_something_else(secrets, wait_until) -> None:
    """As after any deletion: it is there until it is closed; and the directory that somebody is in
    is empty.
    """
    run, large = secrets.run, secrets.view("one") / "d" / "deep" / "large"
    content = large.read_bytes()
    place = os.open(secrets.view("one") / "d" / "deep", os.O_RDONLY)
    with large.open("r+b", buffering=0) as file:
        purge(run, secrets.path, "d")
        assert file.read() == content
        file.write(b"more")
        assert os.fstat(file.fileno()).st_nlink in (0, 1)  # the kernel counts names by itself
        assert os.listdir(place) == []
        wait_until(
            lambda: not os.access("large", os.F_OK, dir_fd=place), what="the end of the name"
        )
        assert space(run, secrets.path) >= 3 << 20
    wait_until(lambda: space(run, secrets.path) < 1 << 20, what="the space of what was open")
    os.close(place)


def test_what_was_open_at_the_end_stays_for_ever(secrets, wait_until) -> None:
    """Whoever kills the daemon while a purged file is open gets its space
    back with the next mount.
    """
    with (secrets.view("one") / "d" / "deep" / "large").open("rb") as file:
        purge(secrets.run, secrets.path, "d")
        assert file.read(1)
        secrets.kill()
    secrets.mount()
    wait_until(
        lambda: space(secrets.run, secrets.path) < 1 << 20, what="the space of what was open"
    )


# --- interrupted ---


@pytest.mark.volume(size="256M")
def test_a_killed_daemon_leaves_half_a_purge(mounted, snapfs_command, wait_until, start) -> None:
    """A path is gone for good when it is gone from one snapshot; after kill -9 the rest of the work
    is done by the next mount.
    """
    for number in range(60):
        (mounted / "d" / str(number)).mkdir(parents=True)
        for other in range(50):
            (mounted / "d" / str(number) / str(other)).write_bytes(b"x" * 5000)
    names = [f"s{number}" for number in range(6)]
    for name in names:
        mounted.snapshot(name)
        (mounted / "d" / "0" / "0").write_text(name)
    subprocess.run(["rm", "-r", mounted / "d"], check=True)
    before, pid = space(mounted.run, mounted.path), mounted.pid
    assert before > 60 * 50 * 8192
    last = mounted.view("s5") / "d"
    process = start(
        snapfs_command("purge", mounted.path, "d", "--yes"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: not last.exists(), what="the path to be gone")
    mounted.kill(pid)
    out, error = process.communicate(timeout=60)
    assert not out
    assert error.startswith("snapfs: the daemon")
    assert error.count("\n") == process.returncode == 1
    left = json.loads(mounted.run("df", mounted.image, "--json").stdout)["volume"]["snapshots"]
    assert left > before / 2, "all was freed before the kill: there is nothing to go on with"
    assert (
        json.loads(mounted.run("check", mounted.image, "--json", code=None).stdout)["findings"]
        == []
    )
    one_line(mounted.run("diff", mounted.image, "s0", code=1), "purge")
    mounted.mount()
    assert [os.listdir(mounted.view(name)) for name in names] == [[]] * 6
    wait_until(
        lambda: space(mounted.run, mounted.path) < 1 << 20, limit=60, what="the rest of the purge"
    )
    assert mounted.run("diff", mounted.path, "s0").stdout == ""


def test_who_interrupts_is_not_told_what_has_happened(monkeypatch, capsys, tmp_path: Path) -> None:
    """Once the path is gone, it is; before, nothing has happened."""
    import contextlib

    from snapfs.cli.commands import purge as command
    from snapfs.cli.main import main
    from snapfs.cli.target import Session

    events: list[dict[str, Any]] = []

    def call(_name: str, told: Callable[[dict[str, Any]], None], **_: Any) -> dict[str, Any]:
        for event in events:
            told(event)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the interrupt did not come")

    monkeypatch.setattr(
        command, "session", lambda *_, **__: contextlib.nullcontext(Session(call, "/m"))
    )
    assert main(["purge", str(tmp_path), "d", "--yes"]) == 130
    assert capsys.readouterr().err == "snapfs: interrupted\n"
    events.append({"purged": 2})
    assert main(["purge", str(tmp_path), "d", "--yes"]) == 130
    assert "purged from 2 snapshots already" in capsys.readouterr().err
