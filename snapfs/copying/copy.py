"""One full copy: which blocks its generation needs, which of them are copied, and how a block gets
there.

The generation that is copied is sealed and durable. Its blocks may be overwritten by now: those
that were freed since, and fixed metadata. ``ensure`` copies what somebody is about to overwrite;
``step`` and ``settle`` copy the rest behind. Both may be called by any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from bitarray import bitarray

from snapfs import probes
from snapfs.blocks.copy_mark import OWN, without_mark
from snapfs.blocks.group_header import ENTRY_WRITTEN, GroupEntry
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.store.space.group_reading import read_group

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry
    from snapfs.copying.copy_map import CopyMap
    from snapfs.device import Device

log = logging.getLogger("snapfs.copying")

#: Bytes that are read and written at once.
PIECE_BYTES: Final = 1 << 20

#: Whoever overwrites a block has so much behind it copied as well: allocation goes forward, and
#: each time costs two flushes.
AHEAD_BYTES: Final = 4 << 20

Run = tuple[int, int]


class Copy:
    """Copies the blocks that a generation of ``source`` needs to ``target``, each to the same
    place.

    ``entries`` is the group table of the generation. ``sparse``: what the target was not given yet
    reads as zeros.
    """

    def __init__(
        self,
        source: Device,
        target: Device,
        copy_map: CopyMap,
        geometry: Geometry,
        entries: Sequence[GroupEntry],
        *,
        sparse: bool,
    ) -> None:
        self.source = source
        self.target = target
        self.map = copy_map
        self.geometry = geometry
        self.entries = entries
        self.sparse = sparse
        self.lock = threading.Lock()
        #: Flushes that have failed. What was written before one may be gone, and those that come
        #: after it do not say so.
        self._losses = 0
        self._flush_lock = threading.Lock()
        self._block_size = geometry.block_size
        self._zeros = bytes(PIECE_BYTES)
        last = len(entries) - 1
        #: Groups whose needed blocks are not known yet, and of the others the blocks that are
        #: needed and not copied durably.
        self._unknown = {
            number
            for number, entry in enumerate(entries)
            if entry.flags & ENTRY_WRITTEN or number in (0, last)
        }
        self._remaining: dict[int, bitarray] = {}
        self._written: list[Run] = []
        self._position = 0
        self.blocks_needed = sum(
            geometry.group_length(number) - entry.free
            if entry.flags & ENTRY_WRITTEN
            else geometry.ring_blocks
            for number, entry in enumerate(entries)
            if number in self._unknown
        )
        self.blocks_copied = copy_map.count()

    # What is left

    @property
    def complete(self) -> bool:
        """Is all that is needed copied, and durable?"""
        return not self._unknown and not self._remaining and not self._written

    def must_wait(self, runs: Iterable[Run]) -> bool:
        """Is there a block in these runs of blocks that has to be copied before it may be
        overwritten?
        """
        span = self.geometry.group_span
        for start, length in runs:
            for number in range(start // span, (start + length - 1) // span + 1):
                if number in self._unknown:
                    return True
                bits = self._remaining.get(number)
                if bits is not None:
                    low, high = (
                        max(0, start - number * span),
                        min(span, start + length - number * span),
                    )
                    if bits.find(1, low, high) >= 0:
                        return True
        return False

    def _know(self, number: int) -> None:
        """Find what is needed of a group. Raises ``DeviceError``."""
        if number not in self._unknown:
            return
        length = self.geometry.group_length(number)
        bits = self._needed(number)
        bits[length:] = 0
        copied = self.map.get(self.geometry.group_start(number), length)
        bits[:length] &= ~copied
        if bits.any():
            self._remaining[number] = bits
        self._unknown.discard(number)

    def _needed(self, number: int) -> bitarray:
        entry = self.entries[number]
        bits = bitarray(self.geometry.group_span, endian="little")
        bits.setall(0)
        if entry.flags & ENTRY_WRITTEN:
            try:
                return read_group(self.geometry, entry, number, self._read_block).blocks.copy()
            except CorruptBlock as exc:
                # Whatever is of use in it must not be missing from the copy.
                probes.COPY_TOOK_WHOLE_GROUP.hit()
                log.warning("the copy takes all of group %d: %s", number, exc)
                bits.setall(1)
                return bits
        if number == 0:
            bits[: self.geometry.ring_blocks] = 1
        if number == len(self.entries) - 1:
            length = self.geometry.group_length(number)
            bits[length - self.geometry.ring_blocks : length] = 1
        return bits

    # Reading the point in time

    def _read_block(self, block: int, _checksum: int) -> bytes:
        return self._read_as_it_was(block, 1)

    def _read_as_it_was(self, start: int, length: int) -> bytes:
        parts = []
        for low, high, copied in stretches(self.map.get(start, length)):
            offset, size = (start + low) * self._block_size, (high - low) * self._block_size
            parts.append(
                without_mark(offset, self.target.read(offset, size))
                if copied
                else self.source.read(offset, size)
            )
        return b"".join(parts)

    def read(self, start: int, length: int) -> bytes:
        """Blocks as they were in the generation that is copied. Raises ``DeviceError``."""
        with self.lock:
            return self._read_as_it_was(start, length)

    def fetch(self, start: int, length: int) -> bytes:
        """The same; what is needed and not copied yet is copied. ``settle`` makes that durable."""
        with self.lock:
            for run in self._left([(start, length)]):
                self._transfer(*run)
                self._written.append(run)
            return self._read_as_it_was(start, length)

    # Copying

    def ensure(self, runs: Iterable[Run]) -> None:
        """Copy what is needed of these runs of blocks, and of what lies behind them; durable when
        it returns. Raises ``DeviceError``.
        """
        with self.lock:
            todo = self._left(runs)
            if not todo:
                return
            probes.COPIED_BEFORE_WRITE.hit()
            start, length = todo[-1]
            todo += self._ahead(start + length)
            losses = self._losses
            for run in todo:
                self._transfer(*run)
            try:
                self._flush(self.target, losses)
                self.map.set(todo)
                self._flush(self.map, losses)
            except BaseException:
                self._forget_unsettled()
                raise
            self._done(todo)

    def step(self, limit: int = PIECE_BYTES) -> int:
        """Copy the next piece, of ``limit`` bytes at most; its length in bytes, 0 when there is
        none left. Raises ``DeviceError``.
        """
        with self.lock:
            blocks = max(1, limit // self._block_size)
            run = self._next(blocks)
            if run is None and self._remaining and not self._written:
                self._position = 0  # somebody's settling has failed
                run = self._next(blocks)
            if run is None:
                return 0
            self._transfer(*run)
            self._written.append(run)
            return run[1] * self._block_size

    @property
    def unsettled(self) -> int:
        """Bytes that were copied and are not durable yet."""
        return sum(length for _, length in self._written) * self._block_size

    def settle(self) -> None:
        """Make durable what was copied, and set its bits. Raises ``DeviceError``."""
        with self.lock:
            runs, self._written = self._written, []
            losses = self._losses
        if not runs:
            return
        try:
            self._flush(self.target, losses)
            with self.lock:
                self.map.set(runs)
            self._flush(self.map, losses)
        except BaseException:
            with self.lock:
                self._forget_unsettled()
            raise
        with self.lock:
            self._done(runs)

    def _flush(self, what: Device | CopyMap, losses: int) -> None:
        """Make durable what was written since there were so many losses. One at a time, so that
        nobody misses the failure of another's.
        """
        with self._flush_lock:
            try:
                what.flush()
            except DeviceError:
                self._losses += 1
                raise
            if self._losses != losses:
                probes.COPY_HEARD_OF_LOSS.hit()
                raise DeviceError(
                    f"{self.target.path}: a flush failed meanwhile, so what was just "
                    "copied has to be copied again"
                )

    def _forget_unsettled(self) -> None:
        """A flush has failed: what was copied and was not durable has to be copied once more."""
        probes.COPIED_AGAIN.hit()
        self._written = []
        self._position = 0

    def _left(self, runs: Iterable[Run]) -> list[Run]:
        """What is needed and not copied of these runs."""
        out: list[Run] = []
        span = self.geometry.group_span
        for start, length in runs:
            for number in range(start // span, (start + length - 1) // span + 1):
                self._know(number)
                bits = self._remaining.get(number)
                if bits is not None:
                    base = number * span
                    out += _runs(bits, base, max(0, start - base), min(span, start + length - base))
        return out

    def _ahead(self, block: int) -> list[Run]:
        """What is needed and not copied behind a block, in its group."""
        number, low = divmod(block, self.geometry.group_span)
        bits = self._remaining.get(number)
        if bits is None:
            return []
        out: list[Run] = []
        room = AHEAD_BYTES // self._block_size
        while room and (start := bits.find(1, low)) >= 0:
            end = bits.find(0, start, start + room)
            low = end if end >= 0 else min(start + room, len(bits))
            out.append((number * self.geometry.group_span + start, low - start))
            room -= low - start
        return out

    def _next(self, limit: int) -> Run | None:
        """The next run behind the last one that was copied in the background."""
        span = self.geometry.group_span
        while True:
            number, low = divmod(self._position, span)
            if number >= len(self.entries):
                return None
            if number in self._unknown:
                self._know(number)
            bits = self._remaining.get(number)
            start = bits.find(1, low) if bits is not None else -1
            if bits is None or start < 0:
                self._position = (number + 1) * span
                continue
            stop = min(span, start + limit)
            end = bits.find(0, start, stop)
            length = (end if end >= 0 else stop) - start
            self._position = number * span + start + length
            return number * span + start, length

    def _transfer(self, start: int, length: int) -> None:
        """Copy a run. Its blocks are as they were, for whoever wants to overwrite one waits for the
        lock.
        """
        per_piece = PIECE_BYTES // self._block_size
        for first in range(start, start + length, per_piece):
            count = min(per_piece, start + length - first)
            data = self.source.read(first * self._block_size, count * self._block_size)
            if not self.sparse or data != self._zeros[: len(data)]:
                self._put(first * self._block_size, data)

    def _put(self, offset: int, data: bytes) -> None:
        """Write to the target, around what it has for itself: its mark, where a volume has zeros,
        and its own claim.
        """
        end = offset + len(data)
        position = offset
        for start, stop in OWN:
            if position < stop and start < end:
                if position < start:
                    self.target.write(position, data[position - offset : start - offset])
                position = stop
        if position < end:
            self.target.write(position, data[position - offset :] if position > offset else data)

    def _done(self, runs: Iterable[Run]) -> None:
        """The copies of these runs are durable, and so are their bits."""
        span = self.geometry.group_span
        for start, length in runs:
            number = start // span
            bits = self._remaining.get(number)
            if bits is None:
                continue
            low, high = start - number * span, start + length - number * span
            self.blocks_copied += bits.count(1, low, high)
            bits[low:high] = 0
            if not bits.any():
                del self._remaining[number]


def _runs(bits: bitarray, base: int, low: int, high: int) -> list[Run]:
    """The runs of ones from ``low`` to ``high``."""
    out = []
    while low < high and (start := bits.find(1, low, high)) >= 0:
        end = bits.find(0, start, high)
        low = end if end >= 0 else high
        out.append((base + start, low - start))
    return out


def stretches(bits: bitarray) -> list[tuple[int, int, bool]]:
    """Cut into (start, end, value)."""
    out = []
    start = 0
    while start < len(bits):
        value = bits[start]
        end = bits.find(not value, start)
        end = end if end >= 0 else len(bits)
        out.append((start, end, bool(value)))
        start = end
    return out
