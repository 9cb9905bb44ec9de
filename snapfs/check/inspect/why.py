"""Why a block is in use: who reaches it, by which pointers from the superblock on, as what of which
files in which views.

``watch`` says who claims the block. Here the ways to it are walked anew, pointer by pointer, and
told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import SLOT_BYTES
from snapfs.blocks.group_header import ENTRY, ENTRY_SLOT
from snapfs.check.findings import Findings
from snapfs.check.inspect.blocks import check_block, standing
from snapfs.check.inspect.inodes import find
from snapfs.check.inspect.names import paths_of
from snapfs.check.inspect.page import OK, BlockPage, Checksum, ranges
from snapfs.check.inspect.trees import Node, Step, at_place, by_hash, by_index, descend, find_block
from snapfs.check.inspect.watch import ClaimSeen, Watched, watch
from snapfs.check.scrub.places import Tree, TreeKind, data_kind, root_of
from snapfs.check.scrub.verifying import MISMATCH
from snapfs.check.walk.reach import BASE, VOLUME
from snapfs.check.walk.tables import load_group
from snapfs.errors import CorruptBlock, DeviceError, FsError
from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected

#: Views whose paths are looked for, at most.
VIEWS_NAMED: Final = 256

#: What the present is called where views are listed.
PRESENT: Final = "the present"

#: The root pointer of a tree, and its depth.
Root = tuple[int, int, int]

_RECORDS: Final = "records of group "


class Held(NamedTuple):
    """A pointer on a way: what holds it and in which block, its slot there, the block that it
    names, and what it says of that.
    """

    holder: str
    in_block: int
    slot: int | None
    names: int
    level: int | None = None
    number: int | None = None
    epoch: int | None = None
    writes: int | None = None
    checksum: Checksum | None = None


class Noted(NamedTuple):
    """A way through a tree, as ``view`` has it; ``views`` are all whose ways end as it does."""

    kind: TreeKind
    ino: int
    way: list[Step]
    view: int
    views: set[int]


def why(
    image: Inspected, block: int, progress: Callable[[int, int], None] | None = None
) -> BlockPage:
    """Everything that reaches a block. Takes as long as a check. Raises ``NotFound`` for a block
    that the volume does not have.
    """
    check_block(image, block)
    page = image.page()
    standing(page, image, block)
    watched = watch(image.fs, block, progress)
    for one in watched.unseen:
        page.trouble(one.place, f"{one.detail}: what is below it is not known")
    Answer(page, image, watched, block).tell()
    for one in watched.wrong:
        page.trouble(one.place, one.detail)
    return page


class Answer:
    """Fills a page with who claims a block."""

    def __init__(self, page: BlockPage, image: Inspected, watched: Watched, block: int) -> None:
        self.page = page
        self.image = image
        self.volume = image.volume
        self.watched = watched
        self.block = block
        self.content = b""
        self.reached = page.table(
            "reached", "way", "kind", "by", "inode", "level", "number", "epoch", "checksum", "state"
        )
        self.files = page.table("files", "way", "inode", "path", "views", "offset")
        self.pointers = page.table("pointers", "way", *Held._fields)
        self._ways = 0
        self._noted: dict[tuple[TreeKind, int, int, int, int], Noted] = {}
        self._guesses: dict[int, bytes] = {}

    def tell(self) -> None:
        """Tell of all claims."""
        size = self.volume.geometry.block_size
        try:
            self.content = self.volume.device.read(self.block * size, size)
            self.page.facts["checksum"] = Checksum(crc32c(self.content))
        except DeviceError as exc:
            self.page.facts["checksum"] = self.page.trouble(f"block {self.block}", exc)
        kinds: dict[str, None] = {}
        mask = 0
        for claim in self.watched.claims:
            mask |= claim.mask
            if claim.tree:
                kinds[self._of_views(claim)] = None
            else:
                kinds[claim.words] = None
                self._of_volume(claim)
        self._tell_views()
        epochs = sorted({claim.epoch for claim in self.watched.claims if claim.tree})
        self.page.facts.update(
            used_as=list(kinds) or [self._unreached()],
            reached_by_present=bool(mask & BASE),
            reached_by_instances=ranges(mask & ~(VOLUME | BASE)),
            epochs=epochs,
            holders_by_epoch=ranges(self.volume.holders.default(epochs[0])) if epochs else None,
        )

    def _unreached(self) -> str:
        """What a block is used as that no pointer leads to."""
        facts = self.page.facts
        if isinstance(fixed := facts["fixed"], str):
            return fixed
        if facts["in_log"]:
            return "log"
        number = facts["record_set"]
        entry = self.volume.holders.sets.get(number) if isinstance(number, int) else None
        going = sum(1 << one.id for one in self.volume.instances.going())
        if entry is not None and entry.mask & going and not entry.mask & ~going:
            return "waits for the deletion of a snapshot"
        return "free" if facts["in_block_bitmap"] is False else "nothing that is known"

    # What belongs to the volume

    def _of_volume(self, claim: ClaimSeen) -> None:
        volume, superblock, root = self.volume, self.volume.superblock, self.volume.root_block
        place = volume.copies.place
        if claim.words in (TreeKind.GROUPS, TreeKind.SETS, TreeKind.INSTANCES):
            for way in find_block(volume, *self.image.tree(TreeKind(claim.words)), self.block):
                self._reached(
                    claim.words, [], self._held(claim.words, way, "root record", root), way[-1]
                )
        elif claim.words == "root record":
            is_right = crc32c(self.content[: superblock.root_length]) == superblock.root_checksum
            state = OK if is_right else self.page.trouble("root record", MISMATCH)
            self._told(claim.words, [], [], Checksum(superblock.root_checksum), state)
        elif claim.words.startswith(_RECORDS):
            self._of_records(int(claim.words.removeprefix(_RECORDS)))
        elif place is not None:
            way_to_copy = Held(
                "root record", root, None, place.block, checksum=Checksum(place.checksum)
            )
            if claim.words == "running copy":
                self._told(
                    claim.words,
                    [],
                    [way_to_copy],
                    Checksum(place.checksum),
                    self._verified(place.checksum),
                )
            else:
                held = [way_to_copy, Held("running copy", place.block, None, self.block)]
                self._told(claim.words, [], held, None, "its sectors have checksums of their own")

    def _of_records(self, number: int) -> None:
        """A block that stores records: the header of their group names it, and the group table the
        header.
        """
        volume, geometry = self.volume, self.volume.geometry
        leaf, slot = divmod(number, geometry.block_size // ENTRY.size)
        entry = volume.allocator.entries[number]
        header = geometry.header_block(number, entry.flags & ENTRY_SLOT)
        tree, root, depth = self.image.tree(TreeKind.GROUPS)
        node, at = descend(volume, Node(tree, depth, 0, root), by_index(volume, leaf))
        way = [] if node.problem else node.way(at)
        held = self._held(TreeKind.GROUPS, way, "root record", volume.root_block)
        if way:
            held.append(
                Held(
                    TreeKind.GROUPS, way[-1].block, slot, header, checksum=Checksum(entry.checksum)
                )
            )
        group = load_group(volume, number, Findings())
        for position, (block, checksum) in enumerate(group.spill if group else ()):
            if block == self.block:
                last = Held(
                    f"header of group {number}",
                    header,
                    position,
                    block,
                    checksum=Checksum(checksum),
                )
                self._told(
                    f"{_RECORDS}{number}",
                    [],
                    [*held, last],
                    Checksum(checksum),
                    self._verified(checksum),
                )

    # Trees of views

    def _of_views(self, claim: ClaimSeen) -> str:
        """Note the ways through a tree of some views; what kind of tree it is."""
        pending = self._roots(claim)
        kinds = [str(kind) for kind, _ in pending]
        while pending:
            (kind, root), views = next(iter(pending.items()))
            tree = Tree(kind, views[0], ino=claim.ino)
            done = {(kind, root)}
            for way in find_block(self.volume, tree, root[:2], root[2], self.block):
                last = way[-1]
                end = kind, claim.ino, last.holder, last.slot, 0 if last.holder else root[0]
                noted = self._noted.setdefault(end, Noted(kind, claim.ino, way, views[0], set()))
                noted.views.update(views)
                for other, sharing in pending.items():
                    if other[0] is kind and self._ends_alike(other[1], last, tree):
                        noted.views.update(sharing)
                        done.add(other)
            pending = {key: views for key, views in pending.items() if key not in done}
        return kinds[0] if kinds else claim.tree

    def _roots(self, claim: ClaimSeen) -> dict[tuple[TreeKind, Root], list[int]]:
        """The roots of the tree of a claim, each with the views that have it."""
        roots: dict[tuple[TreeKind, Root], list[int]] = {}
        for number in range(claim.mask.bit_length()):
            if not claim.mask >> number & 1:
                continue
            try:
                if claim.tree == "inodes":
                    root = self.image.view_root(number)
                    key = TreeKind.INODES, (root.first, root.second, root.depth)
                else:
                    one = find(self.image, self.image.fs.view(number), claim.ino).inode
                    if one is None:
                        continue
                    kind = TreeKind.ATTRIBUTES if claim.tree == "attributes" else data_kind(one)
                    key = kind, root_of(one, kind)
            except (FsError, CorruptBlock, DeviceError) as exc:
                self.page.trouble(f"inode {claim.ino} in view {number}", exc)
                continue
            roots.setdefault(key, []).append(number)
        return roots

    def _ends_alike(self, root: Root, last: Step, tree: Tree) -> bool:
        """Does the way to a place from another root of a tree end with the same pointer?"""
        if not last.holder:
            return False
        other = at_place(self.volume, tree, root[:2], root[2], last.level, last.number)
        return other is not None and (other.holder, other.slot) == (last.holder, last.slot)

    def _tell_views(self) -> None:
        """Tell the ways that were noted."""
        for kind, ino, way, view, sharing in self._noted.values():
            views = sorted(sharing)
            *held, root = self._to_root(kind, view, ino)
            held += self._held(kind, way, root.holder, root.in_block)
            self._reached(kind, views, held, way[-1], ino)
            if kind is not TreeKind.INODES:
                self._files(ino, kind, way[-1], views)

    def _to_root(self, kind: TreeKind, view: int, ino: int) -> list[Held]:
        """The pointers on the way to what holds the root of a tree; in place of the last one, what
        holds that root.
        """
        held: list[Held] = []
        holder, block = "root record", self.volume.root_block
        if view != BASE_VIEW:
            tree, root, _ = self.image.tree(TreeKind.INSTANCES)
            try:
                node, at = descend(
                    self.volume, Node(tree, 0, 0, root), by_hash(self.volume.instances_tree, view)
                )
                way = [] if node.problem else node.way(at)
            except CorruptBlock:
                way = []
            held += self._held(TreeKind.INSTANCES, way, holder, block)
            holder, block = f"instance {view}", way[-1].block if way else 0
        if kind is not TreeKind.INODES:
            way = find(self.image, self.image.fs.view(view), ino).way
            held += self._held(TreeKind.INODES, way, holder, block)
            holder, block = f"inode {ino}", way[-1].block
        return [*held, Held(holder, block, None, 0)]

    def _held(self, kind: str, way: list[Step], root: str, root_block: int) -> list[Held]:
        """The pointers of one tree on a way, of which something else holds the first."""
        return [
            Held(
                f"{kind}, pointer block" if step.holder else root,
                step.holder or root_block,
                step.slot if step.holder else None,
                step.block,
                step.level,
                step.number,
                step.epoch,
                step.writes,
                Checksum(step.checksum),
            )
            for step in way
        ]

    # What is told

    def _verified(self, checksum: int) -> str:
        if self.content and crc32c(self.content) == checksum:
            return OK
        return self.page.trouble(
            f"block {self.block}", MISMATCH if self.content else "cannot be read"
        )

    def _reached(
        self, kind: str, views: list[int], held: list[Held], step: Step, ino: int = 0
    ) -> None:
        self._told(
            kind, views, held, Checksum(step.checksum), self._verified(step.checksum), ino, step
        )

    def _told(
        self,
        kind: str,
        views: list[int],
        held: list[Held],
        checksum: Checksum | None,
        state: str,
        ino: int = 0,
        step: Step | None = None,
    ) -> None:
        self._ways += 1
        one = self.volume.superblock
        first = Held(
            f"superblock slot {one.slot}",
            one.slot * SLOT_BYTES // one.block_size,
            None,
            one.root_block,
            checksum=Checksum(one.root_checksum),
        )
        for pointer in (first, *held):
            self.pointers.add(self._ways, *pointer)
        place = (step.level, step.number, step.epoch) if step else (None, None, None)
        by = self._names(views) if views else ["the volume"]
        self.reached.add(self._ways, str(kind), by, ino or None, *place, checksum, state)

    def _names(self, views: list[int]) -> list[str]:
        table = self.volume.instances.table
        return [PRESENT if number == BASE_VIEW else table[number].name for number in views]

    def _files(self, ino: int, kind: TreeKind, step: Step, views: list[int]) -> None:
        """By which names views show the inode."""
        found: dict[str | None, list[int]] = {}
        directories = self.watched.directories(ino)
        for number in views[:VIEWS_NAMED]:
            within = [directory for directory, mask in directories.items() if mask >> number & 1]
            for path in paths_of(
                self.image, self.image.fs.view(number), ino, within, self._guesses
            ) or [None]:
                found.setdefault(path, []).append(number)
        if len(views) > VIEWS_NAMED:
            self.page.trouble(
                f"inode {ino}", f"its paths were looked for in {VIEWS_NAMED} of {len(views)} views"
            )
        offset = (
            step.number * self.volume.geometry.block_size
            if kind is TreeKind.DATA and step.level == 0
            else None
        )
        for path, sharing in found.items():
            self.files.add(self._ways, ino, path, self._names(sharing), offset)
