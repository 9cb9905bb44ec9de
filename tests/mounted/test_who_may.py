"""Who may do what: the image, the control socket, snapshots by whatever way, and what is inside
snapshots.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pickle
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness import commands

T = TypeVar("T")

#: fusermount3 mounts only for users who have a name.
USER, OTHER = pwd.getpwnam("nobody").pw_uid, 12_346

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
with_others = pytest.mark.volume(options="allow_other")

libc = ctypes.CDLL(None, use_errno=True)

#: Runs the command line as another user; the interpreter may lie where that user has no access, so
#: all is loaded before.
AS_SOMEBODY = """
import os, sys
import shutil, subprocess, json, logging.handlers, socket
import argparse, getopt, pwd, encodings.idna, encodings.ascii
import trio, pyfuse3, rich.table, rich.console
import snapfs.cli.main, snapfs.cli.commands.mkfs, snapfs.cli.commands.mount
import snapfs.cli.commands.umount, snapfs.cli.commands.snapshot
import snapfs.cli.commands.restore, snapfs.cli.commands.info
import snapfs.cli.commands.diff, snapfs.cli.commands.versions, snapfs.cli.commands.purge
import snapfs.cli.commands.check, snapfs.cli.mounting.serving, snapfs.cli.output
import snapfs.control.commands.offline, snapfs.fuse.mount.mounting, snapfs.check
import snapfs.control.socket.server, snapfs.control.commands.showing, snapfs.cli.mounting.beside
import snapfs.control.commands.tracing, snapfs.cli.commands.trace
uid = int(sys.argv[1])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sys.exit(snapfs.cli.main.main(sys.argv[2:], "snapfs"))
"""


def run_as(
    uid: int, *arguments: str | os.PathLike[str], code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """As that user, who belongs to no other group."""
    command = commands.snapfs_command(*arguments)
    somebody: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []}
    result = commands.run(command, capture_output=True, text=True, cwd="/", **somebody)
    assert code is None or result.returncode == code, result.stdout + result.stderr
    return result


def one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("snapfs: ")
    for part in parts:
        assert part in lines[0]


def as_user(
    path: Path, function: Callable[[], T], uid: int = USER, groups: tuple[int, ...] = ()
) -> T:
    """Run in a process of another user whose working directory is ``path``; what it raises is
    raised here.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with contextlib.suppress(
                PermissionError
            ):  # into pytest's directories only root comes, into a user's mount only that user
                os.chdir(path)
            os.umask(0o022)
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            with contextlib.suppress(PermissionError):
                os.chdir(path)
            try:
                answer: tuple[bool, Any] = (True, function())
            except BaseException as exc:
                answer = (False, exc)
            os.write(writer, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    succeeded, result = pickle.loads(data)
    if not succeeded:
        raise result
    return result


def errno_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    try:
        function(*args, **kwargs)
    except OSError as exc:
        return exc.errno or -1
    return 0


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    assert errno_of(function, *args, **kwargs) in (errno.EACCES, errno.EPERM)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


@pytest.fixture
def top(mounted) -> Path:
    return mounted.path


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that others may enter; pytest's own they may not."""
    with tempfile.TemporaryDirectory(prefix="snapfs-open-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        yield place
        for name in os.listdir(place):
            if os.path.ismount(place / name):
                libc.umount2(os.fsencode(place / name), 2)  # MNT_DETACH: a test has failed


@pytest.fixture
def home(open_place: Path) -> Iterator[Path]:
    """A place where the other user may do anything, on a machine where users may mount: the device
    is open to all, as udev makes it.
    """
    os.chown(open_place, USER, USER)
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    yield open_place
    os.chmod("/dev/fuse", mode)


# --- the image ------------------------------------------------------------------------------------


def test_an_image_that_is_made_lets_others_read_everything(tmp_path: Path, run_snapfs) -> None:
    """The permissions of the files in it mean nothing to somebody who can read the image."""
    run_snapfs("mkfs", tmp_path / "i", "--size", "16M")
    assert stat.S_IMODE((tmp_path / "i").stat().st_mode) == 0o600


def test_two_daemons_write_to_one_image(mounted, tmp_path: Path) -> None:
    descriptor = os.open(mounted.image, os.O_RDWR)
    try:
        assert errno_of(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) == errno.EWOULDBLOCK
        # By a name of its own, too, and for reading as well.
        os.link(mounted.image, tmp_path / "another-name")
        (tmp_path / "elsewhere").mkdir()
        for words in (
            ("mount", tmp_path / "another-name", tmp_path / "elsewhere"),
            ("mkfs", "--force", mounted.image),
        ):
            one_line(mounted.run(*words, code=32 if words[0] == "mount" else 1), "in use")
        one_line(mounted.run("check", mounted.image, code=8), "in use")
    finally:
        os.close(descriptor)
        (tmp_path / "another-name").unlink(missing_ok=True)


def test_two_daemons_write_to_one_device(loop_device: Path, mount_volume, tmp_path: Path) -> None:
    """A block device is opened exclusively: neither we nor the kernel's own filesystems get it a
    second time, by whatever node.
    """
    mounted = mount_volume(loop_device)
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFBLK | 0o600, loop_device.stat().st_rdev)
    (tmp_path / "elsewhere").mkdir()
    for device in (loop_device, node):
        assert errno_of(os.open, device, os.O_RDWR | os.O_EXCL) == errno.EBUSY
        one_line(mounted.run("mount", device, tmp_path / "elsewhere", code=32), "in use")
        one_line(mounted.run("mkfs", "--force", device, code=1), "in use")
    assert subprocess.run(
        ["mkfs.ext4", "-q", "-F", loop_device], check=False, capture_output=True, timeout=60
    ).returncode


# --- the control socket ---------------------------------------------------------------------------


@with_others
def test_a_stranger_commands_the_daemon(mounted, open_place: Path) -> None:
    (mounted / "theirs").mkdir()
    os.chown(mounted / "theirs", USER, USER)
    mounted.snapshot("roots")
    place = open_place / "m"
    place.mkdir()
    subprocess.run(["mount", "--bind", mounted.path, place], check=True, timeout=60)
    try:
        for words in (
            ("snapshot", "create", place, "mine"),
            ("snapshot", "create", place, "mine", "--path", "/theirs"),
            ("snapshot", "list", place),
            ("snapshot", "rename", place, "roots", "mine"),
            ("snapshot", "delete", place, "roots"),
            ("restore", place, "roots"),
            ("info", place),
            ("trace", "on", place, open_place / "trace"),
            ("trace", "status", place),
        ):
            one_line(run_as(USER, *words, code=1), "only that user and root")
    finally:
        subprocess.run(["umount", "-i", place], check=True, timeout=60)
    assert os.listdir(mounted / ".snap") == ["roots"]


def test_the_socket_itself_lets_a_stranger_in(mounted) -> None:
    """Even with the directory open, the peer's credentials decide: the daemon answers a stranger
    with one refusal.
    """
    import socket

    from snapfs.control.socket import protocol, registry
    from snapfs.control.socket.mounts import mount_at

    mount = mount_at(os.fspath(mounted.path))
    assert mount is not None
    (place,) = registry.sockets_of_mount(mount)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    directory = os.path.dirname(place)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    refused(as_user, Path("/"), lambda: os.listdir(directory))
    # A descriptor that somebody got by other ways: connected as root, and then used by another, is
    # still the one who connected.
    with tempfile.TemporaryDirectory(prefix="snapfs-open-") as opened:
        os.chmod(opened, 0o755)
        link = os.path.join(opened, "s")
        os.link(place, link) if os.stat(opened).st_dev == os.stat(directory).st_dev else Path(
            link
        ).symlink_to(place)
        os.chmod(directory, 0o755)
        os.chmod(place, 0o666)
        try:

            def ask() -> bytes:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(link)
                    with contextlib.suppress(
                        BrokenPipeError
                    ):  # who is refused is told so without being listened to
                        connection.sendall(protocol.encode_request("info", {}))
                    return connection.makefile("rb").readline()

            with pytest.raises(Exception, match="only root and the user who mounted") as caught:
                protocol.decode_answer(as_user(Path("/"), ask))
            assert type(caught.value).__name__ == "AccessDenied"
            assert b'"result"' in ask()
        finally:
            os.chmod(place, 0o600)
            os.chmod(directory, 0o700)


def test_the_abstract_name_lets_a_stranger_in(mounted) -> None:
    """Anybody may connect by it, and have one like it: both sides go by the uid that the kernel
    tells.
    """
    import socket

    from snapfs.control.socket import (
        client,
        protocol,
        registry,
    )
    from snapfs.control.socket.mounts import mount_at

    mount = mount_at(os.fspath(mounted.path))
    assert mount is not None
    (place,) = registry.sockets_of_mount(mount)
    (name,) = registry.names_of_mount(mount)

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(name)
            return connection.makefile("rb").readline()

    with pytest.raises(Exception, match="only root and the user who mounted"):
        protocol.decode_answer(as_user(Path("/"), ask))
    # A stranger who has made a directory first, or removed what he could, and listens by such a
    # name, is not asked.
    os.unlink(place)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(USER, USER, USER)
            with socket.socket(socket.AF_UNIX) as false:
                false.bind(name + "0")
                false.listen()
                os.write(writer, b"listens")
                accepted, _ = false.accept()
                os._exit(3 if accepted.recv(1) else 0)
        finally:
            os._exit(1)
    assert os.read(reader, 7) == b"listens"
    os.close(reader)
    os.close(writer)
    assert len(list(registry.names_of_mount(mount))) == 2
    assert client._connected(name + "0", mount.owner) is False
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0  # nothing was said to it
    assert json.loads(mounted.run("info", mounted.path, "--json").stdout)["pid"] == mounted.pid
    assert json.loads(mounted.run("info", mounted.image, "--json").stdout)["mounted"] == os.fspath(
        mounted.path
    )


def test_the_end_of_a_session_takes_the_daemon_away(
    mount_volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/run/user/UID goes with the last session of its user, and the mount stays."""
    from snapfs.control.socket import registry
    from snapfs.control.socket.mounts import mount_at

    monkeypatch.setattr(registry, "directories", lambda _uid: [])
    mounted = mount_volume()
    mount = mount_at(os.fspath(mounted.path))
    assert list(registry.sockets_of_mount(mount)) == []
    (place,) = [
        path
        for path in Path("/run/snapfs").iterdir()
        if path.name.endswith(f"-{mount.device:x}.sock")
    ]
    place.unlink()
    (mounted / "file").write_text("x")
    mounted.run("snapshot", "create", mounted.path, "s")
    assert mounted.run("diff", mounted.image, "s").stdout == ""
    mounted.unmount()  # waits for the daemon's end, whom it must find for that
    mounted.mount()


# --- snapshots ------------------------------------------------------------------------------------


@with_others
def test_snapshots_are_changed_by_those_who_do_not_own_the_directory(top: Path) -> None:
    for name, owner in (("theirs", USER), ("roots", 0)):
        (top / name).mkdir()
        os.chown(top / name, owner, owner)
        (top / name / ".snap" / f"of-{name}").mkdir()

    def owner() -> None:
        os.mkdir("theirs/.snap/made")
        os.rename("theirs/.snap/made", "theirs/.snap/moved")
        os.rmdir("theirs/.snap/moved")
        os.rename(
            "theirs/.snap/of-theirs", "theirs/.snap/made-by-root"
        )  # the directory's owner, whoever made it
        for place in ("roots/.snap", ".snap"):
            refused(os.mkdir, f"{place}/mine")
        refused(os.rmdir, "roots/.snap/of-roots")
        refused(os.rename, "roots/.snap/of-roots", "roots/.snap/mine")
        refused(os.rename, "roots/.snap/of-roots", "theirs/.snap/mine")

    as_user(top, owner)

    def stranger() -> None:
        refused(os.mkdir, "theirs/.snap/mine")
        refused(os.rmdir, "theirs/.snap/made-by-root")
        refused(os.rename, "theirs/.snap/made-by-root", "theirs/.snap/mine")

    as_user(top, stranger, uid=OTHER)
    assert os.listdir(top / "theirs" / ".snap") == ["made-by-root"]
    assert os.listdir(top / "roots" / ".snap") == ["of-roots"]


@with_others
def test_whoever_made_a_snapshot_keeps_a_right_to_it(top: Path) -> None:
    """It goes with the directory."""
    (top / "d").mkdir()
    os.chown(top / "d", USER, USER)
    as_user(top, lambda: os.mkdir("d/.snap/s"))
    os.chown(top / "d", OTHER, OTHER)
    as_user(top, lambda: refused(os.rmdir, "d/.snap/s"))
    as_user(top, lambda: os.rmdir("d/.snap/s"), uid=OTHER)


@with_others
def test_the_whole_volume_is_anybodys(top: Path) -> None:
    """A snapshot of it is the business of the owner of its root directory."""
    top.chmod(0o777)
    as_user(top, lambda: refused(os.mkdir, ".snap/s"))
    os.chown(top, USER, USER)

    def owner() -> None:
        os.mkdir(".snap/s")
        os.rename(".snap/s", ".snap/t")

    as_user(top, owner)
    as_user(top, lambda: refused(os.rmdir, ".snap/t"), uid=OTHER)
    as_user(top, lambda: os.rmdir(".snap/t"))


def test_commands_do_what_the_directories_forbid(home: Path, run_snapfs, images) -> None:
    """Who mounted a volume, or may write to the image, is not therefore the
    owner of what is in it.
    """
    image = images.make(name="roots.img")
    shutil.move(image, home / "roots.img")
    image = images.watch(home / "roots.img")
    os.chown(image, USER, USER)
    run_snapfs("snapshot", "create", image, "roots")
    (home / "m").mkdir()
    os.chown(home / "m", USER, USER)

    def refusals(target: Path) -> None:
        for words in (
            ("snapshot", "create", target, "mine"),
            ("snapshot", "rename", target, "roots", "mine"),
            ("snapshot", "delete", target, "roots"),
            ("restore", target, "roots"),
            ("restore", target, "roots", "--dry-run"),
            ("restore", target, "roots", "--schedule"),
            ("diff", target, "roots"),
            ("versions", target, "--path", "/", "--deleted"),
        ):
            one_line(run_as(USER, *words, code=1), "only root and the owner of")

    refusals(image)
    one_line(
        run_as(USER, "mount", image, home / "m", "-o", "restore=roots", code=32),
        "only root and the owner of",
    )
    run_as(USER, "mount", image, home / "m")
    try:
        refusals(home / "m")
        assert "roots" in run_as(USER, "snapshot", "list", home / "m").stdout
        as_user(home / "m", lambda: refused(os.mkdir, ".snap/mine"))
    finally:
        run_as(USER, "umount", home / "m")
    # With uid= everything is shown as this user's, by this user's own decision.
    run_as(USER, "mount", image, home / "m", "-o", f"uid={USER}")
    try:
        run_as(USER, "snapshot", "create", home / "m", "mine")
        run_as(USER, "diff", home / "m", "roots")
        run_as(USER, "versions", home / "m", "--deleted")
        run_as(USER, "trace", "on", home / "m", home / "trace")
        assert (home / "trace").stat().st_uid == USER
        assert (home / "trace").stat().st_mode & 0o7777 == 0o600
        as_user(home / "m", lambda: os.rmdir(".snap/roots"))
    finally:
        run_as(USER, "umount", home / "m")


def test_somebody_purges_what_they_may_not_delete(home: Path, run_snapfs, images) -> None:
    """A purge is a deletion: for root, and for the owner of what the snapshot covers; the rest
    stays, and is named.
    """
    image = images.make(name="roots.img")
    (home / "m").mkdir()
    run_snapfs("mount", image, home / "m")
    (home / "m" / "users").mkdir()
    os.chown(home / "m" / "users", USER, USER)
    (home / "m" / "users" / "file").touch()
    (home / "m" / "users" / ".snap" / "part").mkdir()
    (home / "m" / ".snap" / "whole").mkdir()
    run_snapfs("umount", home / "m")
    shutil.move(image, home / "roots.img")
    image = images.watch(home / "roots.img")
    os.chown(image, USER, USER)
    os.chown(home / "m", USER, USER)
    result = run_as(USER, "purge", image, "users/file", "--yes", code=1)
    one_line(result, "only root and the owner of")
    assert "purged from 1 snapshot" in result.stdout
    run_as(USER, "mount", image, home / "m")
    try:
        assert as_user(home / "m", lambda: os.listdir(".snap/whole/users")) == ["file"]
        assert as_user(home / "m", lambda: os.listdir("users/.snap/part")) == []
        one_line(
            run_as(USER, "purge", home / "m", "users/file", "--yes", code=1),
            "only root and the owner of",
        )
        assert as_user(home / "m", lambda: os.listdir(".snap/whole/users")) == ["file"]
    finally:
        run_as(USER, "umount", home / "m")


def test_a_comparison_tells_of_what_its_asker_may_not_read(home: Path, run_snapfs, images) -> None:
    """Whoever owns a directory may compare its states, and not those of the rest."""
    image = images.make(name="roots.img")
    (home / "m").mkdir()
    run_snapfs("mount", image, home / "m")
    (home / "m" / "users").mkdir()
    os.chown(home / "m" / "users", USER, USER)
    (home / "m" / "users" / ".snap" / "part").mkdir()
    (home / "m" / ".snap" / "whole").mkdir()
    for path in ("users/file", "secret"):
        (home / "m" / path).touch()
    run_snapfs("umount", home / "m")
    shutil.move(image, home / "roots.img")
    image = images.watch(home / "roots.img")
    os.chown(image, USER, USER)
    for words in (("whole",), ("whole", "."), (".", "."), (".", "whole")):
        one_line(
            run_as(USER, "diff", image, *words, code=1), "only root and the owner of the directory"
        )
    for words in (("part",), ("part", "whole"), ("whole", "part")):
        assert "secret" not in run_as(USER, "diff", image, *words).stdout
    assert "users/file" in run_as(USER, "diff", image, "part").stdout
    one_line(
        run_as(USER, "versions", image, "--path", "secret", code=1),
        "only root and the owner of the directory",
    )


# --- inside snapshots -----------------------------------------------------------------------------


@with_others
def test_a_snapshot_opens_what_was_closed(top: Path) -> None:
    (top / "secret").write_bytes(b"secret")
    (top / "secret").chmod(0o600)
    (top / "closed").mkdir(mode=0o700)
    (top / "closed" / "deep").mkdir()
    for path in (top / "closed" / "file", top / "closed" / "deep" / "file"):
        path.write_bytes(b"secret")
    (top / "open").mkdir()
    (top / "open" / "file").write_bytes(b"open")
    (top / ".snap" / "s").mkdir()
    (top / "closed" / "deep" / ".snap" / "of-deep").mkdir()
    (top / "secret").chmod(0o644)
    (top / "closed").chmod(0o755)
    os.rename(top / "open", top / "closed" / "was-open")
    os.rename(top / "closed" / "deep", top / "moved")

    # Root has looked at everything before: what the kernel remembers helps nobody.
    for path in (
        ".snap/s/closed/deep/file",
        "closed/.snap/s/file",
        "moved/.snap/s/file",
        "moved/.snap/of-deep/file",
    ):
        assert (top / path).read_bytes() == b"secret"
    assert sorted(os.listdir(top / "moved" / ".snap")) == ["of-deep", "s"]

    def stranger() -> None:
        assert read("secret") == b"secret"
        assert read("closed/file") == b"secret"
        assert read("moved/file") == b"secret"
        assert read("closed/was-open/.snap/s/file") == b"open"
        refused(read, ".snap/s/secret")
        refused(os.listdir, ".snap/s/closed")
        refused(read, ".snap/s/closed/file")
        refused(os.listdir, "closed/.snap/s")
        refused(read, "closed/.snap/s/file")
        # Into the middle of a snapshot, below what was closed then.
        for name in ("s", "of-deep"):
            refused(os.stat, f"moved/.snap/{name}")
            refused(os.listdir, f"moved/.snap/{name}")
            refused(read, f"moved/.snap/{name}/file")

    as_user(top, stranger)
    assert sorted(os.listdir(top / "moved" / ".snap")) == ["of-deep", "s"]
    as_user(top, stranger)
    assert (top / "moved" / ".snap" / "s" / "file").read_bytes() == b"secret"


@with_others
def test_a_directory_that_let_somebody_in_keeps_them_out_of_its_snapshots(top: Path) -> None:
    """By owner, by group, by access list: who could come by in the past can come by to the past."""
    for name, mode, group in (("own", 0o700, 0), ("grp", 0o750, OTHER), ("acl", 0o700, 0)):
        (top / name).mkdir()
        (top / name / "d").mkdir()
        (top / name / "d" / "file").write_bytes(b"text")
        if name == "own":
            os.chown(top / name, USER, USER)
        if name == "grp":
            os.chown(top / name, 0, group)
        (top / name).chmod(mode)
    subprocess.run(["setfacl", "-m", f"u:{USER}:x", top / "acl"], check=True, timeout=30)
    (top / ".snap" / "s").mkdir()
    for name in ("own", "grp", "acl"):
        subprocess.run(["setfacl", "-b", top / name], check=True, timeout=30)
        os.chown(top / name, 0, 0)
        (top / name).chmod(0o755)

    def reads(names: str) -> None:
        for name in ("own", "grp", "acl"):
            if name in names:
                assert read(f"{name}/d/.snap/s/file") == b"text"
            else:
                refused(read, f"{name}/d/.snap/s/file")

    for _ in range(2):
        as_user(top, lambda: reads("own acl"))
        as_user(top, lambda: reads("own grp acl"), groups=(OTHER,))
        as_user(top, lambda: reads("grp"), uid=OTHER)


@with_others
@pytest.mark.parametrize("close", ["mode", "owner", "acl", "renamed"])
def test_who_has_looked_before_gets_past_what_was_closed_in_a_snapshot(
    top: Path, close: str
) -> None:
    """The kernel believes a name in a ``.snap`` for an hour, and asks nobody who follows it: it
    must hear that the way there is closed.
    """
    (top / "d" / "sub").mkdir(parents=True)
    (top / "d" / "sub" / "file").write_bytes(b"text")
    (top / "d").chmod(0o711)
    view = top / ".snap" / "s"
    view.mkdir()
    path = "d/sub/.snap/s/file"
    as_user(top, lambda: read(path))
    if close == "mode":
        (view / "d").chmod(0o700)
    elif close == "owner":
        (view / "d").chmod(0o710)
        as_user(top, lambda: read(path), groups=(0,))
        os.chown(view / "d", 0, OTHER)
        as_user(top, lambda: refused(read, path), groups=(0,))
    elif close == "acl":
        subprocess.run(["setfacl", "-m", f"u:{USER}:-", view / "d"], check=True, timeout=30)
    else:
        (view / "closed").mkdir(mode=0o700)
        (view / "d").rename(view / "closed" / "d")
    as_user(top, lambda: refused(read, path))
    assert (top / path).read_bytes() == b"text"


@with_others
def test_writing_in_a_snapshot_asks_nobody(top: Path) -> None:
    (top / "mine").write_bytes(b"mine")
    (top / "theirs").write_bytes(b"theirs")
    os.chown(top / "theirs", USER, USER)
    (top / "d").mkdir()
    os.chown(top / "d", USER, USER)
    (top / ".snap" / "s").mkdir()

    def user() -> None:
        write(".snap/s/theirs", b"new")
        write(".snap/s/d/new", b"new")
        os.mkdir(".snap/s/d/sub")
        refused(write, ".snap/s/mine", b"new")
        refused(write, ".snap/s/new", b"new")
        refused(os.unlink, ".snap/s/theirs")
        refused(os.chmod, ".snap/s/mine", 0o777)
        refused(os.chown, ".snap/s/theirs", 0, 0)
        refused(os.setxattr, ".snap/s/mine", "user.x", b"")

    as_user(top, user)
    assert (top / ".snap" / "s" / "mine").read_bytes() == b"mine"
    assert (top / ".snap" / "s" / "theirs").read_bytes() == b"new"
    assert (top / "theirs").read_bytes() == b"theirs"


@with_others
def test_others_are_let_in_without_looking_at_permissions(mounted) -> None:
    """allow_other brings default_permissions."""
    from snapfs.control.socket.mounts import mount_at

    found = mount_at(os.fspath(mounted.path))
    assert found is not None
    assert {"allow_other", "default_permissions"} <= found.options
    (mounted / "secret").write_bytes(b"secret")
    (mounted / "secret").chmod(0o600)
    as_user(mounted.path, lambda: refused(read, "secret"))


# --- mounting without root ------------------------------------------------------------------------


@pytest.fixture
def users_volume(home: Path, images) -> Iterator[Path]:
    """A volume that a normal user has made, mounted by that user; the mount point. The root
    directory is that user's.
    """
    image = images.watch(home / "own.img")
    run_as(USER, "mkfs", image, "--size", "32M")
    place = home / "m"
    place.mkdir()
    os.chown(place, USER, USER)
    run_as(USER, "mount", image, place)
    yield place
    run_as(USER, "umount", place)


def test_a_normal_user_gets_on_without_root(users_volume: Path) -> None:
    image = users_volume.parent / "own.img"
    assert image.stat().st_uid == USER

    def user() -> None:
        write("file", b"old")
        os.mkdir(".snap/s")
        write("file", b"new")
        write(".snap/s/note", b"note")
        assert read(".snap/s/file") == b"old"

    as_user(users_volume, user)
    run_as(USER, "restore", users_volume, "s")
    as_user(users_volume, lambda: _is(read("file"), b"old"))
    run_as(USER, "snapshot", "create", users_volume, "t")
    assert "t" in run_as(USER, "snapshot", "list", users_volume).stdout
    run_as(USER, "snapshot", "delete", users_volume, "t")


def test_a_normal_user_cannot_mount_a_snapshot_beside_the_volume(
    users_volume: Path, run_snapfs
) -> None:
    """Its daemon mounts with that user's rights, whoever asks: not where the user may not."""
    as_user(
        users_volume, lambda: (write("file", b"old"), os.mkdir(".snap/s"), write("file", b"new"))
    )
    place, closed = users_volume.parent / "beside", users_volume.parent / "closed"
    for directory, owner in ((place, USER), (closed, 0)):
        directory.mkdir()
        os.chown(directory, owner, owner)
    run_as(USER, "mount", users_volume, place, "-o", "snapshot=s")
    try:
        as_user(place, lambda: _is(read("file"), b"old"))
        refused(os.listdir, place)
        result = run_snapfs(
            "mount", users_volume.parent / "own.img", closed, "-o", "snapshot=s", code=32
        )
        one_line(result, str(closed))
        assert not closed.is_mount()
        one_line(
            run_as(
                OTHER,
                "mount",
                users_volume.parent / "own.img",
                place,
                "-o",
                "snapshot=s",
                code=None,
            )
        )
    finally:
        run_as(USER, "umount", place)
    run_as(USER, "snapshot", "delete", users_volume, "s")


def test_a_mount_of_a_normal_user_lets_others_in(users_volume: Path, run_snapfs) -> None:
    """Not even root, as FUSE has it, who may ask the daemon and end it all the same."""
    refused(os.listdir, users_volume)
    as_user(users_volume.parent, lambda: refused(os.listdir, "m"), uid=OTHER)
    as_user(users_volume.parent, lambda: os.listdir("m"))
    why = (f"mounted on {users_volume} by uid {USER} for that user alone", "allow_other")
    one_line(run_as(OTHER, "info", users_volume, code=1), *why)
    one_line(run_as(OTHER, "versions", users_volume / "file", code=1), *why)
    assert json.loads(run_snapfs("info", users_volume, "--json").stdout)["mounted"] == str(
        users_volume
    )
    one_line(run_snapfs("mount", "mem:16M", users_volume / "inside", code=1), *why)
    one_line(run_snapfs("mount", "mem:16M", users_volume, code=32), "busy")


def test_set_id_bits_and_devices_of_a_normal_users_image_count(users_volume: Path) -> None:
    """Whoever makes an image may put anything into it, so nothing in it gives rights."""
    from snapfs.control.socket.mounts import mount_at

    found = mount_at(os.fspath(users_volume))
    assert found is not None
    assert {"nosuid", "nodev", f"user_id={USER}"} <= found.options
    image = users_volume.parent / "own.img"
    run_as(USER, "umount", users_volume)
    for options in ("suid,dev", "uid=0"):
        run_as(USER, "mount", image, users_volume, "-o", options)
        found = mount_at(os.fspath(users_volume))
        assert found is not None
        assert {"nosuid", "nodev"} <= found.options
        run_as(USER, "umount", users_volume)
    run_as(USER, "mount", image, users_volume)


def test_a_device_on_the_volume_opens_for_a_normal_user(
    open_place: Path, home: Path, images, run_snapfs
) -> None:
    """A set-id program and a device node that root has put into an image do nothing in a normal
    user's mount.
    """
    image = images.make(name="planted.img")
    shutil.move(image, home / "planted.img")
    image = images.watch(home / "planted.img")
    place = home / "m"
    place.mkdir()
    run_snapfs("mount", image, place, "-o", "allow_other")
    try:
        os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (place / "null").chmod(0o666)
        shutil.copy(shutil.which("id") or "/usr/bin/id", place / "id")
        (place / "id").chmod(0o4755)
        as_user(place, lambda: os.close(os.open("null", os.O_RDWR)))
        whoami = as_user(
            place,
            lambda: (
                subprocess.run(["./id", "-u"], check=True, capture_output=True, timeout=30).stdout
            ),
        )
        assert whoami == b"0\n"
        place.joinpath(".snap/s").mkdir()
    finally:
        run_snapfs("umount", place)
    os.chown(image, USER, USER)
    os.chown(place, USER, USER)
    run_as(USER, "mount", image, place)
    try:
        for view in (place, Path(".snap/s")):
            assert (
                as_user(
                    place, lambda view=view: errno_of(os.open, place / view / "null", os.O_RDWR)
                )
                == errno.EACCES
            )
            whoami = as_user(
                place,
                lambda view=view: (
                    subprocess.run(
                        [place / view / "id", "-u"], check=True, capture_output=True
                    ).stdout
                ),
            )
            assert whoami == b"%d\n" % USER
    finally:
        run_as(USER, "umount", place)


def test_a_normal_user_lets_others_in_without_the_administrators_leave(home: Path, images) -> None:
    """allow_other needs ``user_allow_other`` in fuse.conf; a private one stands in for the
    system's, in a namespace of its own.
    """
    image = images.watch(home / "own.img")
    run_as(USER, "mkfs", image, "--size", "32M")
    (home / "m").mkdir()
    os.chown(home / "m", USER, USER)
    unshared = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c"]
    script = """
import os, subprocess, sys
conf, allowed, image, place, program, uid, other = sys.argv[1:]
with open(conf, "w") as file:
    file.write("user_allow_other\\n" if allowed == "yes" else "# nothing\\n")
os.chmod(conf, 0o644)
subprocess.run(["mount", "--bind", conf, "/etc/fuse.conf"], check=True)
mount = subprocess.run([sys.executable, "-c", program, uid, "mount", image, place, "-o",
"allow_other"], capture_output=True, text=True)
sys.stderr.write(mount.stderr)
if mount.returncode:
    sys.exit(mount.returncode)
def demote():
    os.setgroups([]); os.setgid(int(other)); os.setuid(int(other))
listing = subprocess.run(["ls", place], preexec_fn=demote, cwd="/")
closed = subprocess.run(["touch", place + "/file"], preexec_fn=demote, cwd="/", capture_output=True)
subprocess.run([sys.executable, "-c", program, uid, "umount", place], check=True)
sys.exit(0 if listing.returncode == 0 and closed.returncode else 99)
"""
    for allowed, code in (("no", 1), ("yes", 0)):
        words = [home / "conf", allowed, image, home / "m", AS_SOMEBODY, USER, OTHER]
        result = subprocess.run(
            [*unshared, script, *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
        )
        assert result.returncode == code, result.stdout + result.stderr
        if code:
            one_line(result, "user_allow_other")


def _is(found: object, expected: object) -> None:
    assert found == expected
