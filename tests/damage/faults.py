"""A device in memory that fails when it is told to, and the ways in which devices fail.

A fault hits the n-th operation of its kind, once or from then on for good. After a flush that
failed the device has forgotten some of the writes before it and says nothing more about them: what
Linux does with dirty pages that it could not write.
"""

from __future__ import annotations

import enum
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import snapfs
from snapfs.device.base import Buffer
from snapfs.errors import DeviceError, DeviceFull
from tests.harness.sparse import SparseDevice

SECTOR = 512

_CORE = str(Path(snapfs.__file__).parent)

#: Operations of one run that nothing needs: more of them is a loop that does not end.
ENDLESS = 200_000


class Kind(enum.Enum):
    """What goes wrong. The value is the operation that it happens to."""

    READ = "read error", "read"
    FLIP = "flipped bit", "read"
    WRITE = "write error", "write"
    SHORT_WRITE = "short write", "write"
    FULL = "no space below", "write"
    FLUSH = "flush error", "flush"
    DISCARD = "discard error", "discard"

    @property
    def operation(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Fault:
    """``at`` counts from 1."""

    kind: Kind
    at: int
    lasting: bool = False

    def __str__(self) -> str:
        return (
            f"{self.kind.value[0]} at {self.kind.operation} "
            f"{self.at}{' and ever after' if self.lasting else ''}"
        )


#: Functions that a site has: the one that uses the device, and those that have called it.
DEPTH = 3

#: Where an operation of a device comes from: in which step of a story, and by which functions of
#: the core.
Site = tuple[str, ...]


def site(step: str) -> Site:
    """Who uses a device now."""
    frame: FrameType | None = sys._getframe(1)
    found = [step]
    while frame is not None and len(found) <= DEPTH:
        if frame.f_code.co_filename.startswith(_CORE):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return tuple(found)


class FaultyDevice(SparseDevice):
    """Starts with the content of another device. ``counts`` are the operations since ``arm``.

    ``durable``: what the medium has, however much more the device says it has. ``sites``: where the
    operations of each kind came from, if this is a dictionary. ``step``: what the story does now.
    """

    def __init__(self, content: SparseDevice) -> None:
        super().__init__(content.size, content.path, content.pages)
        self.durable = content.copy()
        self.pending: list[tuple[int, bytes]] = []
        self.fault: Fault | None = None
        self.is_armed = False
        self.hits = 0
        self.counts: Counter[str] = Counter()
        self.sites: dict[str, list[Site]] | None = None
        self.step = ""
        self._dice = random.Random(1)

    def arm(self, fault: Fault | None) -> None:
        """Count from now on, and fail at the fault."""
        self.fault, self.is_armed = fault, True
        self.counts.clear()

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Nothing fails and nothing is counted meanwhile."""
        before, self.is_armed = self.is_armed, False
        try:
            yield
        finally:
            self.is_armed = before

    def _fails(self, operation: str) -> Kind | None:
        if not self.is_armed:
            return None
        self.counts[operation] += 1
        if self.sites is not None:
            self.sites.setdefault(operation, []).append(site(self.step))
        assert self.counts.total() < ENDLESS, "this does not end"
        fault = self.fault
        if fault is None or fault.kind.operation != operation:
            return None
        count = self.counts[operation]
        if not (count == fault.at or (fault.lasting and count > fault.at)):
            return None
        self.hits += 1
        return fault.kind

    def read(self, offset: int, length: int) -> bytes:
        kind = self._fails("read")
        found = super().read(offset, length)
        if kind is Kind.READ:
            raise DeviceError(f"read at {offset} failed: planted")
        if kind is Kind.FLIP:
            position = self._dice.randrange(len(found))
            return (
                found[:position]
                + bytes([found[position] ^ 1 << self._dice.randrange(8)])
                + found[position + 1 :]
            )
        return found

    def write(self, offset: int, data: Buffer) -> None:
        kind = self._fails("write")
        content = bytes(data)
        if kind is not None:
            if kind is not Kind.WRITE:  # a part has arrived
                content = content[: self._dice.randrange(0, len(content), SECTOR)]
                self._store(offset, content)
            raise (DeviceFull if kind is Kind.FULL else DeviceError)(
                f"write at {offset} failed: planted"
            )
        self._store(offset, content)

    def _store(self, offset: int, content: bytes) -> None:
        super().write(offset, content)
        self.pending.append((offset, content))

    def discard(self, offset: int, length: int) -> None:
        if self._fails("discard") is not None:
            raise DeviceError(f"discard at {offset} failed: planted")
        self._store(offset, bytes(length))

    def flush(self) -> None:
        if self._fails("flush") is not None:
            self._arrive([write for write in self.pending if self._dice.random() < 0.5])
            self.become(self.durable)
            raise DeviceError("flush failed: planted")
        self._arrive(self.pending)

    def _arrive(self, writes: list[tuple[int, bytes]]) -> None:
        for offset, content in writes:
            self.durable.write(offset, content)
        self.pending = []
