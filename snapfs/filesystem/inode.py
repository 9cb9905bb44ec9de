"""Inodes in memory, and their slots in the inode table. ``doc/format.md`` section 6."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Protocol

from snapfs.blocks.inode import (
    COUNTED,
    INLINE_ATTRIBUTES,
    INLINE_BYTES,
    INLINE_NONE,
    INLINE_OFFSET,
    INLINE_TARGET,
    INODE_BYTES,
    LAYOUT,
    NANOSECONDS,
)
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_DIRTY
from snapfs.blocks.schema import COUNT_MAX, as_count
from snapfs.errors import CorruptBlock
from snapfs.ids import FILE_SIZE_MAX, INO_LIMIT, LINK_MAX
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry
    from snapfs.filesystem.number_set import NumberSet
    from snapfs.store.commit.volume import Volume
    from snapfs.store.tables.instances import Instance
    from snapfs.store.trees.owners import Owner

_TYPES = {
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
}

#: Extended attributes of one inode together, in bytes, and the depth of their map.
ATTRIBUTES_LIMIT = 1 << 20
ATTRIBUTES_DEPTH = 1

EMPTY_SLOT = bytes(INODE_BYTES)


class Home(Protocol):
    """What an inode needs of the view that it is in (``view.View``)."""

    id: int
    volume: Volume
    owner: Owner
    instance: Instance | None
    above: dict[int, dict[bytes, int]]
    known: NumberSet
    orphans: set[int]
    emptying: set[int]
    dirty: dict[int, Inode | None]

    @property
    def hides_set_id(self) -> bool:
        """Are set-id bits and capabilities not shown?"""

    @property
    def hides_devices(self) -> bool:
        """Are device numbers not shown?"""

    def name_hash(self, name: bytes) -> int:
        """Where a name stands in its directory."""

    def inode(self, ino: int) -> Inode:
        """An inode of the view. Raises ``StaleInode``."""

    def change(self, inode: Inode) -> None:
        """Make an inode's slot writable. May raise ``NotCached``."""

    def plan_new(self) -> int:
        """An unused inode number, which ``add`` takes. May raise ``NotCached``."""

    def add(self, inode: Inode) -> None:
        """A new inode with a number of ``plan_new``, or a reserved one."""

    def free(self, inode: Inode) -> None:
        """The inode is gone. Its trees are empty."""


