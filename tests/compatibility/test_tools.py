"""Programs that people use, at work on a real mount: in the live tree, and in a snapshot under
``.snap``.

Every test runs in both places. The one that it does not run in must be exactly as before when it
ends, and the one that it runs in must be the same after another mount.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import select
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipapp
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# In a snapshot, what programs store is shown whole, with set-id bits and devices, as in the live
# tree.
pytestmark = pytest.mark.volume(size="512M", options="snapsuid")

#: What git reads nothing else from: the tests do not depend on whose account they run in.
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Test"), ("EMAIL", "test@localhost"))
    },
}

Facts = dict[str, tuple[Any, ...]]


def run(
    *command: str | os.PathLike[str],
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    code: int = 0,
) -> str:
    """Run a program; its output."""
    result = subprocess.run(
        [os.fspath(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def facts(top: Path, *, times: bool = True) -> Facts:
    """Everything that a program can see of a tree, by relative path."""
    found: Facts = {}
    numbers: dict[tuple[int, int], str] = {}
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = Path(directory) / name
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            here = str(path.relative_to(top))
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            # The first name of a hard-linked file stands for all of them.
            first = (
                numbers.setdefault((status.st_dev, status.st_ino), here)
                if kind != stat.S_IFDIR
                else here
            )
            found[here] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                0 if kind == stat.S_IFDIR else status.st_size,
                status.st_mtime_ns if times else 0,
                status.st_rdev,
                content,
                xattrs,
                first,
            )
    return found


@dataclass
class Place:
    """Where a test works, and the view that must not notice."""

    top: Path
    other: Path
    mounted: Any

    def again(self) -> None:
        """Another mount shows the same."""
        before = facts(self.top)
        self.mounted.remount(self.mounted.options)
        after = facts(self.top)
        assert after == before


@pytest.fixture(params=["base", "snapshot"])
def place(request: pytest.FixtureRequest, mounted) -> Iterator[Place]:
    """B3: what happens in the base is not seen in the snapshot, and the other way round."""
    seed = mounted / "seed"
    (seed / "deep" / "er").mkdir(parents=True)
    for number in range(20):
        (seed / "deep" / f"file{number}").write_bytes(os.urandom(1000 * number))
    os.link(seed / "deep" / "file1", seed / "deep" / "er" / "link")
    os.symlink("file2", seed / "deep" / "symlink")
    view = mounted.snapshot("s")
    start = facts(mounted.path)
    assert facts(view) == start
    top, other = (mounted.path, view) if request.param == "base" else (view, mounted.path)
    yield Place(top, other, mounted)
    if mounted.is_mounted:
        assert facts(other) == start
        run("rm", "-rf", top / "seed")
        assert facts(other) == start


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that has everything that rsync and tar know, outside of the volume."""
    top = tmp_path / "tree"
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(30):
        (top / "dir" / f"file{number}").write_bytes(os.urandom(number**2 * 40))
    (top / "dir" / "ünïcode · 名前").write_text("text")
    (top / "dir" / "new\nline").write_text("text")
    (top / "nothing").touch()
    os.link(top / "dir" / "file7", top / "dir" / "sub" / "other name")
    os.symlink("dir/file3", top / "symlink")
    os.symlink("x" * 3000, top / "broken")
    os.link(top / "symlink", top / "second symlink", follow_symlinks=False)
    os.mkfifo(top / "fifo")
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"end")
    for name, value in (("user.short", b"1"), ("user.long", os.urandom(3000)), ("user.empty", b"")):
        os.setxattr(top / "dir" / "file9", name, value)
    os.setxattr(top / "dir", "user.dir", b"on a directory")
    run("setfacl", "-m", "u:1234:rw,g:4321:r,m::rw", top / "dir" / "file10")
    run("setfacl", "-m", "u:1234:rwx", "-m", "d:u:1234:rx,d:g::-", top / "dir" / "sub")
    if os.geteuid() == 0:
        os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.setxattr(top / "dir" / "file9", "trusted.ours", b"root's")
        os.chown(top / "dir" / "file11", 1234, 4321)
        os.lchown(top / "symlink", 1234, 4321)
    os.chmod(top / "dir" / "file12", 0o4711)
    os.chmod(top / "dir" / "sub", 0o3775)
    os.chmod(top / "dir" / "file13", 0o000)
    for number, seconds in enumerate((0, -1, 1, 2**31 + 5, 4_000_000_000)):
        os.utime(
            top / "dir" / f"file{number}",
            ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 987_654_321),
        )
    os.utime(top / "symlink", ns=(5, 7), follow_symlinks=False)
    return top


