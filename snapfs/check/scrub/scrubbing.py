"""Scrub: read everything that a volume reaches, metadata and data of all views, once each, and
verify every checksum (I7).

The walk is a generator: it yields what is to be read, its driver reads that (in a worker thread,
where there is an event loop) and sends back what was found. Between two yields it runs
synchronously. It goes by the newest sealed generation as it is on the device, never by what is
cached or dirty, so that a mounted volume and one at rest are scrubbed in the same way.

A mounted volume goes on changing under the walk. What it has read of a tree stays its map of that
tree, though blocks may be freed and used again meanwhile. That loses nothing: a place whose pointer
changes is written anew, and needs no scrub. But then a block may fail the checksum of an old
pointer. So one that fails is walked to anew, from the root that counts now, and is damaged only if
it fails again while no generation was sealed: the blocks of a sealed generation are overwritten
only after the next one has been sealed (I4, I5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar

from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.pointer import (
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    decode_pointers,
)
from snapfs.check.scrub import fixed
from snapfs.check.scrub.coverage import ScrubbedCoverage
from snapfs.check.scrub.fixed import Steps
from snapfs.check.scrub.frames import Frame, Item
from snapfs.check.scrub.lookup import Lookup
from snapfs.check.scrub.places import (
    BUCKETS,
    Damage,
    Tree,
    TreeKind,
    TreePlace,
    data_kind,
    root_of,
)
from snapfs.check.scrub.verifying import (
    READ_BYTES,
    Verifier,
    WantedBlocks,
)
from snapfs.check.walk.visited import Run, Visited
from snapfs.errors import CorruptBlock
from snapfs.filesystem.inode import EMPTY_SLOT, Inode
from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.instances import Instance, ViewRoot

T = TypeVar("T")

#: How often a place is walked to again while generations are being sealed, before it is done in one
#: stretch.
PATIENCE: Final = 3


class Scrub:
    """One scrub of an open volume. ``steps`` is the walk; ``damage`` grows meanwhile, and may be
    taken out of it.
    """

    def __init__(self, fs: Filesystem, *, step_bytes: int = READ_BYTES) -> None:
        self.fs = fs
        self.volume = fs.volume
        self.verifier = Verifier(fs.volume)
        self.damage: list[Damage] = []
        self.step_blocks = max(1, min(step_bytes, READ_BYTES) // fs.volume.geometry.block_size)
        self._visited = Visited(self.volume.geometry)
        self._lookup = Lookup(fs)
        self._coverage = ScrubbedCoverage(self._lookup)
        # Given out since the scrub began. The walk may come to one of them by an old pointer, so it
        # proves nothing that it has been there.
        self._fresh = Visited(self.volume.geometry)
        self.volume.allocator.watchers.append(self._given_out)

    def close(self) -> None:
        """The scrub has ended."""
        self.volume.allocator.watchers.remove(self._given_out)
        self.verifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def total_bytes(self) -> int:
        """About how much there is to read."""
        geometry, allocator = self.volume.geometry, self.volume.allocator
        written = sum(1 for entry in allocator.entries if entry.flags & ENTRY_WRITTEN)
        fixed = sum(geometry.fixed_blocks(number) for number in range(min(geometry.groups, 2)))
        fixed += (geometry.groups - 2) * geometry.fixed_blocks(1) if geometry.groups > 2 else 0
        blocks = geometry.blocks - allocator.free - fixed + 3 * written + 2 * geometry.ring_blocks
        return max(self.verifier.bytes, blocks * geometry.block_size)

    def _given_out(self, runs: list[Run]) -> None:
        self._visited.forget(runs)
        for run in runs:
            self._fresh.claim(*run)

    # The walk

    def steps(self) -> Steps[None]:
        """All of it. Damage is noted as it is met."""
        yield from self._checked(partial(fixed.rings, self.volume))
        yield from self._checked(partial(fixed.root_damage, self.volume))
        yield from self._checked(partial(fixed.copy_damage, self.volume))
        record = yield from fixed.root_record(self.volume)
        if record is not None:
            (first, second), depth, _ = record.groups
            roots = [Frame(Tree(TreeKind.GROUPS), depth, 0, (first, second))]
            roots += [
                Frame(Tree(TreeKind.SETS), 0, 0, record.sets[0]),
                Frame(Tree(TreeKind.INSTANCES), 0, 0, record.instances[0]),
            ]
            yield from self._walk(roots)
        for number, entry in enumerate(self.volume.allocator.entries):
            if entry.flags & ENTRY_WRITTEN:
                yield from self._checked(partial(fixed.group, self.volume, number))
        yield from self._view(BASE_VIEW, 0, self.volume.base_root)
        # Snapshots that are made of the base from now on show nothing that the base did not have. A
        # copy of an older one has its epoch.
        epoch = self.volume.epoch
        done: set[tuple[int, int]] = set()
        while one := self._next_instance(epoch, done):
            done.add((one.id, one.serial))
            yield from self._view(one.id, one.serial, one.root)

    def _next_instance(self, epoch: int, done: set[tuple[int, int]]) -> Instance | None:
        live = (one for one in self.volume.instances.live() if one.epoch < epoch)
        return next((one for one in live if (one.id, one.serial) not in done), None)

    def _view(self, view: int, serial: int, root: ViewRoot) -> Steps[None]:
        yield from self._walk(
            [Frame(Tree(TreeKind.INODES, view, serial), root.depth, 0, (root.first, root.second))]
        )

    def _walk(self, stack: list[Frame]) -> Steps[None]:
        """Verify everything below these pointers that has not been visited; the last frame comes
        first.
        """
        while stack:
            batch: list[Item] = []
            room = self.step_blocks
            while stack and room > 0:
                if not (items := self._items(stack[-1], room)):
                    stack.pop()
                    continue
                batch += items
                room -= sum(len(item.wanted.checksums) for item in items)
            found = yield [item.wanted for item in batch]
            below: list[Frame] = []
            for item, one in zip(batch, found, strict=True):
                if item.inner and not one.problems:
                    below += yield from self._below(item.place, item.wanted.start, one.content)
                for at in one.problems:
                    below += yield from self._failed(item, at)
            stack += reversed(below)

    def _items(self, frame: Frame, room: int) -> list[Item]:
        """The next pointers of a frame whose blocks have not been visited; none at its end."""
        tree, level = frame.tree, frame.level
        blocks = self.volume.geometry.blocks
        while True:
            inner = level > 0 or tree.kind is TreeKind.INODES
            if not (following := frame.following(1 if inner or tree.kind in BUCKETS else room)):
                return []
            slot, block, length = following
            words = frame.words
            if tree.kind in BUCKETS:
                inner = not words[2 * slot] & FLAG_BUCKET
            if not 0 < block <= blocks - length:
                self.damage.append(
                    Damage(
                        block,
                        "lies outside the volume",
                        place=TreePlace(tree, level, frame.base + slot),
                    )
                )
                continue
            runs = self._visited.claim(block, length)
            if inner and not runs and block in self._fresh:
                runs = [(block, 1)]
            items = []
            for start, count in runs:
                at = slot + start - block
                seconds = words[2 * at + 1 : 2 * (at + count) : 2]
                wanted = WantedBlocks(
                    start, [second >> CHECKSUM_SHIFT for second in seconds], inner
                )
                items.append(
                    Item(
                        TreePlace(tree, level, frame.base + at),
                        wanted,
                        [second & EPOCH_MASK for second in seconds],
                        inner,
                    )
                )
            if items:
                return items

    def _below(self, place: TreePlace, block: int, content: bytes) -> Steps[list[Frame]]:
        """The pointers in an inner block that has been verified."""
        tree = place.tree
        if tree.kind is TreeKind.INODES and place.level == 0:
            return (yield from self._trees(tree, place.number, content))
        try:
            words = decode_pointers(content)
        except CorruptBlock as exc:
            self.damage.append(Damage(block, str(exc), place=place))
            return []
        step = 1 if tree.kind in BUCKETS else -1
        return [
            Frame(tree, place.level + step, place.number << self.volume.geometry.fan_bits, words)
        ]

    def _trees(self, table: Tree, number: int, leaf: bytes) -> Steps[list[Frame]]:
        """The trees of the inodes in a block of the inode table; of a snapshot of parts, those that
        it preserves.
        """
        frames = []
        one = self.volume.instances.table.get(table.view)
        part = one if one is not None and one.covered else None
        per_leaf = self.volume.geometry.block_size // INODE_BYTES
        for slot in range(per_leaf):
            content = leaf[slot * INODE_BYTES : (slot + 1) * INODE_BYTES]
            if content == EMPTY_SLOT:
                continue
            try:
                inode = Inode.decode(self.fs.base, number * per_leaf + slot, content)
            except CorruptBlock:
                inode = None
            if inode is not None:  # what makes no sense is the checker's business
                kinds = [data_kind(inode), TreeKind.ATTRIBUTES]
                if part is not None and not (yield from self._coverage.has(part, table, inode)):
                    kinds = [TreeKind.ATTRIBUTES] if inode.ino in part.passed else []
                for kind in kinds:
                    first, second, depth = root_of(inode, kind)
                    if first:
                        frames.append(
                            Frame(
                                replace(table, kind=kind, ino=inode.ino), depth, 0, (first, second)
                            )
                        )
        return frames

    # What fails

    def _failed(self, item: Item, at: int) -> Steps[list[Frame]]:
        """A block has failed: look again at what stands there now. Notes damage; what is below, if
        it leads on.
        """
        place = replace(item.place, number=item.place.number + at)
        block = item.wanted.start + at
        looked = yield from self._settled(partial(self._lookup.look, place))
        if looked is None or (looked.block, looked.checksum) != (block, item.wanted.checksums[at]):
            # The block is no longer what it was taken for, here. It may still stand elsewhere.
            self._visited.forget([(block, 1)])
            if looked is None or not (self._visited.claim(looked.block, 1) or looked.inner):
                return []
        if looked.found.problems:
            self.damage.append(
                Damage(
                    looked.block, looked.found.problems[0], place=looked.place, epoch=looked.epoch
                )
            )
            return []
        return (
            (yield from self._below(looked.place, looked.block, looked.found.content))
            if looked.inner
            else []
        )

    def _checked(self, look: Callable[[], Steps[list[Damage]]]) -> Steps[None]:
        """Note the damage of a fixed part, once it is sure."""
        if (yield from look()):
            self.damage += yield from self._settled(look)

    def _settled(self, look: Callable[[], Steps[T]]) -> Steps[T]:
        """What a look finds while no generation is sealed."""
        for _ in range(PATIENCE):
            generation = self.volume.generation
            result = yield from look()
            if self.volume.generation == generation:
                return result
        steps = look()
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(self.verifier.read(wanted))
        except StopIteration as stop:
            settled: T = stop.value
            return settled
