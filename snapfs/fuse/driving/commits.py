"""Commits: one at a time, shared by all who wait for one; and records of the log, where one is
enough for those who wait.

A caller that asks while one is being written joins the next one, together with everybody else who
asks until that is sealed: so a hundred fsyncs cost two commits. The bytes go to the device in a
worker thread; where the device is quick and nobody else is being served, in the loop itself,
because the thread would take longer. Knows the volume and nothing of files or of the kernel.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from snapfs import probes
from snapfs.copying.before_write import without_copy
from snapfs.errors import (
    DeviceError,
    DeviceFull,
    NoSpace,
    SnapfsError,
)
from snapfs.fuse.driving.discarding import Discarding
from snapfs.fuse.driving.fetching import fetch
from snapfs.fuse.driving.metrics import COMMIT, DEVICE_FLUSH, LOG, SEAL, Metrics
from snapfs.fuse.driving.pace import SMALL, Pace
from snapfs.fuse.driving.threads import Pool, in_thread
from snapfs.interrupts import NotCached
from snapfs.store.commit import log_writing
from snapfs.store.commit.commit import seal
from snapfs.store.commit.guard import broke_off
from snapfs.store.commit.volume import Volume

if TYPE_CHECKING:
    from snapfs.store.commit.sync_log import LogWrite
    from snapfs.store.trees.sealed import Sealed

log = logging.getLogger("snapfs.fuse")


class _Round:
    """One commit, or one record of the log, and those who wait for it. ``is_commit``: one of them
    needs a generation.
    """

    def __init__(self) -> None:
        self.done = trio.Event()
        self.is_commit = False
        self.error: SnapfsError | None = None
        #: Called when it is sealed.
        self.sealed: list[Callable[[], None]] = []


class Commits:
    """Commits a volume. ``run`` must be running; ``committed`` is called after each one that
    succeeded.

    ``alone`` tells whether whoever calls ``commit`` now is the only one who is being served.
    """

    def __init__(
        self,
        volume: Volume,
        discarding: Discarding,
        metrics: Metrics,
        committed: Callable[[], None],
        alone: Callable[[], bool],
    ) -> None:
        self._volume = volume
        self._alone = alone
        self._pace = Pace()
        self._log_pace = Pace()
        self._discarding = discarding
        self._metrics = metrics
        self._committed = committed
        self._next: _Round | None = None
        self._current: _Round | None = None
        self._wanted = trio.Event()
        self._is_stalled = False

    def state(self) -> dict[str, int | bool]:
        """What is going on, for reports: any thread may ask."""
        volume = self._volume
        return {
            "generation": volume.generation,
            "dirty": volume.dirty,
            "blocks dirtied": volume.dirtied,
            "bytes written": volume.written_bytes,
            "one in flight": volume.in_flight is not None,
            "one asked for": self._next is not None,
            "stalled for space": self._is_stalled,
        }

    async def commit(self, sealed: Callable[[], None] | None = None) -> bool:
        """Return when everything done before the call is in a durable generation; False when it was
        so already.

        ``sealed`` is called when it is decided what will be durable, in case there is anything.
        Raises ``DeviceError`` for a commit that failed, ``ReadOnly`` for every one after that.
        """
        if self._pace.is_quick and self._commit_here(sealed):
            return True
        return await self._done(self._ask(), sealed)

    async def sync(self) -> bool:
        """The same, in a durable generation or in its log."""
        volume = self._volume
        is_here = not volume.is_synced and (
            self._log_pace.is_quick or not log_writing.may_tell(volume)
        )
        if is_here and (self._log_here() or (self._pace.is_quick and self._commit_here(None))):
            return True
        return await self._done(self._ask_sync())

    @staticmethod
    async def _done(current: _Round | None, sealed: Callable[[], None] | None = None) -> bool:
        if current is None:
            return False
        if sealed is not None:
            current.sealed.append(sealed)
        # Anything may happen while this waits: requests go on in the generation that comes after
        # the one that is being written.
        await current.done.wait()
        if current.error is not None:
            raise type(current.error)(str(current.error)) from current.error
        return True

    def soon(self) -> None:
        """Begin a commit, without waiting for it. What goes wrong with it is logged."""
        if not self._volume.read_only and self._volume.read_only_reason is None:
            self._ask()

    async def relieve(self) -> None:
        """For whoever is about to change something when too much is dirty already: let the commit
        in flight finish first.

        Raises ``DeviceFull`` while there is no space for it.
        """
        if self._is_stalled and self._volume.in_flight is not None:
            await self.commit()  # or what waits behind it would grow without end
        self.soon()
        if self._current is not None:
            # As in ``commit``. Its failure concerns those who asked for it.
            await self._current.done.wait()

    def _ask(self) -> _Round | None:
        """The commit that has all that was done before now, or None when nothing is to be
        committed.
        """
        volume = self._volume
        is_on_its_way = self._current is not None or volume.in_flight is None
        if not volume.dirty and is_on_its_way:
            return self._current
        found = self._join()
        found.is_commit = True
        return found

    def _ask_sync(self) -> _Round | None:
        """The same, or the record that tells it."""
        volume = self._volume
        if volume.is_synced and (self._current is not None or volume.in_flight is None):
            return self._current
        return self._join()

    def _join(self) -> _Round:
        """What is sealed next."""
        self._volume.check_writable()
        if self._next is None:
            self._next = _Round()
            self._wanted.set()
        return self._next

    def _can_here(self) -> bool:
        """Is nobody kept waiting when the loop writes something in this very moment?"""
        volume = self._volume
        if (
            self._current is not None
            or self._next is not None
            or volume.in_flight is not None
            or not self._alone()
        ):
            return False
        return not self._is_copied()

    def _is_copied(self) -> bool:
        """Does a copy stand before the device? Then writing may have to wait
        for the copy's target.
        """
        return without_copy(self._volume.device) is not self._volume.device

    def _commit_here(self, on_seal: Callable[[], None] | None) -> bool:
        """Commit in this very moment, if nobody is kept waiting by that; False when it is, or must
        be, left to ``run``.
        """
        volume = self._volume
        if not self._can_here() or not volume.dirty:
            return False
        try:
            sealed = self._sealed()
            if on_seal is not None:
                on_seal()
            if len(sealed.blocks) > SMALL:
                # it is in flight now, and written as one that could not be written before
                return False
            self._written(sealed, self._timed(sealed))
        except (NotCached, NoSpace):
            probes.COMMIT_GAVE_WAY.hit()
            return False  # nothing has happened yet
        except SnapfsError as exc:
            self._failed(exc)
            raise
        except Exception as exc:
            raise self._defect(exc) from exc
        self._committed()
        return True

    def _log_here(self) -> bool:
        """The same with a record of the log; False also when that cannot tell it."""
        if not self._can_here():
            return False
        try:
            record = self._begin()
            return record is not None and self._logged(record, self._timed(record))
        except SnapfsError as exc:
            self._failed(exc)
            raise
        except Exception as exc:
            raise self._defect(exc) from exc

    def _begin(self) -> LogWrite | None:
        """A record that is enough for all that has happened; None: it takes a commit. Under a copy
        it always does.
        """
        return None if self._is_copied() else log_writing.begin(self._volume)

    async def run(self) -> None:
        """Write commits as they are asked for, until cancelled."""
        while True:
            await self._wanted.wait()  # nothing is asked for, or it would be set
            self._wanted = trio.Event()
            while self._next is not None:
                await self._one()

    def _sealed(self) -> Sealed:
        start = time.perf_counter()
        sealed = seal(self._volume)
        self._metrics.note(SEAL, time.perf_counter() - start)
        return sealed

    def _measured(self, name: str, what: Sealed | LogWrite, seconds: float) -> None:
        self._metrics.note(name, seconds)
        for each in what.flush_seconds:
            self._metrics.note(DEVICE_FLUSH, each)

    async def _seal(self) -> Sealed:
        """The open generation, sealed in the synchronous stretch that ends this call."""
        trusting = True
        while True:
            try:
                return self._sealed()
            except NotCached as exc:
                # Operations run meanwhile: what they change, and who joins, is before the seal and
                # so belongs to this commit.
                trusting = await fetch(
                    self._volume, exc.wants, trusting=trusting, pool=Pool.COMMITS
                )
            except NoSpace:
                if not await self._discarding.piece_done():  # as above
                    raise

    async def _one(self) -> None:
        joined = self._next
        assert joined is not None  # noqa: S101 - whoever calls has seen that somebody waits for it
        volume = self._volume
        is_logged = False
        try:
            if volume.in_flight is not None:
                # There was no space for it. Whoever asks meanwhile joins what is sealed after it.
                await self._write(volume.in_flight)
            record = None if joined.is_commit else self._begin()
            if record is not None:
                self._current, self._next = joined, None
                # Operations run meanwhile, and are told by the next record.
                is_logged = self._logged(record, await in_thread(Pool.COMMITS, self._timed, record))
            if not is_logged and volume.dirty:
                sealed = await self._seal()
                self._current = joined
                if self._next is joined:
                    self._next = None
                for told in joined.sealed:
                    told()
                # Operations run meanwhile, in the next generation; whoever asks now gets a round of
                # his own.
                await self._write(sealed)
        except SnapfsError as exc:
            self._failed(exc)
            joined.error = exc
        except Exception as exc:  # noqa: BLE001 - see ``_defect``
            joined.error = self._defect(exc)
        except BaseException:
            joined.error = DeviceError(
                "a commit was broken off"
            )  # or whoever waits would take it for done
            raise
        finally:
            if self._next is joined:
                self._next = None
            self._current = None
            joined.done.set()
        if joined.error is None and not is_logged:
            self._committed()

    async def _write(self, sealed: Sealed) -> None:
        self._written(sealed, await in_thread(Pool.COMMITS, self._timed, sealed))

    @staticmethod
    def _timed(what: Sealed | LogWrite) -> float | Exception:
        """Write it: the seconds that it took, or why it failed. May block;
        safe in a worker thread.
        """
        start = time.perf_counter()
        try:
            what.write()
        except Exception as exc:  # noqa: BLE001 - the volume has to be told, by the loop
            return exc
        return time.perf_counter() - start

    def _written(self, sealed: Sealed, outcome: float | Exception) -> None:
        """A generation was written, or not: raises why."""
        if isinstance(outcome, Exception):
            self._volume.failed(
                sealed,
                outcome
                if isinstance(outcome, DeviceError)
                else DeviceError(f"internal error: {outcome}"),
            )
            raise outcome
        self._pace.note(len(sealed.blocks), outcome)
        self._measured(COMMIT, sealed, outcome)
        log.debug(
            "generation %d is durable: %d blocks of metadata in %.3f s",
            sealed.generation,
            len(sealed.blocks),
            outcome,
        )
        self._volume.committed(sealed)
        if self._is_stalled:
            self._is_stalled = False
            log.info("there is space for commits again")

    def _logged(self, record: LogWrite, outcome: float | Exception) -> bool:
        """A record was written; False when it was not, and a commit may be possible. Raises why
        when not even that is.
        """
        volume = self._volume
        if isinstance(outcome, Exception):
            failure = outcome if isinstance(outcome, DeviceError) else self._defect(outcome)
            volume.log_failed(record, failure)
            if volume.read_only:
                raise failure
            return False
        self._log_pace.note(1, outcome)
        self._measured(LOG, record, outcome)
        volume.logged(record)
        return True

    def _defect(self, exc: Exception) -> DeviceError:
        """Whoever waits must hear of a defect, and the loop must go on: others may still read."""
        broke_off(self._volume, exc, "a commit")
        log.critical("a commit failed: internal error", exc_info=exc)
        return DeviceError(f"a commit failed: internal error: {exc}")

    def _failed(self, exc: SnapfsError) -> None:
        """Say that a commit failed, if nothing else does: the volume itself says when it becomes
        read-only.
        """
        broke_off(self._volume, exc, "a commit")
        if isinstance(exc, (DeviceFull, NoSpace)) and self._volume.read_only_reason is None:
            # Every timer tries it again, and says nothing until something has changed.
            if not self._is_stalled:
                log.critical("a commit failed, and is tried again until there is space: %s", exc)
            self._is_stalled = True
        elif self._volume.read_only_reason is None:
            log.critical("a commit failed: %s", exc)
