"""Multi-mount protection (I11): one host at a time has a volume open to write it, as its claim says
(``blocks.claim``).

Processes of one kernel are kept apart by locks (``device.locking``), which end with whoever has
them. Hosts see nothing of each other but what is on the volume. So whoever opens a volume to write
puts a claim there, and renews it at least every ``interval`` seconds; who finds one that is not
given back watches it for that long and a margin. If it moves its holder is alive, and has the
volume; if not, it is taken.

The holder may have been stopped, or cut off from the medium. So it may write only until
``interval`` seconds after its last renewal. After that it reads the claim first, before every
write. What is on its way to the device when the time is over is beyond that: see
``doc/design/one-writer.md``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from snapfs.blocks.claim import CLAIM_PLACE, INTERVAL, Claim
from snapfs.device.base import Device
from snapfs.device.identity import Identity, start_of
from snapfs.device.page import PAGE_BYTES, Page
from snapfs.device.storage import Storage
from snapfs.errors import CorruptBlock, DeviceError, DeviceFull, VolumeBusy

log = logging.getLogger("snapfs.store")

#: Whoever has looked at a claim and wants to take it does so within this many seconds, or looks
#: again.
PROMPT: Final = 1.0

#: So long after a claim was put there, or was renewed too late, somebody who had looked before may
#: still put his own over it.
UNSETTLED: Final = 2 * PROMPT

#: Meanwhile it is looked at again before a write, when so many seconds are over.
RECHECK: Final = 0.1

#: A claim that somebody else may be writing at this moment is read so many times before it is taken
#: for damaged.
TRIES: Final = 3

_UNKNOWN: Final = bytes(16)


def boot_clock() -> float:
    """Seconds since the machine was booted, those in which it was suspended among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def margin(interval: float) -> float:
    """Seconds that a claim is watched beyond its interval: for what its holder has on the way to
    the device.
    """
    return max(1.0, interval / 4)


