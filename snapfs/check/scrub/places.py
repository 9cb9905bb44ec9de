"""Where blocks stand: the trees of a volume, places in them, and what is damaged there."""

from __future__ import annotations

import enum
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.filesystem import Inode


class TreeKind(enum.StrEnum):
    """What a tree holds; the values are what people are told."""

    GROUPS = "group table"
    SETS = "holder sets"
    INSTANCES = "instance table"
    INODES = "inode table"
    DATA = "data"
    NAMES = "names"
    TARGET = "target"
    ATTRIBUTES = "extended attributes"


#: Kinds of bucket trees; all others are block maps.
BUCKETS: Final = (TreeKind.SETS, TreeKind.INSTANCES, TreeKind.NAMES)


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: its kind, and unless it is a table of the volume its view and inode. ``serial``
    tells instances of one id apart.
    """

    kind: TreeKind
    view: int = BASE_VIEW
    serial: int = 0
    ino: int = 0


@dataclass(frozen=True, slots=True)
class TreePlace:
    """Where in a tree a block stands: level and number as ``doc/format.md`` counts them; in bucket
    trees depth and prefix.
    """

    tree: Tree
    level: int
    number: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged block: what is wrong with it, and where it stands: at a place in a tree, or as a
    fixed part of the volume.
    """

    block: int
    problem: str
    part: str = ""
    place: TreePlace | None = None
    epoch: int = 0


def data_kind(inode: Inode) -> TreeKind:
    """What the tree of an inode's content holds."""
    if inode.is_directory:
        return TreeKind.NAMES
    return TreeKind.TARGET if stat.S_ISLNK(inode.mode) else TreeKind.DATA


def root_of(inode: Inode, kind: TreeKind) -> tuple[int, int, int]:
    """The root pointer of one of an inode's trees, and its depth (of bucket trees: 0)."""
    if kind is TreeKind.NAMES:
        return *inode.names.root_words, 0
    tree = inode.attribute_map if kind is TreeKind.ATTRIBUTES else inode.map
    return *tree.root_words, tree.depth
