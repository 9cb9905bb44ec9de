"""Set-id bits, capabilities and devices in snapshots: what was taken away in the live tree does not
go on working in ``.snap``.

It stays stored all the same, and comes back with a restore; unless somebody has changed the file
meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root makes set-id programs of others, and devices"
)

USER, GROUP = 1001, 1002

#: ``cap_net_raw+ep``, as it is stored: revision 2 with the effective flag, permitted and
#: inheritable, twice.
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0)
CAPABILITY_NAME = "security.capability"


def output(directory: Path, *command: str) -> str:
    result = subprocess.run(
        command,
        cwd=directory,
        user=USER,
        group=GROUP,
        extra_groups=[],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return result.stdout.strip()


def acts_as(directory: Path) -> int:
    return int(output(directory, "./id", "-u"))


def may_do(directory: Path) -> int:
    """The effective capabilities of a program there."""
    (line,) = [
        line
        for line in output(directory, "./cat", "/proc/self/status").splitlines()
        if line.startswith("CapEff:")
    ]
    return int(line.split()[1], 16)


def opens(path: Path) -> int:
    """0, or the errno that opening ends with."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as exc:
        return exc.errno
    return 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def stored(path: Path) -> int:
    return int(os.getxattr(path, "user.snapfs.mode"), 8)


