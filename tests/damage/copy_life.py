"""The life of a volume that is copied while one of its devices fails: source, target, or the map
that is outside.

Users write, commit and delete on a small volume; the copy goes on in between. Then the power fails,
and what is left is judged.
"""

from __future__ import annotations

import contextlib
import functools
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snapfs import snapshots
from snapfs.blocks.map_sector import SECTOR_BYTES, map_sectors
from snapfs.check import check_volume
from snapfs.copying import attach, detach, unregister
from snapfs.copying.job import COMPLETE, FAILED_STATE, CopyJob, Wishes
from snapfs.copying.opening import open_unfinished, read_mark
from snapfs.copying.target import CopyTarget
from snapfs.copying.unfinished import refuse
from snapfs.errors import CopyBlocked, CorruptBlock, DeviceError, NoSpace, NotAVolume, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.crash.copy_stage import BLOCK, MAPS, SOURCE, TARGET, Expected, needed_ranges, standing
from tests.crash.copy_states import is_whole, shows
from tests.crash.timeline import equal_but
from tests.damage.faults import Fault, FaultyDevice, Site
from tests.harness.sparse import SparseDevice

BLOCKS = 320
FILE = stat.S_IFREG | 0o644

#: How it ended.
WHOLE, FAILED, NEVER, READ_ONLY = (
    "the copy is whole",
    "the copy has failed",
    "the copy was never set up",
    "the source is read-only",
)

__all__ = ["FAILED", "NEVER", "READ_ONLY", "WHOLE", "Life"]


@functools.cache
def furnished() -> SparseDevice:
    """A volume that is nearly full, with files ``f0`` and so on, and a snapshot."""
    device = SparseDevice(BLOCKS * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    rng = random.Random(7)
    number = 0
    while fs.volume.allocator.available > fs.volume.allocator.reserve + 60:
        inode = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"f%d" % number, FILE, 0, 0)
        drive(fs.volume, fs.write, fs.base, inode.ino, 0, rng.randbytes(30_000))
        if number == 1:
            drive(fs.volume, snapshots.create, fs, "one")
            commit(fs.volume)
        number += 1
    commit(fs.volume)
    return device


class _Over(Exception):
    """The source is read-only: it has told everybody."""


