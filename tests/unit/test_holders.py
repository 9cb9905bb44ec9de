"""Holders: the real records, held against who really reaches a block, over random histories
(``store.trees.owners`` has the rules).

Views are plain dicts here, from a place to a block; the blocks, records, sets, bitmaps and the
deletion are the real ones.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from snapfs.errors import CorruptBlock
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.snapshots.restore.whole import exchange
from snapfs.store.commit.commit import name_live
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.space.holders import HolderSet, HolderSets
from snapfs.store.tables.instances import Instance
from snapfs.store.trees.owners import ViewOwner
from tests.harness.sparse import SparseDevice

FORMATTED = SparseDevice(1024 * 4096)
format_volume(FORMATTED)


class History:
    """The steps of ``holders_model``, done by the store."""

    def __init__(self) -> None:
        self.fs = Filesystem(open_volume(FORMATTED.copy()))
        self.volume = self.fs.volume
        drive(self.volume, self.volume.allocator.need_groups, [0])
        self.free = self.volume.allocator.free
        self.base: dict[int, int] = {}
        self.views: dict[int, dict[int, int]] = {}
        self.born: dict[int, int] = {}

    def new(self) -> int:
        drive(self.volume, self.volume.allocator.prepare, 1)
        ((block, _),) = self.volume.allocator.allocate(1)
        self.born[block] = self.volume.epoch
        return block

    def write_base(self, at: int, *, keep: bool) -> None:
        old = self.base.pop(at, None)
        if keep:
            self.base[at] = self.new()
            self.fs.base.owner.taken(self.base[at], 1)
        if old is not None:
            self.fs.base.owner.drop(old, 1, self.born[old])

    def write_view(self, number: int, at: int, *, keep: bool) -> None:
        owner = ViewOwner(self.volume, number)
        old = self.views[number].pop(at, None)
        if old is not None:
            owner.drop(old, 1, self.born[old])
        if keep:
            block = self.views[number][at] = self.new()
            owner.taken(block, 1)

    def snapshot(self, source: int | None = None) -> None:
        instances = self.volume.instances
        number = instances.take_bit(set())
        one = Instance(number, f"s{number}", epoch=self.volume.epoch)
        if source is None:
            self.views[number] = dict(self.base)
            self.volume.epoch += 1
        else:
            one.epoch = instances.table[source].epoch
            self.views[number] = dict(self.views[source])
            self.volume.holders.join(source, number)
        instances.add(one)
        name_live(self.volume)

    def delete(self, number: int, *, finish: bool) -> None:
        del self.views[number]
        self.volume.instances.leave(self.volume.instances.table[number])
        name_live(self.volume)
        while finish and drive(self.volume, self.fs.deletion.work):
            pass

    def restore(self, number: int) -> None:
        self.snapshot()
        base, view = set(self.base.values()), set(self.views[number].values())
        difference = SimpleNamespace(
            only_base={block: self.born[block] for block in base - view},
            only_view={block: self.born[block] for block in view - base},
            whose=dict.fromkeys(base - view, (0, False)),
        )
        exchange(self.fs, difference, {(0, False): 0})
        self.base = dict(self.views[number])

    def verify(self, *, settled: bool) -> None:
        """I1 to I3. Until deletions are through, blocks may be left that nobody reaches."""
        allocator, sets = self.volume.allocator, self.volume.holders
        reached: dict[int, int] = {}
        for number, view in [(0, self.base), *self.views.items()]:
            for block in view.values():
                reached[block] = reached.get(block, 0) | 1 << number
        for block, mask in reached.items():
            ((_, _, record),) = allocator.pieces(block, 1)
            assert (
                sets.default(self.born[block]) if record is None else sets.holders(record)
            ) == mask & ~1
            assert (record is None or sets.get(record).base_held) == bool(mask & 1)
            assert allocator.groups[0].snapshot[block] == (not mask & 1)
        if settled:
            assert self.free - allocator.free == len(reached)
            assert allocator.held == sum(not mask & 1 for mask in reached.values())
        assert sum(entry.count for entry in sets.sets.values()) == sum(
            length for _, length, _ in allocator.groups[0].records
        )

    def step(self, rnd: random.Random) -> None:
        choice, at = rnd.random(), rnd.randrange(12)
        some = rnd.choice(sorted(self.views)) if self.views else None
        room = len(self.views) < 12
        if choice < 0.45:
            self.write_base(at, keep=rnd.random() < 0.8)
        elif choice < 0.65 and some:
            self.write_view(some, at, keep=rnd.random() < 0.8)
        elif choice < 0.80 and room:
            self.snapshot()
        elif choice < 0.85 and some and room:
            self.snapshot(some)
        elif choice < 0.93 and some:
            self.delete(some, finish=rnd.random() < 0.5)
        elif some and room:
            self.restore(some)


@pytest.mark.parametrize("seed", range(12))
def test_a_block_has_other_holders_than_those_who_reach_it(seed: int) -> None:
    """A3, A4, A9 to A11, I1 to I3: after every step of a random history; and in the end all is
    free, and no record is left.
    """
    rnd = random.Random(seed)
    history = History()
    for _ in range(250):
        history.step(rnd)
        history.verify(settled=not history.fs.deletion.pending)
    for number in list(history.views):
        history.delete(number, finish=rnd.random() < 0.3)
    while drive(history.volume, history.fs.deletion.work):
        pass
    history.verify(settled=True)
    for at in list(history.base):
        history.write_base(at, keep=False)
    history.verify(settled=True)
    assert (
        history.volume.allocator.free,
        history.volume.allocator.held,
        history.volume.holders.sets,
    ) == (history.free, 0, {})


def test_the_default_holders_are_those_of_another_epoch() -> None:
    """A block's default holders are the live instances of its epoch and later ones."""
    sets = HolderSets()
    assert (sets.default(1), sets.live, sets.oldest_epoch()) == (0, 0, None)
    sets.set_instances({1: 5, 2: 7, 3: 5, 9: 9})
    assert [sets.default(epoch) for epoch in (1, 5, 6, 7, 8, 9, 10)] == [
        526,
        526,
        516,
        516,
        512,
        512,
        0,
    ]
    assert (sets.live, sets.oldest_epoch()) == (526, 5)