# --- copying --------------------------------------------------------------------------------------


def test_rsync_in_and_out_leaves_no_differences(place: Place, tree: Path, tmp_path: Path) -> None:
    goal = place.top / "tree"
    run("rsync", "-aHAX", "--modify-window=-1", f"{tree}/", f"{goal}/")
    assert (
        run("rsync", "-aHAX", "--modify-window=-1", "--itemize-changes", f"{tree}/", f"{goal}/")
        == ""
    )
    assert (
        run(
            "rsync",
            "-aHAX",
            "--modify-window=-1",
            "--itemize-changes",
            "--checksum",
            "--delete",
            "--dry-run",
            f"{tree}/",
            f"{goal}/",
        )
        == ""
    )
    assert facts(goal) == facts(tree)
    place.again()
    assert (
        run(
            "rsync",
            "-aHAX",
            "--modify-window=-1",
            "--itemize-changes",
            "--checksum",
            "--delete",
            "--dry-run",
            f"{tree}/",
            f"{goal}/",
        )
        == ""
    )
    run("rsync", "-aHAX", "--modify-window=-1", f"{goal}/", f"{tmp_path / 'out'}/")
    assert (
        run(
            "rsync",
            "-aHAX",
            "--modify-window=-1",
            "--itemize-changes",
            "--checksum",
            "--delete",
            "--dry-run",
            f"{tree}/",
            f"{tmp_path / 'out'}/",
        )
        == ""
    )
    assert facts(tmp_path / "out") == facts(tree)