def fill(directory: Path) -> None:
    for name in ("id", "cat"):
        shutil.copy(shutil.which(name) or name, directory / name)
    (directory / "id").chmod(0o6755)
    os.setxattr(directory / "cat", CAPABILITY_NAME, CAPABILITY)
    os.mknod(directory / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (directory / "null").chmod(0o666)
    (directory / "shared").mkdir()
    (directory / "shared").chmod(0o2775)


def take_away(directory: Path) -> None:
    (directory / "id").chmod(0o755)
    os.removexattr(directory / "cat", CAPABILITY_NAME)
    (directory / "null").unlink()


def has_all(directory: Path) -> None:
    assert acts_as(directory) == 0
    assert may_do(directory) == 1 << 13
    assert opens(directory / "null") == 0
    shows_all(directory)


def shows_all(directory: Path) -> None:
    assert mode_of(directory / "id") == 0o6755
    assert os.getxattr(directory / "cat", CAPABILITY_NAME) == CAPABILITY
    assert CAPABILITY_NAME in os.listxattr(directory / "cat")
    assert (directory / "null").stat().st_rdev == os.makedev(1, 3)
    assert mode_of(directory / "shared") == 0o2775


def has_nothing(directory: Path) -> None:
    """But what it is and where it came from can be seen."""
    assert acts_as(directory) == USER
    assert mode_of(directory / "id") == 0o755
    assert stored(directory / "id") == 0o6755
    assert may_do(directory) == 0
    assert CAPABILITY_NAME not in os.listxattr(directory / "cat")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(directory / "cat", CAPABILITY_NAME)
    assert opens(directory / "null") == errno.ENXIO
    assert stat.S_ISCHR((directory / "null").stat().st_mode)
    assert mode_of(directory / "shared") == 0o2775, (
        "on a directory the bit says whose files are made there"
    )


@pytest.mark.parametrize("requests", ["direct", "pyfuse3"])
def test_what_root_has_taken_away_goes_on_working_in_a_snapshot(
    mount_volume: Callable[..., Any], requests: str
) -> None:
    mounted = mount_volume(options=f"allow_other,requests={requests}")
    top = mounted / "u"
    top.mkdir()
    fill(top)
    has_all(top)
    whole = mounted.snapshot("whole") / "u"
    (top / ".snap" / "part").mkdir()
    (mounted / ".snap/whole/.snap/again").mkdir()
    take_away(top)
    views = [whole, top / ".snap/part", top / ".snap/whole", mounted / ".snap/whole/.snap/again/u"]
    for view in views:
        has_nothing(view)
    mounted.remount(f"allow_other,requests={requests}")
    assert {entry.name for entry in os.scandir(whole)} == {"id", "cat", "null", "shared"}
    for view in views:
        has_nothing(view)  # told by listings this time
    mounted.run("restore", mounted.path, "whole")
    has_all(top)
    assert not mounted.run("diff", mounted.path, "whole", "--path", "u/id").stdout


def test_who_wants_them_honoured_or_stored_away_does_not_get_them(mounted: Any) -> None:
    """An option shows them; so does a mount in which the kernel honours nothing of the kind: a
    backup is complete there.
    """
    fill(mounted.path)
    mounted.snapshot("s")
    mounted.remount("allow_other,snapsuid")
    has_all(mounted.view("s"))
    mounted.remount("allow_other,nosuid,nodev")
    for directory in (mounted.path, mounted.view("s")):
        shows_all(directory)
        assert acts_as(directory) == USER
        assert may_do(directory) == 0
        assert opens(directory / "null") == errno.EACCES
    mounted.remount("allow_other,nosuid")
    assert (mode_of(mounted.view("s") / "id"), opens(mounted.view("s") / "null")) == (
        0o6755,
        errno.ENXIO,
    )
    mounted.remount("allow_other,snapshot=s")
    has_nothing(mounted.path)
    mounted.remount("allow_other,snapshot=s,nosuid,nodev")
    shows_all(mounted.path)


def test_a_mode_written_back_through_a_snapshot_loses_what_it_did_not_show(mounted: Any) -> None:
    fill(mounted.path)
    view = mounted.snapshot("s")
    (view / "id").chmod(mode_of(view / "id") | 0o020)
    assert (mode_of(view / "id"), stored(view / "id")) == (0o775, 0o6775)
    (view / "cat").chmod(0o4700)
    assert (mode_of(view / "cat"), stored(view / "cat")) == (0o700, 0o4700)
    os.chmod(view / "shared", 0o755)
    assert mode_of(view / "shared") == stored(view / "shared") == 0o755
    mounted.remount()
    assert stored(view / "id") == 0o6775
    mounted.run("restore", mounted.path, "s")
    assert (mode_of(mounted / "id"), mode_of(mounted / "cat"), mode_of(mounted / "shared")) == (
        0o6775,
        0o4700,
        0o755,
    )
    assert os.getxattr(mounted / "cat", CAPABILITY_NAME) == CAPABILITY


CHANGES = {
    "append": "printf x >> F",
    "overwrite": "printf x 1<> F",
    "truncate": "truncate -s 10 F",
    "empty": ": > F",
    "directly": "dd if=/dev/zero of=F bs=4096 count=1 oflag=direct conv=notrunc status=none",
}


@pytest.mark.parametrize("options", ["writeback=on", "writeback=off", "requests=pyfuse3"])
def test_a_program_that_was_changed_in_a_snapshot_comes_back_with_its_rights(
    mount_volume: Callable[..., Any], options: str
) -> None:
    """The kernel does not know of them there, so it does not take them away from what somebody has
    written.
    """
    mounted = mount_volume(options=f"allow_other,{options}")
    for name in CHANGES:
        (mounted / name).write_bytes(b"program" * 2000)
        os.chown(mounted / name, 0, GROUP)
        os.setxattr(mounted / name, CAPABILITY_NAME, CAPABILITY)
        (mounted / name).chmod(0o6775)
    view = mounted.snapshot("s")
    for name, command in CHANGES.items():
        output(view, "sh", "-c", command.replace("F", name))
    mounted.remount(f"allow_other,{options}")
    for name in CHANGES:
        assert (name, oct(stored(view / name))) == (name, oct(0o775))
    mounted.run("restore", mounted.path, "s")
    for name in CHANGES:
        assert (name, mode_of(mounted / name)) == (name, 0o775)
        assert CAPABILITY_NAME not in os.listxattr(mounted / name), name


def test_a_program_that_was_given_away_in_a_snapshot_keeps_its_rights(mounted: Any) -> None:
    fill(mounted.path)
    view = mounted.snapshot("s")
    for name in ("id", "cat"):
        os.chown(view / name, USER, -1)
    assert stored(view / "id") == 0o755
    mounted.run("restore", mounted.path, "s")
    assert mode_of(mounted / "id") == 0o755
    assert CAPABILITY_NAME not in os.listxattr(mounted / "cat")
