"""What a daemon leaves that a fault has ended: without it, nobody could say where it was."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from snapfs.cli.mounting import faults

#: A process that has its tracebacks written somewhere, and is then ended by a fault.
_FAILS = """
import contextlib, os, signal, sys
from snapfs.cli.mounting import faults
where, place = sys.argv[1:]
journal = where == "journal"
with contextlib.nullcontext() if journal else faults.to_file(place):
    assert not journal or faults.to_journal(place)
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def _fail(where: str, place: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _FAILS, where, place], check=False, capture_output=True
    )
    assert result.returncode == -signal.SIGSEGV, result.stderr


def test_the_journal_has_the_traceback_line_by_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as journal:
        journal.bind(os.fspath(tmp_path / "journal"))
        journal.listen()
        _fail("journal", tmp_path / "journal")
        stream, _ = journal.accept()
        with stream, stream.makefile("rb") as file:
            said = file.read()
    header, _, rest = said.partition(b"\n\n")
    assert header == b"snapfs"
    assert rest.splitlines()[:5] == [b"2", b"0", b"0", b"0", b"0"]
    assert b"\nFatal Python error: Segmentation fault\n" in rest
    assert b"in <module>" in rest


def test_without_a_journal_nothing_is_promised(tmp_path: Path) -> None:
    assert not faults.to_journal(os.fspath(tmp_path / "nobody"))


def test_the_next_daemon_tells_what_the_one_before_has_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "image.fault"
    _fail("file", place)
    assert place.stat().st_mode & 0o777 == 0o600
    with caplog.at_level(logging.CRITICAL, "snapfs"):
        faults.tell_earlier(os.fspath(place))
    assert "was ended by a fault" in caplog.text
    assert "Fatal Python error: Segmentation fault" in caplog.text
    caplog.clear()
    faults.tell_earlier(os.fspath(place))
    assert not caplog.text  # once


def test_a_daemon_that_ends_in_order_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "image.fault"
    script = (
        "import sys; from snapfs.cli.mounting import faults\n"
        "with faults.to_file(sys.argv[1]): print('on')"
    )
    result = subprocess.run([sys.executable, "-c", script, place], check=True, capture_output=True)
    assert result.stdout == b"on\n"
    assert not place.exists()


def test_what_killed_daemons_have_left_goes_and_what_others_need_stays(tmp_path: Path) -> None:
    for name in ("dead.fault", "alive.fault", "other.sock"):
        (tmp_path / name).touch()
    (tmp_path / "told.fault").write_text("Fatal Python error")
    with (tmp_path / "alive.fault").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        _fail("file", tmp_path / "image.fault")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"alive.fault", "other.sock", "told.fault", "image.fault"}


def test_a_link_that_somebody_has_put_there_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("nobody's business")
    place = tmp_path / "image.fault"
    place.symlink_to(secret)
    with caplog.at_level(logging.WARNING, "snapfs"), faults.to_file(os.fspath(place)):
        pass
    faults.tell_earlier(os.fspath(place))
    assert "would leave no traceback" in caplog.text
    assert "nobody's business" not in caplog.text
    assert secret.read_text() == "nobody's business"
