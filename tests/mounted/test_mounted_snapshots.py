"""Mounts of single snapshots, as backup programs use them: the same numbers in each, and as a
further mount beside the volume's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.control.socket import client, mounts
from snapfs.control.socket.protocol import MOUNT_SNAPSHOT, ControlError
from snapfs.errors import UsageError

PATHS = ("", "d", "d/file", "link", "pipe")


def fill(top: Path) -> None:
    (top / "d").mkdir()
    (top / "d/file").write_text("first")
    os.symlink("d", top / "link")
    os.mkfifo(top / "pipe")


def seen(top: Path) -> dict[str, tuple[int, ...]]:
    """What backup programs compare of files: were it another, they would read all anew."""
    found = {path: (top / path).lstat() for path in PATHS}
    return {
        path: (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for path, one in found.items()
    }


def test_a_backup_program_sees_other_files_in_each_snapshot(mounted: Any) -> None:
    fill(mounted.path)
    live = seen(mounted.path)
    mounted.snapshot("one")
    (mounted / "new").touch()
    mounted.snapshot("two")
    (mounted / ".snap/one/.snap/of one").mkdir()
    for name in ("one", "two"):
        mounted.remount(f"snapshot={name}")
        found = seen(mounted.path)
        assert {path: found[path] for path in PATHS[1:]} == {path: live[path] for path in PATHS[1:]}
        assert found[""][0] == live[""][0]
    mounted.remount("snapshot=one")
    inner = mounted / ".snap/of one"
    assert not {one[0] for one in seen(inner).values()} & {
        one[0] for one in seen(mounted.path).values()
    }
    (mounted / "d/file").write_text("second")
    with (mounted / "d/file").open(
        "a"
    ) as file:  # what is held back is fetched from the mounted view, too
        file.write(" and more")
        file.flush()
        (mounted / ".snap/again").mkdir()
    assert (mounted / ".snap/again/d/file").read_text() == "second and more"
    assert (inner / "d/file").read_text() == "first"
    mounted.run("restore", mounted.path, "two")
    assert (mounted / "d/file").read_text() == "second and more", "that was the base's"
    mounted.remount()
    assert (mounted / "new").exists()


# --- beside the volume ----------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path, run_snapfs: Callable[..., Any]) -> Iterator[Callable[..., Path]]:
    """Mounts a snapshot of a volume that is mounted; at the end what is
    still there is unmounted.
    """
    places: list[Path] = []

    def mount(volume: Any, name: str, *options: str, image: Path | None = None) -> Path:
        place = tmp_path / f"beside-{len(places)}"
        place.mkdir()
        places.append(place)
        run_snapfs(
            "mount", image or volume.image, place, "-o", ",".join([f"snapshot={name}", *options])
        )
        return place

    yield mount
    for place in places:
        if place.is_mount():
            run_snapfs("umount", place)


def refuses(function: Callable[[], Any], code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)):
        function()


@pytest.mark.parametrize("requests", ["direct", "pyfuse3"])
def test_a_snapshot_is_not_shown_beside_the_volume(
    mount_volume: Callable[..., Any], beside: Callable[..., Path], requests: str
) -> None:
    mounted = mount_volume(options=f"requests={requests}")
    fill(mounted.path)
    (mounted / "d/large").write_bytes(bytes(range(256)) * 20_000)
    live = seen(mounted.path)
    mounted.snapshot("one")
    (mounted / "d/file").write_text("of two")
    mounted.snapshot("two")
    (mounted / "d/file").write_text("of now")
    one, two = beside(mounted, "one"), beside(mounted, "two", image=mounted.path)
    assert seen(one) == live
    assert {path: found[0] for path, found in seen(two).items()} == {
        path: found[0] for path, found in live.items()
    }
    assert [(place / "d/file").read_text() for place in (one, two, mounted.path)] == [
        "first",
        "of two",
        "of now",
    ]
    assert (one / "d/large").read_bytes() == bytes(range(256)) * 20_000
    assert sorted(os.listdir(one)) == ["d", "link", "pipe"]
    assert one.stat().st_dev != two.stat().st_dev != mounted.path.stat().st_dev
    assert not (one / ".snap").exists()
    refuses(lambda: (one / "d/file").write_text("other"), errno.EROFS)
    refuses((one / "new").mkdir, errno.EROFS)
    (mounted / "d/file").write_text("users go on")
    mounted.run("umount", one)
    assert not one.is_mount()
    (mounted / ".snap/one").rmdir()
    assert (two / "d/file").read_text() == "of two"


def test_what_is_mounted_changes_or_goes_away_under_its_mount(
    mounted: Any, beside: Callable[..., Path]
) -> None:
    """Its kernel would believe what was: so whoever would change it is refused, until it is
    unmounted.
    """
    fill(mounted.path)
    view = mounted.snapshot("s")
    mounted.snapshot("other")
    file = os.open(view / "d/file", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, b", written in the snapshot")
        place = beside(mounted, "s")
        assert (place / "d/file").read_text() == "first, written in the snapshot", (
            "what the kernel held back is in it"
        )
        refuses(lambda: (os.write(file, b", too late"), os.fsync(file)), errno.EROFS)
    finally:
        with contextlib.suppress(OSError):  # it says so once more
            os.close(file)
    assert (place / "d/file").read_text() == "first, written in the snapshot"
    again = beside(mounted, "s")
    mounted.run("umount", again)
    for change in (
        lambda: (view / "d/file").write_text("x"),
        (view / "new").touch,
        (view / "pipe").unlink,
        lambda: (view / "d").chmod(0o700),
    ):
        refuses(change, errno.EROFS)
    refuses(view.rmdir, errno.EBUSY)
    for command in (
        ["snapshot", "delete", mounted.path, "s"],
        ["purge", mounted.path, "/d/file", "--snapshot", "s", "--yes"],
    ):
        assert "is mounted: unmount it first" in mounted.run(*command, code=1).stderr
    mounted.run("snapshot", "rename", mounted.path, "s", "t")
    mounted.run("restore", mounted.path, "t")
    assert (
        (place / "d/file").read_text()
        == (mounted / "d/file").read_text()
        == "first, written in the snapshot"
    )
    (mounted / ".snap/other/d/file").write_text("others are as ever")
    mounted.run("umount", place)
    (mounted / ".snap/t/d/file").write_text("x")
    mounted.run("purge", mounted.path, "/d/file", "--snapshot", "t", "--yes")
    (mounted / ".snap/t").rmdir()


def test_the_volume_cannot_be_unmounted_while_a_snapshot_is_mounted(
    mounted: Any, beside: Callable[..., Path]
) -> None:
    """It takes the snapshot's mount along, used or not, and leaves no dead one."""
    fill(mounted.path)
    mounted.snapshot("s")
    place = beside(mounted, "s")
    with (place / "d/file").open() as file:
        mounted.unmount()
        assert not place.is_mount()
        assert os.listdir(place) == []
        with contextlib.suppress(OSError):  # the kernel may say that the mount has gone
            file.close()
    mounted.mount("ro")
    place = beside(mounted, "s")
    assert (place / "d/file").read_text() == "first"


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root makes set-id programs of others, and devices"
)
def test_a_backup_of_a_mounted_snapshot_lacks_what_views_hide(
    mounted: Any, beside: Callable[..., Path]
) -> None:
    """The mount is ``nosuid`` and ``nodev``, so it shows all that is stored."""
    fill(mounted.path)
    (mounted / "d/file").chmod(0o6755)
    os.setxattr(
        mounted / "d/file",
        "security.capability",
        bytes.fromhex("0100000200200000000000000000000000000000"),
    )
    os.mknod(mounted / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    mounted.snapshot("s")
    place = beside(mounted, "s", "allow_other")
    assert stat.S_IMODE((place / "d/file").stat().st_mode) == 0o6755
    assert "security.capability" in os.listxattr(place / "d/file")
    assert (place / "null").stat().st_rdev == os.makedev(1, 3)
    refuses(lambda: os.open(place / "null", os.O_RDONLY), errno.EACCES)
    (line,) = [
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1] == str(place)
    ]
    assert {"ro", "nosuid", "nodev", "allow_other"} <= set(line.split()[3].split(","))
    command = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups", "cat", "d/file"]
    assert (
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=30).stdout
        == b"first"
    )


