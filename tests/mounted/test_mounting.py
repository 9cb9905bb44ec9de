"""Mounting and unmounting beside others: what they mount over ours or in it, who waits for the
mount, who uses it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MNT_DETACH = 2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting other filesystems needs root")


def mounted_at(path: Path) -> list[str]:
    """The types of what is mounted there, the topmost last."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [words[words.index("-") + 1] for words in lines if words[4] == str(path)]


@pytest.fixture
def tmpfs_on() -> Iterator:
    """Mounts a tmpfs with a file ``kept`` on a directory; takes it away at the end if it is there
    still.
    """
    places: list[Path] = []

    def mount(place: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "other", place], check=True, timeout=60)
        places.append(place)
        (place / "kept").write_text("theirs")

    yield mount
    for place in reversed(places):
        if "tmpfs" in mounted_at(place):
            subprocess.run(["umount", "-l", place], check=True, timeout=60)


def ended(pid: int, limit: float = 30.0) -> bool:
    """Whether a process ends within that time, or has."""
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], limit)[0])
    finally:
        os.close(descriptor)


# --- nothing but ours is unmounted --------------------------------------------------------------


@needs_root
def test_a_daemon_that_ends_unmounts_what_was_mounted_over_it(mounted, tmpfs_on) -> None:
    (mounted / "file").write_text("ours")
    pid = mounted.pid
    tmpfs_on(mounted.path)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid)
    assert mounted_at(mounted.path) == ["fuse.snapfs", "tmpfs"]
    assert (mounted / "kept").read_text() == "theirs"
    subprocess.run(["umount", mounted.path], check=True, timeout=60)
    mounted.run("umount", "--lazy", mounted.path)
    mounted.is_mounted = False
    mounted.mount()
    assert (mounted / "file").read_text() == "ours"


@needs_root
def test_a_daemon_that_ends_takes_along_what_is_mounted_in_it(mounted, tmpfs_on) -> None:
    (mounted / "inside").mkdir()
    tmpfs_on(mounted / "inside")
    with (mounted / "inside" / "kept").open() as theirs:
        pid = mounted.pid
        os.kill(pid, signal.SIGTERM)
        assert ended(pid)
        assert mounted_at(mounted / "inside") == ["tmpfs"]
        assert theirs.read() == "theirs"
    # By its number, as no path leads there any more.
    subprocess.run(["umount", "-l", mounted.path], check=True, timeout=60)
    mounted.is_mounted = False


@needs_root
def test_a_daemon_lives_on_while_its_volume_is_mounted_elsewhere_too(
    mounted, tmp_path: Path
) -> None:
    """It was told to end, by SIGTERM: it ends, and takes both mounts away."""
    other = tmp_path / "other"
    other.mkdir()
    (mounted / "file").write_text("ours")
    subprocess.run(["mount", "--bind", mounted.path, other], check=True, timeout=60)
    try:
        pid = mounted.pid
        os.kill(pid, signal.SIGTERM)
        assert ended(pid)
        assert mounted_at(mounted.path) == mounted_at(other) == []
    finally:
        if mounted_at(other):
            ctypes.CDLL(None).umount2(os.fsencode(other), MNT_DETACH)
    mounted.is_mounted = False
    mounted.mount()
    assert (mounted / "file").read_text() == "ours"


#: Mounts in front; right after the mount is made, before anything serves it, does what the first
#: argument says.
MEANWHILE = """
import os, subprocess, sys, threading
# Any thread may be the one that a signal comes to.
threading.Thread(target=threading.Event().wait, daemon=True).start()
import pyfuse3
real = pyfuse3.init
def init(operations, mountpoint, options):
    real(operations, mountpoint, options)
    exec(sys.argv[1])
pyfuse3.init = init
from snapfs.cli.main import main
sys.exit(main(sys.argv[2:], "snapfs"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_mounting_and_serving_leaves_a_dead_mount(
    volume_image: Path, tmp_path: Path, number: signal.Signals
) -> None:
    place = tmp_path / "m"
    place.mkdir()
    what = f"os.kill(os.getpid(), {number})"
    subprocess.run(
        [sys.executable, "-c", MEANWHILE, what, "mount", "-f", volume_image, place],
        check=False,
        timeout=60,
    )
    left = mounted_at(place)
    if left:
        ctypes.CDLL(None).umount2(os.fsencode(place), MNT_DETACH)
    assert left == []


#: Mounts in front; asked to end, it is asked once more when nothing but the last commit is left to
#: do.
ASKED_TWICE = """
import os, signal, sys
from snapfs.fuse.driving.edge import Edge
real = Edge.finish
async def finish(self):
    os.kill(os.getpid(), signal.SIGTERM)
    await real(self)
