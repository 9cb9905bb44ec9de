"""Going back while files and directories are in use: what their users see, and that nobody writes
into another file (A10).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

every_way = pytest.mark.parametrize("paths", [(), ("--path", "/project")], ids=["whole", "path"])
#: The ways in which the kernel and the daemon speak.
every_loop = [
    pytest.param(marks=pytest.mark.volume(options="writeback=on"), id="writeback"),
    pytest.param(marks=pytest.mark.volume(options="writeback=off"), id="through"),
    pytest.param(marks=pytest.mark.volume(options="requests=pyfuse3"), id="pyfuse3"),
]


def descriptor_content(file: int) -> bytes:
    return os.pread(file, 1 << 20, 0)


@every_way
@pytest.mark.parametrize((), every_loop)
def test_a_file_in_use_is_lost_to_its_user(mounted, paths: tuple[str, ...]) -> None:
    """Whatever has become of a file, who has it open goes on with what came back, as one does who
    opens it.
    """
    (mounted / "project").mkdir()
    contents = {}
    for name in ("mode", "same", "longer", "shorter", "unlinked", "replaced", "renamed"):
        contents[name] = name.encode() * 3000
        (mounted / "project" / name).write_bytes(contents[name])
    mounted.snapshot("s")
    project = mounted / "project"
    (project / "mode").chmod(0o600)
    (project / "same").write_bytes(contents["same"])
    (project / "longer").write_bytes(contents["longer"] * 2)
    (project / "shorter").write_bytes(b"short")
    open_files = {name: os.open(project / name, os.O_RDWR | os.O_APPEND) for name in contents}
    with (
        (project / "longer").open("rb") as mapped,
        mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        assert view[-1:] == b"r"
        (project / "unlinked").unlink()
        (project / "new").write_bytes(b"new")
        (project / "new").rename(project / "replaced")
        (project / "renamed").rename(project / "other")
        for name in ("unlinked", "renamed"):
            assert not (project / name).exists()
        mounted.run("restore", mounted.path, "s", *paths)
        assert view[: len(contents["longer"])] == contents["longer"]
    for name, file in open_files.items():
        assert (project / name).read_bytes() == contents[name]
        assert descriptor_content(file) == contents[name], name
        status, here = os.fstat(file), (project / name).stat()
        assert (status.st_size, status.st_nlink, status.st_ino) == (here.st_size, 1, here.st_ino), (
            name
        )
        os.write(file, b"more")
        assert (project / name).read_bytes() == contents[name] + b"more", name
        os.close(file)
    assert sorted(os.listdir(project)) == sorted(contents)


@every_way
def test_a_directory_that_was_removed_in_use_comes_back_empty(
    mounted, paths: tuple[str, ...]
) -> None:
    """The kernel has buried the directory: what comes back must be another one to it."""
    project = mounted / "project"
    (project / "deep").mkdir(parents=True)
    (project / "deep" / "paper").write_text("paper")
    (project / "log").write_text("log")
    mounted.snapshot("s")
    users = [
        os.open(project, os.O_RDONLY),
        os.open(project / "deep", os.O_PATH),
        os.open(project / "log", os.O_RDONLY),
    ]
    for name in ("deep/paper", "log"):
        (project / name).unlink()
    (project / "deep").rmdir()
    (mounted / "other").mkdir()
    (mounted / "other").rename(project)  # over an empty directory
    mounted.run("restore", mounted.path, "s", *paths)
    assert (project / "deep" / "paper").read_text() == "paper"
    assert sorted(os.listdir(project)) == ["deep", "log"]
    (project / "deep" / "new").write_text("new")
    (project / "made").mkdir()
    assert descriptor_content(users[2]) == b"log"
    with pytest.raises(OSError):
        os.listdir(users[0])
    for user in users:
        os.close(user)


def test_who_writes_to_a_file_writes_to_the_one_that_has_its_number(mounted) -> None:
    (mounted / "then").write_text("then")
    mounted.snapshot("s")
    number = (mounted / "then").stat().st_ino
    (mounted / "then").unlink()
    for index in range(100):
        path = mounted / f"now{index}"
        path.write_text("now")
        if path.stat().st_ino == number:
            break
    else:
        pytest.fail("the number is not given out again")
    file = os.open(path, os.O_RDWR)
    mounted.run("restore", mounted.path, "s")
    for attempt in (
        lambda: os.pwrite(file, b"evil", 0),
        lambda: os.ftruncate(file, 0),
        lambda: os.read(file, 1),
        lambda: os.fstat(file),
    ):
        with pytest.raises(OSError) as failure:
            attempt()
        assert failure.value.errno in (errno.EIO, errno.ESTALE)
    with pytest.raises(OSError):
        os.close(file)
    assert (mounted / "then").read_text() == "then"
    assert os.listdir(mounted.path) == ["then"]


def test_a_write_during_a_restore_is_lost_or_torn(mounted) -> None:
    """Whoever appends has written before, which the undo snapshot has, or after: then it stands
    behind what came back, without a gap.
    """
    path = mounted / "log"
    path.write_bytes(b"0" * 10)
    mounted.snapshot("s")
    stop = threading.Event()
    written = [0]

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"%010d" % (written[0] + 1))
                written[0] += 1

    writer = threading.Thread(target=append)
    writer.start()
    try:
        for _ in range(5):
            mounted.run("restore", mounted.path, "s")
    finally:
        stop.set()
        writer.join()
    content = path.read_bytes()
    numbers = [int(content[at : at + 10]) for at in range(10, len(content), 10)]
    assert content[:10] == b"0" * 10
    assert len(content) % 10 == 0
    assert numbers == list(range(written[0] - len(numbers) + 1, written[0] + 1)), (
        "a write is missing, or there is a gap"
    )


def test_a_directory_that_did_not_change_is_taken_from_its_users(mounted) -> None:
    """Whoever works in a directory goes on, and knows where he is, when something else is restored,
    or something in it.
    """
    (mounted / "project" / "sub").mkdir(parents=True)
    (mounted / "project" / "file").write_text("then")
    mounted.snapshot("s")
    (mounted / "project" / "file").write_text("now")
    place = os.open(mounted / "project" / "sub", os.O_PATH)
    mounted.run("restore", mounted.path, "s")
    assert Path(os.readlink(f"/proc/self/fd/{place}")) == mounted.path / "project" / "sub"
    assert Path(os.readlink(f"/proc/self/fd/{place}"), "..", "file").read_text() == "then"
    os.close(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_mounts_of_others_are_taken_away_in_silence(mounted, run_snapfs) -> None:
    """The kernel detaches what is mounted on a name that leads elsewhere, where rmdir(2) and
    rename(2) say EBUSY.
    """
    for name in ("kept", "gone", "file"):
        (mounted / name).mkdir() if name != "file" else (mounted / name).touch()
    (mounted / "kept" / "deep").mkdir()
    mounted.snapshot("s")
    for name in ("gone", "kept/file"):
        (mounted / name).rmdir() if name == "gone" else (mounted / name).touch()
    (mounted / "gone").mkdir()
    (mounted / "new").mkdir()
    points = [mounted / "kept" / "deep", mounted / "gone", mounted / "new"]

    def detach(path: Path) -> None:
        subprocess.run(["umount", "-l", path], check=True, timeout=60)

    with contextlib.ExitStack() as stack:
        for point in points:
            subprocess.run(["mount", "-t", "tmpfs", "snapfs-test", point], check=True, timeout=60)
            stack.callback(detach, point)
        refused = run_snapfs("restore", mounted.path, "s", code=1)
        assert refused.returncode == 1
        assert str(mounted.path / "gone") in refused.stderr
        assert "1 more" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert "gone" in run_snapfs("restore", mounted.path, "s", "--path", "/gone", code=1).stderr
        # What stays in its place stays mounted, whatever else changes there.
        run_snapfs("restore", mounted.path, "s", "--path", "/kept")
        assert not (mounted / "kept" / "file").exists()
        assert all(point.is_mount() for point in points)
        # A mount that is seen in another namespace alone counts as well.
        stack.pop_all()
        for point in points[1:]:
            detach(point)
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c",
            f"mount -t tmpfs snapfs-test '{mounted.path}/gone' && echo && read line"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as other:  # fmt: skip
            assert other.stdout is not None and other.stdin is not None
            other.stdout.readline()
            assert "gone" in run_snapfs("restore", mounted.path, "s", code=1).stderr
            run_snapfs("restore", mounted.path, "s", "--detach-mounts")
            other.stdin.close()
        assert points[0].is_mount()
        detach(points[0])
    assert sorted(os.listdir(mounted.path)) == ["file", "gone", "kept"]


def test_a_lease_keeps_a_restore_and_all_snapshots_waiting(mounted) -> None:
    """The kernel gives its holder 45 seconds for each file before somebody else may change the
    size.
    """
    path = mounted / "file"
    path.write_bytes(b"then" * 1000)
    mounted.snapshot("s")
    path.write_bytes(b"now")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the kernel asks for it
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        mounted.run("restore", mounted.path, "s")
        leases = [
            line.split() for line in Path("/proc/locks").read_text().splitlines() if "LEASE" in line
        ]
        assert ["BREAKING", str(os.getpid())] in [[words[2], words[4]] for words in leases]
        assert path.read_bytes() == b"then" * 1000
    finally:
        with contextlib.suppress(OSError):
            os.close(file)
        signal.signal(signal.SIGIO, before)
