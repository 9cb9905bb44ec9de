"""Runs the stories of the crash tests on a device that fails, and judges what is left.

A story is played once without faults, which gives the state of every generation; then once for each
operation of the device and each way in which that can fail. A step is one call of the core, or a
commit; what there was before and after one is found by playing up to there.
"""

from __future__ import annotations

import contextlib
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import DeviceError, DeviceFull, NoSpace, ReadOnly, SnapfsError, VolumeError
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit import driver, log_writing
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import (
    commit,
    drive,
    sync,
)
from snapfs.store.commit.log_writing import begin
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.sync_log import LogWrite
from snapfs.store.commit.volume import Volume
from snapfs.store.trees.sealed import Sealed
from tests.crash.oracle import COPY, FACTS, RESTORES, Dump, Oracle, dump
from tests.crash.scenarios import CREATED_NS, SCENARIOS, Stage
from tests.damage.faults import Fault, FaultyDevice, Kind, Site
from tests.harness.effort import stratified
from tests.harness.sparse import SparseDevice

BLOCK = 4096
FILE = stat.S_IFREG | 0o600

#: Where a file could not be read.
UNREADABLE = "unreadable"


def in_place(stage: Stage) -> None:
    """Blocks that no generation has yet are written over where they are: several at once, parts of
    them, by a truncation, in a view.
    """
    stage.fill(b"f", 30_000)
    stage.snapshot("one")
    stage.start()
    stage.fill(b"new", 40_000)
    stage.write(b"new", 4096, b"2" * 20_000)
    stage.write(b"new", 9_000, b"3" * 100)
    stage.write(b"new", 39_000, b"4" * 9_000)
    stage.truncate(b"new", 15_000)
    stage.write(b"f", 5_000, b"5" * 10_000)
    stage.write(b"f", 100, b"6" * 12_000)
    stage.write(b"f", 0, b"7" * 8192, stage.view("one"))
    stage.write(b"f", 4_000, b"8" * 500, stage.view("one"))
    stage.commit()


def sparse(stage: Stage) -> None:
    """Maps that grow and shrink by levels."""
    stage.fill(b"f", 5_000)
    stage.start()
    stage.write(b"f", 600_000, b"far" * 3_000)
    stage.commit()
    stage.write(b"f", 3 << 20, b"farther")
    stage.write(b"f", 3 << 19, b"between")
    stage.commit()
    stage.truncate(b"f", (3 << 19) + 3)
    stage.commit()
    stage.truncate(b"f", 4_000)
    stage.commit()
    stage.unlink(b"f")
    stage.work()
    stage.commit()


#: As ``SCENARIOS``: those, and what only failing operations can spoil.
STORIES = {**SCENARIOS, "in_place": (in_place, 320), "sparse": (sparse, 320)}


#: Stages that note the states of their volumes. The driver's seals and records come by here.
_WATCHED: WeakKeyDictionary[Volume, FaultStage] = WeakKeyDictionary()


def _seal(volume: Volume) -> Sealed:
    sealed = seal(volume)
    if stage := _WATCHED.get(volume):
        stage.sealed(sealed)
    return sealed


def _begin(volume: Volume) -> LogWrite | None:
    record = begin(volume)
    if record is not None and (stage := _WATCHED.get(volume)):
        stage.told()
    return record


driver.seal = _seal
log_writing.begin = _begin


class Stop(Exception):
    """The step up to which a story was to be played."""


