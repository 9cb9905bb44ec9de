"""Views: one file tree each, the base or a snapshot's, with the same code. A view has an inode
table and gives out its numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from snapfs.blocks.inode import INODE_BYTES
from snapfs.errors import NoSpace, ReadOnly, StaleInode
from snapfs.filesystem.inode import EMPTY_SLOT, Inode, content_blocks
from snapfs.filesystem.number_set import NumberSet
from snapfs.filesystem.rules import Rules
from snapfs.ids import BASE_VIEW, FIRST_INO, INO_LIMIT
from snapfs.store.commit.costs import FREED, INODE
from snapfs.store.tables.instances import Instance, ViewRoot
from snapfs.store.tables.parts import above
from snapfs.store.trees.owners import (
    BaseOwner,
    Owner,
    ViewOwner,
)
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.sealing import Sealing

#: Decoded inodes that are kept at least, over all views.
INODES_KEPT = 5120

#: Names hash to multiples of this: 62 bits, so that directory cookies fit a signed 64-bit number
#: with room for the ends.
HASH_UNIT = 4

#: Leaves of the inode table that one search for unused numbers looks at.
SEARCH_LEAVES = 8


class InodeCache:
    """Clean inodes of all views by ``view id << 48 | number``; two generations, as in the block
    cache.
    """

    def __init__(self, capacity: int = INODES_KEPT) -> None:
        self.capacity = capacity
        self._young: dict[int, Inode] = {}
        self._old: dict[int, Inode] = {}

    def get(self, key: int) -> Inode | None:
        """The inode, None when it is not here."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: int, inode: Inode) -> None:
        """Keep an inode."""
        self._young[key] = inode
        if len(self._young) > self.capacity:
            self._old = self._young
            self._young = {}

    def forget(self, key: int) -> None:
        """The number stands for something else now."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def forget_view(self, view: int) -> None:
        """Forget all inodes of a view."""
        for generation in (self._young, self._old):
            for key in [key for key in generation if key >> 48 == view]:
                del generation[key]


class View:
    """A file tree. ``content`` counts the blocks of its inodes as they were sealed last.

    ``known`` are the inodes that the kernel holds, ``orphans`` those without a name that are not
    freed yet.
    """

    def __init__(
        self,
        volume: Volume,
        cache: InodeCache,
        root: ViewRoot,
        refresh: Callable[[Inode], None],
        instance: Instance | None = None,
        rules: Rules | None = None,
    ) -> None:
        self.volume = volume
        self._rules = rules or Rules()
        self.cache = cache
        self._refresh = refresh
        self.instance = instance
        self.id = instance.id if instance else BASE_VIEW
        self.owner: Owner = ViewOwner(volume, self.id) if instance else BaseOwner(volume)
        #: In a view of parts: what each directory above them shows, inodes by their names.
        self.above: dict[int, dict[bytes, int]] = above(instance.parts) if instance else {}
        self.known = NumberSet()
        self.orphans: set[int] = set()
        self.listed_orphans: set[int] = set()
        #: Those orphans that are directories and still have names; and whether there were any when
        #: the view was sealed last.
        self.emptying: set[int] = set()
        self.was_emptying = False
        self.dirty: dict[int, Inode | None] = {}
        #: Slots that were put in place as they are, some of them empty.
        self.replaced: dict[int, bytes] = {}
        self.per_leaf = volume.geometry.block_size // INODE_BYTES
        self._unused: list[int] = []
        self._searched = FIRST_INO
        self._last_hash = b"", xxh3_64_intdigest(b"", volume.hash_seed) & -HASH_UNIT
        self._begin_at(root)

    def set_root(self, root: ViewRoot) -> None:
        """Show from now on what is at this root; nothing of the view may be dirty."""
        self.volume.account.changes += 1
        self._begin_at(root)

    def _begin_at(self, root: ViewRoot) -> None:
        self.table = BlockMap(
            self.volume, self.owner, (root.first, root.second), root.depth, root.blocks, "inodes"
        )
        self.inodes = root.inodes
        self.next_ino = max(root.next_ino, FIRST_INO)
        self.content = root.content
        self._unused = []
        self._searched = FIRST_INO
        self.cache.forget_view(self.id)

    @property
    def root(self) -> ViewRoot:
        """Where the view begins; its table must be clean."""
        return ViewRoot(
            *self.table.root_words,
            self.table.depth,
            self.table.blocks,
            self.inodes,
            self.next_ino,
            self.content,
        )

    @property
    def writable(self) -> bool:
        """May users change what it shows?"""
        return self.instance is None or not (
            self.instance.facts.read_only or self._rules.read_only or self.id in self._rules.fixed
        )

    def check_writable(self) -> None:
        """Raises ``ReadOnly`` unless users may change what it shows."""
        self.volume.check_writable()
        if not self.writable:
            if self.id in self._rules.fixed:
                raise ReadOnly(
                    "the snapshot has a mount of its own, and does not change until "
                    "that is unmounted"
                )
            if self._rules.read_only:
                raise ReadOnly("snapshots are read-only in this mount (option 'snapro')")
            raise ReadOnly(
                "the snapshot is read-only: 'snapfs snapshot set ... --writable' lets it be changed"
            )

    @property
    def hides_set_id(self) -> bool:
        """Are set-id bits and capabilities of its files hidden from users? See ``Rules``."""
        return self.instance is not None and not self._rules.set_id

    @property
    def hides_devices(self) -> bool:
        """Are the numbers of devices hidden?"""
        return self.instance is not None and not self._rules.devices

    def name_hash(self, name: bytes) -> int:
        """Where a name stands in its directory."""
        last, hashed = self._last_hash
        if name is not last:  # one change asks several times
            hashed = xxh3_64_intdigest(name, self.volume.hash_seed) & -HASH_UNIT
            self._last_hash = name, hashed
        return hashed

    # Inodes

    def inode(self, ino: int) -> Inode:
        """The inode of that number, which may be changed. Raises ``NotCached``, ``StaleInode`` when
        there is none.
        """
        found = self.raw_inode(ino)
        if found.coverage != self.volume.instances.version:
            self._refresh(found)
        return found

    def raw_inode(self, ino: int) -> Inode:
        """The same, to look at only."""
        if ino in self.dirty:
            found = self.dirty[ino]
        else:
            found = self.cache.get(self.id << 48 | ino)
            if found is None:
                slot = self.replaced.get(ino)
                if slot is None:
                    leaf = self.table.node(0, ino // self.per_leaf)
                    at = ino % self.per_leaf * INODE_BYTES
                    slot = leaf[at : at + INODE_BYTES] if leaf is not None else EMPTY_SLOT
                found = Inode.decode(self, ino, slot)
                if found is not None:
                    self.cache.put(self.id << 48 | ino, found)
        if found is None:
            raise StaleInode(f"inode {ino} does not exist")
        return found

    def change(self, inode: Inode) -> None:
        """The inode, or one of its trees, is about to be changed: the next commit writes it."""
        self.volume.account.changes += 1
        if inode.ino not in self.dirty:
            self.dirty[inode.ino] = inode
            self.volume.dirtied += INODE

    def plan_new(self) -> int:
        """An unused inode number, which ``add`` takes. May raise ``NotCached``."""
        if (
            not self._unused
            and self.next_ino - self.inodes > max(1024, self.inodes)
            and self._searched < self.next_ino
        ):
            self._search()
        if self._unused:
            return self._unused[-1]
        if self.next_ino >= INO_LIMIT:
            raise NoSpace("there are no more inode numbers")
        return self.next_ino

    def _search(self) -> None:
        """Find numbers that were freed before this mount, some leaves at a time."""
        first = self._searched // self.per_leaf
        leaves = [
            (index, self.table.node(0, index))
            for index in range(
                first, min(first + SEARCH_LEAVES, -(-self.next_ino // self.per_leaf))
            )
        ]
        for index, leaf in leaves:
            for slot in range(self.per_leaf - 1, -1, -1):
                ino = index * self.per_leaf + slot
                at = slot * INODE_BYTES
                is_free = leaf is None or leaf[at : at + INODE_BYTES] == EMPTY_SLOT
                is_changed = ino in self.dirty or ino in self.replaced
                if (
                    is_free
                    and FIRST_INO <= ino < self.next_ino
                    and not is_changed
                    and ino not in self.known
                ):
                    self._unused.append(ino)
        self._searched = (first + SEARCH_LEAVES) * self.per_leaf

    def add(self, inode: Inode) -> None:
        """A new inode with a number of ``plan_new``, or a reserved one."""
        self.volume.account.changes += 1
        if self._unused and self._unused[-1] == inode.ino:
            self._unused.pop()
        elif inode.ino >= self.next_ino:
            self.next_ino = inode.ino + 1
        self.inodes += 1
        self.cache.forget(self.id << 48 | inode.ino)
        self.dirty[inode.ino] = inode
        self.volume.dirtied += INODE

    def free(self, inode: Inode) -> None:
        """The inode is gone. Its trees are empty."""
        self.volume.account.changes += 1
        self.inodes -= 1
        self.cache.forget(self.id << 48 | inode.ino)
        self.dirty[inode.ino] = None
        self.orphans.discard(inode.ino)
        self._unused.append(inode.ino)
        self.volume.dirtied += FREED

    def replace(self, slots: dict[int, bytes], *, inodes: int, next_ino: int) -> None:
        """Put slots in place as they are, some of them empty; ``inodes`` is how many more there are
        then. None of them may be dirty.

        Whoever calls it has seen to the blocks that their trees reached and reach.
        """
        self.volume.account.changes += 1
        for ino in slots:
            self.cache.forget(self.id << 48 | ino)
        self.replaced.update(slots)
        self.inodes += inodes
        self.next_ino = max(self.next_ino, next_ino)
        self._unused = [ino for ino in self._unused if ino not in slots]
        self.volume.dirtied += INODE * len({ino // self.per_leaf for ino in slots})

    # Commit

    @property
    def is_dirty(self) -> bool:
        """Is there anything to seal?"""
        return bool(self.dirty or self.replaced or self.table.dirty)

    def plan_seal(self) -> int:
        """Make the leaves of the inode table writable that dirty inodes lie in; the blocks that
        ``seal`` allocates, at most.
        """
        table = self.table
        changed = self.dirty.keys() | self.replaced.keys()
        if changed:
            table.grow(max(changed) // self.per_leaf + 1)
            for leaf in sorted({ino // self.per_leaf for ino in changed}):
                table.writable(0, leaf)
        trees = sum(
            len(inode.data.dirty) + len(inode.attribute_map.dirty)
            for inode in self.dirty.values()
            if inode
        )
        return trees + len(table.dirty)

    def seal(self, sealing: Sealing) -> None:
        """Give all that is dirty its place. Cannot fail."""
        emptied = set()
        for ino in sorted(self.dirty.keys() | self.replaced.keys()):
            inode = self.dirty.get(ino)
            leaf = self.table.writable(0, ino // self.per_leaf)
            at = ino % self.per_leaf * INODE_BYTES
            before = content_blocks(leaf, at, self.volume.geometry)
            slot = EMPTY_SLOT if ino in self.dirty else self.replaced[ino]
            if inode is not None:
                inode.data.seal(sealing)
                inode.attribute_map.seal(sealing)
                slot = inode.encode()
                self.cache.put(self.id << 48 | ino, inode)
            if slot == EMPTY_SLOT:
                emptied.add(ino // self.per_leaf)
            leaf[at : at + INODE_BYTES] = slot
            self.content += content_blocks(leaf, at, self.volume.geometry) - before
        for index in sorted(emptied):
            if not any(self.table.writable(0, index)):
                self.table.remove(index)
        if emptied:
            self.table.shrink()
        self.dirty = {}
        self.replaced = {}
        self.table.seal(sealing)
