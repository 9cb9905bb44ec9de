"""fsync on a mount, and the end of its daemon: what was acknowledged is there, for whoever looks
next.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SIZE = 1 << 20

#: The timer commits what the log has; here it does not.
TIMER = pytest.mark.volume(options="commit=300")


def counters(mounted) -> dict[str, int]:
    found: dict[str, int] = json.loads(mounted.run("info", mounted.path, "--json").stdout)[
        "counters"
    ]
    return found


def write(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_a_log(mounted) -> Path:
    """A file whose fsyncs are told in the log."""
    path: Path = mounted / "file"
    path.write_bytes(b"-" * SIZE)
    for _ in range(3):
        write(path, 0, b"asks for a log")
    assert counters(mounted)["log_blocks"] > 0
    return path


def told(image: Path, mounted) -> Any:
    return json.loads(mounted.run("check", image, "--json", code=None).stdout)


@TIMER
def test_fsync_writes_more_than_one_block(mounted) -> None:
    path = with_a_log(mounted)
    for number in range(30):
        before = counters(mounted)
        write(path, number * 8192, b"%d" % number * 100)
        after = counters(mounted)
        assert after["log_records"] == before["log_records"] + 1
        assert after["blocks_written"] == before["blocks_written"] + 1


@TIMER
def test_a_kill_loses_what_was_synced(mounted) -> None:
    """I8: also who mounts it to read, lists it offline or checks it sees it; and the next mount
    that writes has it for good.
    """
    path = with_a_log(mounted)
    content = bytearray(path.read_bytes())
    for turn in range(3):
        for number in range(10):
            offset, data = number * 70_001 + turn, b"turn %d number %d" % (turn, number) * 300
            write(path, offset, data)
            end = offset + len(data)
            content[offset:end] = data
        times = os.stat(path)
        mounted.kill()
        found = told(mounted.image, mounted)
        assert [one for one in found["findings"] if one["rule"] != "superblock-copy"] == []
        assert found["logged_changes"] >= 10
        assert (
            "the next mount takes them over"
            in mounted.run("check", mounted.image, code=None).stdout
        )
        image = mounted.image.read_bytes()
        mounted.mount("ro")
        assert path.read_bytes() == content
        assert os.stat(path).st_mtime_ns == times.st_mtime_ns
        mounted.unmount()
        assert mounted.image.read_bytes() == image, "reading has changed the image"
        mounted.mount("commit=300")
        assert path.read_bytes() == content
        assert os.stat(path).st_mtime_ns == times.st_mtime_ns
        write(path, 0, b"asks for a log")
        content[:14] = b"asks for a log"
        write(path, 0, b"asks for a log")
    mounted.unmount()
    assert told(mounted.image, mounted)["logged_changes"] == 0
    mounted.mount("commit=300")
    assert path.read_bytes() == content


@TIMER
def test_a_copy_of_a_volume_that_is_only_read_lacks_what_was_synced(
    mounted, tmp_path: Path
) -> None:
    """It is refused, with what to do about it."""
    path = with_a_log(mounted)
    for number in range(20):
        write(path, number, b"x")
    mounted.kill()
    mounted.mount("ro")
    refused = mounted.run("copy", mounted.path, tmp_path / "copy.img", code=None)
    assert (
        refused.returncode != 0 and "mount it once so that it can be written" in refused.stderr
    ), refused
