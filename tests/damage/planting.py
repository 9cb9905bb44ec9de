"""A volume with something of everything, and ways to damage it so that every checksum is right.

``planted()`` opens a copy of the volume, which is built once. A case changes
structures in memory and ``commit``s: the commit gives the damage its place and its checksums, as a
bug in the core would. What shall fail its checksum is changed on the device.
"""

from __future__ import annotations

import functools
import stat
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from snapfs import snapshots
from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_BUCKET
from snapfs.check import Finding, check_volume
from snapfs.errors import CorruptBlock
from snapfs.filesystem import Filesystem, Inode, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import DESIGNATED_INO, ORPHANS_INO, ROOT_INO
from snapfs.store.commit import copy_map_space
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from snapfs.store.space.group import Group
from snapfs.store.space.holders import HolderSet
from snapfs.store.tables import copies
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap
from tests.harness.sparse import SparseDevice

BLOCK = 4096
SPAN = 8 * BLOCK
#: Two groups: the first one keeps its records in its header, the second one needs blocks for them.
BLOCKS = SPAN + 8192
RUNS = 1400

REGULAR, DIRECTORY, SYMLINK, FIFO = (
    stat.S_IFREG | 0o644,
    stat.S_IFDIR | 0o755,
    stat.S_IFLNK | 0o777,
    stat.S_IFIFO | 0o600,
)