Edge.finish = finish
from snapfs.cli.main import main
sys.exit(main(sys.argv[1:], "snapfs"))
"""


def test_a_second_signal_breaks_off_the_last_commit(mounted, wait_until) -> None:
    mounted.unmount()
    command = [
        sys.executable,
        "-c",
        ASKED_TWICE,
        "mount",
        "-f",
        "-o",
        "commit=3600",
        mounted.image,
        mounted.path,
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            wait_until(lambda: mounted_at(mounted.path), 60)
            (mounted / "file").write_text("text")
        finally:
            daemon.send_signal(signal.SIGTERM)
    mounted.mount()
    assert (mounted / "file").read_text() == "text"


@needs_root
def test_a_mount_that_fails_takes_away_what_was_mounted_over_it(
    volume_image: Path, tmp_path: Path
) -> None:
    place = tmp_path / "m"
    place.mkdir()
    what = (
        "subprocess.run(['mount', '-t', 'tmpfs', 'other', mountpoint]); "
        "from snapfs.fuse.kernel.mounted import MountedKernel; MountedKernel.mounted = None"
    )
    command = [sys.executable, "-c", MEANWHILE, what, "mount", "-f", volume_image, place]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    left = mounted_at(place)
    for _ in left:
        ctypes.CDLL(None).umount2(os.fsencode(place), MNT_DETACH)
    assert result.returncode == 32, result.stderr
    assert left == ["fuse.snapfs", "tmpfs"]


@needs_root
def test_a_mount_that_was_moved_is_not_found_by_its_daemon(mounted, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    around = tmp_path / "around"
    around.mkdir()
    # Only in a private mount others are moved.
    subprocess.run(
        ["mount", "-t", "tmpfs", "--make-private", "around", around], check=True, timeout=60
    )
    try:
        (around / "m").mkdir()
        mounted.unmount()
        mounted.run("mount", mounted.image, around / "m")
        pid = json.loads(mounted.run("info", around / "m", "--json").stdout)["pid"]
        subprocess.run(["mount", "--move", around / "m", new], check=True, timeout=60)
        os.kill(pid, signal.SIGTERM)
        assert ended(pid)
        assert mounted_at(new) == []
    finally:
        if mounted_at(new):
            ctypes.CDLL(None).umount2(os.fsencode(new), MNT_DETACH)
        subprocess.run(["umount", "-l", around], check=True, timeout=60)


# --- who waits for the mount --------------------------------------------------------------------

AUTOMOUNT = """
here=$PWD
mkdir base direct
printf '%s\n' "$here/base $here/indirect.map" "/- $here/direct.map" >master.map
echo "volume -fstype=snapfs,nodev :$1" >indirect.map
echo "$here/direct -fstype=snapfs :$2" >direct.map
automount --foreground --dont-check-daemon --pid-file "$here/pid" "$here/master.map" 2>log &
automount=$!
trap 'kill $automount; wait $automount' EXIT
for attempt in $(seq 500); do
    [ "$(grep -c ' - autofs ' /proc/self/mountinfo)" -ge 2 ] && break
    read -rt 0.02 <> <(:) || true
done
for place in base/volume direct; do
    timeout --signal=KILL 20 touch $place/file
    findmnt -n -o FSTYPE,TARGET $here/$place | tail -n 1
done
"""


def test_an_automounter_and_the_daemon_wait_for_each_other(
    with_helpers, images, tmp_path: Path
) -> None:
    """As long as the mount is being made, automount(8) lets only its own process group look at the
    mount point.
    """
    if shutil.which("automount") is None or not Path("/dev/autofs").exists():
        pytest.skip("needs automount(8), of the package autofs, and a kernel with autofs")
    out = with_helpers(f"set -- {images.make()} {images.make()}\n{AUTOMOUNT}")
    assert [line.split() for line in out.splitlines()] == [
        ["fuse.snapfs", f"{tmp_path}/base/volume"],
        ["fuse.snapfs", f"{tmp_path}/direct"],
    ]


#: The volume, then one of its snapshots, which the volume's daemon serves.
AUTOMOUNT_SNAPSHOT = """
here=$PWD
mkdir base
printf '%s\n' "$here/base $here/indirect.map" >master.map
printf '%s\n' "volume -fstype=snapfs :$1" "past -fstype=snapfs,snapshot=s :$1" >indirect.map
automount --foreground --dont-check-daemon --pid-file "$here/pid" "$here/master.map" 2>log &
automount=$!
trap 'kill $automount; wait $automount' EXIT
for attempt in $(seq 500); do
    grep -q ' - autofs ' /proc/self/mountinfo && break
    read -rt 0.02 <> <(:) || true