@dataclass
class Life:
    """``where`` is the device that fails: source, target or map. ``copy_first``: writes fail when
    the target does (D7).
    """

    where: str
    outside: bool
    copy_first: bool
    fault: Fault | None = None

    def live(self) -> str:
        """How it ended. Raises ``AssertionError``."""
        self.devices = {
            "source": FaultyDevice(furnished()),
            "target": FaultyDevice(SparseDevice(BLOCKS * BLOCK)),
            "map": FaultyDevice(SparseDevice(map_sectors(BLOCKS) * SECTOR_BYTES)),
        }
        for device, path in zip(self.devices.values(), (SOURCE, TARGET, MAPS[0]), strict=True):
            device.path = path
        self.failing = self.devices[self.where]
        #: Where the operations of the device came from, in a life without a fault.
        self.operations: dict[str, list[Site]] = {}
        if self.fault is None:
            self.failing.sites = self.operations
        with standing({device.path: device for device in self.devices.values()}):
            return self._live()

    def _live(self) -> str:
        self.rng = random.Random(3)
        self.blocked = 0
        self.volume = open_volume(self.devices["source"])
        self.fs = Filesystem(self.volume)
        self.files = self._read()
        self.known = {self.volume.generation: dict(self.files)}
        self.volume.allocator.prefer_used()
        drive(self.volume, self.volume.allocator.need_groups, range(self.volume.geometry.groups))
        self.expected = Expected(
            self.volume.generation,
            self.devices["source"].image(),
            needed_ranges(self.volume),
            bytes(BLOCKS * BLOCK),
        )
        target = CopyTarget(self.devices["target"], TARGET, False, sparse=True)  # type: ignore[arg-type]
        self.job = CopyJob.begin(
            self.volume,
            target,
            Wishes(self.copy_first),
            registered=True,
            source_path=SOURCE,
            owner=0,
        )
        self.failing.arm(self.fault)
        try:
            is_set_up = self._set_up()
            for _ in range(60):
                self._do(self._one)
                self._behind(is_set_up)
            if is_set_up and self.job.before.failed is None:
                self._finish()
        except _Over:
            return self._after(READ_ONLY)
        if not is_set_up:
            return self._after(NEVER)
        return self._after(FAILED if self.job.before.failed is not None else WHOLE)

    # The copy

    def _set_up(self) -> bool:
        job = self.job
        try:
            job.copy_initial_part([])
            self._do(self._one)
            if self.outside:
                job.map_file = self.devices["map"]  # type: ignore[assignment]
            job.record = drive(self.volume, job.register, self.volume)
            commit(self.volume)
            self._do(self._one)
            job.put_map()
            job.set_up()
        except SnapfsError as exc:
            self._check_over(exc)
            with contextlib.suppress(SnapfsError):
                job.fail(str(exc))
            self._release(FAILED_STATE)
            return False
        return True

    def _release(self, ended: str) -> None:
        if self.volume.copies.current is not None:
            self._do(lambda: drive(self.volume, unregister, self.volume))
            self._commit()
        detach(self.volume)
        self.job.close(ended)

    def _behind(self, is_set_up: bool) -> None:
        job = self.job
        if is_set_up and job.before.failed is None and self.rng.random() < 0.5:
            with self._told():
                job.step(self.rng.choice([1, 4]) * BLOCK)
                if self.rng.random() < 0.4:
                    job.settle()

    @contextlib.contextmanager
    def _told(self) -> Any:
        """What cannot even be said to have failed ends with an error of the source's."""
        try:
            yield
        except DeviceError:
            assert self.where == "source"

    def _finish(self) -> None:
        tries = 0
        while not self.job.copy.complete and self.job.before.failed is None:
            with self._told():
                if not self.job.step():
                    self.job.settle()
            if self.job.before.blocked is not None:
                self._repair()
            tries += 1
            assert tries < 2000, "this does not end"
            if self.volume.read_only or self.job.before.lost is not None:
                raise _Over
        while self.job.before.failed is None:
            if self.job.finish():
                self._release(COMPLETE)
                break
            if self.job.before.failed is None:
                self._repair()

    def _repair(self) -> None:
        """What had failed works again."""
        assert self.copy_first
        self.blocked += 1
        self.failing.fault = None

    # Users

    def _do(self, what: Callable[[], None]) -> None:
        while True:
            try:
                what()
                return
            except NoSpace:
                return
            except CopyBlocked:
                assert self.copy_first, "a write has failed, and not the copy"
                self._repair()
            except DeviceError as exc:
                self._check_over(exc)

    def _check_over(self, exc: SnapfsError) -> None:
        if self.job.before.lost is not None and self.volume.dirty:
            with contextlib.suppress(DeviceError):
                commit(self.volume)
            assert self.volume.read_only, "a flush has failed, and commits go on"
        if self.volume.read_only or self.job.before.lost is not None:
            assert self.where == "source", f"the source has become read-only: {exc}"
            raise _Over
        if not self._is_expected():
            raise AssertionError(f"users hear of it: {exc}") from exc

    def _is_expected(self) -> bool:
        """May this be told to whoever sets up the copy, or to a user of a source that fails?"""
        return self.where == "source" or not self.job._is_set_up

    def _one(self) -> None:
        rng, fs, volume = self.rng, self.fs, self.volume
        name = (
            rng.choice(sorted(self.files))
            if self.files and rng.random() < 0.7
            else b"n%d" % rng.randrange(100)
        )
        kind = rng.randrange(10)
        if volume.allocator.available < volume.allocator.reserve + 15:
            kind = rng.choice([0, 0, 1])
        if kind == 0 and name in self.files:
            drive(volume, fs.unlink, fs.base, ROOT_INO, name)
            del self.files[name]
        elif kind == 1:
            self._commit()
        else:
            if name not in self.files:
                drive(volume, fs.make, fs.base, ROOT_INO, name, FILE, 0, 0)
                self.files[name] = b""
            ino = drive(volume, fs.lookup, fs.base, ROOT_INO, name).ino
            offset, data = (
                rng.randrange(3) * BLOCK,
                rng.randbytes(rng.choice([BLOCK, 5 * BLOCK, 9000])),
            )
            before = self.files[name].ljust(offset, b"\0")
            after = before[:offset] + data + before[offset + len(data) :]
            self._write(ino, offset, data)
            self.files[name] = after

    def _write(self, ino: int, offset: int, data: bytes) -> None:
        """Until it is done: the dice must not be thrown again for the same write."""
        while True:
            try:
                drive(self.volume, self.fs.write, self.fs.base, ino, offset, data)
                return
            except CopyBlocked:
                assert self.copy_first, "a write has failed, and not the copy"
                self._repair()
            except DeviceError as exc:
                self._check_over(exc)

    def _commit(self) -> None:
        while True:
            try:
                commit(self.volume)
            except CopyBlocked:
                assert self.copy_first, "a commit has failed, and not the copy"
                self._repair()
            except DeviceError as exc:
                self._check_over(exc)
            else:
                self.known[self.volume.generation] = dict(self.files)
                return

    def _read(self) -> dict[bytes, bytes]:
        fs, volume = self.fs, self.volume
        found = {}
        for entry in drive(volume, fs.entries, fs.base, ROOT_INO, 0, 1 << 20):
            inode = drive(volume, fs.inode, fs.base, entry.ino)
            found[entry.name] = drive(volume, fs.read, fs.base, entry.ino, 0, inode.size)
        return found

    # After it

    def _after(self, ended: str) -> str:
        """The power fails, with all that was not durable; then everything works."""
        promised = max(self.known)
        self.counts = self.failing.counts.copy()
        for device in self.devices.values():
            device.arm(None)
            device.become(device.durable)
        source, target = self.devices["source"], self.devices["target"]
        assert not (found := check_volume(source)), [one.message() for one in found][:5]
        self.volume = open_volume(source)
        self.fs = Filesystem(self.volume)
        assert self.volume.generation >= promised
        if self.volume.generation in self.known:
            assert self._read() == self.known[self.volume.generation], (
                "what was durable is something else now"
            )
        if ended == WHOLE:
            is_whole(self.expected, target)
        job = attach(self.volume)
        if ended == READ_ONLY and job is not None:
            shows(self.expected, target)
        else:
            assert job is None, f"a copy goes on: {ended}"
        if ended in {FAILED, NEVER}:
            self._is_refused(target)
        if job is not None:
            detach(self.volume)
        return ended

    def _is_refused(self, target: SparseDevice) -> None:
        try:
            mark = read_mark(target)
            if mark is None:
                if equal_but(target.image(), self.expected.image, self.expected.needed):
                    return  # it was complete, and its last mark had gone, when the target failed
                open_volume(target)
            else:
                refuse(TARGET, mark)
                open_unfinished(target, mark)
        except (SnapfsError, CorruptBlock, NotAVolume):
            return
        raise AssertionError("a copy that has failed is taken for one")
