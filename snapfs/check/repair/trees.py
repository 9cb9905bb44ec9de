"""Mending inodes and their trees: pointers that lead nowhere go, counters are set, directories are
built anew of what can be read.

Whatever a tree loses is left where it is: the next round finds that nothing reaches it, and frees
it. Nothing here frees a block that another tree may have as well.
"""

from __future__ import annotations

import stat

from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, EPOCH_MASK, FLAG_BUCKET
from snapfs.check.findings import Fault, Mend
from snapfs.check.repair.salvage import readable_items
from snapfs.check.repair.workshop import Workshop
from snapfs.errors import CorruptBlock, SnapfsError
from snapfs.filesystem import (
    Inode,
    View,
    writing,
    xattrs,
)
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import FILE_SIZE_MAX, FIRST_INO, HIDDEN_INOS, INO_LIMIT, NAME_MAX, ROOT_INO
from snapfs.store.commit import costs
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap

#: What changes the structure of a tree, in the order in which it is done. Counters and names wait
#: for the next round.
STRUCTURAL = (
    Mend.CLEAR_INODE,
    Mend.DROP_POINTER,
    Mend.DROP_EMPTY,
    Mend.RENEW_POINTER,
    Mend.REBUILD_NAMES,
    Mend.DROP_ATTRIBUTES,
    Mend.DROP_DATA,
    Mend.SET_SIZE,
    Mend.MOVE_INODE,
    Mend.MAKE_DIRECTORY,
)


