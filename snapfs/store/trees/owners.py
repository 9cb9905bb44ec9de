"""What happens to blocks that a tree takes or lets go: it depends on whose tree it is. The rules of
``holders_model.py``.

Every rule here works on loaded groups and cannot fail; ``Allocator.need`` comes before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from snapfs import probes
from snapfs.errors import CorruptBlock

if TYPE_CHECKING:
    from snapfs.store.trees.block_store import BlockStore


class Owner(Protocol):
    """Takes and drops blocks on behalf of a tree."""

    def taken(self, start: int, length: int) -> None:
        """The tree now reaches these newly allocated blocks."""

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:
        """The tree no longer reaches these blocks, which were born in ``epoch``; the instances
        ``uncovered`` do not need them.
        """


class BaseOwner:
    """The base view: what it drops stays for the instances that need it, and else is free."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store

    def taken(self, start: int, length: int) -> None:
        """Blocks of the base have no record: the default rule holds."""

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:
        """Bind the blocks to the instances that still need them (A3), or free them."""
        allocator, sets = self._store.allocator, self._store.holders
        if not sets.live and not sets.sets:
            allocator.free_run(start, length)  # there are no records
            return
        for low, size, number in allocator.pieces(start, length):
            if number is None:
                mask = sets.default(epoch) & ~uncovered
            elif sets.get(number).base_held:
                mask = sets.holders(number, uncovered)
            else:
                raise CorruptBlock(f"block {low}: its record says that the base does not reach it")
            if mask:
                allocator.rebind(low, size, number, sets.intern(False, 0, mask), held=True)
            else:
                allocator.free_run(low, size)


class ViewOwner:
    """A snapshot view: what it writes is its own, what it drops loses one holder (B1 to B3)."""

    def __init__(self, store: BlockStore, instance: int) -> None:
        self._store = store
        self._bit = 1 << instance

    def taken(self, start: int, length: int) -> None:
        """New blocks are held by this instance alone."""
        self._store.allocator.rebind(
            start, length, None, self._store.holders.intern(False, 0, self._bit), held=True
        )

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:
        """Leave the blocks to their other holders; free those without any."""
        store = self._store
        allocator, sets = store.allocator, store.holders
        for low, size, number in allocator.pieces(start, length):
            entry = None if number is None else sets.get(number)
            base_held = entry is None or entry.base_held
            if entry is not None and entry.base_held and not sets.default(entry.since) & self._bit:
                # The base has got the block back, perhaps in a file of another number: what newer
                # instances cover is asked of that one.
                probes.RETURNED_BLOCK_DROPPED.hit()
                allocator.rebind(
                    low,
                    size,
                    number,
                    sets.intern(True, entry.since, entry.mask & sets.live & ~self._bit),
                    held=False,
                )
                continue
            mask = (
                sets.default(epoch) & ~uncovered
                if number is None
                else sets.holders(number, uncovered)
            ) & ~self._bit
            if base_held:
                allocator.rebind(
                    low, size, number, sets.intern(True, store.epoch, mask), held=False
                )
            elif mask:
                allocator.rebind(low, size, number, sets.intern(False, 0, mask), held=True)
            else:
                allocator.free_run(low, size)


class TreeOwner:
    """The owner of a view for one of its trees: some instances cover only a part of the volume,
    which the tree is not in (C2).
    """

    __slots__ = ("_owner", "uncovered")

    def __init__(self, owner: Owner, uncovered: int) -> None:
        self._owner = owner
        self.uncovered = uncovered

    def taken(self, start: int, length: int) -> None:
        """As the view's owner."""
        self._owner.taken(start, length)

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:
        """As the view's owner; those that do not cover the tree are not among the holders."""
        self._owner.drop(start, length, epoch, uncovered | self.uncovered)


class SystemOwner:
    """The volume's own tables: no view reaches them."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store

    def taken(self, start: int, length: int) -> None:
        """Marked in the block bitmap by allocation; nothing else."""

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:  # noqa: ARG002 - the interface's
        """Free at once."""
        self._store.allocator.free_run(start, length)


class RecordOwner(SystemOwner):
    """Record storage: the holder sets and what does not fit a group's header. Marked in both
    bitmaps (A6, A7).
    """

    def taken(self, start: int, length: int) -> None:
        """Mark the snapshot bitmap too."""
        store = self._store
        store.allocator.record(start, length, None, held=True)
        store.record_blocks += length

    def drop(self, start: int, length: int, epoch: int, uncovered: int = 0) -> None:  # noqa: ARG002 - as above
        """Free in both bitmaps."""
        self._store.record_blocks -= length
        self._store.allocator.free_run(start, length)