class Claiming:
    """The claim of one process on one device: the device's ``Guard``. ``clock`` gives seconds,
    ``wait`` lets them pass.
    """

    def __init__(
        self,
        device: Device,
        identity: Identity,
        storage: Storage,
        interval: float,
        clock: Callable[[], float] = boot_clock,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.interval = interval
        self.lost: str | None = None
        self.path = device.path
        self._identity = identity
        self._storage = storage
        self._page = Page(device, CLAIM_PLACE)
        self._clock = clock
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._own: Claim | None = None
        self._renewed = self._unsettled_until = self._sure_until = 0.0
        self._is_told = False
        self._is_used = False
        self._before = bytes(PAGE_BYTES)

    # Taking

    def look(self) -> float:
        """Return when nobody has the volume, as far as the claim says: when that was seen. Raises
        ``VolumeBusy``, ``DeviceError``.
        """
        seen, data = self._clock(), self._page.read()
        found = self._whole(data)
        self._before = bytes(PAGE_BYTES) if found is not None else data
        if found is not None and self._may_be_alive(found):
            seen = self._watch(data, found)
        return seen

    def _whole(self, data: bytes) -> Claim | None:
        """What the claim says, None when nobody has the volume; one of nobody, with the usual
        interval, when it cannot be read.
        """
        for tries in range(TRIES):
            try:
                found = Claim.decode(data if tries == 0 else self._page.read())
            except CorruptBlock:
                continue
            return found if found is not None and found.is_open else None
        # Whoever is alive has a whole one, but for the moment in which he writes it.
        return Claim(_UNKNOWN, INTERVAL, _UNKNOWN, _UNKNOWN, 0, 0, 0, 0, (0, 0), "", "")

    def _may_be_alive(self, found: Claim) -> bool:
        """Must it be watched? Not if its holder is of this boot of this machine, and has ended."""
        here = self._identity
        if found.boot != here.boot or here.boot == _UNKNOWN:
            return True
        if found.storage == (self._storage.device, self._storage.inode):
            return False  # he had locked what is locked by us now
        return found.namespace != here.namespace or start_of(found.pid) == found.started

    def _watch(self, data: bytes, found: Claim) -> float:
        """Return when the claim has not moved for as long as it would have if its holder were
        alive, or is given back.
        """
        limit = found.interval + margin(found.interval)
        log.warning(
            "%s: %s: waiting %.0f seconds to see whether that is so",
            self.path,
            self._who(found),
            limit,
        )
        began = self._clock()
        while True:
            self._wait(min(0.25, found.interval / 10))
            seen, now = self._clock(), self._page.read()
            if now != data:
                moved = self._whole(now)
                if moved is None:
                    return seen
                raise VolumeBusy(f"{self.path}: {self._who(moved)}: unmount it there first")
            if seen - began >= limit:
                log.warning("%s: it is not: it is taken over", self.path)
                return seen

    def _who(self, found: Claim) -> str:
        """In words."""
        if found.nonce == _UNKNOWN:
            return "its claim is damaged, so that somebody else may be about to open it"
        here = self._identity
        place = (
            "this host by another way"
            if found.boot == here.boot != _UNKNOWN
            else f"host {found.host or 'unknown'}"
        )
        command = f" ({found.command})" if found.command else ""
        return (
            f"{'in use' if found.is_open else 'was opened'} on {place} by process "
            f"{found.pid}{command} since {_time(found.since_ns)}"
        )

    def take(self, seen: float) -> None:
        """Put a claim where nobody's was, as was seen at ``seen``.

        Raises ``VolumeBusy`` when somebody else does so just now, ``DeviceError``.
        """
        here, now_ns = self._identity, time.time_ns()
        self._own = Claim(
            os.urandom(16), self.interval, here.boot, here.machine, now_ns, here.pid, here.started,
            here.namespace,
            (self._storage.device, self._storage.inode), here.host, here.command,
        ).renewed(now_ns)  # fmt: skip
        if self._clock() - seen >= PROMPT / 2:
            seen = self.look()
        began = self._clock()
        self._page.write(self._own.encode())
        is_late = self._clock() - seen >= PROMPT
        if is_late:
            # Somebody may have put his own there meanwhile, and be sure of it. He must have seen
            # ours before we write anything.
            self._wait(self.interval + margin(self.interval))
        data = self._page.read()
        if not self._is_own(data):
            self._own = None
            found = self._whole(data)
            who = (
                self._who(found)
                if found is not None
                else "somebody else opens it at this moment: try again"
            )
            raise VolumeBusy(f"{self.path}: {who}")
        self._renewed, self._unsettled_until = began, began + UNSETTLED
        if is_late:
            self.renew()
        else:
            self._seen(began)

    def _is_own(self, data: bytes) -> bool:
        try:
            found = Claim.decode(data)
        except CorruptBlock:
            return False
        return (
            found is not None
            and self._own is not None
            and found.nonce == self._own.nonce
            and found.is_open
        )

    # Keeping

    def start(self) -> None:
        """Renew it from now on, in a thread."""
        self._thread = threading.Thread(
            target=self._renew_regularly, name="snapfs-claim", daemon=True
        )
        self._thread.start()

    def _renew_regularly(self) -> None:
        while not self._ended.wait(self.interval / 2) and self.lost is None:
            with suppress(DeviceError):  # told already; and whoever writes looks for himself
                self.renew()

    def check(self) -> None:
        """See ``Guard.check``."""
        self._is_used = True
        if self._clock() < self._sure_until:
            return
        if self.lost is None:
            with self._lock:
                now = self._clock()
                if now >= self._sure_until:
                    self._look_again(now, renew=now >= self._renewed + self.interval)
        if self.lost is not None:
            raise DeviceError(self.lost)

    def renew(self) -> None:
        """Renew the claim, if it is still there. Raises ``DeviceError``."""
        with self._lock:
            if self.lost is None:
                self._look_again(self._clock(), renew=True)

    def _look_again(self, now: float, *, renew: bool) -> None:
        assert self._own is not None  # noqa: S101 - it was taken
        try:
            data = self._page.read()
            if not self._is_own(data) and not self._is_own(self._page.read()):
                self._lose(data)
                return
            if now >= self._renewed + self.interval:
                # Somebody may have watched all the time, and be about to take it.
                self._unsettled_until = now + UNSETTLED
            if renew:
                self._own = self._own.renewed(time.time_ns())
                self._page.write(self._own.encode())
                self._renewed = now
        except DeviceFull as exc:
            self._tell(exc)
            self._unsettled_until = now + UNSETTLED
        except DeviceError as exc:
            self._tell(exc)
            raise
        self._seen(now)

    def _seen(self, now: float) -> None:
        """It was ours at that moment: how long that is enough to write."""
        self._sure_until = (
            now + RECHECK if now < self._unsettled_until else self._renewed + self.interval
        )

    def _tell(self, exc: DeviceError) -> None:
        if not self._is_told:
            log.warning("%s: the claim cannot be renewed: %s", self.path, exc)
        self._is_told = True

    def _lose(self, data: bytes) -> None:
        try:
            found = Claim.decode(data)
        except CorruptBlock:
            found = None
        who = self._who(found) if found is not None else "its claim is gone"
        self._sure_until = 0.0
        self.lost = (
            f"{self.path}: taken over while this host was stopped, or cut off from it: "
            f"{who}: nothing is written to it any more"
        )
        log.critical("%s", self.lost)

    # Ending

    def release(self) -> None:
        """Give it back, if it is still there: who opens the volume next need not wait.

        Where nothing was written there is what was there before: an image that was only opened is
        what it was, to the byte.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self.interval)
            if self._thread.is_alive():
                return  # it waits for the device, which may be gone for good
        with self._lock, suppress(DeviceError):
            if self._own is not None and self.lost is None and self._is_own(self._page.read()):
                self._page.write(
                    self._own.given_back(time.time_ns()).encode() if self._is_used else self._before
                )
        self.close()

    def close(self) -> None:
        """Without giving it back."""
        self._page.close()


def _time(nanoseconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(nanoseconds // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        return "an impossible time"


assert PAGE_BYTES == 4096  # noqa: S101 - the slot of the claim is a page
