"""kill -9 of the daemon, again and again on one image: what was acknowledged is there, and the checker finds nothing.

What a kill can lose is what had not been acknowledged: by fsync for files, by the system call itself for snapshots.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KILLS = 50
WRITERS = 3
RECORD = 64
#: More snapshots than this and the oldest are deleted, in the middle of everything else.
SNAPSHOTS = 12


def record(writer: int, number: int) -> bytes:
    return f"writer {writer} record {number}".encode().ljust(RECORD - 1, b".") + b"\n"


class Log:
    """What was acknowledged. Entries are made after a call has returned; a lock makes each one whole."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acknowledged = 0
        self.lengths = [0] * WRITERS  # records of each writer's log that are durable
        self.returned = [0] * WRITERS  # records whose write() has returned
        self.files: dict[str, bytes | None] = {}  # content of whole files, None for deleted ones
        self.uncertain: dict[str, set[bytes | None]] = {}  # what a file may be whose change was not acknowledged
        self.snapshots: dict[str, list[int]] = {}  # records that must be in it
        self.deleting: set[str] = set()
        self.making: dict[str, list[int]] = {}

    def note(self) -> None:
        with self.lock:
            self.acknowledged += 1


class Life:
    """One mount, from its start to its violent end."""

    def __init__(self, top: Path, log: Log, seed: int) -> None:
        self.top = top
        self.log = log
        self.seed = seed
        self.wrong: list[BaseException] = []
        log.returned = list(log.lengths)  # what had not been acknowledged is cut off

    def work(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._until_the_end, args=(self.append, writer)) for writer in range(WRITERS)]
        threads.append(threading.Thread(target=self._until_the_end, args=(self.replace, 0)))
        threads.append(threading.Thread(target=self._until_the_end, args=(self.snapshots, 0)))
        for thread in threads:
            thread.start()
        return threads

    def _until_the_end(self, function: Callable[[int], Iterator[None]], number: int) -> None:
        try:
            for _ in function(number):
                self.log.note()
        except OSError:
            pass  # the daemon is gone
        except BaseException as exc:
            self.wrong.append(exc)

    def append(self, writer: int) -> Iterator[None]:
        """A log that grows by a few records, then fsync."""
        dice = random.Random(self.seed * 10 + writer)
        log = self.log
        descriptor = os.open(self.top / f"log{writer}", os.O_WRONLY | os.O_CREAT, 0o644)
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
        """Whole files as editors write them: another one beside it, fsync, rename, fsync of the directory. Sometimes one is deleted."""
        dice = random.Random(self.seed * 10 + 8)
        log = self.log
        directory = os.open(self.top, os.O_RDONLY)
        try:
            while True:
                name = f"file{dice.randrange(10)}"
                before = log.files.get(name)
                content = None if dice.random() < 0.2 else dice.randbytes(dice.randrange(30_000))
                log.uncertain[name] = {before, content}
                if content is None:
                    if before is not None:
                        os.unlink(self.top / name)
                else:
                    descriptor = os.open(self.top / "temporary", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                    try:
                        assert os.write(descriptor, content) == len(content)
                        os.fsync(descriptor)
                    finally:
                        _close(descriptor)
                    os.rename(self.top / "temporary", self.top / name)
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
            name = f"{self.seed:03}-{number:04}"
            must = list(log.returned)
            log.making[name] = must
            os.mkdir(self.top / ".snap" / name)
            log.snapshots[name] = must
            del log.making[name]
            yield
            number += 1
            if len(log.snapshots) > SNAPSHOTS:
                oldest = min(log.snapshots)
                log.deleting.add(oldest)
                os.rmdir(self.top / ".snap" / oldest)
                del log.snapshots[oldest]
                log.deleting.discard(oldest)
                yield


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # what close would report was reported
        os.close(descriptor)


def prove_log(path: Path, writer: int, least: int) -> int:
    """Its first ``least`` records are exact; what follows was never acknowledged, and is a beginning of what was written."""
    data = path.read_bytes() if path.exists() else b""
    assert len(data) >= least * RECORD
    assert data[: least * RECORD] == b"".join(record(writer, number) for number in range(least))
    return len(data)


def prove(top: Path, log: Log, digests: dict[str, dict[str, bytes]]) -> None:
    """Everything that was acknowledged, in the base and in all snapshots; earlier ones are as they were after the last kill."""
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
        content = {file: (view / file).read_bytes() for file in os.listdir(view)}
        assert content == digests.setdefault(name, content), name
    for name in set(digests) - set(log.snapshots):
        del digests[name]


def findings(mounted) -> list[str]:
    """What the checker says, but that the newest superblock has no copy yet: between its two writes a kill leaves it so."""
    found = json.loads(mounted.run("check", mounted.image, "--json", code=None).stdout)["findings"]
    return [one["message"] for one in found if one["rule"] != "superblock-copy"]


@pytest.mark.slow
@pytest.mark.volume(size="256M", options="commit=1")
def test_50_kills_lose_nothing_that_was_acknowledged(mounted, wait_until) -> None:
    """A2, A6, A9; I8."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    log = Log()
    digests: dict[str, dict[str, bytes]] = {}
    for kill in range(KILLS):
        prove(mounted.path, log, digests)
        if kill % 8 == 7:
            for writer in range(WRITERS):  # so that reading all of it stays quick
                os.truncate(mounted / f"log{writer}", 0)
                log.lengths[writer] = log.returned[writer] = 0
            os.sync()
        life = Life(mounted.path, log, kill)
        pid = mounted.pid
        start = log.acknowledged
        goal = start + dice.randrange(1, 60)
        threads = life.work()
        try:
            wait_until(lambda goal=goal, life=life: log.acknowledged >= goal or life.wrong, limit=60, what="the work before the kill")
        finally:
            mounted.kill(pid)
            for thread in threads:
                thread.join(60)
        assert not life.wrong
        assert findings(mounted) == [], f"after kill {kill} of seed {seed}"
        mounted.mount("commit=1")
    prove(mounted.path, log, digests)
    assert log.acknowledged > KILLS


def test_a_kill_while_mounting_going_back_and_unmounting(mounted, snapfs_command) -> None:
    """A10, I8: going back is done or not done."""
    (mounted / "file").write_bytes(b"old" * 10_000)
    mounted.snapshot("s")
    (mounted / "file").write_bytes(b"new" * 10_000)
    states = {b"old" * 10_000, b"new" * 10_000}
    for _ in range(8):
        pid = mounted.pid
        thread = threading.Thread(target=mounted.run, args=("restore", mounted.path, "s"), kwargs={"code": None})
        thread.start()
        while thread.is_alive() and len(os.listdir(mounted / ".snap")) == 1:
            pass
        mounted.kill(pid)
        thread.join(60)
        assert findings(mounted) == []
        mounted.mount()
        content = (mounted / "file").read_bytes()
        assert content in states
        others = set(os.listdir(mounted / ".snap")) - {"s"}
        assert bool(others) == (content == b"old" * 10_000)
        for name in others:
            assert (mounted.view(name) / "file").read_bytes() == b"new" * 10_000
            (mounted / ".snap" / name).rmdir()
        assert (mounted.view("s") / "file").read_bytes() == b"old" * 10_000
        (mounted / "file").write_bytes(b"new" * 10_000)