def test_equal_sets_have_two_numbers() -> None:
    """A set is stored once, however many records name it; unused numbers are given out again."""
    sets = HolderSets()
    number = sets.intern(False, 0, 6)
    assert sets.intern(False, 99, 6) == number  # `since` means nothing without the base
    other = sets.intern(True, 3, 6)
    assert other not in (number, sets.intern(True, 4, 6))
    sets.adjust(number, 2)
    sets.adjust(number, -2)
    assert number not in sets.sets
    assert sets.intern(False, 0, 8) == number


def test_sets_that_become_equal_lose_their_blocks() -> None:
    """Two sets may come to be the same when an instance joins or leaves; both go on standing for
    their blocks.
    """
    sets = HolderSets()
    sets.set_instances({1: 1, 2: 1, 3: 1})
    first, second = sets.intern(False, 0, 0b0010), sets.intern(False, 0, 0b0110)
    for number in (first, second):
        sets.adjust(number, 1)
    sets.leave(0b0100)
    assert [sets.holders(number) for number in (first, second)] == [2, 2]
    sets.join(1, 3)
    assert [sets.holders(number) for number in (first, second)] == [10, 10]
    again = sets.intern(False, 0, 10)
    sets.adjust(again, 1)
    for number in (first, second, again):
        sets.adjust(number, -1)
    assert sets.sets == {}
    sets.adjust(sets.intern(False, 0, 10), 1)


def test_a_record_that_names_no_set_is_believed() -> None:
    sets = HolderSets()
    with pytest.raises(CorruptBlock, match="does not exist"):
        sets.holders(5)
    sets.load(3, HolderSet(False, 0, 2, 1))
    with pytest.raises(CorruptBlock, match="fewer"):
        sets.adjust(3, -2)


def test_a_base_that_drops_what_it_does_not_reach_goes_on() -> None:
    """I3: a record that contradicts the tree is corruption, and is said to be."""
    history = History()
    history.snapshot()
    history.write_view(1, 0, keep=True)
    with pytest.raises(CorruptBlock, match="does not reach"):
        history.fs.base.owner.drop(history.views[1][0], 1, 1)
