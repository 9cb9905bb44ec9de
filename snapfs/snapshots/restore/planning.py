"""Bringing back a part of the base (C7): finding what there is to be done, a ``part_plan.Plan``.

A block that the base reaches outside of the part cannot be reached twice: what would have to share
one is made anew, a file by copying its data first.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.errors import CorruptBlock
from snapfs.filesystem import designation, reading, xattrs
from snapfs.filesystem.inode import EMPTY_SLOT, Inode
from snapfs.filesystem.names import TYPE_BITS, check_entry
from snapfs.filesystem.orphans.orphans import listed_name
from snapfs.ids import DESIGNATED_INO, ORPHANS_INO, ROOT_INO
from snapfs.snapshots.compare.comparison import DATA, HOLE, MapComparison, PointerPair, trees
from snapfs.snapshots.compare.sides import PAUSE, Side, State, Steps, ask
from snapfs.snapshots.restore.part_plan import Parent, Plan, Rebuilt
from snapfs.snapshots.restore.placing import AHEAD, Placing
from snapfs.snapshots.restore.ways import PathBack, Way, find_targets
from snapfs.store.trees.difference import BucketDifference
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.snapshots.rights import Permit
    from snapfs.store.tables.instances import Instance


class Planner:
    """Plans for some paths of a snapshot. ``copies``: inodes of the snapshot whose data was copied,
    and the orphans that have it.
    """

    def __init__(
        self,
        fs: Filesystem,
        instance: Instance,
        ways: Sequence[Way],
        permit: Permit,
        copies: dict[int, int],
    ) -> None:
        self.fs = fs
        self.instance = instance
        self.ways = ways
        self._permit = permit
        self._copies = copies

    def steps(self) -> Steps[Plan]:
        """Find what to do; what cannot be shared with the snapshot is found by comparing the trees,
        and planned anew.
        """
        fs = self.fs
        base, past = (
            Side(fs.volume, State(fs.volume.base_root)),
            Side(fs.volume, State(self.instance.root, self.instance)),
        )
        targets = yield from find_targets(self.instance, self.ways, base, past, self._permit)
        placing = Placing(fs.base, base, past, targets)
        yield from placing.steps()
        refused: set[tuple[int, bool]] = set()
        while True:
            plan = Plan(
                tops=frozenset(one.base for one in targets) - {0}, next_ino=placing.next_ino
            )
            yield from self._fill(plan, placing, targets, refused)
            comparison = MapComparison(fs.volume, plan.pairs)
            yield from ask(comparison.run)
            found = yield from self._shared_elsewhere(comparison)
            if not found - refused:
                return plan
            refused |= found

    def _fill(
        self, plan: Plan, placing: Placing, targets: list[PathBack], refused: set[tuple[int, bool]]
    ) -> Steps[None]:
        numbers = dict(placing.where)
        numbers.update((ino, ino) for ino in placing.rewritten if ino not in numbers)
        parents = {one.past: one.parent for one in targets if one.past}
        for one in targets:
            yield from self._enter(plan, placing, one, parents)
        for ino, number in numbers.items():
            if ino % AHEAD == 0:
                yield PAUSE
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
        yield from self._list_designated(
            plan, placing, {number: ino for ino, number in numbers.items() if number in plan.slots}
        )

    def _relist(self, plan: Plan, placing: Placing) -> Steps[None]:
        """Plan for the list of orphans, from which some are taken."""
        slot = yield from placing.slot(placing.base, ORPHANS_INO)
        inode = self._decode(placing.base, ORPHANS_INO, slot)
        gone = {listed_name(ino) for ino in plan.adopted}
        kept = [
            (name, value) for name, value in (yield from self._items(inode)) if name not in gone
        ]
        plan.rebuilt[ORPHANS_INO] = Rebuilt(entries=kept, blocks=2 * inode.data.blocks + 4)
        self._empty(inode, names=True)
        plan.slots[ORPHANS_INO] = inode.encode()
        plan.pairs += trees(ORPHANS_INO, slot, plan.slots[ORPHANS_INO])

    def _list_designated(
        self, plan: Plan, placing: Placing, brought: dict[int, int]
    ) -> Steps[None]:
        """Plan for the list of designated directories; ``brought`` are inodes of the snapshot, by
        their numbers in the base.
        """
        new = {
            parent.ino for parent in plan.parents.values() if designation.NAME in parent.attributes
        }
        for number, ino in brought.items():
            inode = yield from placing.inode(placing.past, ino)
            if (
                inode is not None
                and inode.is_directory
                and designation.NAME in (yield from ask(xattrs.load, inode))
            ):
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
        plan.rebuilt[DESIGNATED_INO] = Rebuilt(
            entries=list(after.items()), blocks=2 * place.data.blocks + 2 * len(new) + 4
        )
        self._empty(place, names=True)
        plan.slots[DESIGNATED_INO] = place.encode()
        plan.pairs += trees(DESIGNATED_INO, slot, plan.slots[DESIGNATED_INO])

    def _enter(
        self, plan: Plan, placing: Placing, target: PathBack, parents: dict[int, int]
    ) -> Steps[None]:
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
        value = (
            number << TYPE_BITS | stat.S_IFMT(then.mode) >> 12
            if then is not None and number is not None
            else None
        )
        present = now.ino << TYPE_BITS | stat.S_IFMT(now.mode) >> 12 if now is not None else None
        if value != present:
            plan.entries.append((directory, target.way[-1], value))

    def _make_parents(self, plan: Plan, placing: Placing, way: tuple[bytes, ...]) -> Steps[int]:
        """Plan for the directories that lead to a path; the number of the last."""
        then = yield from placing.past.at_path(b"/".join(way[:-1]))
        now = yield from placing.base.at_path(b"/".join(way[:-1]))
        above = now[-1].ino if now else ROOT_INO
        for depth in range(len(now), len(way) - 1):
            here = way[: depth + 1]
            if here not in plan.parents:
                slot = yield from placing.slot(placing.past, then[depth].ino)
                inode = self._decode(placing.past, then[depth].ino, slot)
                found = yield from ask(xattrs.load, inode)
                self._empty(inode, names=True, attribute_map=True)
                inode.parent, inode.nlink = above, 2
                plan.parents[here] = Parent(plan.next_ino, here, inode.encode(), found)
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

    def _bring(
        self,
        plan: Plan,
        placing: Placing,
        ino: int,
        number: int,
        top: int,
        refused: set[tuple[int, bool]],
    ) -> Steps[None]:
        """Plan for one inode of the snapshot, which goes to a number of the base."""
        slot = yield from placing.slot(placing.past, ino)
        before = yield from placing.slot(placing.base, number)
        inode = self._decode(placing.past, ino, slot)
        parent = placing.parent(inode, top)
        is_rewritten = ino in placing.rewritten
        is_there = ino not in placing.changed and number == ino
        if (
            is_there
            and parent == inode.parent
            and placing.links_of(inode) == inode.nlink
            and not is_rewritten
        ):
            return
        rebuilt = Rebuilt()
        if is_rewritten or (inode.is_directory and (number, False) in refused):
            rebuilt.entries = yield from self._entries(placing, inode)
            rebuilt.blocks += 2 * inode.data.blocks + 4
        elif (number, False) in refused and stat.S_ISLNK(inode.mode):
            rebuilt.target = yield from ask(reading.target, inode)
            rebuilt.blocks += 2
        if (number, True) in refused:
            rebuilt.attributes = yield from ask(xattrs.load, inode)
            rebuilt.blocks += 2 * inode.attribute_map.blocks + 2
        if (number, False) in refused and stat.S_ISREG(inode.mode):
            if ino in self._copies:
                inode.data = copy = yield from self._copied(placing, self._copies[ino])
                plan.copied.append(
                    PointerPair(DATA, HOLE, 0, copy.root_words, copy.depth, 0, number)
                )
            else:
                plan.to_copy.append(ino)
        inode.parent, inode.nlink = parent, placing.links_of(inode)
        self._empty(
            inode,
            names=rebuilt.entries is not None or rebuilt.target is not None,
            attribute_map=rebuilt.attributes is not None,
        )
        after = inode.encode()
        plan.slots[number] = after
        if rebuilt.blocks:
            plan.rebuilt[number] = rebuilt
        # Data that was copied is the base's already: it does not change hands.
        plan.pairs += trees(
            number, before, self._without_data(inode) if (number, False) in refused else after
        )
        plan.inodes += before == EMPTY_SLOT
        if number in self.fs.base.orphans:
            probes.RESTORED_IN_USE.hit()
            plan.adopted.add(number)
        if number != ino:
            probes.RESTORED_UNDER_ANOTHER_NUMBER.hit()
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
            (
                name,
                placing.where.get(value >> TYPE_BITS, value >> TYPE_BITS) << TYPE_BITS
                | value & kind,
            )
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

    def _take_away(self, plan: Plan, placing: Placing, ino: int) -> Steps[None]:
        """Plan for one inode of the base that loses its last name. What the kernel knows lives on
        without one.
        """
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

    def _shared_elsewhere(self, comparison: MapComparison) -> Steps[set[tuple[int, bool]]]:
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