def test_mistakes_with_a_further_mount_are_told(mounted: Any, tmp_path: Path) -> None:
    mounted.snapshot("s")
    place = tmp_path / "n"
    place.mkdir()
    for options, code, words in (
        (["-o", "ro"], 32, "in use: mounted on"),
        (["-o", "snapshot=none"], 32, "no snapshot is named 'none'"),
        (["-o", "snapshot=s", "-f"], 32, "leave -f out"),
        (["-o", "snapshot=s,allow_root"], 1, "allow_root"),
    ):
        result = mounted.run("mount", mounted.image, place, *options, code=code)
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not place.is_mount()
    assert (
        "no such mount point"
        in mounted.run(
            "mount", mounted.image, tmp_path / "missing", "-o", "snapshot=s", code=32
        ).stderr
    )
    (mounted / ".snap/s").rmdir()  # nobody has kept it
    assert json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout) == []


class BreaksOff(Exception):
    """A command ends before it has mounted."""


@pytest.mark.parametrize("what", ["nothing", "no mount", "no descriptor"])
def test_a_command_that_breaks_off_keeps_a_snapshot_for_ever(
    mounted: Any, tmp_path: Path, what: str, wait_until: Callable[..., None]
) -> None:
    """Whatever it hands over instead of a mount to be served."""
    mounted.snapshot("s")
    mount = mounts.mount_at(str(mounted.path))
    assert mount is not None
    with client.of_mount(mount) as daemon, (tmp_path / "file").open("wb") as file:

        def told(_: dict[str, Any]) -> None:
            refuses((mounted / ".snap/s").rmdir, errno.EBUSY)
            if what == "nothing":
                raise BreaksOff
            if what == "no mount":
                daemon.hand_over(file.fileno(), MOUNT_SNAPSHOT)
            else:
                daemon._connection.send(b"\0")

        words = {"name": "s", "mountpoint": str(tmp_path), "options": "snapshot=s"}
        with pytest.raises((BreaksOff, UsageError, ControlError)):
            daemon.call(MOUNT_SNAPSHOT, told, **words)

    def is_free() -> bool:
        with contextlib.suppress(OSError):
            (mounted / ".snap/s").rmdir()
        return not (mounted / ".snap/s").exists()

    wait_until(is_free)
