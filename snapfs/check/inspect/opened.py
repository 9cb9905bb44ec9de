"""Opening an image to look into it: the newest generation, with as much of its tables as can be
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import SET_NUMBER_MAX, fresh_entries
from snapfs.blocks.schema import check_range
from snapfs.check.inspect.page import ROWS, BlockPage, Problem
from snapfs.check.repair.salvage import load_readable_instances, readable_items
from snapfs.check.scrub.places import Tree, TreeKind
from snapfs.errors import CorruptBlock, DeviceError, NoSuchSnapshot, Truncated
from snapfs.filesystem import Filesystem, View
from snapfs.ids import BASE_VIEW
from snapfs.store.commit.recovery import (
    fetched,
    load_copy,
    load_group_table,
    open_volume,
)
from snapfs.store.commit.superblocks import newest_superblock
from snapfs.store.commit.volume import Volume
from snapfs.store.space.set_codec import decode_set
from snapfs.store.tables.root_record import RootRecord

if TYPE_CHECKING:
    from snapfs.blocks.superblock import Superblock
    from snapfs.device import Device
    from snapfs.store.tables.instances import ViewRoot


@dataclass(slots=True)
class Inspected:
    """The volume of an image, opened to look at. ``root`` is None when the root record cannot be
    read.

    The views are those that the generation was sealed with: what its log tells since is not in
    them. ``problems`` say why the volume cannot be opened as usual. ``limit``: rows of a table.
    """

    device: Device
    volume: Volume
    fs: Filesystem
    root: RootRecord | None
    limit: int = ROWS
    problems: list[Problem] = field(default_factory=list)

    def page(self) -> BlockPage:
        """An empty page, with the problems that opening the volume has met."""
        return BlockPage(self.limit, problems=list(self.problems))

    def view(self, snapshot: str | None) -> View:
        """The view of a snapshot; None: the present. Raises ``NoSuchSnapshot``."""
        if snapshot is None:
            return self.fs.base
        one = self.volume.instances.by_name(snapshot)
        if one is None:
            raise NoSuchSnapshot(
                f"no snapshot is named {snapshot!r}: 'dump IMAGE instances' shows those that "
                "can be read"
            )
        return self.fs.view(one.id)

    def view_root(self, view: int) -> ViewRoot:
        """Where a view begins."""
        return (
            self.volume.base_root if view == BASE_VIEW else self.volume.instances.table[view].root
        )

    def tree(self, kind: TreeKind) -> tuple[Tree, tuple[int, int], int]:
        """One of the tables of the volume: the tree, its root pointer, its depth (of bucket trees:
        0).
        """
        volume = self.volume
        if kind is TreeKind.GROUPS:
            return Tree(kind), volume.group_tree.root_words, volume.group_tree.depth
        table = volume.sets_tree if kind is TreeKind.SETS else volume.instances_tree
        return Tree(kind), table.root_words, 0


def inspect(device: Device, limit: int = ROWS) -> Inspected:
    """Open the newest generation of a volume, however damaged.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``DeviceError``; and ``CorruptBlock`` when no
    superblock is intact.
    """
    problems: list[Problem] = []
    superblock = newest_superblock(device)
    try:
        volume = open_volume(device, read_only=True)
        fs = Filesystem(volume, as_sealed=True)
        root = _root_record(device, volume.superblock)
    except (CorruptBlock, DeviceError, Truncated) as exc:
        problems.append(Problem("volume", str(exc)))
        root = _root_record(device, superblock)
        volume = Volume(
            device, superblock, root or RootRecord(), fresh_entries(superblock.geometry)
        )
        volume.read_only = True
        _load_what_is_left(volume, problems)
        fs = Filesystem(volume, as_sealed=True)
    return Inspected(device, volume, fs, root, limit, problems)


def _root_record(device: Device, superblock: Superblock) -> RootRecord | None:
    try:
        data = device.read(superblock.root_block * superblock.block_size, superblock.root_length)
        return (
            RootRecord.decode(data, superblock.geometry)
            if crc32c(data) == superblock.root_checksum
            else None
        )
    except (CorruptBlock, DeviceError):
        return None


def _load_what_is_left(volume: Volume, problems: list[Problem]) -> None:
    """Load the tables, as far as they can be read."""
    try:
        fetched(volume, lambda: load_group_table(volume))
    except (CorruptBlock, DeviceError) as exc:
        problems.append(Problem("group table", str(exc)))
    load_readable_instances(volume, lambda words: problems.append(Problem("instance table", words)))
    for key, value in readable_items(volume, volume.sets_tree):
        try:
            volume.holders.load(
                check_range(key, 1, SET_NUMBER_MAX, "holder set"), decode_set(value)
            )
        except CorruptBlock as exc:
            problems.append(Problem("holder sets", str(exc)))
    load_copy(volume)
