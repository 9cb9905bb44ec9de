"""A daemon that does not answer: whoever waits is told what for, may set a limit, and can always
give up.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.cli.exits import CommandFailed
from snapfs.cli.mounting import beside
from snapfs.fuse.options import MountOptions

#: Far more than any of these commands needs: to give up, or to be interrupted.
LIMIT = 60.0

TIMED_OUT = (
    r"snapfs: .*(said nothing about '[a-z.]+'|not answered the kernel) for 0\.2 seconds, as "
    r"--timeout allows.*\n"
)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Processes that start in the background may have inherited that interrupts are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stopped(mounted) -> Iterator[Any]:
    """A mounted volume with a snapshot, whose daemon is stopped;
    ``mounted.daemon`` is its process.
    """
    (mounted / "d" / "e").mkdir(parents=True)
    mounted.snapshot("s")
    mounted.daemon = mounted.pid
    os.kill(mounted.daemon, signal.SIGSTOP)
    try:
        yield mounted
    finally:
        os.kill(mounted.daemon, signal.SIGCONT)


def test_commands_wait_for_ever(stopped, tmp_path: Path, snapfs_command) -> None:
    """With ``--timeout`` each of them ends, with one line and the documented code."""
    path = stopped.path
    commands: list[tuple[object, ...]] = [
        *(("snapshot", "create", path, "n", "--path", where) for where in ("/d", path / "d")),
        ("snapshot", "list", path),
        ("snapshot", "show", path, "s"),
        ("snapshot", "show", path, "s", "--hot"),
        ("snapshot", "rename", path, "s", "t"),
        ("snapshot", "delete", path, "s"),
        ("snapshot", "set", path, "s", "--read-only"),
        ("snapshot", "hold", path, "s"),
        ("snapshot", "release", path, "s"),
        *(("restore", path, "s", *words) for words in ((), ("--dry-run",), ("--schedule",))),
        ("restore", path, "--cancel"),
        ("diff", path, "s"),
        ("versions", path / "never-seen"),
        ("versions", path, "--path", path / "never-seen"),
        ("purge", path, "/d", "--yes"),
        ("purge", path / "never-seen", "--yes"),
        ("copy", path, tmp_path / "copy.img"),
        ("copy", "status", path),
        ("copy", "cancel", path),
        ("info", path / "d" / "e"),  # the kernel itself asks the daemon for this one
        ("df", stopped.image),
        ("scrub", path),
    ]
    running = [
        subprocess.Popen(
            snapfs_command(*words, "--timeout", "0.2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    for words, process in zip(commands, running, strict=True):
        with process:
            out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (1, ""), words
        assert re.fullmatch(
            r"snapfs: .*(said nothing about '[a-z.]+'|not answered the kernel) for 0\.2 "
            r"seconds, as --timeout allows.*\n",
            err,
        ), (
            words,
            err,
        )
        assert (
            err.startswith(f"snapfs: the daemon (process {stopped.daemon}, which is stopped")
            or "answered the kernel" in err
        )
    os.kill(stopped.daemon, signal.SIGCONT)
    assert stopped.run("info", path, "--timeout", "100").stdout
    for name in ("n", "t"):  # what was asked for may be done all the same, later
        stopped.run("snapshot", "delete", path, name, code=None)


@pytest.mark.parametrize("where", ["", "d/e"])
def test_a_command_waits_without_a_word_or_cannot_be_interrupted(
    stopped, where: str, snapfs_command
) -> None:
    command = snapfs_command("snapshot", "list", stopped.path / where)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()  # comes while the command waits
        assert line.startswith("snapfs: waiting for the daemon")
        assert (
            where
            or f"process {stopped.daemon}, which is stopped: 'kill -CONT {stopped.daemon}' "
            "lets it go on"
            in line
        )
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert (out, err, process.returncode) == ("", "snapfs: interrupted\n", 130)
        assert time.monotonic() - start < LIMIT / 2


def test_an_interrupted_copy_asks_the_daemon_for_ever(
    stopped, tmp_path: Path, snapfs_command
) -> None:
    command = snapfs_command("copy", stopped.path, tmp_path / "copy.img")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "waiting for the daemon" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
        assert (err, process.returncode) == ("snapfs: interrupted\n", 130)


def test_a_second_mount_waits_for_a_daemon_that_is_stopped(stopped, monkeypatch) -> None:
    monkeypatch.setattr(beside, "ANSWER_SECONDS", 0.1)
    options = MountOptions()
    daemon = beside.running(str(stopped.image), options)
    assert daemon is not None
    with (
        daemon,
        pytest.raises(
            CommandFailed,
            match=f"in use: process {stopped.daemon} has it mounted, and does not answer",
        ) as caught,
    ):
        beside.check(daemon, str(stopped.image), options, foreground=False)
    assert caught.value.code == 32


def test_a_daemon_that_goes_on_is_not_waited_for(stopped, snapfs_command) -> None:
    """What was waited for comes, whatever has been said meanwhile."""
    with subprocess.Popen(
        snapfs_command("snapshot", "list", stopped.path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "waiting" in process.stderr.readline()
        os.kill(stopped.daemon, signal.SIGCONT)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        assert out.splitlines()[1].startswith("s ")
        assert err == ""


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_time_that_cannot_be_is_waited(wrong: str, run_snapfs, tmp_path: Path) -> None:
    result = run_snapfs("info", tmp_path, "--timeout", wrong, code=2)
    assert "not a time to wait" in result.stderr
    assert result.stderr.count("\n") == 1
