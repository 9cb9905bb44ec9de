"""Parts of the command line that need no volume: notification, captured standard error, the
daemon's birth.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from snapfs.cli.exits import MOUNT_FAILED, CommandFailed
from snapfs.cli.mounting import daemon
from snapfs.cli.mounting.notify import notify
from snapfs.cli.mounting.serving import _single, explain
from snapfs.errors import AccessDenied, NoSuchSnapshot, SnapfsError, UsageError


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_the_state(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@snapfs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", [None, "", "relative", "/nobody/listens"])
def test_nobody_to_tell_is_no_error(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if value is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )


def test_what_libraries_say_on_standard_error_is_kept_back() -> None:
    result = in_a_process(
        "import os\n"
        "from snapfs.cli.mounting.stderr import captured\n"
        "with captured() as complaints:\n"
        "    os.system('echo fusermount3: first >&2; echo fusermount3: second >&2')\n"
        "    text = complaints.text()\n"
        "    complaints.release()\n"
        "    os.write(2, b'shown')\n"
        "print(text)"
    )
    assert (result.stdout, result.stderr) == ("second\n", "shown")


START = (
    "import os, sys\nfrom snapfs.cli.mounting import daemon\nfrom snapfs.cli.exits import "
    "CommandFailed\n"
)


def test_the_caller_goes_on_when_the_daemon_is_live_and_has_let_go_of_its_streams() -> None:
    # If the daemon kept the pipe for standard output, the run would wait for its end.
    result = in_a_process(
        START + "reader, writer = os.pipe()\n"
        "def work(live):\n"
        "    os.close(writer)\n"
        "    live()\n"
        "    os.read(reader, 1)\n"
        "print(daemon.start(work), flush=True)"
    )
    assert result.stdout == "0\n"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("raise CommandFailed('no luck', 7)", 7, "no luck"),
        ("os._exit(3)", MOUNT_FAILED, "ended before the mount was live"),
        ("os.kill(os.getpid(), 9)", MOUNT_FAILED, "ended before the mount was live"),
    ],
)
def test_a_daemon_that_fails_gives_its_reason_to_the_caller(
    body: str, code: int, text: str
) -> None:
    result = in_a_process(
        START + f"def work(live): {body}\ntry: daemon.start(work)\nexcept CommandFailed as exc: "
        "print(exc.code, exc, flush=True)"
    )
    assert result.stdout.startswith(f"{code} ")
    assert text in result.stdout


def test_no_process_for_the_daemon_is_a_system_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_process)
    with pytest.raises(CommandFailed) as caught:
        daemon.start(lambda live: live())
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "complaint", "code", "text"),
    [
        (UsageError("bad option"), "", 1, "bad option"),
        (AccessDenied("not yours"), "", 1, "not yours"),
        (NoSuchSnapshot("x: no such snapshot"), "", 32, "x: no such snapshot"),
        (MemoryError(), "", 2, "out of resources"),
        (
            RuntimeError("fuse_session_mount failed"),
            "mount failed: Operation not permitted",
            32,
            "Operation not permitted",
        ),
        (FileNotFoundError(2, "No such file or directory", "/x"), "", 32, "/x: No such file"),
        (ZeroDivisionError("odd"), "", 32, "internal error"),
    ],
)
def test_what_ends_a_mount_is_explained(
    error: BaseException, complaint: str, code: int, text: str
) -> None:
    failure = explain(error, complaint)
    assert failure.code == code
    assert text in str(failure)


def test_the_error_in_a_nurserys_group_is_found() -> None:
    inner = NoSuchSnapshot("x")
    group = BaseExceptionGroup("a", [ValueError(), BaseExceptionGroup("b", [inner])])
    assert _single(group) is inner
    assert isinstance(_single(BaseExceptionGroup("a", [ValueError()])), ValueError)
    assert isinstance(inner, SnapfsError)


def test_helpers_are_linked_and_removed_and_strangers_left_alone(
    tmp_path: Path, run_snapfs
) -> None:
    script = tmp_path / "bin" / "snapfs"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom snapfs.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    links = tmp_path / "sbin"
    links.mkdir()

    def install(*words: str) -> subprocess.CompletedProcess[str]:
        command = [script, "install-helpers", "--directory", links, *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert install().returncode == 0
    names = sorted(path.name for path in links.iterdir())
    assert names == [
        "fsck.snapfs",
        "mkfs.snapfs",
        "mount.fuse.snapfs",
        "mount.snapfs",
        "umount.fuse.snapfs",
        "umount.snapfs",
    ]
    fake = subprocess.run(
        [links / "mount.snapfs", "a", "b", "-f"], check=False, capture_output=True, timeout=60
    )
    assert fake.returncode == 0
    assert install().returncode == 0  # again
    assert install("--remove").returncode == 0
    assert list(links.iterdir()) == []
    (links / "mount.snapfs").write_text("someone else's")
    result = install()
    assert result.returncode == 1
    assert "not a link to snapfs" in result.stderr
    assert (links / "mount.snapfs").read_text() == "someone else's"
    assert result.stderr.count("\n") == 1
