"""Bringing back a part of the base (C7): trees change hands, slots are put in place, and nothing
outside is touched.

What the part reached goes to the undo snapshot and to whoever else holds it; what only the snapshot
reached is held by the base from now on. Where a file has moved out of the part and is still there,
and where a file with a name outside has changed since, its data is copied first. All else is
shared.

Before the one synchronous stretch in which all of it happens, the undo snapshot included, there are
nothing but such copies, and they are orphans: a crash leaves the state from before or the one
after.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from snapfs.filesystem import writing, xattrs
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import CommitNeeded, NotCached
from snapfs.snapshots.compare.comparison import GENERATION, MapComparison
from snapfs.snapshots.compare.differing import Difference
from snapfs.snapshots.compare.sides import Steps, ask
from snapfs.snapshots.restore.exchanging import (
    exchange,
    keep_from_older,
    outside,
    uncovered,
)
from snapfs.snapshots.restore.part_plan import Plan, Rebuilt
from snapfs.snapshots.restore.planning import Planner
from snapfs.snapshots.restore.ways import Way
from snapfs.store.commit import costs
from snapfs.store.commit.commit import name_live
from snapfs.store.trees.difference import MapDifference

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.snapshots.rights import Permit
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import Instance, ViewRoot

P = ParamSpec("P")
T = TypeVar("T")

#: What a step yields when a commit is due before it can go on.
COMMIT: Final = object()

#: Blocks of data that are copied at once.
CHUNK: Final = 64


@dataclass(frozen=True, slots=True)
class Grafted:
    """What came of it: the undo snapshot (None: nothing differed), the inodes that changed, and
    names outside of them that did.
    """

    undo: Instance | None = None
    inodes: frozenset[int] = frozenset()
    names: frozenset[tuple[int, bytes]] = frozenset()


class Graft:
    """Makes some paths of the base what they are in a snapshot. ``run`` it until it is through;
    nobody else changes anything meanwhile.

    ``compare`` finds what differs as users see it; if nothing does, nothing happens. ``make_undo``
    gives the snapshot of these paths as they are, for the graft to publish. It is asked once no
    more can go wrong.
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
        self._copies: dict[
            int, int
        ] = {}  # inode of the snapshot -> the orphan of the base that has its data
        #: The roots of both views while they are being read; what they led to may be overwritten
        #: when they are others.
        self._reading: tuple[ViewRoot, ViewRoot] | None = None
        self._steps = self._restore()

    def run(self) -> Grafted:
        """Go on. Raises ``NotCached`` and ``CommitNeeded``, and is called again; ``NotFound``,
        ``NoSpace``, ``TooManySnapshots``.
        """
        if self._reading not in (
            None,
            self._roots,
        ):  # nobody had gone on after an error, and now all is different
            self.close()
            self._steps = self._restore()
        try:
            asked = next(self._steps)
        except StopIteration as done:
            found: Grafted = done.value
            return found
        if asked is COMMIT:
            raise CommitNeeded
        raise NotCached(asked)  # or nothing to fetch: others have their turn

    def close(self) -> None:
        """Give up."""
        self._reading = None
        self._steps.close()

    @property
    def _roots(self) -> tuple[ViewRoot, ViewRoot]:
        return self.fs.volume.base_root, self.instance.root

    @staticmethod
    def _insist(
        function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[Any, None, T]:
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
                plan = yield from Planner(
                    self.fs, self.instance, self.ways, self._permit, self._copies
                ).steps()
                if plan.is_empty:
                    return Grafted()
                if plan.to_copy:
                    self._reading = None
                    for ino in plan.to_copy:
                        yield from self._copy(ino)
                    continue
                comparison = MapComparison(self.fs.volume, plan.pairs)
                yield from ask(comparison.run)
                copied = MapComparison(self.fs.volume, plan.copied)
                yield from ask(copied.run)
                self._reading = None
                undo = yield from self._insist(self._apply, plan, comparison, copied, roots)
                if undo is not None:
                    names = frozenset(
                        (key, name) for key, name, _ in plan.entries if isinstance(key, int)
                    )
                    return Grafted(undo, frozenset(plan.slots), names)
        finally:
            self._discard_copies()

    def _differs(self) -> Steps[bool]:
        """Would anybody see a difference? Files that have got other numbers, by going back before,
        are no difference.
        """
        steps = self._compare()
        for step in steps:
            if isinstance(step, Difference):
                steps.close()
                return True
            yield step
        return False

    def _settle(self) -> Steps[None]:
        """Have two views whose states are sealed, and in which nothing waits to be freed: that
        would change them, and may share blocks.
        """
        fs = self.fs
        view = fs.view(self.instance.id)
        while True:
            while fs.orphans.is_reading or fs.orphans.is_busy((BASE_VIEW, view.id)):
                yield from self._insist(fs.orphans.work)
            unlisted = fs.base.orphans - fs.base.listed_orphans
            if not (fs.base.is_dirty or view.is_dirty or fs.volume.instances.pending or unlisted):
                return
            yield COMMIT

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
                content = b"".join(
                    (
                        yield from ask(
                            volume.load_all, "data", [pointer for _, pointer in places[:count]]
                        )
                    )
                )
                yield from self._insist(
                    self._write, number, places[0][0] * volume.geometry.block_size, content
                )
                del places[:count]

    def _new_orphan(self, size: int) -> int:
        view, volume = self.fs.base, self.fs.volume
        ino = view.plan_new()
        volume.allocator.prepare(0, metadata=volume.dirtied + costs.INODE)
        inode = Inode(
            view,
            ino,
            stat.S_IFREG,
            generation=volume.next_inode_generation & 0xFFFF_FFFF,
            now=self.fs.now(),
        )
        volume.next_inode_generation += 1
        inode.size = size
        view.add(inode)
        view.orphans.add(ino)
        return ino

    def _write(self, ino: int, offset: int, content: bytes) -> None:
        writing.write(self.fs.base.inode(ino), offset, content)

    def _discard_copies(self) -> None:
        for ino in self._copies.values():
            if ino in self.fs.base.orphans:
                self.fs.orphans.queue[BASE_VIEW, ino] = None
        self._copies.clear()

    # Doing it

    def _apply(
        self,
        plan: Plan,
        comparison: MapComparison,
        copied: MapComparison,
        roots: tuple[ViewRoot, ViewRoot],
    ) -> Instance | None:
        """Do it, whole; the undo snapshot. None when the views are not what they were at the roots
        that were planned with: plan anew.

        Raises ``NotCached`` and ``CommitNeeded`` before it has changed anything that anyone could
        see.
        """
        fs, base, volume = self.fs, self.fs.base, self.fs.volume
        directories = {key: base.inode(key) for key, _, _ in plan.entries if isinstance(key, int)}
        if (
            self._roots != roots
            or base.replaced
            or base.table.dirty
            or base.dirty.keys() - directories.keys()
        ):
            return None
        masks = uncovered(fs, comparison)
        left_out = outside(fs, comparison, plan.tops)
        volume.allocator.need(
            (block, 1)
            for block in (*comparison.only_base, *comparison.only_view, *copied.only_view)
        )
        cost = sum(one.blocks + costs.INODE for one in plan.rebuilt.values()) + (
            costs.INODE + costs.PUT
        ) * len(plan.entries)
        cost += sum(
            2 * costs.INODE + xattrs.blocks_for(base, one.attributes)
            for one in plan.parents.values()
        )
        leaves = len({ino // base.per_leaf for ino in plan.slots})
        cost += costs.INODE * leaves + costs.of_instances(volume)
        volume.allocator.prepare(0, urgency=2, metadata=volume.dirtied + cost)
        for key, name, _ in plan.entries:
            if isinstance(key, int):
                base.change(directories[key])
                directories[key].names.touch(
                    name, beside=True
                )  # the undo snapshot does not show this directory
        undo = self._make_undo()
        # Nothing can be missing from here on.
        publish_undo(volume, undo)
        for whose in left_out:
            masks[whose] = masks.get(whose, 0) | 1 << undo.id
        exchange(fs, comparison, masks)
        keep_from_older(fs, copied.only_view)
        base.replace(
            {ino: self._renewed(ino, slot, plan) for ino, slot in plan.slots.items()},
            inodes=plan.inodes,
            next_ino=plan.next_ino,
        )
        for ino, rebuilt in plan.rebuilt.items():
            self._rebuild(ino, rebuilt)
        made = {}
        for parent in plan.parents.values():
            base.replace({parent.ino: parent.slot}, inodes=0, next_ino=0)
            made[parent.way] = base.raw_inode(parent.ino)
            base.change(made[parent.way])
            made[parent.way].generation = self._generation()
            xattrs.store_new(made[parent.way], parent.attributes)
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
        for ino in [
            ino for ino in plan.orphaned if ino not in base.known
        ]:  # the kernel has forgotten them meanwhile
            fs.orphans.forgotten(base, ino)
        self._copies.clear()
        return undo

    def _generation(self) -> int:
        volume = self.fs.volume
        volume.next_inode_generation += 1
        return volume.next_inode_generation - 1 & 0xFFFF_FFFF

    def _renewed(self, ino: int, slot: bytes, plan: Plan) -> bytes:
        if ino not in plan.renewed:
            return slot
        generation = self._generation()
        return slot[: GENERATION.start] + generation.to_bytes(4, "little") + slot[GENERATION.stop :]

    def _rebuild(self, ino: int, rebuilt: Rebuilt) -> None:
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
            xattrs.store_new(inode, rebuilt.attributes)

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
    """The sealed state of the base becomes a snapshot, of which nothing that follows takes anything
    away. Cannot fail.
    """
    undo.undo = True
    undo.root, undo.epoch = volume.base_root, volume.epoch
    volume.instances.add(undo)
    volume.epoch += 1
    name_live(volume)
