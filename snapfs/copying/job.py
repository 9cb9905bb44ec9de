"""A copy that this process makes: the parts of it, and its life from the moment that is copied to
the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from snapfs.blocks.copy_mark import FAILED, FILLING, PLACES, PREPARING, CopyMark
from snapfs.copying import map_on_volume
from snapfs.copying.before_write import Beneath, CopyBeforeWrite, without_copy
from snapfs.copying.copy import PIECE_BYTES, Copy
from snapfs.copying.copy_map import CopyMap, MapPlace, Writable
from snapfs.copying.initial import copy_initial_part
from snapfs.copying.patience import Abandonable, Attempt
from snapfs.copying.target import CopyTarget, clear_mark, share, write_mark
from snapfs.device import ImageDevice, Lock, RamDevice
from snapfs.device.locking import take_lock
from snapfs.errors import CopyError, CorruptBlock, DeviceError, SnapfsError
from snapfs.store.tables.copies import RunningCopy, Runs

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume

#: What a copy can be. It goes on by itself in the first three.
SETTING_UP: Final = "setting up"
COPYING: Final = "copying"
BLOCKED: Final = "blocked"
PAUSED: Final = "paused"
COMPLETE: Final = "complete"
FAILED_STATE: Final = "failed"
CANCELLED: Final = "cancelled"

#: Seconds that the target is waited for when the copy has ended, at most: all that has to be done
#: there is a mark, and to close it.
MARK_SECONDS: Final = 5.0

#: Seconds that it may take until it is durable, on the source or the target, that a copy has
#: failed. Then it is tried behind.
FAIL_SECONDS: Final = 10.0


@dataclass
class Wishes:
    """What the user decides. ``copy_first``: when the target fails, writes do, and not the copy
    (D7). ``rate`` in bytes a second.
    """

    copy_first: bool = False
    rate: int | None = None
    paused: bool = False


class CopyJob:
    """One copy. Its methods are for threads; one thread at a time, but for ``state`` and the device
    that stands before the source.
    """

    def __init__(
        self,
        volume: Volume,
        target: CopyTarget,
        copy: Copy,
        mark: CopyMark,
        wishes: Wishes,
        *,
        since_ns: int,
        owner: int,
    ) -> None:
        self.target = target
        self.copy = copy
        self.mark = mark
        self.wishes = wishes
        self.since_ns = since_ns
        self.owner = owner
        self.source_path = os.fsdecode(mark.source)
        #: What the volume remembers of it, once it does.
        self.record: RunningCopy | None = None
        #: The file of a map that is outside.
        self.map_file: ImageDevice | None = None
        #: How it ended.
        self.ended: str | None = None
        #: Somebody does not want it any more.
        self.unwanted = False
        #: Its target was made for it, and has gone with it.
        self.removed = False
        #: How often it could not be ended, and why not the last time.
        self.tries = 0
        self.hindrance = ""
        # The target, and the file of a map that is outside, for threads that may be left.
        self._device = copy.target
        self._map_device: Abandonable | None = None
        self.before = CopyBeforeWrite(copy, copy_first=wishes.copy_first, failing=self._failing)
        self._runs: Runs = ()
        self._fail_place: MapPlace | None = None
        self._is_set_up = False
        self._fail_try: Attempt[None] | None = None
        self._mark_lock = threading.Lock()
        self._end_lock = threading.Lock()
        if not volume.read_only:
            volume.device = self.before
        if not mark.registered and isinstance(copy.source, ImageDevice):
            # Whoever reads the unfinished copy keeps the source from being changed, together with
            # us.
            take_lock(copy.source._descriptor, copy.source.path, Lock.SHARED)

    @classmethod
    def begin(
        cls,
        volume: Volume,
        target: CopyTarget,
        wishes: Wishes,
        *,
        registered: bool,
        source_path: str,
        owner: int,
    ) -> CopyJob:
        """Everything that is durable at this moment is what is copied. Nothing may be in flight,
        and nothing dirty. Never waits.

        Raises ``CopyError`` when what was synced last is only in a log, which no copy has.
        """
        if volume.sync_log.pending and volume.superblock.log_blocks:
            raise CopyError(
                f"{volume.device.path}: what was synced last is in its log only, and "
                "not in a copy: mount it once so that it can be written"
            )
        source = without_copy(volume.device)
        copy_id, generation = os.urandom(16), volume.generation
        mark = CopyMark(
            copy_id,
            volume.superblock.uuid,
            generation,
            PREPARING,
            os.fsencode(source_path),
            registered=registered,
            made=target.made,
        )
        copy_map = CopyMap(copy_id, generation, volume.geometry.blocks)
        device = Abandonable(target.device)
        copy = Copy(
            source,
            device,
            copy_map,
            volume.geometry,
            list(volume.allocator.entries),
            sparse=target.sparse,
        )
        return cls(volume, target, copy, mark, wishes, since_ns=time.time_ns(), owner=owner)

    @property
    def state(self) -> str:
        """One of the states above."""
        if self.ended is not None:
            return self.ended
        if self.before.failed is not None:
            return FAILED_STATE
        if not self._is_set_up:
            return SETTING_UP
        if self.before.blocked is not None:
            return BLOCKED
        return PAUSED if self.wishes.paused else COPYING

    @property
    def reason(self) -> str | None:
        """Why it has failed, or does not go on."""
        return self.before.failed or self.before.blocked

    # Setting it up

    def copy_initial_part(
        self, first: Sequence[bytes], wanted: Callable[[], None] = lambda: None
    ) -> None:
        """See ``initial``."""
        write_mark(self._device, self.mark)
        clear_mark(self._device, PLACES[1])  # of an earlier copy to this target
        copy_initial_part(self.copy, first, wanted)
        self._check()

    def register(self, volume: Volume) -> RunningCopy:
        """Let the volume remember the copy, with blocks for its map or, when that is outside, one
        for its failure. Not for a thread.

        Raises ``NotCached``, ``CommitNeeded``, ``NoSpace``; ``UsageError`` for paths that are too
        long.
        """
        record = RunningCopy(
            self.mark.id, self.mark.generation, os.fsencode(self.target.path), ((1, 1),),
            os.fsencode(self._map_path),
            "write" if self.wishes.copy_first else "copy", self.wishes.rate, self.wishes.paused,
            self.since_ns, self.owner,
        ).checked()  # fmt: skip
        if self.map_file is not None:
            self._runs = map_on_volume.allocated_for_failure(volume)
        else:
            self._runs = map_on_volume.allocated(volume, self.copy.map.size)
        record = replace(record, map_runs=self._runs)
        volume.copies.put(record)
        return record

    def put_map(self) -> None:
        """Give the map its place: the file, or else the blocks, which are made empty. Raises
        ``DeviceError``, ``UsageError``.
        """
        if self._runs:
            # They may have something in them that the copy still needs.
            map_on_volume.make_empty(self._places(self._runs, self.before))
        place = self._map_place()
        self._fail_place = self._places(self._runs) if self._runs else place
        with self.copy.lock:
            self.copy.map.put(place)
        if self._fail_place is not place:
            self._fail_place.begin(self.mark.id, self.mark.generation, failed=False)
        self.mark = replace(self.mark, map_runs=self._runs, map_path=os.fsencode(self._map_path))

    def _map_place(self) -> MapPlace:
        if self.map_file is not None:
            self._map_device = Abandonable(self.map_file)
            return MapPlace(self._map_device, [(0, self.map_file.size)])
        return self._places(self._runs)

    @property
    def _map_path(self) -> str:
        return self.map_file.path if self.map_file is not None else ""

    def _places(self, runs: Sequence[tuple[int, int]], device: Writable | None = None) -> MapPlace:
        """Blocks of the volume as a place: on ``device``, or else to be written past the copy."""
        return map_on_volume.place_on(
            device or Beneath(self.before), runs, self.copy.geometry.block_size
        )

    def set_up(self) -> None:
        """From now on the target is the point in time. What the volume remembers of the copy is
        durable.
        """
        with self._mark_lock:
            if self.mark.state != FAILED:
                self.mark = self.mark.changed(FILLING)
                write_mark(self._device, self.mark)
        self._check()
        share(self.target)
        self._is_set_up = True

    def resumed(
        self,
        record: RunningCopy | None,
        runs: Sequence[tuple[int, int]],
        map_file: ImageDevice | None,
    ) -> None:
        """It goes on, with all that ``put_map`` and ``set_up`` have done when it began."""
        self.record, self.map_file, self._runs = record, map_file, tuple(runs)
        place = self._map_place()
        self._fail_place = self._places(runs) if runs else place
        self.copy.map.place = place
        self._is_set_up = True

    # Going on

    def step(self, limit: int = PIECE_BYTES) -> int:
        """Copy the next piece; see ``Copy.step``. What goes wrong shows in ``state``."""
        try:
            done = self.copy.step(limit)
        except (DeviceError, CorruptBlock) as exc:
            self.before.trouble(exc)
            return 0
        if done:
            self.before.blocked = None
        return done

    def settle(self) -> None:
        """See ``Copy.settle``. A flush that works does not mean that writing does: ``step`` finds
        out.
        """
        try:
            self.copy.settle()
        except (DeviceError, CorruptBlock) as exc:
            self.before.trouble(exc)

    @property
    def seems_whole(self) -> bool:
        """Does its target say, or could it, that it is the point in time? Then what it lacks may
        not be overwritten.
        """
        return self.mark.state == FILLING and self.before.failed is None

    def _failing(self, reason: str) -> None:
        """Let nobody take it for the point in time any more: what follows will not be copied before
        it is overwritten.
        """
        trouble: DeviceError | None = None
        if self._fail_place is not None:
            try:
                self._fail_place.begin(self.mark.id, self.mark.generation, failed=True)
            except DeviceError as exc:
                if self.before.lost is None:  # else nothing follows
                    trouble = exc
        # What one of them says is enough: whoever reads looks at both. The target may be what does
        # not answer.
        marking = Attempt(lambda: self._mark_failed(reason))
        is_marked = marking.wait(min(MARK_SECONDS, self.before.patience)) and marking.result()
        if trouble is not None and not is_marked:
            raise trouble

    def _mark_failed(self, reason: str) -> bool:
        with self._mark_lock, contextlib.suppress(SnapfsError):
            write_mark(self._device, mark := self.mark.changed(FAILED, reason[:500]))
            self.mark = mark
            return True
        return False

    def _check(self) -> None:
        if self.before.failed is not None:
            raise CopyError(f"{self.target}: the copy has failed: {self.before.failed}")

    # Ending

    def finish(self) -> bool:
        """All is copied: the target becomes a volume like any other. False when that does not work
        now: see ``state``.
        """
        newest = PLACES[self.mark.sequence % len(PLACES)]
        try:
            for place in sorted(
                PLACES, key=lambda place: place == newest
            ):  # the one in force goes last
                clear_mark(self._device, place)
        except DeviceError as exc:
            self.before.trouble(exc)
            return False
        self.before.blocked = None
        return True

    def fail(self, reason: str) -> None:
        """It ends here, and is no point in time. Raises ``DeviceError`` when that cannot be made
        durable, or not in time.

        Whoever tries again waits for the same thread, if that has not come back.
        """
        if self._fail_try is None:
            self._fail_try = Attempt(lambda: self.before.fail(reason))
        attempt = self._fail_try
        if not attempt.wait(FAIL_SECONDS):
            raise DeviceError(f"{self.before.path}: does not answer")
        self._fail_try = None
        attempt.result()

    def remove_target(self) -> bool:
        """A file that was made for a copy that is of no use goes with it; whether it is gone now.
        May block.
        """
        return (
            self.target.made
            and isinstance(self._device, Abandonable)
            and self._device.remove_name()
        )

    def close(self, ended: str | None = None) -> None:
        """Let go of everything, but of a complete copy in memory. It ``ended``, or will be gone on
        with.

        Returns when all is closed, or when that has taken too long: what does not answer is closed
        when it does.
        """
        with self._end_lock:
            self.before.end()
            left: list[Abandonable] = []
            if ended == COMPLETE and isinstance(self.target.device, RamDevice):
                self.target.device.unlock()  # nothing else keeps it
            elif isinstance(self._device, Abandonable):
                left.append(self._device)
            if self._map_device is not None:
                if ended is not None:
                    with contextlib.suppress(DeviceError):
                        self._map_device.remove_name()
                left.append(self._map_device)
            elif self.map_file is not None:
                if ended is not None:
                    self.map_file.remove_name()
                self.map_file.close()
            for one in left:
                one.close()
            for one in left:
                one.wait_closed(min(MARK_SECONDS, self.before.patience))
            self.ended = self.ended or ended


def detach(volume: Volume) -> None:
    """Nothing stands between the volume and its device any more."""
    volume.device = without_copy(volume.device)
