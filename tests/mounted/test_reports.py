"""To look inside a daemon: what it does when it hangs, how long things take, and why it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BLOCK = 4096


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, so that whoever waits for it waits."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Log:
    """A daemon's log, in a file."""

    def __init__(self, path: Path, wait: Callable[..., None]) -> None:
        self._path = path
        self._wait = wait

    def text(self) -> str:
        return self._path.read_text() if self._path.exists() else ""

    def report(self, pid: int, *words: str) -> str:
        """What the daemon answers to the signal, as soon as it has all these words."""
        found = [""]

        def has_words() -> bool:
            before = len(self.text())
            os.kill(pid, signal.SIGUSR1)
            # The task that makes the report is the last one that is told.
            self._wait(lambda: "run_sync_soon" in self.text()[before:], 30, "the whole report")
            found[0] = self.text()[before:]
            return all(word in found[0] for word in words)

        self._wait(has_words, 30, f"a report with {words}")
        return found[0]


#: Who is kept from the processor for a second does not answer, and does so the next time.
ANSWERS = "the event loop answers"
NOTHING = "requests in progress: 0"


@pytest.fixture
def log_at(wait_until: Callable[..., None]) -> Callable[[Path], Log]:
    return lambda path: Log(path, wait_until)


def test_a_report_says_which_request_waits_for_what(
    mounted: Any,
    tmp_path: Path,
    run_snapfs: Callable[..., Any],
    mount_volume: Callable[..., Any],
    log_at: Callable[[Path], Log],
) -> None:
    """On a device that stops answering: when that stops the event loop, and when it goes on.

    The device is an image in another mount, whose daemon is stopped. There is no claim on it, which
    would be looked at now and then.
    """
    image = mounted / "inner.img"
    run_snapfs("mkfs", image, "--size", "16M")
    log = log_at(tmp_path / "log")
    options = f"mmp=off,commit=3600,logfile={tmp_path / 'log'}"
    upper = mount_volume(image, options=options)
    (upper / "directory").mkdir()
    (upper / "directory" / "cold").write_bytes(bytes(range(256)) * 16)
    upper.remount(options)
    below, pid = mounted.pid, upper.pid
    said = log.report(pid, f"{image} on {upper.path} (process {pid}): {ANSWERS}", NOTHING)
    assert re.search(r"blocks: free \d+, available \d+", said)
    assert "init: 1, in microseconds p50 " in said

    with (upper / "directory" / "cold").open("rb", buffering=0) as file:
        with image.open("rb") as device:  # nothing of it is in the kernel's memory any more
            os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(file.read()))
        with stopped(below):
            reader.start()  # alone, so that the loop itself reads from the device
            log.report(pid, "works on read", "does not answer")
        log.report(pid, ANSWERS)
        reader.join(30)
    told = log.text()
    assert re.search(r"and works on read \(inode \d+ in the base; request \d+\), for \d", told)
    assert re.search(r"it is in\n(?:.*\n){1,12}.*ImageDevice.read \(device/image.py:\d+\)", told)
    assert found == [bytes(range(256)) * 16]

    write_new(upper / "warm")  # or making a file would wait for metadata
    writer = threading.Thread(target=write_new, args=[upper / "new"])
    with stopped(below):
        writer.start()  # what it waits for is written by a thread
        said = log.report(
            pid, "fsync of /new", ANSWERS, "a thread of commits, for", "ImageDevice.flush"
        )
        assert re.search(r"fsync of /new \(inode \d+ in the base; request \d+\), for ", said)
        assert "waits for\n" in said
        assert "a commit, or a record of the log" in said
        assert re.search(r"commits: generation \d+, dirty (yes|no), ", said)
    writer.join(30)
    assert not writer.is_alive()
    log.report(pid, NOTHING)


def write_new(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * BLOCK)
        file.flush()
        os.fsync(file.fileno())


def test_a_daemon_that_a_fault_ends_says_where_it_was(mounted: Any, tmp_path: Path) -> None:
    """In the log, if that is a file; and of another, the next daemon tells."""
    log = tmp_path / "log"
    mounted.remount(f"logfile={log}")
    mounted.kill(by=signal.SIGSEGV)
    said = log.read_text()
    assert "Fatal Python error: Segmentation fault" in said
    assert "in unrolled_run" in said or "in run" in said
    mounted.mount()
    (mounted / "usable").write_text("again")


def test_a_log_level_holds_and_is_changed_at_a_live_mount(
    mounted: Any, tmp_path: Path, log_at: Callable[[Path], Log]
) -> None:
    path = tmp_path / "log"
    log = log_at(path)
    mounted.remount(f"logfile={path},loglevel=warning")
    assert mounted.run("loglevel", mounted.path).stdout == "warning\n"
    assert log.text() == ""  # not even that it is mounted
    log.report(mounted.pid, NOTHING)  # who asks is answered
    mounted.run("loglevel", mounted.path, "debug")
    before = len(log.text())
    (mounted / "file").write_text("something")
    mounted.snapshot("one")
    assert "DEBUG: generation" in log.text()[before:]
    mounted.run("loglevel", mounted.path, "error")
    assert json.loads(mounted.run("loglevel", mounted.path, "--json").stdout)["level"] == "error"
    mounted.run("loglevel", mounted.path, "loud", code=2)
    mounted.unmount()
    refused = mounted.run("loglevel", mounted.image, "info", code=1).stderr
    assert "not mounted, so there is no daemon" in refused


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("loglevel=loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("logfile=/nowhere/log", "logfile: /nowhere/log: No such file or directory"),
    ],
)
def test_a_log_that_cannot_be_is_refused_before_anything_is_mounted(
    mounted: Any, option: str, words: str
) -> None:
    mounted.unmount()
    assert words in mounted.mount(option, code=1).stderr
    mounted.mount()


@pytest.mark.parametrize("options", ["", "requests=pyfuse3"])
def test_latencies_are_shown_for_people_and_programs(mounted: Any, options: str) -> None:
    if options:
        mounted.remount(options)
    for number in range(20):
        (mounted / f"file{number}").write_bytes(b"x" * BLOCK)
    with (mounted / "file0").open("r+b") as file:
        file.write(b"y")
        file.flush()
        os.fsync(file.fileno())
    mounted.snapshot("one")
    assert "latencies" not in json.loads(mounted.run("info", mounted.path, "--json").stdout)
    document = json.loads(mounted.run("info", mounted.path, "--counters", "--json").stdout)
    found = document["latencies"]
    assert found["create"]["count"] == document["requests"]["create"] == 20
    assert found["commit"]["count"] >= 1
    assert found["seal"]["count"] >= found["commit"]["count"]
    log_records = found.get("log record", {"count": 0})["count"]
    assert found["device flush"]["count"] == 2 * found["commit"]["count"] + log_records
    for name, figures in found.items():
        assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"], name
        assert figures["p999_us"] <= figures["max_us"], name
        assert sum(count for _, count in figures["buckets"]) == figures["count"], name
    shown = mounted.run("info", mounted.path, "--counters").stdout
    assert re.search(r"^ *create +20 ", shown, re.MULTILINE)
    mounted.unmount()
    offline = json.loads(mounted.run("info", mounted.image, "--counters", "--json").stdout)
    assert offline["latencies"] == {}  # nobody serves it
