"""The load that a daemon is killed under, a log of what it acknowledged, and the proof afterwards
that nothing of that is missing.

What a kill can lose is what had not been acknowledged: by fsync for files and names, by the system
call itself for snapshots.

The load works from one descriptor of the mount's root, and never by a path that begins outside.
After the kill the mount is detached, and such a path would lead into the directory below it, where
everything goes on well and nothing of it is in the volume.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WRITERS = 3
RECORD = 64
#: More snapshots than this and the oldest are deleted, in the middle of everything else.
SNAPSHOTS = 12
#: Bytes of the file that is written in the views of snapshots: within one page, so that each write
#: is one request.
NOTE = 1000

#: The state of a tree: each path with its type, permissions, size or target, and attribute.
Tree = dict[str, tuple[Any, ...]]


def record(writer: int, number: int) -> bytes:
    return f"writer {writer} record {number}".encode().ljust(RECORD - 1, b".") + b"\n"


class Log:
    """What was acknowledged. Entries are made after a call has returned; a lock makes each one
    whole.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acknowledged = 0
        self.lengths = [0] * WRITERS  # records of each writer's log that are durable
        self.returned = [0] * WRITERS  # records whose write() has returned
        self.files: dict[str, bytes | None] = {}  # content of whole files, None for deleted ones
        self.uncertain: dict[
            str, set[bytes | None]
        ] = {}  # what a file may be whose change was not acknowledged
        self.snapshots: dict[str, list[int]] = {}  # records that must be in it
        self.deleting: set[str] = set()
        self.making: dict[str, list[int]] = {}
        self.notes: dict[
            str, set[bytes]
        ] = {}  # what the note in a snapshot's view may be; one possibility once it is acknowledged
        self.trees: list[Tree] = [
            {}
        ]  # what the tree may be: as acknowledged, and with the one change that was not

    def note(self) -> None:
        with self.lock:
            self.acknowledged += 1


def root_of(top: Path) -> int:
    """A descriptor of the root of what is mounted there; fails when nothing is."""
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    if os.fstat(descriptor).st_dev == os.stat(top.parent).st_dev:
        os.close(descriptor)
        raise AssertionError(f"{top} is not mounted")
    return descriptor