done
# By timeout(1), which has a process group of its own: the others are automount(8)'s to it.
timeout --signal=KILL 20 touch base/volume/file
echo then >base/volume/file
mkdir base/volume/.snap/s
echo now >base/volume/file
timeout --signal=KILL 20 cat base/past/file base/volume/file
umount base/past
"""


def test_an_automounter_and_the_daemon_wait_for_each_other_because_of_a_snapshot(
    with_helpers, images
) -> None:
    """Beside its volume a snapshot is served by the volume's daemon, which is none of the
    automounter's processes.
    """
    if shutil.which("automount") is None or not Path("/dev/autofs").exists():
        pytest.skip("needs automount(8), of the package autofs, and a kernel with autofs")
    out = with_helpers(f"set -- {images.make()}\n{AUTOMOUNT_SNAPSHOT}")
    assert out.split() == ["then", "now"]


# --- what the caller has open, or has not -------------------------------------------------------

#: Runs its arguments without some of the standard descriptors.
CLOSING = 'for number in $1; do eval "exec $number>&-"; done; shift; exec "$@"'


@pytest.mark.parametrize("missing", ["0", "1", "2", "0 1 2"])
def test_a_missing_standard_descriptor_is_the_images_or_an_error(
    tmp_path: Path, snapfs_command, missing: str
) -> None:
    image, place = tmp_path / "volume.img", tmp_path / "m"
    place.mkdir()

    def without(*words: str | Path, code: int = 0) -> None:
        command = ["bash", "-c", CLOSING, "bash", missing, *snapfs_command(*words)]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert result.returncode == code, result.stderr
        assert code or result.stderr == ""

    without("mkfs", image, "--size", "16M")
    without("mount", image, place)
    try:
        pid = json.loads(
            subprocess.run(
                snapfs_command("info", place, "--json"), check=True, capture_output=True
            ).stdout
        )["pid"]
        assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == [
            "/dev/null"
        ] * 3
        without("df", place)
    finally:
        without("umount", place)
    without("check", image)
    without("umount", place, code=1)


def test_a_mount_in_front_writes_its_log_into_the_image(
    volume_image: Path, tmp_path: Path, snapfs_command, wait_until
) -> None:
    place = tmp_path / "m"
    place.mkdir()
    command = [
        "bash",
        "-c",
        CLOSING,
        "bash",
        "0 1 2",
        *snapfs_command("mount", "-f", volume_image, place),
    ]
    with subprocess.Popen(command) as daemon:
        try:
            wait_until(lambda: mounted_at(place), 60)
            # Until it is live, standard error goes to where libfuse's complaints are read.
            wait_until(
                lambda: (
                    [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in (0, 1, 2)]
                    == ["/dev/null"] * 3
                ),
                60,
            )
        finally:
            daemon.send_signal(signal.SIGTERM)
    assert daemon.returncode == 0


def test_a_daemon_keeps_its_callers_lock_and_pipe(
    volume_image: Path, tmp_path: Path, snapfs_command, run_snapfs
) -> None:
    place = tmp_path / "m"
    place.mkdir()
    reader, writer = os.pipe()
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            snapfs_command("mount", volume_image, place),
            check=True,
            timeout=120,
            pass_fds=(lock.fileno(), writer),
        )
    os.close(writer)
    try:
        with (tmp_path / "lock").open("w") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""  # the end: nobody can write into it any more
    finally:
        os.close(reader)
        run_snapfs("umount", place)


# --- who uses what is to be unmounted, and how long that is waited for --------------------------


def unmount(snapfs_command, place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The result of the command, which ends by itself: long before this
    limit, but for the machine.
    """
    return subprocess.run(
        snapfs_command("umount", place, *options),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_root
@pytest.mark.parametrize("first", ["bind", "mount"])
def test_umount_waits_for_a_volume_that_is_mounted_elsewhere_too(
    mounted, tmp_path: Path, snapfs_command, first: str
) -> None:
    (mounted / "inside").mkdir()
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", mounted / "inside", bind], check=True, timeout=60)
    pid = mounted.pid
    places = [bind, mounted.path] if first == "bind" else [mounted.path, bind]
    early = unmount(snapfs_command, places[0])
    try:
        assert (early.returncode, mounted_at(places[0])) == (0, [])
        assert f"mounted on {places[1]}, too" in early.stderr
        assert not ended(pid, 0)
    finally:
        late = unmount(snapfs_command, places[1])
    mounted.is_mounted = False
    assert (late.returncode, late.stderr) == (0, "")
    assert ended(pid, 0)


@needs_root
def test_umount_waits_for_another_namespace(mounted, snapfs_command) -> None:
    pid = mounted.pid
    # `cat` ends when its standard input does.
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        result = unmount(snapfs_command, mounted.path)
        mounted.is_mounted = False
        assert result.returncode == 0
        assert f"process {other.pid} (cat)" in result.stderr
        other.communicate()
    assert ended(pid)


def test_umount_does_not_say_who_uses_the_mount(mounted, snapfs_command) -> None:
    (mounted / "file").write_text("text")
    (mounted / "inside").mkdir()
    # Python's own module keeps the file open.
    mapping = (
        "import ctypes, os; f = os.open('file', 0); ctypes.CDLL(None).mmap(None, 4096, 1, "
        "1, f, 0); os.close(f); os.chdir('/')"
    )
    uses = {
        "working directory": ["sh", "-c", "cd inside; echo; exec cat"],
        "an open file": ["sh", "-c", "exec 7<file; cd /; echo; exec cat"],
        "a file in its memory": [sys.executable, "-c", f"{mapping}; print(flush=True); input()"],
    }
    for how, command in uses.items():
        with subprocess.Popen(
            command, cwd=mounted.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as user:
            assert user.stdout is not None
            user.stdout.readline()
            result = unmount(snapfs_command, mounted.path)
            assert result.returncode == 1
            assert f"in use by process {user.pid} (" in result.stderr
            assert f": {how})" in result.stderr
            user.communicate("\n")
    mounted.unmount()


@needs_root
def test_umount_does_not_say_what_is_mounted_in_the_mount(
    mounted, tmpfs_on, snapfs_command
) -> None:
    (mounted / "inside").mkdir()
    tmpfs_on(mounted / "inside")
    result = unmount(snapfs_command, mounted.path)
    assert result.returncode == 1
    assert f"in use by the mount of other (tmpfs) on {mounted.path}/inside" in result.stderr


def test_umount_waits_for_a_stopped_daemon_without_end(mounted, snapfs_command) -> None:
    pid = mounted.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        result = unmount(snapfs_command, mounted.path, "--timeout", "0.1")
        assert result.returncode == 1
        assert f"process {pid}, which is stopped" in result.stderr
        assert mounted_at(mounted.path) == []
        mounted.is_mounted = False
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ended(pid)


@needs_root
def test_umount_of_an_image_takes_what_is_mounted_in_its_place(
    mount_volume, snapfs_command
) -> None:
    mine, other = mount_volume(), mount_volume()
    subprocess.run(["mount", "--bind", other.path, mine.path], check=True, timeout=60)
    try:
        result = unmount(snapfs_command, mine.image)
        assert result.returncode == 1
        assert "cannot be seen from here" in result.stderr
        assert mounted_at(mine.path) == ["fuse.snapfs"] * 2
    finally:
        subprocess.run(["umount", "-i", mine.path], check=True, timeout=60)


# --- a dead mount, and what mount(8) lets a helper do -------------------------------------------


def killed(mounted) -> None:
    """kill -9, with the dead mount left where it is."""
    pid = mounted.pid
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert mounted_at(mounted.path) == ["fuse.snapfs"]


def test_a_killed_daemons_mount_keeps_the_next_one_away(mounted) -> None:
    (mounted / "file").write_text("text")
    with (mounted / "file").open() as file:
        os.fsync(file.fileno())
        killed(mounted)
        # By another path to the image, in another directory, although somebody has something open
        # in the dead mount.
        link = mounted.path.parent / "link.img"
        link.symlink_to(mounted.image)
        mounted.run("mount", link.name, mounted.path, cwd=mounted.path.parent)
    assert mounted_at(mounted.path) == ["fuse.snapfs"]
    assert (mounted / "file").read_text() == "text"


def test_a_dead_mount_of_another_volume_is_taken_away(mounted, images) -> None:
    other = images.make()
    killed(mounted)
    result = mounted.run("mount", other, mounted.path, code=32)
    assert f"a mount of {mounted.image} is left there" in result.stderr
    result = mounted.run("mount", other.with_name("missing.img"), mounted.path, code=32)
    assert mounted_at(mounted.path) == ["fuse.snapfs"]
    mounted.mount()


@needs_root
def test_a_dead_mount_is_taken_away_with_what_is_mounted_in_it(mounted, tmpfs_on) -> None:
    (mounted / "inside").mkdir()
    tmpfs_on(mounted / "inside")
    killed(mounted)
    result = mounted.run("mount", mounted.image, mounted.path, code=32)
    assert f"other (tmpfs) is mounted in it, on {mounted.path}/inside" in result.stderr
    assert mounted_at(mounted / "inside") == ["tmpfs"]
    subprocess.run(["umount", "-l", mounted.path], check=True, timeout=60)
    mounted.is_mounted = False


def test_nofail_fails_for_a_missing_image_or_is_silent_about_anything_else(
    volume_image: Path, tmp_path: Path, run_snapfs
) -> None:
    place, missing = tmp_path / "m", tmp_path / "missing.img"
    place.mkdir()
    assert run_snapfs("mount", missing, place, "-o", "nofail").stderr == ""
    assert (
        run_snapfs("mount", tmp_path / "no" / "directory.img", place, "-o", "ro,nofail").stderr
        == ""
    )
    assert mounted_at(place) == []
    assert "No such file" in run_snapfs("mount", missing, place, code=32).stderr
    assert (
        "no such mount point"
        in run_snapfs("mount", missing, tmp_path / "n", "-o", "nofail", code=32).stderr
    )
    missing.write_text("no volume")
    assert run_snapfs("mount", missing, place, "-o", "nofail", code=32).stderr
    assert (
        "unknown mount option"
        in run_snapfs("mount", tmp_path / "x.img", place, "-o", "nofail,bogus", code=1).stderr
    )


def test_mount_without_its_image_is_an_error_of_nofail(with_helpers, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "fstab").write_text(
        f"{tmp_path}/missing.img {tmp_path}/m snapfs defaults,nofail 0 0\n"
    )
    assert (
        with_helpers(
            f"mount --all --fstab fstab; mount -t snapfs -o nofail {tmp_path}/missing.img m"
        )
        == ""
    )
    with_helpers(f"mount -t snapfs {tmp_path}/missing.img m", code=32)


def test_an_optional_argument_is_called_missing(run_snapfs) -> None:
    assert "required: TARGET (" in run_snapfs("df", code=2).stderr
    assert "required: TARGET (" in run_snapfs("purge", code=2).stderr


def test_a_relative_path_is_where_readers_in_other_directories_look(mounted) -> None:
    mounted.unmount()
    mounted.run("mount", mounted.image.name, mounted.path, cwd=mounted.image.parent)
    mounted.is_mounted = True
    assert f" fuse.snapfs {mounted.image} " in Path("/proc/self/mountinfo").read_text(
        errors="surrogateescape"
    )


# --- options of all filesystems -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "requests"), [("sync", "direct"), ("dirsync", "direct"), ("dirsync", "pyfuse3")]
)
def test_what_shall_be_stored_at_once_is_lost_with_the_daemon(
    mounted, option: str, requests: str
) -> None:
    """No commit comes by itself: each of these changes is the last one, and
    all of them are there.
    """
    mounted.remount(f"commit=3600,requests={requests},{option}")
    top = mounted.path
    (top / "first").mkdir()
    (top / "gone").mkdir()
    (top / "old").mkdir()
    (top / "gone").rmdir()
    (top / "old").rename(top / "new")
    os.close(os.open(top / "file", os.O_CREAT | os.O_WRONLY))
    os.symlink("there", top / "link")
    os.link(top / "file", top / "second")
    names = {"first", "new", "file", "link", "second"}
    if option == "sync":
        with (top / "file").open("w") as file:
            file.write("text")
        os.setxattr(top / "first", "user.a", b"b")
        os.chmod(top / "new", 0o711)
    killed(mounted)
    mounted.mount()
    assert set(os.listdir(top)) == names
    if option == "sync":
        assert (top / "second").read_text() == "text"
        assert os.getxattr(top / "first", "user.a") == b"b"
        assert os.stat(top / "new").st_mode & 0o777 == 0o711


def test_access_times_of_directories_are_not_as_asked_for(mounted) -> None:
    (mounted / "d").mkdir()
    for option, is_renewed in (("nodiratime", False), ("diratime", True)):
        mounted.remount(option)
        os.utime(mounted / "d", (1, 2))
        os.listdir(mounted / "d")
        mounted.remount()
        assert (os.stat(mounted / "d").st_atime != 1) == is_renewed