class TreeMender:
    """Mends what the walk found in the trees of the views."""

    def __init__(self, shop: Workshop, faults: list[Fault]) -> None:
        self.shop = shop
        self.volume = shop.volume
        #: Blocks of directories that another tree has as well.
        self._foreign: dict[tuple[int, int], set[int]] = {}
        for fault in faults:
            if fault.mend is Mend.REBUILD_NAMES and fault.value:
                for view in shop.views(fault.mask):
                    self._foreign.setdefault((view.id, fault.ino), set()).add(fault.value)

    def mend(self, fault: Fault, view: View) -> None:
        """Mend one fault in one view. Raises ``SnapfsError`` when that is impossible."""
        if fault.tree == "inodes":
            self._table(fault, view)
            return
        if fault.mend is Mend.MAKE_DIRECTORY:
            self._make_directory(view, fault.ino)
        elif fault.mend is Mend.CLEAR_INODE:
            self._clear(view, fault.ino)
        elif inode := self.shop.inode(view, fault.ino):
            self.shop.changed.add((view.id, fault.ino, fault.tree))
            self._inode(fault, view, inode)

    def _inode(self, fault: Fault, view: View, inode: Inode) -> None:
        if fault.mend is Mend.MOVE_INODE:
            self._move(view, inode)
        elif fault.mend is Mend.REBUILD_NAMES:
            self._rebuild_names(view, inode)
        elif fault.mend is Mend.DROP_ATTRIBUTES or fault.tree == "attributes":
            self._store_attributes_anew(view, inode)
        elif fault.mend is Mend.DROP_EMPTY:
            view.change(inode)
            self._zero(inode.map, fault.level, fault.number)
        elif fault.mend is Mend.DROP_POINTER:
            self._drop_data(fault, view, inode)
        elif fault.mend is Mend.RENEW_POINTER:
            view.change(inode)
            self._renew(inode.map, fault)
        elif fault.mend is Mend.DROP_DATA:
            view.change(inode)
            inode.data = BlockMap(self.volume, view.owner)
        elif fault.mend is Mend.SET_SIZE:
            self._set_size(view, inode, fault.value)

    # The inode table

    def _table(self, fault: Fault, view: View) -> None:
        table = view.table
        self.shop.changed.add((view.id, 0, "inodes"))
        if fault.mend is Mend.RENEW_POINTER:
            self._renew(table, fault)
            return
        first = (fault.number << self.volume.geometry.fan_bits * fault.level) * view.per_leaf
        count = view.per_leaf << self.volume.geometry.fan_bits * fault.level
        if fault.level < table.depth:
            if self._zero(table, fault.level, fault.number) and fault.mend is not Mend.DROP_EMPTY:
                self.shop.tell(
                    f"inodes {first} to {first + count - 1}{self._of(view)}: they "
                    "cannot be read, and are lost"
                )
        elif view.instance is not None:
            self.shop.tell(
                f"snapshot {view.instance.name}: none of its inodes can be read, it is lost"
            )
            self.shop.lose(view)
        else:
            self.shop.tell(
                "none of the inodes of the volume can be read: the snapshots are what is left of it"
            )
            self._zero(table, fault.level, fault.number)
            self._make_directory(view, ROOT_INO)

    def _of(self, view: View) -> str:
        return "" if view.instance is None else f" of snapshot {view.instance.name}"

    def _clear(self, view: View, ino: int) -> None:
        self.shop.tell(f"{self.shop.name(view, ino)}: it cannot be read, and is lost")
        view.dirty[ino] = None
        self.volume.dirtied += costs.INODE
        self.shop.changed.add((view.id, 0, "inodes"))

    def _move(self, view: View, inode: Inode) -> None:
        old, new = inode.ino, self.shop.do(view.plan_new)
        inode.ino = new
        view.add(inode)
        view.dirty[old] = None
        self.shop.tell(
            f"inode {old}{self._of(view)}: the number is reserved, it is inode {new} now"
        )
        self.shop.changed.add((view.id, 0, "inodes"))

    def _make_directory(self, view: View, ino: int) -> None:
        """The root, or the list of orphans."""
        inode = Inode(
            view, ino, stat.S_IFDIR | (0o755 if ino == ROOT_INO else 0o700), now=self.shop.fs.now()
        )
        inode.generation = self.volume.next_inode_generation & 0xFFFF_FFFF
        self.volume.next_inode_generation += 1
        inode.nlink, inode.parent = 2, ROOT_INO
        view.add(inode)
        if ino == ROOT_INO:
            self.shop.tell(
                f"the root directory{self._of(view)} was lost: there is an empty one now"
            )
        self.shop.changed.add((view.id, 0, "inodes"))

    # Block maps

    def _zero(self, tree: BlockMap, level: int, number: int) -> bool:
        """Have a pointer of a map point nowhere. Was there one?"""
        if level >= tree.depth:
            there = bool(tree.root[0])
            tree.root[0] = tree.root[1] = 0
            tree.depth = 0
            tree.dirty.clear()
            return there
        bits = self.volume.geometry.fan_bits
        words, slot = (
            self.shop.do(tree.writable, level + 1, number >> bits),
            number & (1 << bits) - 1,
        )
        there = bool(words[2 * slot])
        words[2 * slot] = words[2 * slot + 1] = 0
        if level == 0:
            tree.trim(number)
        return there

    def _renew(self, tree: BlockMap, fault: Fault) -> None:
        """Give a pointer the epoch that it must have, and no flags."""
        if fault.level > tree.depth:
            return  # another mending has made the tree less deep: the next round looks anew
        if fault.level == tree.depth and tree.root[0] & FLAG_BUCKET:
            tree.root[0] &= ~FLAG_BUCKET
        if fault.level or tree.leaf_kind:
            self.shop.do(tree.writable, fault.level, fault.number)  # another block, of this epoch
            return
        words, slot = self.shop.do(tree.writable_pointers, fault.number)
        words[2 * slot] &= FLAG_BUCKET - 1
        if fault.value >= 0:
            words[2 * slot + 1] = words[2 * slot + 1] & ~EPOCH_MASK | fault.value

    def _drop_data(self, fault: Fault, view: View, inode: Inode) -> None:
        """A part of a file cannot be read, or another file has it as well: then its content is
        written anew.
        """
        block_size, bits = self.volume.geometry.block_size, self.volume.geometry.fan_bits
        content = None if fault.level else self._content(inode, fault.number)
        view.change(inode)
        if not self._zero(inode.map, fault.level, fault.number):
            return
        start = (fault.number << bits * fault.level) * block_size
        end = min(start + (block_size << bits * fault.level), inode.size)
        what = "cannot be read, they are zeros now"
        if content is not None and stat.S_ISREG(inode.mode):
            self.shop.do(self._write, inode, start, content)
            what = "were another file's as well, now each has its own"
        if start < end:
            self.shop.tell(f"{self.shop.name(view, inode.ino)}: bytes {start} to {end - 1} {what}")

    @staticmethod
    def _write(inode: Inode, start: int, content: bytes) -> None:
        writing.write(inode, start, content, urgency=2)

    def _content(self, inode: Inode, index: int) -> bytes | None:
        """A block of a file, None if it cannot be read."""
        try:
            words, slot = self.shop.do(inode.map.pointers, index)
            block, checksum = words[2 * slot] & BLOCK_MASK, words[2 * slot + 1] >> CHECKSUM_SHIFT
            if not 0 < block < self.volume.geometry.blocks:
                return None
            return self.volume.read_block(block, checksum, self.volume.device.read)
        except SnapfsError:
            return None

    def _set_size(self, view: View, inode: Inode, size: int) -> None:
        view.change(inode)
        if stat.S_ISLNK(inode.mode) and inode.data.blocks:
            block = self.shop.do(inode.map.node, 0, 0)
            size = len(bytes(block).rstrip(b"\0")) if block else 0
        if stat.S_ISLNK(inode.mode) and not size:
            self._clear(view, inode.ino)
            return
        if size > FILE_SIZE_MAX:
            size = FILE_SIZE_MAX
            inode.data = BlockMap(self.volume, view.owner)
        self.shop.tell(
            f"{self.shop.name(view, inode.ino)}: its size was {inode.size} bytes, which "
            f"cannot be; it is {size} now"
        )
        inode.size = size

    # Directories and attributes

    def _rebuild_names(self, view: View, inode: Inode) -> None:
        """Another tree, of the names that can be read and used."""
        if not inode.is_directory:
            return
        foreign = frozenset(self._foreign.get((view.id, inode.ino), ()))
        tree = BucketTree(self.volume, view.owner, "names", view.name_hash)
        kept = dropped = 0
        for name, value in dict(readable_items(self.volume, inode.names, foreign)).items():
            if not is_name(name) or not FIRST_INO <= value >> TYPE_BITS < INO_LIMIT:
                dropped += 1
                continue
            self.shop.make_room()
            self.shop.do(tree.touch, name)
            tree.put(name, value)
            kept += 1
        view.change(inode)
        inode.data = tree
        if inode.ino not in HIDDEN_INOS:
            lost = f", {dropped} that made no sense are dropped" if dropped else ""
            what = f"the directory was damaged, it has the {kept} names that could be read{lost}"
            self.shop.tell(f"{self.shop.name(view, inode.ino)}: {what}")

    def _store_attributes_anew(self, view: View, inode: Inode) -> None:
        """In blocks of their own, if they can be read."""
        try:
            found = dict(self.shop.do(xattrs.load, inode))
        except CorruptBlock:
            found = {}
            self.shop.tell(
                f"{self.shop.name(view, inode.ino)}: its extended attributes cannot be "
                "read, and are lost"
            )
        view.change(inode)
        inode.attribute_map = BlockMap(self.volume, view.owner, leaf_kind="blob")
        xattrs.store(inode, {}, b"")
        self.shop.do(self._plan_and_store, inode, found)

    @staticmethod
    def _plan_and_store(inode: Inode, found: dict[bytes, bytes]) -> None:
        xattrs.store(inode, found, xattrs.plan_store(inode, found))

    # Counters

    def count(self, fault: Fault, view: View) -> None:
        """Set a counter to what was counted."""
        if fault.mend is Mend.SET_INODES:
            view.inodes = fault.value
            self.shop.touch(view)
        elif fault.mend is Mend.SET_NEXT_INODE:
            view.next_ino = fault.value
            self.shop.touch(view)
        elif fault.mend is Mend.SET_CONTENT:
            view.content = fault.value
            self.shop.touch(view)
        elif fault.tree == "inodes":
            view.table.blocks = fault.value
            self.shop.touch(view)
        elif inode := self.shop.inode(view, fault.ino):
            if fault.tree == "attributes":
                self._store_attributes_anew(view, inode)
            else:
                view.change(inode)
                inode.data.blocks = fault.value


def is_name(name: object) -> bool:
    """Could it be the name of a directory entry?"""
    return (
        type(name) is bytes
        and 0 < len(name) <= NAME_MAX
        and b"/" not in name
        and b"\0" not in name
        and name not in (b".", b"..")
    )
