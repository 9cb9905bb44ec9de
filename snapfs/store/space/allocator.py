"""Allocation: which blocks are free, which are held, and by whom (A4, A6, A8; I1, I2, I3, I5).

Planning (``need``, ``prepare``) may raise ``NotCached``, ``CommitNeeded`` or ``NoSpace`` and
changes nothing that matters; what follows (``allocate``, ``free``, ``record``) cannot fail, unless
the volume contradicts itself: ``CorruptBlock`` then ends all writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.errors import CorruptBlock, NoSpace
from snapfs.interrupts import CommitNeeded
from snapfs.store.space.account import Account
from snapfs.store.space.discards import Discards
from snapfs.store.space.groups import Groups, Waiting
from snapfs.store.space.readers import Readers

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry
    from snapfs.blocks.group_header import GroupEntry
    from snapfs.store.space.group import Group
    from snapfs.store.space.holders import HolderSets

#: Blocks per group, at least, that make a group worth allocating from while another has more.
ROOMY = 16


class Allocator(Groups):
    """Gives out blocks and takes them back. They are numbered over the whole volume; runs never
    cross a group.
    """

    def __init__(
        self,
        geometry: Geometry,
        holders: HolderSets,
        entries: list[GroupEntry],
        forget: Callable[[int, int], None],
    ) -> None:
        super().__init__(geometry, entries)
        self.holders = holders
        #: Told of runs (block, length) that are freed: what they held is history.
        self._forget = forget
        self.waiting: list[Waiting] = []
        self.account = Account()
        self.recount()
        self.from_front = False
        self.discards = Discards(self)
        self.readers = Readers(self, self.discards)
        # Whether background work will free blocks, and one step of it.
        self.more_to_come: Callable[[], bool] = lambda: False
        self.reclaim: Callable[[], bool] = lambda: False
        # Space is short: what is kept for speed only shall be free with the next commit. Will
        # anything?
        self.spare: Callable[[], bool] = lambda: False
        #: Told of runs that are given out: whoever remembers something about blocks by their
        #: numbers must forget it.
        self.watchers: list[Callable[[list[tuple[int, int]]], None]] = []
        self.reserve = min(16384, max(32, geometry.blocks // 64))

    def recount(self) -> None:
        """Take the totals from the group table."""
        self.free = self.available = sum(entry.free for entry in self.entries)
        self.held = sum(entry.snapshot for entry in self.entries)

    # Planning

    def prepare(self, count: int, *, urgency: int = 0, metadata: int = 0) -> None:
        """Make sure that ``count`` blocks can be allocated now, and that this leaves what the next
        commit needs.

        ``metadata`` is what the commit needs besides. Of the reserve, urgency 0 may use nothing, 1
        (what frees space) a half, 2 (commits, and the deletion of snapshots) all. Raises
        ``CommitNeeded`` when that may help, else ``NoSpace``.
        """
        least = count + metadata + (self.reserve, self.reserve // 2, 0)[urgency]
        if self.available < least:
            self.readers.lose()
            self.discards.let_go()
        if self.available < least:
            raise self._exhausted()
        if len(self._window) == 1 and len(self.entries) > 1:
            # Stay with a group until it is nearly full, then let the search find a better one. Not
            # between allocations: one call of this may precede several of them.
            group = self.groups.get(self._window[0])
            if group is None or group.available * ROOMY < self.geometry.group_span:
                probes.GROUP_LEFT.hit()
                self._window.clear()
        room = 0
        for number in self._window:
            group = self.groups.get(number)
            room += group.available if group is not None else 0
        while room < count:
            number = self._choose()
            if number not in self.groups:
                self._load({number})
            self._window.append(number)
            room += self.groups[number].available

    def _exhausted(self) -> CommitNeeded | NoSpace:
        if self.spare() or self.waiting or self.in_flight or self.more_to_come():
            return CommitNeeded()
        return NoSpace("no space left on the volume")

    def _choose(self) -> int:
        """The next group to allocate from: the first that is roomy, else the one with most room."""
        best, most = -1, 0
        threshold = self.geometry.group_span // ROOMY
        window = set(self._window)
        for number in range(len(self.entries)):
            if number in window:
                continue
            room = self.room(number)
            if room >= threshold:
                return number
            if room > most:
                best, most = number, room
        if best < 0:
            raise self._exhausted()
        return best

    def room(self, number: int) -> int:
        """Blocks of a group that can be allocated, as far as that is known without loading it."""
        group = self.groups.get(number)
        return group.available if group else self.entries[number].free

    # Changing

    def allocate(self, count: int) -> list[tuple[int, int]]:
        """Allocate ``count`` blocks that ``prepare`` has found; as (block, length) runs."""
        out = []
        self.account.changes += 1
        self.available -= count
        self.free -= count
        while count:
            if not self._window:
                raise CorruptBlock(
                    "the free counts of the groups promise more blocks than their bitmaps have"
                )
            group = self.groups[self._window[0]]
            if not group.available:
                self._window.pop(0)
                continue
            if self.from_front:
                group.cursor = 0
            offset, length = group.take(count)
            out.append((group.start + offset, length))
            count -= length
        for watcher in self.watchers:
            watcher(out)
        return out

    def take(self, runs: list[tuple[int, int]]) -> None:
        """Allocate just these free blocks of loaded groups, instead of those behind the cursor."""
        self.account.changes += 1
        for start, length in runs:
            for group, low, high in self._split(start, length):
                group.occupy(low, high)
            self.available -= length
            self.free -= length
        for watcher in self.watchers:
            watcher(runs)

    def keep(self, runs: Iterable[tuple[int, int]]) -> None:
        """These blocks, which were allocated in the open generation, must not be overwritten in
        place or given out again in it.
        """
        for start, length in runs:
            for group, low, high in self._split(start, length):
                group.keep(low, high)

    def check_system(self, start: int, length: int) -> None:
        """Raises ``CorruptBlock`` for blocks of loaded groups that are free, fixed metadata, or
        held by snapshots.
        """
        for group, low, high in self._split(start, length):
            group.check_in_use(low, high)
            if group.snapshot.count(1, low, high) or group.records.pieces(low, high) != [
                (low, high, None)
            ]:
                raise CorruptBlock(
                    f"blocks {start} to {start + length - 1} are named by the volume, "
                    "and snapshots hold some of them"
                )

    def is_fresh(self, block: int, length: int = 1) -> bool:
        """Was the run allocated in the open generation? Its group must be loaded."""
        group = self.groups[block >> self._shift]
        offset = block & self._mask
        return group.is_fresh(offset, offset + length)

    def fresh_among(self, blocks: Iterable[int]) -> set[int]:
        """Those of single blocks that were allocated in the open generation."""
        groups, shift, mask = self.groups, self._shift, self._mask
        return {
            block
            for block in blocks
            if groups[block >> shift].fresh_count and groups[block >> shift].fresh[block & mask]
        }

    def free_run(self, start: int, length: int, *, unused: bool = False) -> None:
        """Free blocks of loaded groups, and whatever records and snapshot bits they have (A8).

        ``unused``: nobody has kept anything there, so nothing is to be discarded.
        """
        self.account.changes += 1
        self._forget(start, length)
        reuse = unused or not self.discards.wanted
        for group, low, high in self._split(start, length):
            group.check_in_use(low, high)
            if group.records:
                self._record(group, low, high, None)
            if group.snapshot_count:
                self.held -= group.snapshot_count
                group.mark_snapshot(low, high, 0)
                self.held += group.snapshot_count
            before = group.available
            for offset, size in group.release(low, high, reuse=reuse):
                self.waiting.append((group.number, offset, size))
            self.available += group.available - before
            self.free += high - low

    def give_back(self, runs: list[tuple[int, int]]) -> None:
        """Undo ``allocate``, for a change that failed: nothing else is being planned. The next one
        finds the same blocks.
        """
        for start, length in runs:
            self.free_run(start, length, unused=True)
        for start, _ in reversed(runs):
            self.groups[start >> self._shift].cursor = start & self._mask

    def prefer_used(self) -> None:
        """The host has no space for more of a sparse image: take free blocks from the front from
        now on.

        They have most likely been used before, so they have their space already: what users delete
        can be written again. For the same reason a commit finds the blocks that a failed write has
        got and given back.
        """
        probes.BLOCKS_PREFERRED_USED.hit()
        self.from_front = True
        self.readers.lose()
        self.discards.let_go()
        self._window.clear()

    def record(self, start: int, length: int, holders: int | None, *, held: bool) -> None:
        """Give blocks a record that names a holder set (None: no record), and set or clear their
        snapshot bits.
        """
        self.account.changes += 1
        for group, low, high in self._split(start, length):
            group.check_in_use(low, high)
            self._record(group, low, high, holders)
            before = group.snapshot_count
            group.mark_snapshot(low, high, int(held))
            self.held += group.snapshot_count - before

    def rebind(self, start: int, length: int, old: int | None, holders: int, *, held: bool) -> None:
        """``record`` for blocks of which it is known that all have the record ``old``, as
        ``pieces`` says, or none.
        """
        self.account.changes += 1
        self.holders.adjust(
            holders, length
        )  # before the old ones, so that a set that stays is not forgotten
        for group, low, high in self._split(start, length):
            group.check_in_use(low, high)
            if old is not None:
                self.holders.adjust(old, low - high)
            group.records.assign(low, high, holders)
            group.records_dirty = True
            before = group.snapshot_count
            group.mark_snapshot(low, high, int(held))
            self.held += group.snapshot_count - before

    def pieces(self, start: int, length: int) -> list[tuple[int, int, int | None]]:
        """Cut a run by its records: (block, length, holder set or None)."""
        out: list[tuple[int, int, int | None]] = []
        for group, low, high in self._split(start, length):
            if group.records:
                out += [
                    (group.start + a, b - a, value)
                    for a, b, value in group.records.pieces(low, high)
                ]
            else:
                out.append((group.start + low, high - low, None))
        return out

    def _record(self, group: Group, low: int, high: int, holders: int | None) -> None:
        if holders is not None:
            self.holders.adjust(
                holders, high - low
            )  # before the old ones, so that a set that stays is not forgotten
        old_pieces = [
            (start, end, old)
            for start, end, old in group.records.pieces(low, high)
            if old is not None
        ]
        if holders is None and not old_pieces:
            return
        for start, end, old in old_pieces:
            self.holders.adjust(old, start - end)
        group.records.assign(low, high, holders)
        group.dirty = group.records_dirty = True

    def _split(self, start: int, length: int) -> list[tuple[Group, int, int]]:
        low = start & self._mask
        if low + length <= self._mask + 1:  # nearly always
            return [(self.groups[start >> self._shift], low, low + length)]
        out = []
        end = start + length
        while start < end:
            group = self.groups[start >> self._shift]
            low = start & self._mask
            high = min(low + end - start, self._mask + 1)
            out.append((group, low, high))
            start += high - low
        return out

    # Commit

    def seal(self) -> list[Waiting]:
        """The open generation is sealed: hand over what waits for it, and start a new one."""
        waiting, self.waiting = self.waiting, []
        self.in_flight += sum([run[2] for run in waiting])
        for number in {run[0] for run in waiting}:
            self.groups[number].pinned += 1
        for group in self.dirty_groups():
            group.sealed()
        return waiting

    def released(self, waiting: list[Waiting]) -> None:
        """The generation is durable: what was freed in it may be allocated again (I5): unread, and
        discarded if that is wanted.
        """
        if self.readers:
            self.readers.keep(waiting)
            return
        if self.discards.wanted:
            self.discards.add(waiting)
            return
        for number, offset, length in waiting:
            group = self.groups[number]
            group.busy[offset : offset + length] = 0
            group.available += length
            self.available += length
            self.in_flight -= length
        for number in {run[0] for run in waiting}:
            self.groups[number].pinned -= 1

    def dirty_groups(self) -> list[Group]:
        """Groups that the next commit must write."""
        return [self.groups[number] for number in sorted(self.changed)]
