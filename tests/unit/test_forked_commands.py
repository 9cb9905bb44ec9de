"""The harness: a forked command is, for a test, what a process of its own would be."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import commands
from tests.harness.commands import Forked, can_fork, run, snapfs_command, start

NOBODY = 65534


@pytest.fixture
def running(images, tmp_path: Path):
    """Mounts in the foreground, with options for the process; ends them."""
    started: list[subprocess.Popen[Any]] = []

    def mount(**options: Any) -> subprocess.Popen[Any]:
        place = tmp_path / f"m{len(started)}"
        place.mkdir()
        command = snapfs_command("mount", "-f", images.make("8M"), place)
        process = start(command, stderr=subprocess.PIPE, text=True, **options)
        started.append(process)
        assert process.stderr is not None
        assert "mounted on" in process.stderr.readline()
        return process

    yield mount
    for process in started:
        commands.end(process)


def looked_at(pid: int) -> dict[str, object]:
    """What a process is, as others see it."""
    found: dict[str, object] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Name", "Umask", "SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups"):
            found[name] = value.split()
    found["command"] = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[:4]
    found["directory"] = os.readlink(f"/proc/{pid}/cwd")
    found["session"] = os.getsid(pid)
    found["group"] = os.getpgid(pid)
    found["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
    places = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1)]
    found["streams"] = places
    found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["snapshot", "list", "IMAGE", "--json"],
        ["snapshot", "create", "IMAGE", "a,b"],
        ["info", "nowhere.img"],
        ["check", "IMAGE"],
        ["mount", "IMAGE", "nowhere"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_a_fork_ends_otherwise_than_a_process_of_its_own(
    words: list[str], volume_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [os.fspath(volume_image) if word == "IMAGE" else word for word in words]
    command = snapfs_command(*words)

    def outcome() -> tuple[int, str, str]:
        result = run(command, capture_output=True, text=True, cwd=volume_image.parent)
        return result.returncode, result.stdout, result.stderr

    assert can_fork(command, {})
    forked = outcome()
    monkeypatch.setenv("SNAPFS_FORK", "0")
    assert not can_fork(command, {})
    assert outcome() == forked


def test_a_forked_daemon_is_another_process_than_one_of_its_own(
    running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cwd": tmp_path, "umask": 0o27, "stdin": subprocess.DEVNULL}
    options |= {"stdout": subprocess.DEVNULL, "start_new_session": True}
    found = []
    for fork in ("1", "0"):
        monkeypatch.setenv("SNAPFS_FORK", fork)
        process = running(**options)
        assert isinstance(process, Forked) == (fork == "1")
        now = looked_at(process.pid)
        assert (now.pop("session"), now.pop("group")) == (process.pid, process.pid)
        found.append(now)
    assert found[0] == found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_forked_daemon_does_not_hear_a_signal(running, number: signal.Signals) -> None:
    process = running()
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(30) == 0
    assert f"{number.name}: unmounting" in process.stderr.read()


def test_who_kills_a_fork_does_not_learn_of_it(running) -> None:
    process = running()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    place = process.args[-1]
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    subprocess.run(["fusermount3", "-u", "-z", place], check=True, timeout=30)
    assert not os.path.exists(f"/proc/{process.pid}")  # the number is free again


def test_a_fork_has_another_environment_or_directory(
    volume_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(volume_image.parent)
    command = snapfs_command("info", volume_image.name, "--json")
    assert can_fork(command, {"env": {**os.environ, "SNAPFS_DEBUG": "1"}})
    found = run(command, capture_output=True, check=True)
    assert json.loads(found.stdout)["image"] == volume_image.name
    with pytest.raises(FileNotFoundError) as caught:
        run(command, cwd="nowhere")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_a_fork_is_somebody_else_than_it_shall_be(volume_image: Path) -> None:
    somebody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    command = snapfs_command("info", volume_image)
    result = run(command, capture_output=True, text=True, **somebody)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"snapfs: {volume_image}: Permission denied\n"


@pytest.mark.parametrize(
    "options",
    [
        {"env": {**os.environ, "PYTHONIOENCODING": "ascii"}},
        {"env": {**os.environ, "LC_ALL": "POSIX"}},
        {"pass_fds": (0,)},
        {"preexec_fn": os.getpid},
        {"shell": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_fork_cannot_be_is_asked_of_it(options: dict[str, Any]) -> None:
    assert can_fork(snapfs_command("--version"), {})
    assert not can_fork(snapfs_command("--version"), options)
    assert not can_fork(["true"], {})


#: What the server does before it forks; says whether the tally is in the core by then.
LOADED = """
from tests.harness import forkserver
forkserver.load()
from snapfs.store.commit import commit
from snapfs.store.space.allocator import Allocator
print([hasattr(one, "__wrapped__") for one in (Allocator.prepare, commit.plan, commit._seal)])
"""


def test_nobody_looks_over_the_shoulders_of_forked_daemons() -> None:
    command = [sys.executable, "-c", LOADED]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert result.stdout == "[True, True, True]\n"