class Planted:
    """An open volume that damage is planted in."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.is_written = False  # the damage is on the device: a commit might mend it
        self.open()

    def open(self) -> None:
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)
        self.base = self.fs.base
        self.allocator = self.volume.allocator
        self.sets = self.volume.holders

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def commit(self) -> None:
        """Write a generation, whether or not anything knows that it is dirty."""
        self.group(0).dirty = True
        commit(self.volume)

    def check(self) -> list[Finding]:
        return check_volume(self.device)

    def flip(self, offset: int, bit: int = 0) -> None:
        """What a medium does to a bit."""
        self.overwrite(offset, bytes([self.device.read(offset, 1)[0] ^ 1 << bit]))

    def overwrite(self, offset: int, content: bytes) -> None:
        """Damage that no checksum covers for."""
        self.device.write(offset, content)
        self.is_written = True

    # Files

    def view(self, name: str) -> View:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def find(self, path: str, view: View | None = None, *, change: bool = False) -> Inode:
        """The inode of a path; with ``change`` the next commit writes it."""
        view = view or self.base
        ino = ROOT_INO
        for name in path.split("/"):
            ino = self.do(self.fs.lookup, view, ino, name.encode()).ino if name else ino
        inode: Inode = self.do(view.inode, ino)
        if change:
            view.change(inode)
        return inode

    def make(self, parent: str, name: str, mode: int, content: bytes = b"", **more: Any) -> Inode:
        inode: Inode = self.do(
            self.fs.make, self.base, self.find(parent).ino, name.encode(), mode, 0, 0, **more
        )
        if content:
            self.do(self.fs.write, self.base, inode.ino, 0, content)
        return inode

    def put_name(self, directory: Inode, name: Any, value: Any) -> None:
        """A name, without anything that belongs to it."""
        directory.view.change(directory)
        self.do(directory.names.touch, name)
        directory.names.put(name, value)

    def pop_name(self, directory: Inode, name: bytes) -> int:
        directory.view.change(directory)
        self.do(directory.names.touch, name)
        value: int = directory.names.pop(name)
        return value

    def orphans(self, view: View | None = None) -> Inode:
        inode: Inode = self.do((view or self.base).inode, ORPHANS_INO)
        return inode

    def designated(self, view: View | None = None) -> Inode:
        inode: Inode = self.do((view or self.base).inode, DESIGNATED_INO)
        return inode

    def slot(self, inode: Inode) -> tuple[bytearray, int]:
        """The leaf of the inode table, to be changed, and where the inode lies in it. The inode
        itself must be clean.
        """
        table, per_leaf = inode.view.table, inode.view.per_leaf
        assert inode.ino not in inode.view.dirty
        return self.do(table.writable, 0, inode.ino // per_leaf), inode.ino % per_leaf * INODE_BYTES

    def pointers(self, inode: Inode, index: int) -> tuple[array[int], int]:
        """The words that hold the pointer to a block of a file, to be changed, and the index of the
        first one.
        """
        inode.view.change(inode)
        words, slot = self.do(inode.map.writable_pointers, index)
        return words, 2 * slot

    def block_of(self, inode: Inode, index: int = 0) -> int:
        words, slot = self.do(inode.map.pointers, index)
        return words[2 * slot] & BLOCK_MASK

    # Blocks

    def group(self, number: int) -> Group:
        self.do(self.allocator.need_groups, [number])
        return self.allocator.groups[number]

    def free_block(self) -> tuple[Group, int]:
        """A block that no commit of a test comes near: group and offset."""
        group = self.group(0)
        return group, group.busy.find(0, 0, SPAN, True)

    def record(self, *, base_held: bool, group: int = 0) -> tuple[Group, int, int, HolderSet]:
        """A block with a record that names live instances: group, offset, number of the holder set,
        the set.
        """
        found = self.group(group)
        for start, _, number in found.records:
            entry = self.sets.get(number)
            if entry.base_held == base_held and entry.mask & self.sets.live:
                return found, start, number, entry
        raise AssertionError("the volume has no such record")

    def give_record(self, group: Group, offset: int, number: int | None) -> None:
        """Another record for one block; the bits stay, the counts are right."""
        self.allocator._record(group, offset, offset + 1, number)


@functools.cache
def build() -> SparseDevice:
    """The volume: every kind of file and tree, snapshots, a snapshot of one, a view that was
    written, one that is being deleted.
    """
    device = SparseDevice(BLOCKS * BLOCK)
    format_volume(device)
    p = Planted(device)
    p.volume.hash_seed = 1  # as long as there are no names; the same buckets in every run
    make = p.make
    make("", "plain", REGULAR, b"plain" * 3000)
    make("", "twice", REGULAR, b"twice")
    make("", "dir", DIRECTORY)
    make("dir", "sub", DIRECTORY)
    make("dir", "other", DIRECTORY)
    make("dir/sub", "deep", REGULAR, b"deep" * 5000)
    p.do(p.fs.link, p.base, p.find("twice").ino, p.find("dir").ino, b"again")
    make("", "short", SYMLINK, target=b"plain")
    make("", "long", SYMLINK, target=b"dir/" * 75)
    make("", "fifo", FIFO)
    make("", "many", DIRECTORY)
    for number in range(160):
        make("many", f"{number:0100}", REGULAR)
    sparse = make("", "sparse", REGULAR).ino
    for index in (0, 5, 300, 1000):
        p.do(p.fs.write, p.base, sparse, index * BLOCK, b"sparse" * 1000)
    p.do(p.fs.xattr_set, p.base, p.find("plain").ino, b"user.small", b"inline")
    p.do(p.fs.xattr_set, p.base, p.find("twice").ino, b"user.large", b"blocks" * 1500)
    held = make("", "held", REGULAR, b"held" * 2000)
    p.fs.hold(p.base, held.ino)
    p.do(p.fs.unlink, p.base, ROOT_INO, b"held")
    p.commit()
    large = make("", "large", REGULAR).ino
    in_second_group(p, large, [(0, b"before one" * (2 * RUNS * BLOCK // 10))])
    p.do(p.fs.xattr_set, p.base, p.find("dir/sub").ino, b"user.snapfs.designate", b"policy")
    snapshot(p, "one")
    in_second_group(p, large, [(index * BLOCK, b"!" * BLOCK) for index in range(0, 2 * RUNS, 2)])
    p.do(p.fs.write, p.base, p.find("plain").ino, 0, b"after one")
    make("", "new", REGULAR, b"new" * 3000)
    snapshot(p, "two")
    p.do(p.fs.write, p.base, p.find("plain").ino, BLOCK, b"after two")
    p.do(p.fs.write, p.base, sparse, 300 * BLOCK, b"after two")
    snapshot(p, "leaving")
    p.do(
        p.fs.write,
        p.base,
        p.find("plain").ino,
        BLOCK,
        b"only the snapshot that is leaving has what was here",
    )
    make("dir/other", "youngest", REGULAR, b"youngest" * 1000)
    p.commit()
    p.do(snapshots.create, p.fs, "copy", origin=snapshots.get(p.fs, "one").id)
    p.commit()
    view = p.view("copy")
    p.do(p.fs.write, view, p.find("dir/sub/deep", view).ino, 0, b"written in a view")
    p.do(p.fs.make, view, ROOT_INO, b"of the view", REGULAR, 0, 0)
    p.do(snapshots.create, p.fs, "part", targets=[p.find("dir/sub").ino])
    p.do(snapshots.delete, p.fs, "leaving")
    p.commit()
    running_copy(p)
    return device


def running_copy(p: Planted) -> None:
    """A copy is running, with its map on the volume."""
    runs = p.do(copy_map_space.allocate_map, p.volume, 3)
    p.volume.copies.put(
        copies.RunningCopy(b"copy" * 4, p.volume.generation, b"/elsewhere/copy", runs).checked()
    )
    p.commit()
    for block in (block for start, length in runs for block in range(start, start + length)):
        p.device.write(block * BLOCK, b"map!" * (BLOCK // 4))


def snapshot(p: Planted, name: str) -> None:
    p.do(snapshots.create, p.fs, name)
    p.commit()


def in_second_group(p: Planted, ino: int, writes: list[tuple[int, bytes]]) -> None:
    """Write to a file, into the second group."""
    p.group(1)
    for offset, content in writes:
        p.allocator._window[:] = [1]
        p.do(p.fs.write, p.base, ino, offset, content)
    p.allocator._window.clear()
    p.commit()


def planted() -> Planted:
    """The volume, to be damaged."""
    return Planted(build().copy())


# Every metadata block that the volume reaches


def metadata(p: Planted) -> Iterator[tuple[str, int]]:
    """What it is, and its block number, once each."""
    volume = p.volume
    seen: set[int] = set()

    def new(what: str, blocks: Iterator[int]) -> Iterator[tuple[str, int]]:
        for block in blocks:
            if block not in seen:
                seen.add(block)
                yield what, block

    yield from new("root record", iter([volume.root_block]))
    yield from new(
        "running copy", (place.block for place in [volume.copies.place] if place is not None)
    )
    yield from new("group table", tree_blocks(volume, volume.group_tree))
    yield from new("instance table", tree_blocks(volume, volume.instances_tree))
    yield from new("holder sets", tree_blocks(volume, volume.sets_tree))
    for number in range(volume.geometry.groups):
        group = p.group(number)
        first = volume.geometry.header_block(number, group.slot)
        yield from new("group header", iter(range(first, first + 3)))
        yield from new("records", (block for block, _ in group.spill))
    for view in (p.base, *(p.fs.view(one.id) for one in volume.instances.live())):
        yield from new("inode table", tree_blocks(volume, view.table))
        for ino in range(1, view.next_ino):
            try:
                inode = p.do(view.inode, ino)
            except Exception:
                continue
            yield from new("attributes", tree_blocks(volume, inode.attribute_map))
            if (
                view.instance
                and view.instance.covered
                and not p.do(p.fs.coverage.covers, view.instance, ino)
            ):
                # a snapshot of a directory: what its pointers lead to outside may be anything
                continue
            yield from new(
                "directory" if inode.is_directory else "pointer block or target",
                tree_blocks(volume, inode.data),
            )


def tree_blocks(volume: Volume, tree: BlockMap | BucketTree) -> Iterator[int]:
    """All blocks of a clean tree but file data."""
    leaves = type(tree) is BlockMap and bool(tree.leaf_kind)
    work = [(*tree.root_words, tree.depth if type(tree) is BlockMap else -1)]
    while work:
        first, second, level = work.pop()
        if not first or (level == 0 and not leaves):
            continue
        yield first & BLOCK_MASK
        if level == 0 or (level < 0 and first & FLAG_BUCKET):
            continue
        node = drive(volume, volume.load, "node", first, second)
        work += [(node[n], node[n + 1], level - 1) for n in range(0, len(node), 2) if node[n]]


def everything(p: Planted) -> dict[tuple[object, ...], object]:
    """All that the views show: names, attributes, targets, and each block of data (None: it cannot
    be read).
    """
    found: dict[tuple[object, ...], object] = {}
    for view in (p.base, *(p.fs.view(one.id) for one in p.volume.instances.live())):
        work = [ROOT_INO]
        while work:
            ino = work.pop()
            inode = p.do(view.inode, ino)
            found[view.id, ino, "attributes"] = {
                name: p.do(p.fs.xattr_get, view, ino, name)
                for name in p.do(p.fs.xattr_list, view, ino)
            }
            if inode.is_directory:
                entries = p.do(p.fs.entries, view, ino, 0, 1000)
                found[view.id, ino, "names"] = entries
                work += [entry.ino for entry in entries]
            elif stat.S_ISLNK(inode.mode):
                found[view.id, ino, "target"] = p.do(p.fs.readlink, view, ino)
            elif stat.S_ISREG(inode.mode):
                for index in range(-(-inode.size // BLOCK)):
                    try:
                        found[view.id, ino, index] = p.do(
                            p.fs.read, view, ino, index * BLOCK, BLOCK
                        )
                    except CorruptBlock:
                        found[view.id, ino, index] = None
    return found
