"""Bringing back a part of the base (C7), second half: trees change hands, slots are put in place, and nothing outside is touched.

What the part reached goes to the undo snapshot and to whoever else holds it; what only the snapshot reached is held by the base from now
on. A block that the base reaches outside of the part cannot be reached twice: where a file has moved out of the part and is still there,
and where a file with a name outside has changed since, its data is copied first. All else is shared.

Before the one synchronous stretch in which all of it happens, the undo snapshot included, there are nothing but such copies, and they are
orphans: a crash leaves the state from before or the one after.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from snapfs.errors import CommitNeeded, CorruptBlock, NotCached
from snapfs.filesystem import attributes, data, designation
from snapfs.filesystem.inode import EMPTY_SLOT, Inode
from snapfs.filesystem.names import TYPE_BITS, check_entry
from snapfs.filesystem.orphans import listed_name
from snapfs.ids import BASE_VIEW, DESIGNATED_INO, ORPHANS_INO, ROOT_INO
from snapfs.snapshots.comparison import DATA, HOLE, Comparison, Pair, trees
from snapfs.snapshots.diff import Difference
from snapfs.snapshots.exchanging import exchange, keep_from_older, outside, uncovered
from snapfs.snapshots.placing import Placing
from snapfs.snapshots.sides import Side, State, Steps, ask
from snapfs.snapshots.ways import Target, Way, find_targets
from snapfs.store.commit import name_live
from snapfs.store.difference import BucketDifference, MapDifference
from snapfs.store.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.snapshots.rights import Permit
    from snapfs.store.instances import Instance, ViewRoot
    from snapfs.store.volume import Volume

P = ParamSpec("P")
T = TypeVar("T")

#: What a step yields when a commit is due before it can go on.
COMMIT: Final = object()

#: Blocks of data that are copied at once.
CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Grafted:
    """What came of it: the undo snapshot (None: nothing differed), the inodes that changed, and names outside of them that did."""

    undo: Instance | None = None
    inodes: frozenset[int] = frozenset()
    names: frozenset[tuple[int, bytes]] = frozenset()


@dataclass(slots=True)
class _Rebuilt:
    """An inode with something that cannot be shared: names that lead elsewhere, a target or attributes whose blocks others have."""

    entries: list[tuple[bytes, int]] | None = None
    target: bytes | None = None
    attributes: dict[bytes, bytes] | None = None
    blocks: int = 0


@dataclass(slots=True)
class _Parent:
    """A directory on the way that the base has no more: it is made again, with the one name that is needed."""

    ino: int
    way: tuple[bytes, ...]
    slot: bytes
    attributes: dict[bytes, bytes]


@dataclass(slots=True)
class _Plan:
    """What is going to be done. ``slots`` by their numbers in the base, ``pairs`` the trees that change hands."""

    slots: dict[int, bytes] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    rebuilt: dict[int, _Rebuilt] = field(default_factory=dict)
    orphaned: set[int] = field(default_factory=set)
    adopted: set[int] = field(default_factory=set)
    #: Numbers whose generation must be another one, for what the kernel remembers of them.
    renewed: set[int] = field(default_factory=set)
    to_copy: list[int] = field(default_factory=list)
    #: The trees of what was copied.
    copied: list[Pair] = field(default_factory=list)
    parents: dict[tuple[bytes, ...], _Parent] = field(default_factory=dict)
    #: Directory (or the path of one that is made), name, what stands there then (None: nothing).
    entries: list[tuple[int | tuple[bytes, ...], bytes, int | None]] = field(default_factory=list)
    #: What stands at the paths now.
    tops: frozenset[int] = frozenset()
    inodes: int = 0
    next_ino: int = 0

    @property
    def is_empty(self) -> bool:
        """Does nothing differ?"""
        return not (self.slots or self.entries or self.parents)


class Graft:
    """Makes some paths of the base what they are in a snapshot. ``run`` it until it is through; nobody else changes anything meanwhile.

    ``compare`` finds what differs as users see it; if nothing does, nothing happens. ``make_undo`` gives the snapshot of these paths as
    they are, for the graft to publish. It is asked once no more can go wrong.
    """

    def __init__(
        self,
        fs: Filesystem,
        instance: Instance,
        ways: Sequence[Way],
        compare: Callable[[], Steps[None]],
        make_undo: Callable[[], Instance],
        permit: Permit,
    ) -> None:
        self.fs = fs
        self.instance = instance
        self.ways = ways
        self._compare = compare
        self._make_undo = make_undo
        self._permit = permit
        self._copies: dict[int, int] = {}  # inode of the snapshot -> the orphan of the base that has its data
        #: The roots of both views while they are being read; what they led to may be overwritten when they are others.
        self._reading: tuple[ViewRoot, ViewRoot] | None = None
        self._steps = self._restore()

    def run(self) -> Grafted:
        """Go on. Raises ``NotCached`` and ``CommitNeeded``, and is called again; ``NotFound``, ``NoSpace``, ``TooManySnapshots``."""
        if self._reading not in (None, self._roots):  # nobody had gone on after an error, and now all is different
            self.close()
            self._steps = self._restore()
        while True:
            try:
                asked = next(self._steps)
            except StopIteration as done:
                found: Grafted = done.value
                return found
            if asked is COMMIT:
                raise CommitNeeded
            if asked:
                raise NotCached(asked)

    def close(self) -> None:
        """Give up."""
        self._reading = None
        self._steps.close()

    @property
    def _roots(self) -> tuple[ViewRoot, ViewRoot]:
        return self.fs.volume.base_root, self.instance.root

    @staticmethod
    def _insist(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Generator[Any, None, T]:
        """The result of a function of the core, whatever it needs."""
        while True:
            try:
                return function(*args, **kwargs)
            except NotCached as exc:
                yield list(exc.wants)
            except CommitNeeded:
                yield COMMIT

    def _restore(self) -> Steps[Grafted]:
        try:
            while True:
                self._reading = None
                yield from self._settle()
                self._reading = self._roots
                if not self._copies and not (yield from self._differs()):
                    return Grafted()
                roots = self._roots
                plan = yield from self._plan()
                if plan.is_empty:
                    return Grafted()
                if plan.to_copy:
                    self._reading = None
                    for ino in plan.to_copy:
                        yield from self._copy(ino)
                    continue
                comparison = Comparison(self.fs.volume, plan.pairs)
                yield from ask(comparison.run)
                copied = Comparison(self.fs.volume, plan.copied)
                yield from ask(copied.run)
                self._reading = None
                undo = yield from self._insist(self._apply, plan, comparison, copied, roots)
                if undo is not None:
                    names = frozenset((key, name) for key, name, _ in plan.entries if isinstance(key, int))
                    return Grafted(undo, frozenset(plan.slots), names)
        finally:
            self._discard_copies()

    def _differs(self) -> Steps[bool]:
        """Would anybody see a difference? Files that have got other numbers, by going back before, are no difference."""
        steps = self._compare()
        for step in steps:
            if isinstance(step, Difference):
                steps.close()
                return True
            yield step
        return False

    def _settle(self) -> Steps[None]:
        """Have two views whose states are sealed, and in which nothing waits to be freed: that would change them, and may share blocks."""
        fs = self.fs
        view = fs.view(self.instance.id)
        while True:
            while fs.orphans.is_reading or fs.orphans.is_busy((BASE_VIEW, view.id)):
                yield from self._insist(fs.orphans.work)
            if not (
                fs.base.is_dirty or view.is_dirty or fs.volume.instances.pending or fs.base.orphans - fs.base.listed_orphans
            ):  # fmt: skip
                return
            yield COMMIT

    # Planning

    def _plan(self) -> Steps[_Plan]:
        """Find what to do; what cannot be shared with the snapshot is found by comparing the trees, and planned anew."""
        fs = self.fs
        base, past = Side(fs.volume, State(fs.volume.base_root)), Side(fs.volume, State(self.instance.root, self.instance))
        targets = yield from find_targets(self.instance, self.ways, base, past, self._permit)
        placing = Placing(fs.base, base, past, targets)
        yield from placing.steps()
        refused: set[tuple[int, bool]] = set()
        while True:
            plan = _Plan(tops=frozenset(one.base for one in targets) - {0}, next_ino=placing.next_ino)
            yield from self._fill(plan, placing, targets, refused)
            comparison = Comparison(fs.volume, plan.pairs)
            yield from ask(comparison.run)
            found = yield from self._shared_elsewhere(comparison)
            if not found - refused:
                return plan
            refused |= found

    def _fill(self, plan: _Plan, placing: Placing, targets: list[Target], refused: set[tuple[int, bool]]) -> Steps[None]:
        numbers = dict(placing.where)
        numbers.update((ino, ino) for ino in placing.rewritten if ino not in numbers)
        parents = {one.past: one.parent for one in targets if one.past}
        for one in targets:
            yield from self._enter(plan, placing, one, parents)
        for ino, number in numbers.items():
            if ino not in placing.as_they_are:
                yield from self._bring(plan, placing, ino, number, parents.get(ino, 0), refused)
        for ino in placing.removed:
            yield from self._take_away(plan, placing, ino)
        for ino, links in placing.links.items():
            slot = yield from placing.slot(placing.base, ino)
            inode = self._decode(placing.base, ino, slot)
            if inode.nlink != links:
                inode.nlink, inode.ctime = links, self.fs.now()
                plan.slots[ino] = inode.encode()
        for ino in self._copies.values():
            plan.slots[ino] = EMPTY_SLOT
            plan.adopted.add(ino)
            plan.inodes -= 1
        if plan.adopted:
            yield from self._relist(plan, placing)
        yield from self._list_designated(plan, placing, {number: ino for ino, number in numbers.items() if number in plan.slots})

    def _relist(self, plan: _Plan, placing: Placing) -> Steps[None]:
        """Plan for the list of orphans, from which some are taken."""
        slot = yield from placing.slot(placing.base, ORPHANS_INO)
        inode = self._decode(placing.base, ORPHANS_INO, slot)
        gone = {listed_name(ino) for ino in plan.adopted}
        kept = [(name, value) for name, value in (yield from self._items(inode)) if name not in gone]
        plan.rebuilt[ORPHANS_INO] = _Rebuilt(entries=kept, blocks=2 * inode.data.blocks + 4)
        self._empty(inode, names=True)
        plan.slots[ORPHANS_INO] = inode.encode()
        plan.pairs += trees(ORPHANS_INO, slot, plan.slots[ORPHANS_INO])

    def _list_designated(self, plan: _Plan, placing: Placing, brought: dict[int, int]) -> Steps[None]:
        """Plan for the list of designated directories; ``brought`` are inodes of the snapshot, by their numbers in the base."""
        new = {parent.ino for parent in plan.parents.values() if designation.NAME in parent.attributes}
        for number, ino in brought.items():
            inode = yield from placing.inode(placing.past, ino)
            if inode is not None and inode.is_directory and designation.NAME in (yield from ask(attributes.load, inode)):
                new.add(number)
        slot = yield from placing.slot(placing.base, DESIGNATED_INO)
        if slot == EMPTY_SLOT and not new:
            return
        if slot == EMPTY_SLOT:
            place = designation.new_list(self.fs.base, self.fs.now())
            plan.inodes += 1
            plan.renewed.add(DESIGNATED_INO)
        else:
            place = self._decode(placing.base, DESIGNATED_INO, slot)
        before = dict((yield from self._items(place)))
        changed = {designation.label(ino) for ino in plan.slots}
        after = {name: value for name, value in before.items() if name not in changed}
        after.update((designation.label(ino), ino << TYPE_BITS | stat.S_IFDIR >> 12) for ino in new)
        if after == before:
            return
        plan.rebuilt[DESIGNATED_INO] = _Rebuilt(entries=list(after.items()), blocks=2 * place.data.blocks + 2 * len(new) + 4)
        self._empty(place, names=True)
        plan.slots[DESIGNATED_INO] = place.encode()
        plan.pairs += trees(DESIGNATED_INO, slot, plan.slots[DESIGNATED_INO])

    def _enter(self, plan: _Plan, placing: Placing, target: Target, parents: dict[int, int]) -> Steps[None]:
        """What stands at a path, and the directories on the way to it that are missing."""
        number = placing.where[target.past] if target.past else None
        directory: int | tuple[bytes, ...] = target.parent
        if not target.parent:
            if number is None:
                return  # there is no such place, and nothing was there
            parents[target.past] = yield from self._make_parents(plan, placing, target.way)
            directory = target.way[:-1]
        then = now = None
        if target.past:
            then = yield from placing.inode(placing.past, target.past)
        if target.base:
            now = yield from placing.inode(placing.base, target.base)
        value = number << TYPE_BITS | stat.S_IFMT(then.mode) >> 12 if then is not None and number is not None else None
        present = now.ino << TYPE_BITS | stat.S_IFMT(now.mode) >> 12 if now is not None else None
        if value != present:
            plan.entries.append((directory, target.way[-1], value))

    def _make_parents(self, plan: _Plan, placing: Placing, way: tuple[bytes, ...]) -> Steps[int]:
        """Plan for the directories that lead to a path; the number of the last."""
        then = yield from placing.past.at_path(b"/".join(way[:-1]))
        now = yield from placing.base.at_path(b"/".join(way[:-1]))
        above = now[-1].ino if now else ROOT_INO
        for depth in range(len(now), len(way) - 1):
            here = way[: depth + 1]
            if here not in plan.parents:
                slot = yield from placing.slot(placing.past, then[depth].ino)
                inode = self._decode(placing.past, then[depth].ino, slot)
                found = yield from ask(attributes.load, inode)
                self._empty(inode, names=True, attribute_map=True)
                inode.parent, inode.nlink = above, 2
                plan.parents[here] = _Parent(plan.next_ino, here, inode.encode(), found)
                value = plan.next_ino << TYPE_BITS | stat.S_IFDIR >> 12
                plan.entries.append((way[:depth] if depth > len(now) else above, way[depth], value))
                plan.next_ino += 1
                plan.inodes += 1
            above = plan.parents[here].ino
        return above

    def _decode(self, side: Side, ino: int, slot: bytes) -> Inode:
        """An inode of one's own, to be changed and encoded."""
        inode = Inode.decode(side.view, ino, slot)
        if inode is None:
            raise CorruptBlock(f"inode {ino} does not exist")
        return inode

    @staticmethod
    def _empty(inode: Inode, *, names: bool = False, attribute_map: bool = False) -> None:
        if names:
            inode.data = inode.new_tree()
        if attribute_map:
            inode.attribute_map = BlockMap(inode.view.volume, inode.view.owner, leaf_kind="blob")
            inode.attribute_bytes = 0

    def _bring(self, plan: _Plan, placing: Placing, ino: int, number: int, top: int, refused: set[tuple[int, bool]]) -> Steps[None]:
        """Plan for one inode of the snapshot, which goes to a number of the base."""
        slot = yield from placing.slot(placing.past, ino)
        before = yield from placing.slot(placing.base, number)
        inode = self._decode(placing.past, ino, slot)
        parent = placing.parent(inode, top)
        is_rewritten = ino in placing.rewritten
        is_there = ino not in placing.changed and number == ino
        if is_there and parent == inode.parent and placing.links_of(inode) == inode.nlink and not is_rewritten:
            return
        rebuilt = _Rebuilt()
        if is_rewritten or (inode.is_directory and (number, False) in refused):
            rebuilt.entries = yield from self._entries(placing, inode)
            rebuilt.blocks += 2 * inode.data.blocks + 4
        elif (number, False) in refused and stat.S_ISLNK(inode.mode):
            rebuilt.target = yield from ask(data.target, inode)
            rebuilt.blocks += 2
        if (number, True) in refused:
            rebuilt.attributes = yield from ask(attributes.load, inode)
            rebuilt.blocks += 2 * inode.attribute_map.blocks + 2
        if (number, False) in refused and stat.S_ISREG(inode.mode):
            if ino in self._copies:
                inode.data = copy = yield from self._copied(placing, self._copies[ino])
                plan.copied.append(Pair(DATA, HOLE, 0, copy.root_words, copy.depth, 0, number))
            else:
                plan.to_copy.append(ino)
        inode.parent, inode.nlink = parent, placing.links_of(inode)
        self._empty(inode, names=rebuilt.entries is not None or rebuilt.target is not None, attribute_map=rebuilt.attributes is not None)
        after = inode.encode()
        plan.slots[number] = after
        if rebuilt.blocks:
            plan.rebuilt[number] = rebuilt
        # Data that was copied is the base's already: it does not change hands.
        plan.pairs += trees(number, before, self._without_data(inode) if (number, False) in refused else after)
        plan.inodes += before == EMPTY_SLOT
        if number in self.fs.base.orphans:
            plan.adopted.add(number)
        if number != ino or (number in self.fs.base.known and stat.S_ISREG(inode.mode)):
            plan.renewed.add(number)

    def _without_data(self, inode: Inode) -> bytes:
        kept = inode.data
        inode.data = inode.new_tree()
        slot = inode.encode()
        inode.data = kept
        return slot

    def _copied(self, placing: Placing, ino: int) -> Steps[BlockMap]:
        slot = yield from placing.slot(placing.base, ino)
        return self._decode(placing.base, ino, slot).map

    def _entries(self, placing: Placing, directory: Inode) -> Steps[list[tuple[bytes, int]]]:
        """What stands in a directory of the snapshot, with the numbers of the base."""
        kind = (1 << TYPE_BITS) - 1
        return [
            (name, placing.where.get(value >> TYPE_BITS, value >> TYPE_BITS) << TYPE_BITS | value & kind)
            for name, value in (yield from self._items(directory))
        ]

    @staticmethod
    def _items(directory: Inode) -> Steps[list[tuple[bytes, int]]]:
        walk = BucketDifference(None, directory.names)
        found: list[tuple[bytes, int]] = []
        while (items := (yield from ask(walk.next))) is not None:
            for name, _, value in items:
                check_entry(directory.ino, name, value)
                found.append((name, value))
        return found

    def _take_away(self, plan: _Plan, placing: Placing, ino: int) -> Steps[None]:
        """Plan for one inode of the base that loses its last name. What the kernel knows lives on without one."""
        before = yield from placing.slot(placing.base, ino)
        after = EMPTY_SLOT
        if ino in self.fs.base.known:
            inode = self._decode(placing.base, ino, before)
            if inode.is_directory:
                self._empty(inode, names=True)
                inode.size = 0
            inode.nlink = 0
            after = inode.encode()
            plan.orphaned.add(ino)
            if inode.is_directory:
                plan.pairs += trees(ino, before, after)
        else:
            plan.pairs += trees(ino, before, after)
            plan.inodes -= 1
        plan.slots[ino] = after

    def _shared_elsewhere(self, comparison: Comparison) -> Steps[set[tuple[int, bool]]]:
        """The trees that have a block that the base reaches elsewhere."""
        found: set[tuple[int, bool]] = set()
        allocator, sets = self.fs.volume.allocator, self.fs.volume.holders

        def holders(block: int) -> int | None:
            allocator.need([(block, 1)])
            return allocator.pieces(block, 1)[0][2]

        for block, whose in comparison.whose_then.items():
            if block not in comparison.only_base and whose not in found:
                number = yield from ask(holders, block)
                if number is None or sets.get(number).base_held:
                    found.add(whose)
        return found

    # Copying

    def _copy(self, ino: int) -> Steps[None]:
        """Copy the data of a file of the snapshot into an orphan of the base."""
        fs, volume = self.fs, self.fs.volume
        view = fs.view(self.instance.id)
        source = yield from ask(view.raw_inode, ino)
        number = self._copies[ino] = yield from self._insist(self._new_orphan, source.size)
        walk = MapDifference(volume, (0, 0, 0), (*source.map.root_words, source.map.depth))
        while (found := (yield from ask(walk.next))) is not None:
            places = [(index, pointer) for index, _, pointer in found]
            while places:
                count = 1
                while count < min(CHUNK, len(places)) and places[count][0] == places[0][0] + count:
                    count += 1
                content = b"".join((yield from ask(volume.load_all, "data", [pointer for _, pointer in places[:count]])))
                yield from self._insist(self._write, number, places[0][0] * volume.geometry.block_size, content)
                del places[:count]

    def _new_orphan(self, size: int) -> int:
        view, volume = self.fs.base, self.fs.volume
        ino = view.plan_new()
        volume.allocator.prepare(0, metadata=volume.dirtied + 8)
        inode = Inode(view, ino, stat.S_IFREG, generation=volume.next_inode_generation & 0xFFFF_FFFF, now=self.fs.now())
        volume.next_inode_generation += 1
        inode.size = size
        view.add(inode)
        view.orphans.add(ino)
        return ino

    def _write(self, ino: int, offset: int, content: bytes) -> None:
        data.write(self.fs.base.inode(ino), offset, content)

    def _discard_copies(self) -> None:
        for ino in self._copies.values():
            if ino in self.fs.base.orphans:
                self.fs.orphans.queue[BASE_VIEW, ino] = None
        self._copies.clear()

    # Doing it

    def _apply(self, plan: _Plan, comparison: Comparison, copied: Comparison, roots: tuple[ViewRoot, ViewRoot]) -> Instance | None:
        """Do it, whole; the undo snapshot. None when the views are not what they were at the roots that were planned with: plan anew.

        Raises ``NotCached`` and ``CommitNeeded`` before it has changed anything that anyone could see.
        """
        fs, base, volume = self.fs, self.fs.base, self.fs.volume
        directories = {key: base.inode(key) for key, _, _ in plan.entries if isinstance(key, int)}
        if self._roots != roots or base.replaced or base.table.dirty or base.dirty.keys() - directories.keys():
            return None
        masks = uncovered(fs, comparison)
        left_out = outside(fs, comparison, plan.tops)
        volume.allocator.need((block, 1) for block in (*comparison.only_base, *comparison.only_view, *copied.only_view))
        blocks = sum(one.blocks for one in plan.rebuilt.values()) + 6 * len(plan.parents) + 3 * len(plan.entries)
        blocks += sum(attributes.blocks_for(base, one.attributes) for one in plan.parents.values())
        leaves = len({ino // base.per_leaf for ino in plan.slots})
        volume.allocator.prepare(0, urgency=2, metadata=volume.dirtied + blocks + 2 * leaves + 16)
        for key, name, _ in plan.entries:
            if isinstance(key, int):
                base.change(directories[key])
                directories[key].names.touch(name, beside=True)  # the undo snapshot does not show this directory
        undo = self._make_undo()
        # Nothing can be missing from here on.
        publish_undo(volume, undo)
        for whose in left_out:
            masks[whose] = masks.get(whose, 0) | 1 << undo.id
        exchange(fs, comparison, masks)
        keep_from_older(fs, copied.only_view)
        base.replace({ino: self._renewed(ino, slot, plan) for ino, slot in plan.slots.items()}, inodes=plan.inodes, next_ino=plan.next_ino)
        for ino, rebuilt in plan.rebuilt.items():
            self._rebuild(ino, rebuilt)
        made = {}
        for parent in plan.parents.values():
            base.replace({parent.ino: parent.slot}, inodes=0, next_ino=0)
            made[parent.way] = base.raw_inode(parent.ino)
            base.change(made[parent.way])
            made[parent.way].generation = self._generation()
            attributes.store_new(made[parent.way], parent.attributes)
        now = fs.now()
        for key, name, value in plan.entries:
            directory = directories[key] if isinstance(key, int) else made[key]
            self._enter_name(directory, name, value)
            if isinstance(key, int):
                directory.mtime = directory.ctime = now
            directory.count_size()
        base.orphans -= plan.adopted
        base.listed_orphans -= plan.adopted
        base.orphans |= plan.orphaned
        self._copies.clear()
        return undo

    def _generation(self) -> int:
        volume = self.fs.volume
        volume.next_inode_generation += 1
        return volume.next_inode_generation - 1 & 0xFFFF_FFFF

    def _renewed(self, ino: int, slot: bytes, plan: _Plan) -> bytes:
        if ino not in plan.renewed:
            return slot
        generation = self._generation()
        return slot[:80] + generation.to_bytes(4, "little") + slot[84:]

    def _rebuild(self, ino: int, rebuilt: _Rebuilt) -> None:
        base = self.fs.base
        inode = base.raw_inode(ino)
        base.change(inode)
        if rebuilt.entries is not None:
            for name, value in rebuilt.entries:
                inode.names.put(name, value)
            inode.count_size()
        if rebuilt.target is not None:
            inode.map.writable(0, 0)[: len(rebuilt.target)] = rebuilt.target
        if rebuilt.attributes is not None:
            attributes.store_new(inode, rebuilt.attributes)

    @staticmethod
    def _enter_name(directory: Inode, name: bytes, value: int | None) -> None:
        before = directory.names.get(name)
        directory.nlink += _is_directory(value) - _is_directory(before)
        if value is not None:
            directory.names.put(name, value)
        else:
            directory.names.pop_all([name])


def _is_directory(value: int | None) -> int:
    return int(value is not None and value & (1 << TYPE_BITS) - 1 == stat.S_IFDIR >> 12)


def publish_undo(volume: Volume, undo: Instance) -> None:
    """The sealed state of the base becomes a snapshot, of which nothing that follows takes anything away. Cannot fail."""
    undo.undo = True
    undo.root, undo.epoch = volume.base_root, volume.epoch
    volume.instances.add(undo)
    volume.epoch += 1
    name_live(volume)