class Life:
    """One mount, from its start to its violent end. To be closed when all that ``work`` has started
    has ended.
    """

    def __init__(self, top: Path, log: Log, seed: int) -> None:
        self.top = root_of(top)
        self.log = log
        self.seed = seed
        self.killed = False
        self.has_snapshot = threading.Event()
        if log.snapshots:
            self.has_snapshot.set()
        self.wrong: list[BaseException] = []
        log.returned = list(log.lengths)  # what had not been acknowledged is cut off

    def work(self) -> list[threading.Thread]:
        jobs: list[tuple[Callable[[int], Iterator[None]], int]] = [
            (self.append, writer) for writer in range(WRITERS)
        ]
        jobs += [(self.replace, 0), (self.snapshots, 0), (self.views, 0), (self.names, 0)]
        threads = [threading.Thread(target=self._until_the_end, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        return threads

    def close(self) -> None:
        """Let go of the mount."""
        os.close(self.top)

    def end(self) -> None:
        """The daemon is about to be killed."""
        self.killed = True
        self.has_snapshot.set()

    def _until_the_end(self, function: Callable[[int], Iterator[None]], number: int) -> None:
        try:
            for _ in function(number):
                self.log.note()
        except BaseException as exc:
            if not (
                self.killed and isinstance(exc, OSError)
            ):  # what the end of the daemon brings is an error of the system's
                self.wrong.append(exc)

    def append(self, writer: int) -> Iterator[None]:
        """A log that grows by a few records, then fsync."""
        dice = random.Random(self.seed * 10 + writer)
        log = self.log
        descriptor = os.open(f"log{writer}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=self.top)
        try:
            number = log.lengths[writer]
            os.ftruncate(descriptor, number * RECORD)
            log.returned[writer] = number
            while True:
                count = dice.randrange(1, 200)
                data = b"".join(record(writer, number + step) for step in range(count))
                assert os.pwrite(descriptor, data, number * RECORD) == len(data)
                number += count
                log.returned[writer] = number
                os.fsync(descriptor)
                log.lengths[writer] = number
                yield
        finally:
            _close(descriptor)

    def replace(self, _: int) -> Iterator[None]:
        """Whole files as editors write them: another one beside it, fsync, rename, fsync of the
        directory. Sometimes one is deleted.
        """
        dice = random.Random(self.seed * 10 + 8)
        log = self.log
        directory = os.open(".", os.O_RDONLY, dir_fd=self.top)
        try:
            while True:
                name = f"file{dice.randrange(10)}"
                before = log.files.get(name)
                content = None if dice.random() < 0.2 else dice.randbytes(dice.randrange(30_000))
                log.uncertain[name] = {before, content}
                if content is None:
                    if before is not None:
                        os.unlink(name, dir_fd=directory)
                else:
                    descriptor = os.open(
                        "temporary", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory
                    )
                    try:
                        assert os.write(descriptor, content) == len(content)
                        os.fsync(descriptor)
                    finally:
                        _close(descriptor)
                    os.rename("temporary", name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
                log.files[name] = content
                del log.uncertain[name]
                yield
        finally:
            _close(directory)

    def snapshots(self, _: int) -> Iterator[None]:
        """Made, and the oldest deleted."""
        log, number = self.log, 0
        while True:
            name = f"{self.seed:05}-{number:04}"
            must = list(log.returned)
            log.making[name] = must
            os.mkdir(f".snap/{name}", dir_fd=self.top)
            log.snapshots[name] = must
            del log.making[name]
            self.has_snapshot.set()
            yield
            number += 1
            if len(log.snapshots) > SNAPSHOTS:
                oldest = min(log.snapshots)
                log.deleting.add(oldest)
                os.rmdir(f".snap/{oldest}", dir_fd=self.top)
                del log.snapshots[oldest]
                log.deleting.discard(oldest)
                yield

    def views(self, _: int) -> Iterator[None]:
        """A note that is written in the views of snapshots, over the one before."""
        dice = random.Random(self.seed * 10 + 6)
        log = self.log
        while self.has_snapshot.wait() and not self.killed:
            name = dice.choice(sorted(set(log.snapshots) - log.deleting))
            content = dice.randbytes(NOTE)
            try:
                descriptor = os.open(
                    f".snap/{name}/note", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=self.top
                )
                try:
                    log.notes[name] = log.notes.get(name, {b""}) | {content}
                    assert os.pwrite(descriptor, content, 0) == NOTE
                    os.fsync(descriptor)
                finally:
                    _close(descriptor)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ESTALE) and (
                    name in log.deleting or name not in log.snapshots
                ):
                    continue  # it was deleted meanwhile
                raise
            log.notes[name] = {content}
            yield

    def names(self, _: int) -> Iterator[None]:
        """Directories, links, moves, sizes, permissions and attributes in a tree: each change one
        call, then fsync of the directory.
        """
        dice = random.Random(self.seed * 10 + 7)
        with contextlib.suppress(FileExistsError):
            os.mkdir("tree", dir_fd=self.top)
        directory = os.open("tree", os.O_RDONLY, dir_fd=self.top)
        try:
            os.fsync(directory)
            while True:
                (tree,) = self.log.trees
                after, change = _change(dice, tree)
                self.log.trees = [tree, after]
                change(directory)
                os.fsync(directory)
                self.log.trees = [after]
                yield
        finally:
            _close(directory)


#: One system call, in a directory that is open.
Change = Callable[[int], object]


def _through(path: str, change: Callable[[int], object]) -> Change:
    """One that takes a file and no directory."""

    def there(directory: int) -> None:
        descriptor = os.open(path, os.O_RDWR, dir_fd=directory)
        try:
            change(descriptor)
        finally:
            _close(descriptor)

    return there


def _change(dice: random.Random, tree: Tree) -> tuple[Tree, Change]:
    """One change that a tree allows, and the tree after it."""
    directories = ["", *(path for path, facts in tree.items() if facts[0] == "directory")]
    files = [path for path, facts in tree.items() if facts[0] == "file"]
    new = os.path.join(dice.choice(directories), f"n{dice.randrange(10_000)}")
    after = dict(tree)
    kind = dice.randrange(8)
    if new in tree:
        kind = 7
    if kind == 0 and new.count("/") < 4:
        after[new] = ("directory", 0o755, 0, b"")
        return after, lambda directory: os.mkdir(new, 0o755, dir_fd=directory)
    if kind == 1:
        after[new] = ("link", 0o777, "where/" + new, b"")
        return after, lambda directory: os.symlink("where/" + new, new, dir_fd=directory)
    if kind == 2 and files:
        path = dice.choice(files)
        size = dice.randrange(100_000)
        after[path] = (*tree[path][:2], size, tree[path][3])
        return after, _through(path, lambda descriptor: os.ftruncate(descriptor, size))
    if kind == 3 and files:
        path = dice.choice(files)
        mode = dice.randrange(0o1000) | 0o600
        after[path] = (tree[path][0], mode, *tree[path][2:])
        return after, lambda directory: os.chmod(path, mode, dir_fd=directory)
    if kind == 4 and files:
        path = dice.choice(files)
        value = dice.randbytes(dice.choice((10, 5_000)))
        after[path] = (*tree[path][:3], value)
        return after, _through(path, lambda descriptor: os.setxattr(descriptor, "user.t", value))
    if kind == 5 and len(files) > 1:
        path, over = dice.sample(files, 2)
        after[over] = after.pop(path)
        return after, lambda directory: os.rename(
            path, over, src_dir_fd=directory, dst_dir_fd=directory
        )
    if kind == 6 and len(directories) > 1:
        path = dice.choice(directories[1:])
        if not (new + "/").startswith(path + "/"):
            for inner in [one for one in tree if (one + "/").startswith(path + "/")]:
                after[new + inner[len(path) :]] = after.pop(inner)
            return after, lambda directory: os.rename(
                path, new, src_dir_fd=directory, dst_dir_fd=directory
            )
    if len(tree) > 60:
        path = max(tree, key=lambda one: (one.count("/"), one))
        remove = os.rmdir if after.pop(path)[0] == "directory" else os.unlink
        return after, lambda directory: remove(path, dir_fd=directory)
    while new in tree:
        new += "x"
    after[new] = ("file", 0o644, 0, b"")
    return after, lambda directory: os.mknod(new, stat.S_IFREG | 0o644, dir_fd=directory)


def tree_at(top: Path) -> Tree:
    """A tree as it is found."""
    found: Tree = {}
    for where, directories, files in os.walk(top):
        for name in directories + files:
            path = Path(where) / name
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            key = str(path.relative_to(top))
            if stat.S_ISLNK(status.st_mode):
                found[key] = ("link", mode, os.readlink(path), b"")
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("directory", mode, 0, b"")
            else:
                found[key] = (
                    "file",
                    mode,
                    status.st_size,
                    os.getxattr(path, "user.t") if os.listxattr(path) else b"",
                )
    return found


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # what close would report was reported
        os.close(descriptor)


def prove_log(path: Path, writer: int, least: int) -> int:
    """Its first ``least`` records are exact; what follows was never acknowledged, and is a
    beginning of what was written.
    """
    data = path.read_bytes() if path.exists() else b""
    assert len(data) >= least * RECORD
    assert data[: least * RECORD] == b"".join(record(writer, number) for number in range(least))
    return len(data)


def prove(top: Path, log: Log, digests: dict[str, dict[str, bytes]]) -> None:
    """Everything that was acknowledged, in the base and in all snapshots; earlier ones are as they
    were after the last kill.
    """
    os.close(root_of(top))
    for writer in range(WRITERS):
        prove_log(top / f"log{writer}", writer, log.lengths[writer])
    for name, content in log.files.items():
        found = (top / name).read_bytes() if (top / name).exists() else None
        assert found in log.uncertain.get(name, {content}), name
    for name, possible in log.uncertain.items():
        found = (top / name).read_bytes() if (top / name).exists() else None
        assert found in possible
        log.files[name] = found
    log.uncertain.clear()
    tree = tree_at(top / "tree")
    assert tree in log.trees
    log.trees = [tree]
    prove_snapshots(top, log, digests)


def prove_snapshots(top: Path, log: Log, digests: dict[str, dict[str, bytes]]) -> None:
    """Those that were made are there, those that were deleted are not, and what they show has not
    changed but by a note.
    """
    there = set(os.listdir(top / ".snap"))
    assert set(log.snapshots) - log.deleting <= there
    assert there <= set(log.snapshots) | set(log.making)
    for name in there & set(log.making):
        log.snapshots[name] = log.making[name]
    for name in log.deleting - there:
        log.snapshots.pop(name, None)
    log.making.clear()
    log.deleting.clear()
    for name, must in log.snapshots.items():
        view = top / ".snap" / name
        if name not in digests:
            for writer in range(WRITERS):
                prove_log(view / f"log{writer}", writer, must[writer])
        content = {
            file: (view / file).read_bytes() for file in os.listdir(view) if (view / file).is_file()
        }
        note = content.pop("note", b"")
        assert note in log.notes.get(name, {b""}), name
        log.notes[name] = {note}
        assert content == digests.setdefault(name, content), name
    for name in set(digests) - set(log.snapshots):
        del digests[name]
    for name in set(log.notes) - set(log.snapshots):
        del log.notes[name]