def test_rsync_updates_what_has_changed(place: Place, tree: Path) -> None:
    goal = place.top / "tree"
    run("rsync", "-aHAX", "--modify-window=-1", f"{tree}/", f"{goal}/")
    with (tree / "dir" / "file29").open("r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    (tree / "dir" / "file28").unlink()
    os.rename(tree / "dir" / "file27", tree / "renamed")
    os.removexattr(tree / "dir" / "file9", "user.short")
    run("setfacl", "-b", tree / "dir" / "file10")
    run(
        "rsync",
        "-aHAX",
        "--modify-window=-1",
        "--delete",
        "--inplace",
        "--no-whole-file",
        f"{tree}/",
        f"{goal}/",
    )
    assert facts(goal) == facts(tree)
    run("rsync", "-a", "--delete", "--backup", "--suffix=.old", f"{tree}/dir/", f"{goal}/dir/")
    place.again()


def test_tar_with_attributes_and_acls_in_and_out(place: Place, tree: Path, tmp_path: Path) -> None:
    words = ["--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"]
    archive = place.top / "archive.tar"
    run("tar", *words, "-cf", archive, "-C", tree, ".")
    goal = place.top / "tree"
    goal.mkdir()
    run("tar", *words, "-xpf", archive, "-C", goal, "--same-owner")
    assert run("tar", *words, "--compare", "-f", archive, "-C", goal) == ""
    assert facts(goal) == facts(tree)
    place.again()
    back, out = tmp_path / "back.tar", tmp_path / "out"
    out.mkdir()
    run("tar", *words, "-cf", back, "-C", goal, ".")
    run("tar", *words, "-xpf", back, "-C", out)
    assert facts(out) == facts(tree)
    run("tar", *words, "-rf", archive, "-C", place.top / "tree", "dir/file29")
    assert run("tar", "-tf", archive).splitlines()[-1] == "dir/file29"
    run("tar", "-czf", place.top / "archive.tgz", "-C", goal, "dir")
    assert "dir/file3" in run("tar", "-tzf", place.top / "archive.tgz").splitlines()


def test_cp_mv_and_friends(place: Place, tree: Path) -> None:
    top = place.top
    run("cp", "-a", tree, top / "first")
    assert facts(top / "first") == facts(tree)
    run("cp", "-a", "first", "second", cwd=top)  # within the volume
    assert facts(top / "second") == facts(tree)
    assert run("diff", "-r", "--no-dereference", "first/dir", "second/dir", cwd=top) == ""
    run("cp", "--reflink=auto", "--sparse=always", "first/sparse", "sparse", cwd=top)
    assert (top / "sparse").read_bytes() == (tree / "sparse").read_bytes()
    assert (top / "sparse").stat().st_blocks * 512 < 1 << 20
    run("cp", "-al", "first", "links", cwd=top)
    assert (top / "first" / "dir" / "file5").stat().st_nlink == 2
    run("mv", "second", "first/moved", cwd=top)
    assert facts(top / "first" / "moved") == facts(tree)
    run("ln", "-s", "first", "to", cwd=top)
    run("ln", "-sfn", "links", "to", cwd=top)
    assert os.readlink(top / "to") == "links"
    run("install", "-m", "640", "-D", tree / "dir" / "file20", top / "a" / "b" / "installed")
    assert stat.S_IMODE((top / "a" / "b" / "installed").stat().st_mode) == 0o640
    run("rm", "-r", "first", "links", cwd=top)
    place.again()
    assert sorted(os.listdir(top)) == ["a", "seed", "sparse", "to"]


def test_find_and_du(place: Place, tree: Path) -> None:
    top = place.top / "tree"
    run("cp", "-a", tree, top)
    for words in (
        ["-type", "f"],
        ["-type", "l"],
        ["-type", "p"],
        ["-links", "+1", "-type", "f"],
        ["-perm", "-4000"],
        ["-newermt", "2030-01-01"],
        ["-empty"],
        ["-size", "+1M"],
    ):
        assert sorted(run("find", ".", *words, "-print0", cwd=top).split("\0")) == sorted(
            run("find", ".", *words, "-print0", cwd=tree).split("\0")
        )
    assert ".snap" not in run("find", place.top, "-name", ".snap")
    apparent = run("du", "-s", "--apparent-size", "-B1", "dir", cwd=top).split()[0]
    size = sum(
        {
            path.lstat().st_ino: path.lstat().st_size
            for path in [top / "dir", *(top / "dir").rglob("*")]
        }.values()
    )
    assert int(apparent) == size
    data = [path for path in (top / "dir").rglob("*") if path.is_file()]
    assert int(run("du", "-s", "-B1", "dir", cwd=top).split()[0]) >= sum(
        {path.stat().st_ino: path.stat().st_size for path in data}.values()
    )
    assert int(run("du", "-B1", "sparse", cwd=top).split()[0]) < 1 << 20
    run("find", top, "-name", "file1*", "-delete")
    assert run("find", top, "-name", "file1*") == ""
    run("find", top / "dir", "-type", "f", "-exec", "chmod", "600", "{}", "+")
    run("find", top, "-depth", "-delete")
    assert not top.exists()


def test_dd_in_every_manner(place: Place, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    goal = place.top / "goal"
    run("dd", f"if={source}", f"of={goal}", "bs=1M", "conv=fsync")
    assert goal.read_bytes() == data
    run(
        "dd",
        f"if={source}",
        f"of={goal}",
        "bs=1000",
        "count=7",
        "seek=123",
        "skip=55",
        "conv=notrunc,fdatasync",
    )
    expected = bytearray(data)
    expected[123_000:130_000] = data[55_000:62_000]
    assert goal.read_bytes() == expected
    run("dd", f"if={source}", f"of={goal}", "bs=4096", "count=1", "oflag=append", "conv=notrunc")
    assert goal.read_bytes() == expected + data[:4096]
    run("dd", f"if={source}", f"of={goal}", "bs=1", "count=1", "seek=10M", "oflag=sync")
    assert goal.stat().st_size == (10 << 20) + 1
    assert (
        goal.read_bytes() == (expected + data[:4096])[: 10 << 20].ljust(10 << 20, b"\0") + data[:1]
    )
    run("dd", f"if={goal}", f"of={tmp_path / 'back'}", "bs=64K", "iflag=direct", "count=16")
    assert (tmp_path / "back").read_bytes() == goal.read_bytes()[: 1 << 20]
    run(
        "dd",
        f"if={source}",
        f"of={goal}",
        "bs=64K",
        "oflag=direct",
        "count=16",
        "conv=notrunc",
        "seek=100",
    )
    assert goal.read_bytes()[100 * 65536 : 116 * 65536] == data[: 1 << 20]
    place.again()


def test_text_tools_that_replace_files(place: Place) -> None:
    lines = [f"line {number * 7919 % 10_007}" for number in range(10_000)]
    text = place.top / "text"
    text.write_text("\n".join(lines) + "\n")
    run("sed", "-i", "s/line/row/", text)
    run("sort", "-k2", "-n", "-o", text, "-T", place.top, "-S", "64K", text)
    numbers = sorted(number * 7919 % 10_007 for number in range(10_000))
    assert text.read_text().splitlines() == [f"row {number}" for number in numbers]
    run("split", "-l", "1000", "text", "part.", cwd=place.top)
    assert (
        b"".join(path.read_bytes() for path in sorted(place.top.glob("part.*")))
        == text.read_bytes()
    )
    sums = run("sh", "-c", "md5sum part.* > sums && md5sum -c --quiet sums", cwd=place.top)
    assert sums == ""
    run("gzip", "-k", "text", cwd=place.top)
    assert run("sh", "-c", "gunzip -c text.gz | cmp - text", cwd=place.top) == ""
    run("truncate", "-s", "100", text)
    run("truncate", "-s", "+50", text)
    assert text.read_bytes()[100:] == bytes(50)
    place.again()


def test_programs_that_reserve_space_get_on_without(place: Place) -> None:
    """What a filesystem without fallocate(2) makes the C library do instead."""
    path = place.top / "reserved"
    with path.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert path.stat().st_size == 1 << 20
        file.seek(500_000)
        file.write(b"here")
        os.posix_fallocate(file.fileno(), 0, 2 << 20)
    assert path.read_bytes() == bytes(500_000) + b"here" + bytes((2 << 20) - 500_004)
    place.again()


# --- git ------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A history of its own: branches, a merge, a tag, renames, a binary file, a symlink, an
    executable.
    """
    top = tmp_path / "repository"
    run("git", "init", "-q", "-b", "main", top, env=GIT)

    def git(*words: str) -> str:
        return run("git", *words, cwd=top, env=GIT)

    for number in range(40):
        (top / f"dir{number % 5}").mkdir(exist_ok=True)
        (top / f"dir{number % 5}" / f"file{number}.txt").write_text(
            f"{number}\n" * (number * 20 + 1)
        )
        (top / "binary").write_bytes(os.urandom(20_000))
        if number % 4 == 3:
            git("add", "-A")
            git("commit", "-q", "-m", f"commit {number}")
    (top / "script").write_text("#!/bin/sh\necho works\n")
    (top / "script").chmod(0o755)
    os.symlink("dir0/file0.txt", top / "link")
    git("mv", "dir1", "moved")
    git("add", "-A")
    git("commit", "-q", "-m", "more")
    git("checkout", "-q", "-b", "side", "HEAD~3")
    (top / "side").write_text("side\n")
    git("add", "-A")
    git("commit", "-q", "-m", "side")
    git("checkout", "-q", "main")
    git("merge", "-q", "-m", "merge", "side")
    git("tag", "-a", "v1", "-m", "tag")
    return top


def test_git_clone_fsck_commit_and_gc(place: Place, repository: Path, tmp_path: Path) -> None:
    clone = place.top / "clone"
    run("git", "clone", "-q", "--no-local", repository, clone, env=GIT)

    def git(*words: str, where: Path = clone) -> str:
        return run("git", *words, cwd=where, env=GIT)

    assert git("fsck", "--full", "--strict") == ""
    assert git("status", "--porcelain") == ""
    assert git("log", "--format=%H", "--all") == git(
        "log", "--format=%H", "--all", where=repository
    )
    assert run(clone / "script") == "works\n"
    for number in range(10):
        (clone / "dir2" / f"new{number}").write_bytes(os.urandom(3000))
        git("add", "-A")
        git("commit", "-q", "-m", f"new {number}")
    git("rm", "-q", "-r", "dir3")
    git("commit", "-q", "-m", "removed")
    head = git("rev-parse", "HEAD")
    git("checkout", "-q", "-b", "other", "v1")
    git("checkout", "-q", "main")
    git("stash", "list")
    git("repack", "-a", "-d", "-q")
    git("gc", "-q", "--prune=now", "--aggressive")
    assert git("fsck", "--full", "--strict") == ""
    assert git("status", "--porcelain") == ""
    place.again()
    assert git("rev-parse", "HEAD") == head
    assert git("status", "--porcelain") == ""
    assert git("fsck", "--full", "--strict") == ""
    git("worktree", "add", "-q", "../tree", "side")
    assert (place.top / "tree" / "side").read_text() == "side\n"
    run("git", "clone", "-q", clone, tmp_path / "out", env=GIT)  # out again
    run(
        "git", "clone", "-q", clone, place.top / "by-links", env=GIT
    )  # by hard links within the volume
    assert git("fsck", "--full", where=place.top / "by-links") == ""
    assert git("rev-parse", "HEAD", where=tmp_path / "out") == head


# --- SQLite ---------------------------------------------------------------------------------------

ACCOUNTS = 50
TRANSFERS = 300

#: Reads in a process of its own until its standard input ends: money is neither made nor lost,
#: whenever one looks.
READER = """
import os, select, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30)
reads = last = 0
while True:
    total, steps = connection.execute("select (select sum(balance) from account), "
                                      "(select count(*) from log)").fetchone()
    assert total == int(sys.argv[2]), total
    assert steps >= last, (steps, last)
    last = steps
    reads += 1
    if reads == 1:
        print("reading", flush=True)
    if select.select([0], [], [], 0)[0]:
        break
connection.close()
print(reads, last)
"""


def test_sqlite_in_wal_mode_with_a_concurrent_reader(place: Place) -> None:
    path = place.top / "bank.db"
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    assert connection.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    connection.execute("pragma wal_autocheckpoint=50")
    connection.execute("create table account (id integer primary key, balance integer not null)")
    connection.execute("create table log (source, goal, amount, note)")
    connection.executemany(
        "insert into account values (?, 1000)", [(number,) for number in range(ACCOUNTS)]
    )
    command = [sys.executable, "-c", READER, os.fspath(path), str(1000 * ACCOUNTS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        try:
            assert reader.stdin is not None
            assert reader.stdout is not None
            assert select.select([reader.stdout], [], [], 60)[0]
            assert reader.stdout.readline() == "reading\n"
            for step in range(TRANSFERS):
                source, goal = step * 7 % ACCOUNTS, step * 11 % ACCOUNTS
                connection.execute("begin immediate")
                connection.execute(
                    "update account set balance = balance - ? where id = ?", (step, source)
                )
                connection.execute(
                    "update account set balance = balance + ? where id = ?", (step, goal)
                )
                connection.execute(
                    "insert into log values (?, ?, ?, ?)",
                    (source, goal, step, "x" * (step * 13 % 2000)),
                )
                connection.execute("rollback" if step % 10 == 9 else "commit")
            (output, _) = reader.communicate("stop", timeout=60)
        except BaseException:
            reader.kill()
            raise
    assert reader.returncode == 0
    reads, last = map(int, output.split())
    assert reads > 1
    assert last <= TRANSFERS
    expected = connection.execute("select * from account").fetchall()
    assert connection.execute("select count(*) from log").fetchone() == (TRANSFERS * 9 // 10,)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
    assert (
        run("sqlite3", path, "pragma integrity_check; vacuum; pragma integrity_check") == "ok\nok\n"
    )
    place.again()
    connection = sqlite3.connect(path)
    assert connection.execute("select * from account").fetchall() == expected
    connection.close()


def test_a_snapshot_of_a_database_at_work_is_one_that_recovers(mounted) -> None:
    """A2: the state is one moment's, so that a database finds what it would find after a power
    failure.
    """
    path = mounted / "bank.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table account (id integer primary key, balance integer not null)")
    connection.executemany(
        "insert into account values (?, 1000)", [(number,) for number in range(ACCOUNTS)]
    )
    connection.execute("create table log (step)")
    for step in range(60):
        connection.execute("begin")
        connection.execute(
            "update account set balance = balance - 1 where id = ?", (step % ACCOUNTS,)
        )
        if step % 20 == 10:
            mounted.snapshot(f"s{step}")
        connection.execute(
            "update account set balance = balance + 1 where id = ?", ((step + 1) % ACCOUNTS,)
        )
        connection.execute("insert into log values (?)", (step,))
        connection.execute("commit")
    connection.close()
    for step in (10, 30, 50):
        past = sqlite3.connect(
            mounted.view(f"s{step}") / "bank.db"
        )  # recovers there: snapshots may be written
        assert past.execute("pragma integrity_check").fetchone() == ("ok",)
        assert past.execute("select sum(balance) from account").fetchone() == (1000 * ACCOUNTS,)
        assert past.execute("select count(*) from log").fetchone() == (step,)
        past.close()


# --- builds ---------------------------------------------------------------------------------------

MAKEFILE = """\
CFLAGS = -O1 -Wall -Werror -MMD
OBJECTS = main.o $(PARTS:%=part%.o)
PARTS = 1 2 3 4 5 6
program: $(OBJECTS) libextra.a
\t$(CC) -o $@ $(OBJECTS) -L. -lextra
libextra.a: extra.o
\t$(AR) rcs $@ $^
clean:
\trm -f *.o *.d *.a program
-include *.d
"""


def test_a_c_program_is_built_by_make(place: Place) -> None:
    top = place.top / "program"
    top.mkdir()
    parts = range(1, 7)
    (top / "Makefile").write_text(MAKEFILE)
    (top / "parts.h").write_text(
        "".join(f"int part{number}(void);\n" for number in parts) + "int extra(void);\n"
    )
    (top / "extra.c").write_text('#include "parts.h"\nint extra(void) { return 1000; }\n')
    for number in parts:
        (top / f"part{number}.c").write_text(
            f'#include "parts.h"\nint part{number}(void) {{ return {number}; }}\n'
        )
    total = "+".join(f"part{number}()" for number in parts)
    (top / "main.c").write_text(
        f'#include <stdio.h>\n#include "parts.h"\nint main(void) {{ printf("%d\\n", '
        f"{total} + extra()); return 0; }}\n"
    )
    run("make", "-j4", "-C", top, "program")
    assert run(top / "program") == "1021\n"
    assert "up to date" in run("make", "-C", top, "program")
    (top / "part3.c").write_text('#include "parts.h"\nint part3(void) { return 300; }\n')
    again = run("make", "-C", top, "program")
    assert "part3.o" in again
    assert "-o part4.o" not in again
    assert run(top / "program") == "1318\n"
    place.again()
    assert run(top / "program") == "1318\n"
    assert "up to date" in run("make", "-C", top, "program")
    run("make", "-C", top, "clean")
    run("make", "-j2", "-C", top, "program")
    assert run(top / "program") == "1318\n"


def test_a_python_program_is_compiled_packed_and_run(place: Place) -> None:
    top = place.top / "project"
    shutil.copytree(
        Path(__file__).parents[2] / "snapfs",
        top / "src" / "snapfs",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (top / "src" / "__main__.py").write_text(
        "from snapfs.cli.arguments import size\nprint(size('2TiB'))\n"
    )
    sources = list((top / "src").rglob("*.py"))
    assert len(sources) > 40
    assert compileall.compile_dir(top / "src", quiet=2, workers=2, force=True)
    assert len(list((top / "src").rglob("*.pyc"))) == len(sources)
    environment = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(sys.executable, top / "src", env=environment) == f"{2 << 40}\n"
    zipapp.create_archive(top / "src", top / "app.pyz", compressed=True)
    run(sys.executable, "-m", "venv", "--without-pip", top / "venv")
    python = top / "venv" / "bin" / "python"
    assert run(python, top / "app.pyz", env=environment) == f"{2 << 40}\n"
    where = "import snapfs.errors; print(snapfs.errors.__file__)"
    assert (
        run(python, "-P", "-c", where, env={**environment, "PYTHONPATH": str(top / "src")})
        == f"{top}/src/snapfs/errors.py\n"
    )
    place.again()
    assert run(python, top / "app.pyz", env=environment) == f"{2 << 40}\n"
