"""The inodes of all views, each checked once for all the views that share it: its trees, its size,
its extended attributes.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from functools import partial

from snapfs.blocks.inode import INLINE_TARGET
from snapfs.check.findings import Fault, Mend, Subject
from snapfs.check.walk.checked_views import CheckedViews
from snapfs.check.walk.names import NamesFound
from snapfs.check.walk.trees import Root, Walker
from snapfs.check.walk.versions import InodeVersion, without
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.filesystem import designation, xattrs
from snapfs.ids import DESIGNATED_INO, FILE_SIZE_MAX, FIRST_INO, HIDDEN_INOS, INO_LIMIT, ROOT_INO
from snapfs.store.commit.driver import drive


class InodeChecker:
    """Claims what inodes reach, and checks each by itself. Names go to ``names``; ``designated``
    has the directories that have the attribute, with the views in which they have it.
    """

    def __init__(self, views: CheckedViews, walker: Walker, names: NamesFound) -> None:
        self._views = views
        self._walker = walker
        self._names = names
        self.designated: dict[int, int] = defaultdict(int)

    def check(self, ino: int, found: list[InodeVersion]) -> None:
        """Check one inode in all its versions, and claim what they reach."""
        if not FIRST_INO <= ino < INO_LIMIT and ino not in (ROOT_INO, *HIDDEN_INOS):
            mask = sum(one.mask for one in found)
            self._views.findings.add(
                "format",
                "inode-number",
                self._views.place(ino, mask),
                "the number is reserved",
                fault=Fault(Mend.MOVE_INODE, mask, ino=ino),
            )
        where = partial(self._views.place, ino)
        if ino == DESIGNATED_INO and (
            wrong := sum(one.mask for one in found if not one.inode.is_directory)
        ):
            fault = Fault(Mend.CLEAR_INODE, wrong, ino=ino)
            self._views.findings.add(
                "format",
                "designation-list",
                where(wrong),
                "the list of designated directories is not a directory",
                fault=fault,
            )
        shown = without(found, self._views.parts.outside(ino)) if self._views.parts.mask else found
        directories = [one for one in shown if one.inode.is_directory]
        files = [one for one in shown if not one.inode.is_directory]
        if directories:
            roots = [Root(one.inode.names.root_words, 0, one.mask) for one in directories]
            counts, items = self._walker.buckets(
                roots, "names", self._views.fs.base.name_hash, Subject(where, "names", ino)
            )
            for one, count in zip(directories, counts, strict=True):
                self._count(one, "data-blocks", one.inode.data.blocks, count, "names")
            for name, value, mask in items:
                self._names.add(ino, name, value, mask)
        if files:
            roots = [Root(one.inode.map.root_words, one.inode.map.depth, one.mask) for one in files]
            totals, _ = self._walker.block_map(roots, "", Subject(where, "data", ino))
            for one, (count, end) in zip(files, totals, strict=True):
                self._count(one, "data-blocks", one.inode.data.blocks, count, "data")
                self._size(one, end)
        found = (
            without(found, self._views.parts.outside_attributes(ino))
            if self._views.parts.mask
            else found
        )
        roots = [
            Root(one.inode.attribute_map.root_words, one.inode.attribute_map.depth, one.mask)
            for one in found
        ]
        totals, _ = self._walker.block_map(roots, "", Subject(where, "attributes", ino))
        for one, (count, _) in zip(found, totals, strict=True):
            self._count(
                one, "attribute-blocks", one.inode.attribute_map.blocks, count, "attributes"
            )
            self._readable(one, Mend.DROP_ATTRIBUTES)
        for one in files:
            self._readable(one, Mend.CLEAR_INODE)

    def _count(self, one: InodeVersion, rule: str, counted: int, found: int, tree: str) -> None:
        if counted != found:
            fault = Fault(Mend.SET_BLOCKS, one.mask, tree, one.inode.ino, value=found)
            self._views.findings.add(
                "I1",
                rule,
                self._views.place(one.inode.ino, one.mask),
                f"it has {found} blocks, {counted} are counted",
                fault=fault,
            )

    def _size(self, one: InodeVersion, end: int) -> None:
        inode = one.inode
        block_size = self._views.fs.volume.geometry.block_size
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG:
            if end > -(-inode.size // block_size):
                self._odd(
                    one,
                    "block-behind-end",
                    f"a block lies behind its size of {inode.size} bytes",
                    Mend.SET_SIZE,
                    end * block_size,
                )
            if inode.size > FILE_SIZE_MAX:
                self._odd(
                    one,
                    "file-size",
                    f"a file cannot have {inode.size} bytes",
                    Mend.SET_SIZE,
                    end * block_size,
                )
        elif kind == stat.S_IFLNK:
            inline = len(inode.inline) if inode.inline_kind == INLINE_TARGET else 0
            if end > 1:
                self._odd(
                    one,
                    "block-behind-end",
                    "a symbolic link has one block at most",
                    Mend.CLEAR_INODE,
                )
            elif (
                inline != inode.size if not inode.data.blocks else not 0 < inode.size <= block_size
            ):
                self._odd(
                    one,
                    "symlink-size",
                    "its target has another length than its size",
                    Mend.SET_SIZE,
                    inline,
                )
        elif end:
            self._odd(
                one,
                "data-of-special",
                "something that is neither file nor link has data",
                Mend.DROP_DATA,
            )

    def _odd(self, one: InodeVersion, rule: str, detail: str, mend: Mend, value: int = 0) -> None:
        fault = Fault(mend, one.mask, "data", one.inode.ino, value=value)
        self._views.findings.add(
            "format", rule, self._views.place(one.inode.ino, one.mask), detail, fault=fault
        )

    def _readable(self, one: InodeVersion, mend: Mend) -> None:
        """Extended attributes and targets are metadata: they must be readable, or be mended so."""
        try:
            if mend is Mend.DROP_ATTRIBUTES:
                found = drive(self._views.fs.volume, xattrs.load, one.inode)
                if (
                    designation.NAME in found
                    and one.inode.is_directory
                    and one.inode.nlink
                    and one.inode.ino != ROOT_INO
                ):
                    self.designated[one.inode.ino] |= one.mask
            elif stat.S_ISLNK(one.inode.mode) and one.inode.data.blocks:
                drive(self._views.fs.volume, one.inode.map.node, 0, 0)
        except (CorruptBlock, DeviceError) as exc:
            fault = Fault(mend, one.mask, ino=one.inode.ino)
            self._views.findings.add(
                "I7",
                "unreadable",
                self._views.place(one.inode.ino, one.mask),
                str(exc),
                fault=fault,
            )