class Inode:
    """One inode of one view. Times are nanoseconds since 1970. Whoever changes it tells its view
    before (``Home.change``).
    """

    __slots__ = (
        "atime",
        "attribute_bytes",
        "attribute_map",
        "attributes",
        "btime",
        "coverage",
        "ctime",
        "data",
        "flags",
        "generation",
        "gid",
        "inline",
        "inline_kind",
        "ino",
        "mode",
        "mtime",
        "nlink",
        "parent",
        "rdev",
        "size",
        "uid",
        "view",
    )  # fmt: skip

    def __init__(
        self,
        view: Home,
        ino: int,
        mode: int,
        *,
        uid: int = 0,
        gid: int = 0,
        generation: int = 0,
        now: int = 0,
    ) -> None:
        self.view = view
        self.ino = ino
        self.coverage = -1  # the version of the instances that the trees' owners fit
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 0
        self.size = 0
        self.atime = self.mtime = self.ctime = self.btime = now
        self.generation = generation
        self.flags = 0
        self.rdev = 0
        self.parent = 0
        self.inline_kind = INLINE_NONE
        self.inline = b""
        self.attribute_bytes = 0
        self.data: BlockMap | BucketTree = self.new_tree()
        self.attribute_map = BlockMap(view.volume, view.owner, leaf_kind="blob")
        self.attributes: (
            dict[bytes, bytes] | None
        ) = {}  # decoded extended attributes; None: not looked at yet

    def new_tree(
        self, root: tuple[int, int] = (0, 0), depth: int = 0, blocks: int = 0
    ) -> BlockMap | BucketTree:
        """A tree of the kind that it has, an empty one unless a root is given."""
        view = self.view
        if stat.S_ISDIR(self.mode):
            return BucketTree(view.volume, view.owner, "names", view.name_hash, root, blocks)
        return BlockMap(
            view.volume, view.owner, root, depth, blocks, "blob" if stat.S_ISLNK(self.mode) else ""
        )

    @property
    def map(self) -> BlockMap:
        """The block map of a file or symbolic link."""
        if type(self.data) is not BlockMap:
            raise CorruptBlock(f"inode {self.ino} is no file")
        return self.data

    @property
    def names(self) -> BucketTree:
        """The names in a directory."""
        if type(self.data) is not BucketTree:
            raise CorruptBlock(f"inode {self.ino} is no directory")
        return self.data

    @property
    def is_directory(self) -> bool:
        """Is it a directory?"""
        return stat.S_ISDIR(self.mode)

    @property
    def blocks(self) -> int:
        """Blocks of the volume that it reaches: data, pointers, names, extended attributes."""
        return min(
            max(self.data.blocks + self.attribute_map.blocks, 0), self.view.volume.geometry.blocks
        )

    def count_size(self) -> None:
        """A directory is as large as its blocks."""
        self.size = as_count(self.data.blocks) * self.view.volume.geometry.block_size

    @property
    def size_shown(self) -> int:
        """Its size, as far as the kernel has numbers for it."""
        return min(self.size, FILE_SIZE_MAX)

    @property
    def sectors(self) -> int:
        """The same in units of 512 bytes, as ``st_blocks`` has it."""
        return self.blocks * (self.view.volume.geometry.block_size >> 9)

    def encode(self) -> bytes:
        """The slot's bytes. Its trees must be clean."""
        depth = self.data.depth if type(self.data) is BlockMap else 0
        head = LAYOUT.pack(
            self.mode, self.uid, self.gid, min(max(self.nlink, 0), LINK_MAX), self.size,
            as_count(self.data.blocks),
            *divmod(self.atime, NANOSECONDS), *divmod(self.mtime, NANOSECONDS),
            *divmod(self.ctime, NANOSECONDS), *divmod(self.btime, NANOSECONDS),
            self.generation, self.flags, self.rdev, self.parent, *self.data.root,
            *self.attribute_map.root, self.attribute_bytes,
            depth, self.attribute_map.depth, self.inline_kind, len(self.inline),
        )  # fmt: skip
        return (head + self.inline).ljust(INODE_BYTES, b"\0")

    def is_told_from(self, slot: bytes | bytearray) -> bool:
        """Is the slot of this very inode, and do the two differ in nothing but times, and of a file
        its size and its data?
        """
        fields = LAYOUT.unpack_from(slot)
        is_file = stat.S_ISREG(self.mode)
        kept = (*fields[:4], *fields[12:18], *fields[20:23], *fields[24:27])
        own = (
            self.mode, self.uid, self.gid, self.nlink, *divmod(self.btime, NANOSECONDS),
            self.generation, self.flags, self.rdev, self.parent, *self.attribute_map.root,
            self.attribute_bytes,
            self.attribute_map.depth, self.inline_kind, len(self.inline),
        )  # fmt: skip
        if kept != own or slot[INLINE_OFFSET : INLINE_OFFSET + len(self.inline)] != self.inline:
            return False
        return is_file or (self.size == fields[4] and (*self.data.root,) == fields[18:20])

    @classmethod
    def decode(cls, view: Home, ino: int, slot: bytes) -> Inode | None:
        """Validate a slot of a verified block; None for a free one. Raises ``CorruptBlock``."""
        fields = LAYOUT.unpack_from(slot)
        mode = fields[0]
        if not mode:
            return None
        what = f"inode {ino} of view {view.id}"
        if stat.S_IFMT(mode) not in _TYPES or mode >> 16:
            raise CorruptBlock(f"{what}: mode {mode:#o} is not possible")
        blocks = view.volume.geometry.blocks
        depth, attribute_depth, kind, length = fields[23:27]
        if (
            depth > view.volume.geometry.file_depth
            or attribute_depth > ATTRIBUTES_DEPTH
            or kind > INLINE_ATTRIBUTES
            or length > INLINE_BYTES
            or fields[5] > COUNT_MAX
            or fields[22] > ATTRIBUTES_LIMIT
            or fields[17] >= INO_LIMIT
            or max(fields[7:14:2]) >= NANOSECONDS
        ):
            raise CorruptBlock(f"{what}: a field is not possible")
        for word in (fields[18], fields[20]):
            if word & FLAG_DIRTY or word & BLOCK_MASK >= blocks:
                raise CorruptBlock(f"{what}: a root lies outside the volume")
        inode = cls.__new__(cls)
        inode.view, inode.ino, inode.coverage = view, ino, -1
        inode.mode, inode.uid, inode.gid, inode.nlink, inode.size = fields[:5]
        inode.atime = fields[6] * NANOSECONDS + fields[7]
        inode.mtime = fields[8] * NANOSECONDS + fields[9]
        inode.ctime = fields[10] * NANOSECONDS + fields[11]
        inode.btime = fields[12] * NANOSECONDS + fields[13]
        inode.generation, inode.flags, inode.rdev, inode.parent = fields[14:18]
        inode.data = inode.new_tree((fields[18], fields[19]), depth, fields[5])
        inode.attribute_bytes = fields[22]
        count = attribute_blocks(inode.attribute_bytes, attribute_depth, view.volume.geometry)
        inode.attribute_map = BlockMap(
            view.volume, view.owner, (fields[20], fields[21]), attribute_depth, count, "blob"
        )
        inode.inline_kind = kind
        inode.inline = bytes(slot[INLINE_OFFSET : INLINE_OFFSET + length]) if kind else b""
        inode.attributes = None if inode.attribute_bytes or kind == INLINE_ATTRIBUTES else {}
        if kind == INLINE_TARGET and not stat.S_ISLNK(mode):
            raise CorruptBlock(f"{what}: a symbolic link's target in something else")
        return inode


def attribute_blocks(length: int, depth: int, geometry: Geometry) -> int:
    """Blocks of a map of ``length`` bytes of extended attributes: it has no holes, so its pointer
    blocks can be counted.
    """
    count = below = -(-length // geometry.block_size)
    for _ in range(depth):
        below = -(-below // geometry.fan_out)
        count += below
    return count


def content_blocks(leaf: bytes | bytearray, at: int, geometry: Geometry) -> int:
    """Blocks that the inode in the slot at offset ``at`` counts: data, names, extended attributes;
    none for a free slot.
    """
    blocks, length, depth = COUNTED.unpack_from(leaf, at)
    return int(blocks + attribute_blocks(length, depth, geometry)) if length else int(blocks)
