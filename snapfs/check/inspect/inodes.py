"""The page of one inode: its slot, its names, its attributes or its target."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapfs.blocks.inode import (
    FLAG_HEIR,
    FLAG_LINKED,
    INLINE_TARGET,
    INODE_BYTES,
    LAYOUT,
    NANOSECONDS,
)
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, EPOCH_MASK
from snapfs.check.inspect.page import OK, BlockPage, Checksum, Time, text
from snapfs.check.inspect.trees import Node, Step, by_index, descend, leaves, load
from snapfs.check.scrub.places import Tree, TreeKind
from snapfs.check.scrub.whereabouts import path_of
from snapfs.errors import CorruptBlock, DeviceError, FsError, NotFound
from snapfs.filesystem import Inode, xattrs
from snapfs.filesystem.inode import EMPTY_SLOT
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import INO_LIMIT
from snapfs.store.commit.recovery import fetched

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected
    from snapfs.filesystem import View

TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True, slots=True)
class InodeSlot:
    """The slot of an inode: the way to the block of the inode table that it is in, and its bytes.

    ``inode`` is None, and ``problem`` says why, where the slot makes no sense.
    """

    way: list[Step]
    slot: bytes
    inode: Inode | None
    problem: str = ""


def find(image: Inspected, view: View, ino: int) -> InodeSlot:
    """Find an inode without the caches. Raises ``NotFound`` where there is none; ``CorruptBlock``,
    ``DeviceError``.
    """
    where = f"in snapshot {view.instance.name}" if view.instance else "in the present"
    if not 0 < ino < INO_LIMIT:
        raise NotFound(f"inode {ino} cannot be: inode numbers are from 1 to {INO_LIMIT - 1}")
    root, volume = image.view_root(view.id), image.volume
    index, offset = ino // view.per_leaf, ino % view.per_leaf * INODE_BYTES
    tree = Tree(TreeKind.INODES, view.id)
    if index >> volume.geometry.fan_bits * root.depth:
        raise NotFound(f"inode {ino} does not exist {where}")
    node, at = descend(
        volume, Node(tree, root.depth, 0, (root.first, root.second)), by_index(volume, index)
    )
    if node.problem:
        raise CorruptBlock(node.problem)
    if not node.words[2 * at]:
        raise NotFound(f"inode {ino} does not exist {where}")
    slot = load(volume, "inodes", (node.words[2 * at], node.words[2 * at + 1]))[
        offset : offset + INODE_BYTES
    ]
    if slot == EMPTY_SLOT:
        raise NotFound(f"inode {ino} does not exist {where}: its slot is free")
    try:
        inode = Inode.decode(view, ino, slot)
    except CorruptBlock as exc:
        return InodeSlot(node.way(at), slot, None, str(exc))
    return InodeSlot(node.way(at), slot, inode, "" if inode else "a free slot is not empty")


def inode(image: Inspected, view: View, ino: int) -> BlockPage:
    """The slot of an inode in a view, and what is to be told of its kind: the names in a directory,
    the target of a link.
    """
    page = image.page()
    show(page, image, view, ino)
    return page


def show(page: BlockPage, image: Inspected, view: View, ino: int) -> Inode | None:
    """Put all that is to be told of an inode on a page. The inode, if it can be decoded."""
    place = f"inode {ino}"
    page.facts.update(inode=ino, snapshot=view.instance.name if view.instance else None)
    try:
        found = find(image, view, ino)
    except (CorruptBlock, DeviceError) as exc:
        page.facts["state"] = page.trouble(place, exc)
        return None
    leaf = found.way[-1].block
    page.facts.update(state=page.trouble(place, found.problem) if found.problem else OK)
    page.facts.update(table_block=leaf, table_slot=ino % view.per_leaf)
    _fields(page, found.slot)
    one = found.inode
    if one is None:
        return None
    try:
        page.facts["path"] = fetched(image.volume, lambda: path_of(image.fs, view, one, {}))
    except (FsError, CorruptBlock, DeviceError) as exc:
        page.facts["path"] = page.trouble(f"{place}, its path", exc)
    if view.instance is None:
        page.facts["in_log"] = any(
            change.ino == ino
            for record in image.volume.sync_log.pending
            for change in record.changes
        )
    _attributes(page, image, one)
    if one.is_directory:
        _entries(page, image, one)
    elif stat.S_ISLNK(one.mode):
        _target(page, image, one)
    return one


def _fields(page: BlockPage, slot: bytes) -> None:
    """The fields of a slot as they stand there, possible or not."""
    fields = LAYOUT.unpack_from(slot)
    mode, uid, gid, links, size, blocks = fields[:6]
    times = [Time(fields[at] * NANOSECONDS + fields[at + 1]) for at in range(6, 14, 2)]
    generation, flags, rdev, parent, data, data_second, attribute, attribute_second = fields[14:22]
    size_of_attributes, depth, attribute_depth, kind, length = fields[22:27]
    known = {FLAG_LINKED: "has or had several names", FLAG_HEIR: "has what another inode has lost"}
    page.facts.update(
        type=TYPES.get(stat.S_IFMT(mode), f"type {stat.S_IFMT(mode):#o}"),
        mode=f"{mode:06o}",
        uid=uid,
        gid=gid,
        links=links,
        size=size,
        blocks=blocks,
        accessed=times[0],
        modified=times[1],
        changed=times[2],
        born=times[3],
        generation=generation,
        flags=[words for bit, words in known.items() if flags & bit],
        device=rdev,
        parent=parent,
        data_block=data & BLOCK_MASK or None,
        data_depth=depth,
        data_epoch=data_second & EPOCH_MASK,
        data_checksum=Checksum(data_second >> CHECKSUM_SHIFT),
        attribute_block=attribute & BLOCK_MASK or None,
        attribute_depth=attribute_depth,
        attribute_epoch=attribute_second & EPOCH_MASK,
        attribute_checksum=Checksum(attribute_second >> CHECKSUM_SHIFT),
        attribute_bytes=size_of_attributes,
        inline=("nothing", "target", "extended attributes")[kind] if kind < 3 else f"kind {kind}",
        inline_bytes=length,
    )


def _attributes(page: BlockPage, image: Inspected, one: Inode) -> None:
    table = page.table("extended_attributes", "name", "bytes", "value")
    try:
        found = fetched(image.volume, lambda: xattrs.load(one))
    except (CorruptBlock, DeviceError) as exc:
        page.trouble(f"inode {one.ino}, extended attributes", exc)
        return
    for name, value in sorted(found.items()):
        table.add(text(name), len(value), value[:64].hex() + ("..." if len(value) > 64 else ""))


def _entries(page: BlockPage, image: Inspected, one: Inode) -> None:
    """The names in a directory, in the order of their hashes, with the bucket that each is in."""
    table = page.table("entries", "name", "inode", "type", "hash", "bucket")
    view = one.view
    for leaf in leaves(
        image.volume, Tree(TreeKind.NAMES, view.id, ino=one.ino), one.names.root_words, 0, "names"
    ):
        if leaf.problem:
            page.trouble(f"inode {one.ino}, names", leaf.problem)
            continue
        hashed = sorted(
            (view.name_hash(name), name, value) for name, value in leaf.content.items.items()
        )
        for where, name, value in hashed:
            kind = TYPES.get((value & 15) << 12, f"type {value & 15}")
            if not table.add(
                text(name), value >> TYPE_BITS, kind, f"{where:016x}", leaf.step.block
            ):
                return


def _target(page: BlockPage, image: Inspected, one: Inode) -> None:
    if one.inline_kind == INLINE_TARGET:
        page.facts["target"] = text(one.inline)
        return
    found = None
    for leaf in leaves(
        image.volume,
        Tree(TreeKind.TARGET, one.view.id, ino=one.ino),
        one.map.root_words,
        one.map.depth,
        "blob",
    ):
        if leaf.problem:
            page.trouble(f"inode {one.ino}, target", leaf.problem)
        elif leaf.step.number == 0:
            found = text(leaf.content[: one.size])
    page.facts["target"] = found