class FaultStage(Stage):
    """A stage whose device fails. With ``remember``, it notes the state of every generation; with
    ``until``, it stops after that step.
    """

    def __init__(
        self,
        content: SparseDevice,
        fault: Fault | None = None,
        *,
        remember: bool = False,
        until: int | None = None,
    ) -> None:
        self.steps = 0
        self.until = until
        self.fault = fault
        self.acknowledged: int | tuple[int, int] = 0
        self.records = 0
        self.absorbed = False  # has the log failed, and a commit done the same?
        self.step = ""
        self.rng = random.Random(1)
        self.faulty = FaultyDevice(content)
        self.volume = open_volume(self.faulty)
        self.fs = Filesystem(self.volume)
        # Times follow the steps, not how often a step had to be tried.
        self.fs.now = self.volume.now = lambda: CREATED_NS + self.steps * 1_000_000_007
        self.oracle = Oracle()
        if remember:
            self._watch_seals()

    def tick(self) -> None:
        """See ``fs.now``."""

    def _watch_seals(self) -> None:
        _WATCHED[self.volume] = self
        self.oracle.generations[self.volume.generation] = self.dump()

    def sealed(self, sealed: Sealed) -> None:
        """A generation is sealed: this is its state."""
        self.oracle.generations[sealed.generation] = self.dump()

    def told(self) -> None:
        """A record tells this state."""
        self.oracle.logged[self.volume.generation, self.volume.sync_log.number] = self.dump()

    def dump(self) -> Dump:
        with self.faulty.trusted():
            return dump(self.fs)

    def _end(self) -> None:
        if self.steps == self.until:
            raise Stop

    def _begin(self, step: str) -> None:
        # A cache may forget at any time. It does so before every step, so that what a step reads
        # does not depend on what was watched.
        self.volume.cache.clear()
        self.fs._cache._young.clear()
        self.fs._cache._old.clear()
        self.steps += 1
        self.step = self.faulty.step = step

    def start(self) -> None:
        self.commit()
        self.faulty.arm(self.fault)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._begin(function.__name__)
        try:
            return drive(self.volume, function, *args, **kwargs)
        finally:
            self._end()

    def commit_while_discarding(self) -> None:
        self.commit()

    def sync(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        meanwhile()
        self._begin("sync")
        hits = self.faulty.hits
        self.records += sync(self.volume)
        self.absorbed |= self.faulty.hits > hits
        self.acknowledged = self.volume.generation, self.volume.sync_log.number
        self._end()

    def commit(self) -> None:
        self._begin("commit")
        commit(self.volume)
        self.acknowledged = self.volume.generation
        self._end()


@dataclass
class Story:
    """A story that was played without faults: the device it begins with, and what it came by."""

    name: str
    content: SparseDevice
    oracle: Oracle
    #: Where each operation of the device came from, by kind.
    operations: dict[str, list[Site]] = field(default_factory=dict)
    _states: dict[int, Dump] = field(default_factory=dict)

    @classmethod
    def learn(cls, name: str) -> Story:
        tell, blocks = STORIES[name]
        content = SparseDevice(blocks * BLOCK)
        format_volume(content)
        told = FaultStage(content, remember=True)
        tell(told)
        counted = FaultStage(content)
        operations = counted.faulty.sites = {}
        tell(counted)
        assert counted.steps == told.steps
        return cls(name, content, told.oracle, operations)

    def state(self, step: int) -> Dump:
        """What there is after a step, without a fault."""
        if step not in self._states:
            stage = FaultStage(self.content, until=step)
            with contextlib.suppress(Stop):
                if step:
                    STORIES[self.name][0](stage)
            self._states[step] = stage.dump()
        return self._states[step]

    def faults(self) -> list[Fault]:
        """Every way in which every operation can fail."""
        return [
            Fault(kind, at, lasting)
            for kind in Kind
            for lasting in (False, True)
            for at in range(1, len(self.operations.get(kind.operation, ())) + 1)
        ]

    def sample(self, limit: int, seed: int) -> list[Fault]:
        """So many of the faults, some of every way to fail wherever operations come from."""
        return stratified(self.faults(), self._kind, limit, random.Random(seed))

    def _kind(self, fault: Fault) -> tuple[Kind, bool, Site]:
        return fault.kind, fault.lasting, self.operations[fault.kind.operation][fault.at - 1]

    def suffer(self, fault: Fault) -> str:
        """Play it with this fault; what came of it. Raises ``AssertionError``."""
        tell, _ = STORIES[self.name]
        stage = FaultStage(self.content, fault)
        try:
            tell(stage)
        except SnapfsError as exc:
            assert stage.faulty.hits, exc
            return self._judge(stage, fault, exc)
        if fault.kind is Kind.DISCARD:
            return self._shrug(stage)
        if stage.absorbed:
            stage.faulty.is_armed = False
            assert look(stage.fs) == self.state(stage.steps) and not stage.volume.read_only
            self._goes_on(stage)
            return "a commit does it"
        # Only what is not worth failing for may go without an error.
        assert not stage.faulty.hits, f"nobody was told of it, the last step was {stage.step}"
        return "not reached"

    def _shrug(self, stage: FaultStage) -> str:
        """Nobody needs discards: nothing fails for one that did, and there are no more of them."""
        assert stage.faulty.hits == 1
        assert not stage.volume.allocator.discards.wanted and not stage.volume.read_only
        stage.faulty.is_armed = False
        assert look(stage.fs) == self.state(stage.steps)
        self._goes_on(stage)
        return "nobody hears of it"

    def _judge(self, stage: FaultStage, fault: Fault, error: SnapfsError) -> str:
        device, volume = stage.faulty, stage.volume
        assert isinstance(error, DeviceError | VolumeError), (
            f"{type(error).__name__} is told: {error}"
        )
        assert (fault.kind is Kind.FULL) == isinstance(error, DeviceFull)
        in_commit = volume.in_flight is not None
        latches = {Kind.FLUSH: True, Kind.WRITE: in_commit, Kind.SHORT_WRITE: in_commit}.get(
            fault.kind, False
        )
        if fault.kind is Kind.FLIP:
            latches = (
                volume.read_only_reason is not None
                and "metadata is damaged" in volume.read_only_reason
            )
        assert volume.read_only is latches, f"read-only: {volume.read_only_reason}"
        # What the device holds now, and what it holds if the power goes as well.
        for left in (device, device.durable):
            self.oracle.judge(left, stage.acknowledged, volume.generation)
        if fault.lasting:
            self._struggle(stage)
        device.is_armed = False
        self._compare(stage, fault)
        if volume.read_only:
            self._serves_and_writes_nothing(stage)
            return "read-only"
        self._goes_on(stage)
        return "goes on"

    def _struggle(self, stage: FaultStage) -> None:
        """Users go on trying: all of them hear of it, none waits for ever."""
        for name in (b"try one", b"try two"):
            with contextlib.suppress(SnapfsError):
                inode = drive(
                    stage.volume, stage.fs.make, stage.fs.base, ROOT_INO, name, FILE, 0, 0
                )
                drive(stage.volume, stage.fs.write, stage.fs.base, inode.ino, 0, b"x" * 5000)
            with contextlib.suppress(SnapfsError):
                commit(stage.volume)
            with contextlib.suppress(SnapfsError):
                drive(stage.volume, stage.fs.work)
            look(stage.fs)
            for new in (name, b"."):
                with contextlib.suppress(SnapfsError):
                    drive(stage.volume, stage.fs.unlink, stage.fs.base, ROOT_INO, new)

    def _compare(self, stage: FaultStage, fault: Fault) -> None:
        """What can be read is the state before or after the step that failed, or the file that was
        being written is between them.
        """
        seen = look(stage.fs)
        before, after = self.state(stage.steps - 1), self.state(stage.steps)
        for name in seen.keys() | before.keys():
            assert name in before or name in after, f"a snapshot {name!r} from nowhere"
            if name not in seen:
                assert name not in after, f"the snapshot {name!r} is gone"
                continue
            for path, facts in seen[name].items():
                if path.startswith(b"/try ") or not path:
                    continue  # our own attempts, and the root that they changed
                one, other = before.get(name, {}).get(path), after.get(name, {}).get(path)
                if facts == UNREADABLE or (one, other) == (None, None):
                    assert facts == UNREADABLE and fault.kind is Kind.FLUSH, (name, path, facts)
                elif facts not in (one, other):
                    self._between(stage, path, facts, one or other, other or one, fault)
            missing = (before.get(name, {}).keys() & after.get(name, {}).keys()) - seen[name].keys()
            assert not missing or fault.kind is Kind.FLUSH, (name, missing)

    @staticmethod
    def _between(
        stage: FaultStage, path: bytes, facts: Any, one: Any, other: Any, fault: Fault
    ) -> None:
        content, old, new = facts[8], one[8], other[8]
        if content == UNREADABLE:
            assert fault.kind is Kind.FLUSH, path
            return
        assert fault.kind.operation == "write" and stage.step in ("write", "set_attributes"), (
            path,
            stage.step,
            facts,
            one,
            other,
        )
        assert facts[:8] in (one[:8], other[:8]) and facts[9:] == one[9:], (
            path,
            facts[:8],
            one[:8],
            other[:8],
        )
        length = max(len(content), len(old), len(new))
        mixed = zip(
            content.ljust(length, b"\0"),
            old.ljust(length, b"\0"),
            new.ljust(length, b"\0"),
            strict=True,
        )
        assert all(byte in (first, second) for byte, first, second in mixed), (
            f"{path!r} has bytes that nobody has written"
        )

    @staticmethod
    def _serves_and_writes_nothing(stage: FaultStage) -> None:
        device, volume, fs = stage.faulty, stage.volume, stage.fs
        before = device.copy().pages
        for attempt in (
            lambda: fs.make(fs.base, ROOT_INO, b"more", FILE, 0, 0),
            lambda: snapshots.create(fs, "more"),
            lambda: fs.xattr_set(fs.base, ROOT_INO, b"user.x", b"y"),
        ):
            try:
                drive(volume, attempt)
            except ReadOnly as exc:
                assert str(exc) == volume.read_only_reason
            else:
                raise AssertionError("a volume that is read-only is changed")
        assert not fs.work() and not fs.has_work
        if volume.unsaved:
            try:
                commit(volume)
            except ReadOnly:
                pass
            else:
                raise AssertionError("what is lost is said to be durable")
        assert device.pages == before

    @staticmethod
    def _goes_on(stage: FaultStage) -> None:
        """Nothing has been leaked, and what can be read now can be read after the next mount."""
        device, volume, fs = stage.faulty, stage.volume, stage.fs
        with contextlib.suppress(NoSpace):  # the story of the full volume
            inode = drive(volume, fs.make, fs.base, ROOT_INO, b"more", FILE, 0, 0)
            drive(volume, fs.write, fs.base, inode.ino, 0, b"more" * 3000)
        while drive(volume, fs.work):
            pass
        commit(volume)
        found = check_volume(device)
        assert not found, [one.message() for one in found][:5]
        assert dump(Filesystem(open_volume(device))) == dump(fs)


def look(fs: Filesystem) -> dict[str, dict[bytes, Any]]:
    """As ``oracle.dump``, where something may be ``UNREADABLE``."""
    views = {"": fs.base}
    for instance in snapshots.all(fs):
        views[instance.name] = fs.view(instance.id)
    found = {name: _look(fs, view) for name, view in views.items()}
    found[""][RESTORES] = (fs.volume.restores.scheduled, tuple(fs.volume.restores.done))
    found[""][COPY] = (fs.volume.copies.current,)
    for instance in snapshots.all(fs):
        found[instance.name][FACTS] = (instance.facts,)
    return found


def _look(fs: Filesystem, view: View) -> dict[bytes, Any]:
    out: dict[bytes, Any] = {}
    stack = [(b"", ROOT_INO)]

    def ask(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return drive(fs.volume, function, view, *args)
        except SnapfsError:
            return UNREADABLE

    while stack:
        path, ino = stack.pop()
        inode = ask(fs.inode, ino)
        if inode == UNREADABLE:
            out[path] = UNREADABLE
            continue
        content: Any = b""
        size = inode.size
        if stat.S_ISDIR(inode.mode):
            size = 0
            content = ask(fs.entries, ino, 0, 1 << 30)
            if content != UNREADABLE:
                stack += [(path + b"/" + entry.name, entry.ino) for entry in content]
                content = tuple(sorted(entry.name for entry in content))
        elif stat.S_ISREG(inode.mode):
            content = ask(fs.read, ino, 0, size)
        elif stat.S_ISLNK(inode.mode):
            content = ask(fs.readlink, ino)
        names = ask(fs.xattr_list, ino)
        xattrs = (
            names
            if names == UNREADABLE
            else tuple((name, ask(fs.xattr_get, ino, name)) for name in names)
        )
        out[path] = (
            ino,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.nlink,
            size,
            inode.mtime,
            inode.ctime,
            content,
            xattrs,
        )
    return out
