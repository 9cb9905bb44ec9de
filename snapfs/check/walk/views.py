"""The facts of all views: inodes, their trees, names and link counts, each checked once for all the
views that share it.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from snapfs.blocks.inode import FLAG_LINKED, INLINE_TARGET, INODE_BYTES
from snapfs.check.findings import Fault, Findings, Mend, Severity, Subject
from snapfs.check.walk.parts import Parts
from snapfs.check.walk.reach import BASE
from snapfs.check.walk.trees import Root, Walker
from snapfs.check.walk.versions import (
    InodeVersion,
    partition,
    without,
)
from snapfs.errors import CorruptBlock, DeviceError
from snapfs.filesystem import (
    Filesystem,
    Inode,
    designation,
    xattrs,
)
from snapfs.filesystem.inode import EMPTY_SLOT
from snapfs.filesystem.names import TYPE_BITS
from snapfs.ids import (
    DESIGNATED_INO,
    FILE_SIZE_MAX,
    FIRST_INO,
    HIDDEN_INOS,
    INO_LIMIT,
    NAME_MAX,
    ORPHANS_INO,
    ROOT_INO,
)
from snapfs.store.commit.driver import drive
from snapfs.store.tables.instances import Instance, ViewRoot
from snapfs.store.tables.parts import Part

if TYPE_CHECKING:
    from collections.abc import Callable


class ViewChecker:
    """Checks the base and all live instances together. ``mask_names`` tells a person which views a
    mask stands for.
    """

    def __init__(
        self,
        fs: Filesystem,
        walker: Walker,
        findings: Findings,
        progress: Callable[[int, int], None],
    ) -> None:
        self.fs = fs
        self.walker = walker
        self.findings = findings
        self.progress = progress
        self.instances = [one for one in fs.volume.instances.table.values() if not one.going]
        self.everything = BASE | sum(1 << one.id for one in self.instances)
        self.names: dict[int, list[tuple[int, int, int]]] = defaultdict(
            list
        )  # inode -> (directory, type, mask) of each name
        self.subdirectories: dict[int, list[int]] = defaultdict(
            list
        )  # directory -> masks of its subdirectories
        self.listed: dict[int, int] = defaultdict(int)  # orphan -> views that list it
        self.designated: dict[int, int] = defaultdict(
            int
        )  # directory -> views in which it is designated
        self.designated_by_list: dict[int, int] = defaultdict(int)  # the same as they list it
        self.parts = Parts([], lambda _ino, _instance: None)

    def place(self, ino: int, mask: int) -> str:
        """Where something is, in words."""
        if mask & BASE:
            return f"inode {ino}"
        number = (mask & -mask).bit_length() - 1
        one = next((one for one in self.instances if one.id == number), None)
        return f"inode {ino} of snapshot {one.name if one else number}"

    def run(self) -> None:
        """Check everything."""
        versions = self.walk()
        self._links(versions)
        self._connection(versions)
        self._designations()

    def walk(self) -> dict[int, list[InodeVersion]]:
        """Claim all that views reach, and check each tree by itself. All inodes, by number."""
        versions = self._inode_tables()

        def find(ino: int, instance: Instance) -> Inode | None:
            return next(
                (one.inode for one in versions.get(ino, ()) if one.mask >> instance.id & 1), None
            )

        self.parts = Parts(self.instances, find)
        for done, (ino, found) in enumerate(sorted(versions.items())):
            self._inode(ino, found)
            if not done % 64:
                self.progress(done, len(versions))
        return versions

    # Inodes

    def _inode_tables(self) -> dict[int, list[InodeVersion]]:
        views: list[tuple[ViewRoot, int, str]] = [(self.fs.volume.base_root, BASE, "the base")]
        views += [(one.root, 1 << one.id, f"snapshot {one.name}") for one in self.instances]
        roots = [Root((root.first, root.second), root.depth, mask) for root, mask, _ in views]
        totals, leaves = self.walker.block_map(
            roots, "inodes", Subject(lambda _mask: "inode table", "inodes")
        )
        slots: dict[tuple[int, bytes], int] = {}
        per_leaf = self.fs.volume.geometry.block_size // INODE_BYTES
        for number, leaf, mask in leaves:
            if not any(leaf):
                fault = Fault(Mend.DROP_EMPTY, mask, "inodes", number=number)
                self.findings.add(
                    "I1",
                    "empty-inode-block",
                    f"inode table, block {number}",
                    "no inode is in it",
                    fault=fault,
                )
            for index in range(per_leaf):
                slot = bytes(leaf[index * INODE_BYTES : (index + 1) * INODE_BYTES])
                if slot != EMPTY_SLOT:
                    key = number * per_leaf + index, slot
                    slots[key] = slots.get(key, 0) | mask
        versions: dict[int, list[InodeVersion]] = defaultdict(list)
        for (ino, slot), mask in slots.items():
            try:
                inode = Inode.decode(self.fs.base, ino, slot)
            except CorruptBlock as exc:
                self.findings.add(
                    "format",
                    "inode",
                    self.place(ino, mask),
                    str(exc),
                    fault=Fault(Mend.CLEAR_INODE, mask, ino=ino),
                )
                continue
            if inode is None:
                fault = Fault(Mend.CLEAR_INODE, mask, ino=ino)
                self.findings.add(
                    "format",
                    "inode",
                    self.place(ino, mask),
                    "a free slot is not empty",
                    fault=fault,
                )
                continue
            versions[ino].append(InodeVersion(inode, mask))
        for (root, mask, what), (blocks, _) in zip(views, totals, strict=True):
            if blocks != root.blocks:
                fault = Fault(Mend.SET_BLOCKS, mask, "inodes", value=blocks)
                self.findings.add(
                    "I1",
                    "table-blocks",
                    what,
                    f"its inode table has {blocks} blocks, {root.blocks} are counted",
                    fault=fault,
                )
            inodes = [one.inode for found in versions.values() for one in found if one.mask & mask]
            count = len(inodes)
            if count != root.inodes:
                fault = Fault(Mend.SET_INODES, mask, value=count)
                self.findings.add(
                    "format",
                    "inode-count",
                    what,
                    f"it has {count} inodes, {root.inodes} are counted",
                    fault=fault,
                )
            content = sum(inode.data.blocks + inode.attribute_map.blocks for inode in inodes)
            if content != root.content:
                fault = Fault(Mend.SET_CONTENT, mask, value=content)
                detail = f"its inodes count {content} blocks, {root.content} are counted together"
                self.findings.add(
                    "format", "content-count", what, detail, Severity.WARNING, fault=fault
                )
            highest = max((inode.ino for inode in inodes), default=0)
            if highest >= max(root.next_ino, FIRST_INO):
                fault = Fault(Mend.SET_NEXT_INODE, mask, value=highest + 1)
                self.findings.add(
                    "format",
                    "next-inode",
                    what,
                    "an inode has a number that is still to be given out",
                    fault=fault,
                )
        return versions

    def _inode(self, ino: int, found: list[InodeVersion]) -> None:
        if not FIRST_INO <= ino < INO_LIMIT and ino not in (ROOT_INO, *HIDDEN_INOS):
            mask = sum(one.mask for one in found)
            self.findings.add(
                "format",
                "inode-number",
                self.place(ino, mask),
                "the number is reserved",
                fault=Fault(Mend.MOVE_INODE, mask, ino=ino),
            )
        where = partial(self.place, ino)
        if ino == DESIGNATED_INO and (
            wrong := sum(one.mask for one in found if not one.inode.is_directory)
        ):
            fault = Fault(Mend.CLEAR_INODE, wrong, ino=ino)
            self.findings.add(
                "format",
                "designation-list",
                where(wrong),
                "the list of designated directories is not a directory",
                fault=fault,
            )
        shown = without(found, self.parts.outside(ino)) if self.parts.mask else found
        directories = [one for one in shown if one.inode.is_directory]
        files = [one for one in shown if not one.inode.is_directory]
        if directories:
            roots = [Root(one.inode.names.root_words, 0, one.mask) for one in directories]
            counts, items = self.walker.buckets(
                roots, "names", self.fs.base.name_hash, Subject(where, "names", ino)
            )
            for one, count in zip(directories, counts, strict=True):
                self._count(one, "data-blocks", one.inode.data.blocks, count, "names")
            for name, value, mask in items:
                self._name(ino, name, value, mask)
        if files:
            roots = [Root(one.inode.map.root_words, one.inode.map.depth, one.mask) for one in files]
            totals, _ = self.walker.block_map(roots, "", Subject(where, "data", ino))
            for one, (count, end) in zip(files, totals, strict=True):
                self._count(one, "data-blocks", one.inode.data.blocks, count, "data")
                self._size(one, end)
        found = without(found, self.parts.outside_attributes(ino)) if self.parts.mask else found
        roots = [
            Root(one.inode.attribute_map.root_words, one.inode.attribute_map.depth, one.mask)
            for one in found
        ]
        totals, _ = self.walker.block_map(roots, "", Subject(where, "attributes", ino))
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
            self.findings.add(
                "I1",
                rule,
                self.place(one.inode.ino, one.mask),
                f"it has {found} blocks, {counted} are counted",
                fault=fault,
            )

    def _size(self, one: InodeVersion, end: int) -> None:
        inode = one.inode
        block_size = self.fs.volume.geometry.block_size
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
        self.findings.add("format", rule, self.place(one.inode.ino, one.mask), detail, fault=fault)

    def _readable(self, one: InodeVersion, mend: Mend) -> None:
        """Extended attributes and targets are metadata: they must be readable, or be mended so."""
        try:
            if mend is Mend.DROP_ATTRIBUTES:
                found = drive(self.fs.volume, xattrs.load, one.inode)
                if (
                    designation.NAME in found
                    and one.inode.is_directory
                    and one.inode.nlink
                    and one.inode.ino != ROOT_INO
                ):
                    self.designated[one.inode.ino] |= one.mask
            elif stat.S_ISLNK(one.inode.mode) and one.inode.data.blocks:
                drive(self.fs.volume, one.inode.map.node, 0, 0)
        except (CorruptBlock, DeviceError) as exc:
            fault = Fault(mend, one.mask, ino=one.inode.ino)
            self.findings.add(
                "I7", "unreadable", self.place(one.inode.ino, one.mask), str(exc), fault=fault
            )

    # Names

    def _name(self, directory: int, name: object, value: object, mask: int) -> None:
        where = self.place(directory, mask)
        if (
            type(name) is not bytes
            or not 0 < len(name) <= NAME_MAX
            or b"/" in name
            or b"\0" in name
            or name in (b".", b"..")
        ):
            fault = Fault(Mend.REBUILD_NAMES, mask, "names", directory)
            self.findings.add("format", "name", where, f"{name!r} is not a name", fault=fault)
            return
        if type(value) is not int or not FIRST_INO <= value >> TYPE_BITS < INO_LIMIT:
            fault = Fault(Mend.REBUILD_NAMES, mask, "names", directory)
            self.findings.add(
                "format", "entry", where, f"{name!r} leads to no inode number", fault=fault
            )
            return
        ino = value >> TYPE_BITS
        if directory == DESIGNATED_INO:
            if name == designation.label(ino):
                self.designated_by_list[ino] |= mask
            else:
                detail = f"{name!r} lists inode {ino}, whose entry would have another name"
                self.findings.add(
                    "format",
                    "designation-name",
                    where,
                    detail,
                    fault=Fault(Mend.LIST_DESIGNATED, mask),
                )
            return
        if directory == ORPHANS_INO:
            if name != b"%x" % ino:
                fault = Fault(Mend.LIST_ORPHANS, mask)
                detail = f"{name!r} lists inode {ino}, whose entry would have another name"
                self.findings.add("format", "orphan-name", where, detail, fault=fault)
            self.listed[ino] |= mask
            return
        self.names[ino].append((directory, value & 15, mask))
        if value & 15 == stat.S_IFDIR >> 12:
            self.subdirectories[directory].append(mask)

    def _links(self, versions: dict[int, list[InodeVersion]]) -> None:
        """Every name leads to an inode, every inode has as many names as it counts."""
        for ino, names in self.names.items():
            there = 0
            for one in versions.get(ino, ()):
                there |= one.mask
            for directory, kind, mask in names:
                wrong = mask & sum(
                    one.mask
                    for one in versions.get(ino, ())
                    if stat.S_IFMT(one.inode.mode) >> 12 != kind
                )
                if wrong:
                    fault = Fault(Mend.SET_NAME_TYPE, wrong, ino=directory, number=ino)
                    detail = f"a name says that inode {ino} has type {kind}"
                    self.findings.add(
                        "format", "entry-type", self.place(directory, wrong), detail, fault=fault
                    )
                if mask & ~there:
                    self.findings.add(
                        "format",
                        "dangling-name",
                        self.place(directory, mask & ~there),
                        f"a name leads to inode {ino}, which does not exist",
                        fault=Fault(Mend.DROP_NAMES, mask & ~there, ino=directory, number=ino),
                    )
        for ino, found in versions.items():
            if ino in HIDDEN_INOS:
                continue
            masks = [mask for _, _, mask in self.names.get(ino, ())]
            tops = self.parts.tops().get(ino, 0)
            for one in without(found, self.parts.outside_names(ino)) if self.parts.mask else found:
                if one.mask & tops:  # its name is outside
                    self._link_count(ino, one, 1, one.mask & tops, self.place(ino, one.mask & tops))
                if named := one.mask & ~tops:
                    for count, mask in partition(masks, named):
                        self._link_count(ino, one, count, mask, self.place(ino, named))
        for ino, listed in self.listed.items():
            mask = listed
            for one in versions.get(ino, ()):
                if one.mask & mask and one.inode.nlink:
                    self.findings.add(
                        "format",
                        "orphan-with-name",
                        self.place(ino, one.mask & mask),
                        "it is listed as an orphan and has names",
                        fault=Fault(Mend.LIST_ORPHANS, one.mask & mask),
                    )
                mask &= ~one.mask
            if mask:
                fault = Fault(Mend.LIST_ORPHANS, mask)
                detail = "it is listed as an orphan and does not exist"
                self.findings.add(
                    "format", "dangling-orphan", self.place(ino, mask), detail, fault=fault
                )

    def _link_count(self, ino: int, one: InodeVersion, count: int, mask: int, where: str) -> None:
        inode = one.inode
        add = self.findings.add
        if not inode.nlink:
            if count:
                fault = Fault(Mend.SET_LINKS, mask, ino=ino, value=count)
                add(
                    "format",
                    "link-count",
                    where,
                    f"it has {count} names and counts none",
                    fault=fault,
                )
            elif lost := mask & ~self.listed.get(ino, 0):
                fault = Fault(Mend.REATTACH, lost, ino=ino)
                add(
                    "I1",
                    "lost-inode",
                    where,
                    "it has no name and is not listed as an orphan",
                    fault=fault,
                )
        elif not inode.is_directory:
            if count != inode.nlink:
                fault = Fault(
                    Mend.SET_LINKS if count else Mend.REATTACH, mask, ino=ino, value=count
                )
                add(
                    "format",
                    "link-count",
                    where,
                    f"it has {count} names and counts {inode.nlink}",
                    fault=fault,
                )
        else:
            if count != (0 if ino == ROOT_INO else 1):
                fault = Fault(Mend.KEEP_ONE_NAME if count else Mend.REATTACH, mask, ino=ino)
                add(
                    "format",
                    "directory-names",
                    where,
                    f"the directory has {count} names",
                    fault=fault,
                )
            for subdirectories, part in partition(self.subdirectories.get(ino, []), mask):
                if inode.nlink != 2 + subdirectories:
                    fault = Fault(Mend.SET_LINKS, part, ino=ino, value=2 + subdirectories)
                    detail = (
                        f"the directory has {subdirectories} subdirectories and counts "
                        f"{inode.nlink} links"
                    )
                    add("format", "link-count", self.place(ino, part), detail, fault=fault)

    def _connection(self, versions: dict[int, list[InodeVersion]]) -> None:
        """Every directory is below the root, and knows where it is."""
        children: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ino, names in self.names.items():
            for directory, _, mask in names:
                children[directory].append((ino, mask))
        for ino, found in versions.items():
            if ino in (ROOT_INO, *HIDDEN_INOS):
                continue
            outside = (
                self.parts.outside_names(ino) | self.parts.tops().get(ino, 0)
                if self.parts.mask
                else 0
            )
            for one in without(found, outside):
                if one.inode.nlink and (
                    one.inode.is_directory or not one.inode.flags & FLAG_LINKED
                ):
                    stray = (
                        one.mask & sum(mask for _, _, mask in self.names.get(ino, ()))
                        if not one.inode.is_directory
                        else one.mask
                    )
                    for directory, _, mask in self.names.get(ino, ()):
                        if directory == one.inode.parent:
                            stray &= ~mask
                    if stray:
                        fault = Fault(Mend.SET_PARENT, stray, ino=ino)
                        detail = f"it takes inode {one.inode.parent} for its parent"
                        self.findings.add(
                            "format", "parent", self.place(ino, stray), detail, fault=fault
                        )
        root = self._fixed(versions, ROOT_INO, "no-root", "the root directory is missing")
        self._fixed(versions, ORPHANS_INO, "no-orphan-list", "the list of orphans is missing")
        self._covered(versions)
        connected: dict[int, int] = defaultdict(int)
        connected[ROOT_INO] = root
        work = [(ROOT_INO, root), *self.parts.tops().items()]
        # An orphan may still have names below it: they go with it.
        work += [(ino, mask) for ino, mask in self.listed.items()]
        for top, mask in work[1:]:
            connected[top] |= mask
        while work:
            directory, mask = work.pop()
            for ino, where in children.get(directory, ()):
                new = where & mask & ~connected[ino]
                if new:
                    connected[ino] |= new
                    work.append((ino, new))
        for ino, found in versions.items():
            for one in without(found, self.parts.outside_names(ino)) if self.parts.mask else found:
                lost = one.mask & ~connected.get(ino, 0)
                if lost and one.inode.nlink and ino not in HIDDEN_INOS and self.names.get(ino):
                    fault = Fault(Mend.CUT_LOOP, lost, ino=ino)
                    self.findings.add(
                        "format",
                        "not-connected",
                        self.place(ino, lost),
                        "no path leads to it from the root",
                        fault=fault,
                    )

    def _designations(self) -> None:
        """The list of designated directories has those that have the attribute."""
        for ino in sorted(self.designated.keys() | self.designated_by_list.keys()):
            designated, listed = self.designated[ino], self.designated_by_list[ino]
            if missing := designated & ~listed:
                fault = Fault(Mend.LIST_DESIGNATED, missing)
                self.findings.add(
                    "format",
                    "designation",
                    self.place(ino, missing),
                    "it is designated, and not listed as such",
                    fault=fault,
                )
            if wrong := listed & ~designated & ~self.parts.outside_attributes(ino):
                fault = Fault(Mend.LIST_DESIGNATED, wrong)
                self.findings.add(
                    "format",
                    "designation",
                    self.place(ino, wrong),
                    "it is listed as designated, and is not",
                    fault=fault,
                )

    def _fixed(
        self, versions: dict[int, list[InodeVersion]], ino: int, rule: str, detail: str
    ) -> int:
        """A directory that every view has; the views that do have it."""
        there = 0
        for one in versions.get(ino, ()):
            there |= one.mask if one.inode.is_directory else 0
        if there != self.everything:
            fault = Fault(Mend.MAKE_DIRECTORY, self.everything & ~there, ino=ino)
            self.findings.add(
                "format", rule, self.place(ino, self.everything & ~there), detail, fault=fault
            )
        return there

    def _covered(self, versions: dict[int, list[InodeVersion]]) -> None:
        """The chains of a snapshot's parts lead from its root to them, and it preserves all of
        them.
        """
        for one in self.instances:
            for part in one.parts:
                detail = f"its chain {list(part.chain)} does not lead to {part.path}"
                if self._is_chain(versions, one, part):
                    if (
                        not one.covered
                        or not part.ino
                        or not set(one.covered).isdisjoint(part.chain)
                    ):
                        continue
                    detail = f"it shows {part.path} and does not preserve it"
                fault = Fault(Mend.SET_CHAIN, 1 << one.id, number=one.id)
                self.findings.add(
                    "format", "covered-part", f"snapshot {one.name}", detail, fault=fault
                )

    def _is_chain(
        self, versions: dict[int, list[InodeVersion]], instance: Instance, part: Part
    ) -> bool:
        """Is each inode of a chain in the directory before it? All but the last are directories."""
        parent = ROOT_INO
        for position, ino in enumerate(part.chain):
            inode = next(
                (found.inode for found in versions.get(ino, ()) if found.mask >> instance.id & 1),
                None,
            )
            if inode is None or not inode.nlink:
                return False
            if inode.is_directory:
                if inode.parent != parent:
                    return False
            elif position < len(part.way) - 1 or (
                inode.parent != parent and not inode.flags & FLAG_LINKED
            ):
                return False
            parent = ino
        return True
