"""Two users against one another and against root, on root's mount that lets others in: who may write a directory stops nobody else."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs.fuse.allowance import AT_ONCE

USER, OTHER = 1001, 1002

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else"),
    pytest.mark.volume(options="allow_other"),
]

#: A program runs in a directory of a mount as somebody else, and prints what it found out as JSON.
AS_SOMEBODY = """
import errno, json, os, stat, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
def error(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except OSError as exc:
        return exc.errno
    return 0
"""


def as_user(uid: int, place: Path, program: str) -> object:
    command = [sys.executable, "-I", "-S", "-c", AS_SOMEBODY + program, str(place), str(uid)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) if result.stdout else None


@pytest.fixture
def homes(mounted) -> Callable[[int], Path]:
    for uid in (USER, OTHER):
        (mounted / f"u{uid}").mkdir(mode=0o755)
        os.chown(mounted / f"u{uid}", uid, uid)
    return lambda uid: mounted / f"u{uid}"


def test_a_name_that_root_needs_is_taken(mounted, homes) -> None:
    """Names of snapshots are one space: a user who has one that root's policy needs has another from then on."""
    as_user(USER, homes(USER), "os.mkdir('.snap/nightly-1'); os.mkdir('.snap/nightly-1~1001')")
    assert os.listdir(homes(USER) / ".snap") != []
    shown = (homes(USER) / ".snap" / "nightly-1").stat().st_ino
    mounted.snapshot("nightly-1")
    assert os.listdir(mounted / ".snap") == ["nightly-1"]
    assert sorted(os.listdir(homes(USER) / ".snap")) == ["nightly-1", "nightly-1~1001", "nightly-1~1001-2"]
    assert (homes(USER) / ".snap" / "nightly-1~1001-2").stat().st_ino == shown != (homes(USER) / ".snap" / "nightly-1").stat().st_ino
    # The other way round nobody gives way.
    program = "print(json.dumps([error(os.mkdir, '.snap/nightly-1'), error(os.rmdir, '.snap/nightly-1')]))"
    assert as_user(OTHER, homes(OTHER), program) == [errno.EEXIST, errno.EPERM]
    (homes(OTHER) / ".snap" / "nightly-2").mkdir()
    assert as_user(USER, homes(USER), "print(json.dumps(error(os.mkdir, '.snap/nightly-2')))") == errno.EEXIST


def test_what_a_user_designates_keeps_a_policy_from_being_followed(mounted, homes) -> None:
    """C8: as many directories as a snapshot has places for, and more."""
    program = """
for number in range(130):
    os.mkdir(f"d{number}")
    os.setxattr(f"d{number}", "user.snapfs.designate", b"nightly")
"""
    as_user(USER, homes(USER), program)
    (mounted / "own").mkdir()
    os.setxattr(mounted / "own", "user.snapfs.designate", b"nightly")
    result = mounted.run("snapshot", "create", mounted.path, "n", "--designated", "nightly", "--json")
    document = json.loads(result.stdout)
    assert document["left_out"]
    assert "no room for" in result.stderr
    assert os.listdir(mounted / "own" / ".snap") == ["n"]


def test_a_user_makes_snapshots_without_end(mounted, homes) -> None:
    program = f"""
done = 0
while done < 2 * {AT_ONCE} and not (code := error(os.mkdir, f".snap/s{{done}}")):
    done += 1
print(json.dumps([done, code]))
"""
    done, code = as_user(USER, homes(USER), program)  # type: ignore[misc]
    assert code == errno.EBUSY
    assert AT_ONCE <= done < 2 * AT_ONCE
    assert as_user(OTHER, homes(OTHER), "print(json.dumps(error(os.mkdir, '.snap/other')))") == 0
    mounted.snapshot("roots")
