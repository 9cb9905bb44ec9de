"""The volumes that are mutated: something of everything, in several block sizes, and where in them
the metadata is.
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from snapfs import snapshots
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_BUCKET
from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import HIDDEN_INOS, ROOT_INO
from snapfs.store.commit.copy_map_space import allocate_map
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.copies import RunningCopy
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap
from tests.fuzz.forging import Image, forged
from tests.harness.sparse import SparseDevice

#: Block size and blocks: two groups, one of them with spilled records; medium ones; the largest
#: blocks; one that is nearly empty.
SHAPES = ((4096, 32768 + 512), (8192, 1024), (65536, 256), (4096, 300))

NOW = 1_700_000_000_000_000_000
REGULAR, DIRECTORY, SYMLINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777

#: Runs of records, enough to need blocks of their own at 4 KiB.
RUNS = 1400


@dataclass(frozen=True)
class Place:
    """A block of metadata; ``kind`` says how it is decoded."""

    kind: str
    block: int


@dataclass(frozen=True)
class Seed:
    """A volume, its metadata, and every pointer that it has (two words each)."""

    image: Image
    places: tuple[Place, ...]
    pointers: tuple[tuple[int, int], ...]
    inodes: int


@functools.cache
def seed(number: int) -> Seed:
    """The volume of that shape. Under ``forged``."""
    block_size, blocks = SHAPES[number]
    with forged():
        device = SparseDevice(block_size * blocks)
        format_volume(device, block_size=block_size, clear=False)
        fill(device, large=number == 0, empty=number == 3)
        image = Image.of(device.image(), block_size)
        return survey(image)


def fill(device: Any, *, large: bool, empty: bool) -> None:
    volume = open_volume(device)
    volume.hash_seed = 1  # as long as there are no names
    fs = Filesystem(volume)
    fs.now = lambda: NOW

    def do(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(volume, function, *args, **kwargs)

    def make(
        parent: int, name: bytes, mode: int = REGULAR, content: bytes = b"", **more: Any
    ) -> int:
        ino: int = do(fs.make, fs.base, parent, name, mode, 0, 0, **more).ino
        if content:
            do(fs.write, fs.base, ino, 0, content)
        return ino

    first = make(ROOT_INO, b"file", content=b"file" * 3000)
    if empty:
        commit(volume)
        return
    directory = make(ROOT_INO, b"dir", DIRECTORY)
    below = make(directory, b"sub", DIRECTORY)
    for index in range(48):  # names that fill several buckets, but of the largest blocks
        make(below, b"%0250d" % index)
    deep = make(below, b"deep", DIRECTORY)
    block_size = volume.geometry.block_size
    sparse = make(deep, b"sparse")
    for index in (0, 5, 300, 5000):
        do(fs.write, fs.base, sparse, index * block_size, b"sparse" * 700)
    make(ROOT_INO, b"short", SYMLINK, target=b"file")
    make(ROOT_INO, b"long", SYMLINK, target=b"dir/" * 75)
    do(fs.link, fs.base, first, directory, b"again")
    do(fs.xattr_set, fs.base, first, b"user.small", b"inline")
    do(fs.xattr_set, fs.base, sparse, b"user.large", bytes(60000))
    do(fs.xattr_set, fs.base, below, b"user.snapfs.designate", b"policy")
    held = make(ROOT_INO, b"held", content=b"held" * 2000)
    fs.hold(fs.base, held)
    do(fs.unlink, fs.base, ROOT_INO, b"held")
    runs = make(ROOT_INO, b"runs", content=bytes(2 * RUNS * block_size)) if large else first
    commit(volume)
    do(snapshots.create, fs, "one")
    commit(volume)
    if large:
        for index in range(0, 2 * RUNS, 2):
            do(fs.write, fs.base, runs, index * block_size, b"!" * block_size)
    do(fs.write, fs.base, first, 0, b"after one")
    do(snapshots.create, fs, "two", targets=[below, [b"file"], [b"dir", b"again"]])
    commit(volume)
    do(fs.write, fs.base, sparse, 300 * block_size, b"after two")
    one = snapshots.get(fs, "one")
    do(fs.write, fs.view(one.id), first, 0, b"in the view")
    do(snapshots.create, fs, "of one", origin=one.id)
    commit(volume)
    do(snapshots.create, fs, "leaving")
    commit(volume)
    do(fs.write, fs.base, first, block_size, b"after leaving")
    do(snapshots.delete, fs, "leaving")
    commit(volume)
    do(snapshots.restore, fs, "of one")
    do(snapshots.schedule, fs, "of one", paths=["dir/sub", "file"], owner=7)
    runs = do(allocate_map, volume, 3)
    volume.copies.put(
        RunningCopy(
            b"copy" * 4,
            volume.generation,
            b"/elsewhere/copy",
            runs,
            rate=100,
            since_ns=NOW,
            owner=7,
        )
    )
    commit(volume)


def survey(image: Image) -> Seed:
    """Find all metadata of a volume."""
    volume = open_volume(image)
    geometry = volume.geometry
    image.fence = geometry.size
    places: dict[int, Place] = {}
    pointers: dict[tuple[int, int], None] = {}

    def note(kind: str, block: int) -> None:
        places.setdefault(block, Place(kind, block))

    def tree(found: BlockMap | BucketTree, kind: str) -> None:
        for what, block, pointer in walk(volume, found, kind):
            pointers[pointer] = None
            if what:
                note(what, block)

    fs = Filesystem(volume)
    for offset in (offset for ring in geometry.slot_offsets() for offset in ring):
        note("superblock", offset // geometry.block_size)
    note("root", volume.root_block)
    if volume.copies.place is not None:
        note("copy", volume.copies.place.block)
    tree(volume.group_tree, "groups")
    tree(volume.instances_tree, "table")
    tree(volume.sets_tree, "table")
    for number in range(geometry.groups):
        drive(volume, volume.allocator.need_groups, [number])
        group = volume.allocator.groups[number]
        start = geometry.header_block(number, group.slot)
        note("header", start)
        note("bitmap", start + 1)
        note("bitmap", start + 2)
        for block, _ in group.spill:
            note("records", block)
    inodes = 0
    for view in (fs.base, *(fs.view(one.id) for one in volume.instances.live())):
        tree(view.table, "inodes")
        inodes = max(inodes, view.next_ino)
        for ino in (ROOT_INO, *sorted(HIDDEN_INOS), *range(16, view.next_ino)):
            try:
                inode = drive(volume, view.inode, ino)
            except SnapfsError:
                continue
            tree(
                inode.data,
                "names" if inode.is_directory else "blob" if stat.S_ISLNK(inode.mode) else "",
            )
            tree(inode.attribute_map, "blob")
    return Seed(image, tuple(places.values()), tuple(pointers), inodes)


def walk(
    volume: Volume, tree: BlockMap | BucketTree, leaf: str
) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Kind ("" for file data), block and pointer of every block of a tree."""
    work = [(tree.root_words, tree.depth if type(tree) is BlockMap else -1)]
    while work:
        pointer, level = work.pop()
        if not pointer[0]:
            continue
        is_leaf = level == 0 or (level < 0 and bool(pointer[0] & FLAG_BUCKET))
        yield leaf if is_leaf else "node", pointer[0] & BLOCK_MASK, pointer
        if not is_leaf:
            node = drive(volume, volume.load, "node", *pointer)
            work += [((node[n], node[n + 1]), level - 1) for n in range(0, len(node), 2) if node[n]]
