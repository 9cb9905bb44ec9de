"""Damage to plant: each case breaks one rule of the checker, with all checksums right, as a bug in
the core would.

A case returns the place where it must be found. ``also`` names the rules that cannot but be broken
with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.blocks.geometry import SUPERBLOCK_SLOTS
from snapfs.blocks.group_header import GroupEntry
from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, FLAG_BUCKET, FLAG_DIRTY
from snapfs.blocks.superblock import SUPERBLOCK_BYTES
from snapfs.check import Severity
from snapfs.filesystem import Inode, writing
from snapfs.filesystem.format import format_volume
from snapfs.ids import DESIGNATED_INO, FIRST_INO, INO_LIMIT, ORPHANS_INO, ROOT_INO
from snapfs.store.commit import commit, copy_map_space
from snapfs.store.commit.volume import Volume
from snapfs.store.space.group import Group
from snapfs.store.tables.copies import RunningCopy
from snapfs.store.tables.parts import (
    Kept,
    Part,
    kept_by,
)
from snapfs.store.tables.restores import Scheduled
from snapfs.store.trees.bucket import Bucket
from snapfs.store.trees.buckets import DEPTH_BITS
from snapfs.store.trees.sealing import Sealing
from tests.damage.planting import (
    BLOCK,
    BLOCKS,
    DIRECTORY,
    FIFO,
    REGULAR,
    SPAN,
    SYMLINK,
    Planted,
    tree_blocks,
)
from tests.harness.sparse import SparseDevice


@dataclass(frozen=True)
class Case:
    rule: str
    invariant: str
    also: frozenset[str]
    severity: Severity
    plant: Callable[[Planted], str]


CASES: list[Case] = []


def damage(
    rule: str, invariant: str = "format", *also: str, severity: Severity = Severity.ERROR
) -> Callable[[Callable[[Planted], str]], Callable[[Planted], str]]:
    def register(plant: Callable[[Planted], str]) -> Callable[[Planted], str]:
        CASES.append(Case(rule, invariant, frozenset(also), severity, plant))
        return plant

    return register


def place(inode: Inode) -> str:
    return f"inode {inode.ino}"


# Bitmaps and records (I1, I2, I3)


@damage("leaked", "I1")
def a_free_block_is_marked(p: Planted) -> str:
    group, offset = p.free_block()
    group.blocks[offset] = 1
    group.free -= 1
    return f"block {group.start + offset}"


@damage("not-marked", "I1")
def a_block_of_a_file_is_free(p: Planted) -> str:
    block = p.block_of(p.find("dir/other/youngest"))
    p.group(0).blocks[block] = 0
    p.group(0).free += 1
    return f"block {block}"


@damage("snapshot-bitmap", "I2")
def a_block_of_the_base_is_marked_as_a_snapshots(p: Planted) -> str:
    block = p.block_of(p.find("dir/other/youngest"))
    p.group(0).mark_snapshot(block, block + 1, 1)
    return f"block {block}"


@damage("snapshot-bitmap", "I2")
def a_block_that_only_snapshots_need_is_not_marked(p: Planted) -> str:
    group, offset, _, _ = p.record(base_held=False)
    group.mark_snapshot(offset, offset + 1, 0)
    return f"block {offset}"


@damage("snapshot-bitmap", "I2")
def record_storage_is_not_marked(p: Planted) -> str:
    ((block, _), *_) = p.group(1).spill
    p.group(0).mark_snapshot(block, block + 1, 0)
    return f"block {block}"


@damage("holders", "I3")
def a_record_names_an_instance_too_many(p: Planted) -> str:
    group, offset, _, entry = p.record(base_held=False)
    strangers = p.sets.live & ~entry.mask
    p.give_record(group, offset, p.sets.intern(False, 0, entry.mask | strangers & -strangers))
    return f"block {offset}"


@damage("holders", "I3")
def a_spilled_record_names_an_instance_too_few(p: Planted) -> str:
    group, offset, _, entry = p.record(base_held=False, group=1)
    p.give_record(group, offset, p.sets.intern(False, 0, entry.mask & entry.mask - 1))
    return f"block {group.start + offset}"


@damage("holders", "I3")
def a_block_has_the_epoch_of_older_snapshots(p: Planted) -> str:
    inode = p.make("", "made now", REGULAR, b"x")
    inode.data.root[1] = inode.data.root[1] & ~EPOCH_MASK | 1
    return f"block {p.block_of(inode)}"


@damage("base-held", "I3")
def a_record_says_that_the_base_needs_what_it_has_left(p: Planted) -> str:
    group, offset, _, entry = p.record(base_held=False)
    p.give_record(group, offset, p.sets.intern(True, p.volume.epoch, entry.mask))
    return f"block {offset}"


@damage("base-held", "I3")
def a_record_denies_that_the_base_needs_a_block(p: Planted) -> str:
    group, offset, number, _ = p.record(base_held=True)
    p.give_record(group, offset, p.sets.intern(False, 0, p.sets.holders(number)))
    return f"block {offset}"


@damage("no-record", "I3")
def a_block_that_only_snapshots_need_has_no_record(p: Planted) -> str:
    group, offset, _, _ = p.record(base_held=False)
    p.give_record(group, offset, None)
    return f"block {offset}"


@damage("record-of-nothing", "I3")
def a_free_block_has_a_record(p: Planted) -> str:
    group, offset = p.free_block()
    p.give_record(group, offset, p.sets.intern(False, 0, p.sets.live))
    return f"block {offset}"


@damage("record-of-nothing", "I3")
def a_block_of_a_table_has_a_record(p: Planted) -> str:
    (block,) = tree_blocks(p.volume, p.volume.instances_tree)
    p.give_record(p.group(0), block, p.sets.intern(False, 0, p.sets.live))
    return f"block {block}"


@damage("unknown-set", "I3")
def a_record_names_a_set_that_is_not_there(p: Planted) -> str:
    group, offset, number, _ = p.record(base_held=False)
    p.sets.adjust(number, -1)
    group.records.assign(offset, offset + 1, 999)
    group.records_dirty = True
    return f"block {offset}"


@damage("set-count", "I3")
def a_set_counts_blocks_that_do_not_name_it(p: Planted) -> str:
    _, _, number, entry = p.record(base_held=False)
    entry.count += 3
    p.sets.dirty.add(number)
    return f"holder set {number}"


@damage("unknown-holder", "I3")
def a_set_names_an_instance_that_is_not_there(p: Planted) -> str:
    _, _, number, entry = p.record(base_held=False)
    entry.mask |= 1 << 77
    p.sets.dirty.add(number)
    return f"holder set {number}"


@damage("future-epoch", "I3")
def a_set_counts_from_an_epoch_that_has_not_begun(p: Planted) -> str:
    _, _, number, entry = p.record(base_held=True)
    entry.mask = p.sets.holders(number)
    entry.since = p.volume.epoch + 1
    p.sets.dirty.add(number)
    return f"holder set {number}"


@damage("future-epoch", "I3")
def a_snapshot_is_of_an_epoch_that_is_not_over(p: Planted) -> str:
    p.do(snapshots.create, p.fs, "last")
    p.commit()
    one = snapshots.get(p.fs, "last")
    one.epoch = p.volume.epoch
    p.volume.instances.dirty.add(one.id)
    return "snapshot last"


@damage("future-serial")
def a_snapshot_was_made_after_those_that_are_yet_to_be_made(p: Planted) -> str:
    one = snapshots.get(p.fs, "copy")
    one.serial = p.volume.next_inode_generation + 100
    p.volume.instances.dirty.add(one.id)
    return "snapshot copy"


@damage("future-epoch", "I3")
def a_block_is_born_in_an_epoch_that_has_not_begun(p: Planted) -> str:
    """Snapshots that are yet to be made would not be counted among its holders."""
    inode = p.make("", "made later", REGULAR, b"x")
    inode.data.root[1] += 3
    return place(inode)


@damage("origin", severity=Severity.WARNING)
def a_snapshot_is_of_a_snapshot_that_never_was(p: Planted) -> str:
    one = snapshots.get(p.fs, "copy")
    one.origin = 77
    p.volume.instances.dirty.add(one.id)
    return "snapshot copy"


@damage("scheduled-restore", severity=Severity.WARNING)
def the_next_mount_is_to_go_back_to_a_snapshot_that_never_was(p: Planted) -> str:
    p.volume.restores.schedule(Scheduled(77))
    return "root record"


@damage("scheduled-restore", severity=Severity.WARNING)
def the_next_mount_is_to_go_back_to_a_deleted_snapshot(p: Planted) -> str:
    going = p.volume.instances.going()
    p.volume.restores.schedule(Scheduled(going[0].id))
    return "root record"


# A running copy (I1, I4, I7)


def register(p: Planted, *runs: tuple[int, int], **more: Any) -> str:
    """Another copy than the one that is running."""
    running = p.volume.copies.current
    assert running is not None
    p.do(copy_map_space.free_map, p.volume, running.map_runs)
    p.volume.copies.put(
        RunningCopy(
            **{
                "id": b"copy" * 4,
                "generation": 1,
                "destination": b"/elsewhere/copy",
                "map_runs": runs,
                **more,
            }
        )
    )
    return "running copy"


@damage("running-copy", "I7")
def what_describes_a_running_copy_fails_its_checksum(p: Planted) -> str:
    found = register(p, map_path=b"/elsewhere/map")
    p.commit()
    place = p.volume.copies.place
    assert place is not None
    p.flip(place.block * BLOCK + 17)
    return found


@damage("running-copy", "I7")
def a_running_copy_has_no_id(p: Planted) -> str:
    return register(p, id=bytes(16), map_path=b"/elsewhere/map")


@damage("running-copy", "I7")
def a_running_copy_has_no_map(p: Planted) -> str:
    return register(p)


@damage("copy-map", "I4")
def the_map_of_a_copy_lies_behind_the_end_of_the_volume(p: Planted) -> str:
    return register(p, (BLOCKS - 1, 2))


@damage("copy-map", "I4")
def the_map_of_a_copy_lies_on_the_header_of_a_group(p: Planted) -> str:
    return register(p, (SPAN - 1, 2))


@damage("copy-map", "I4")
def the_map_of_a_copy_has_a_block_twice(p: Planted) -> str:
    _, block = p.free_block()
    return register(p, (block, 4), (block + 3, 1))


@damage("copy-shared", "I4")
def the_map_of_a_copy_lies_on_a_file(p: Planted) -> str:
    block = p.block_of(p.find("dir/other/youngest"))
    register(p, (block, 1))
    return f"block {block}"


@damage("copy-shared", "I4")
def the_map_of_a_copy_lies_on_the_root_of_a_table(p: Planted) -> str:
    block = p.volume.instances_tree.root_words[0] & BLOCK_MASK
    register(p, (block, 1))
    return f"block {block}"


@damage("not-marked", "I1")
def the_map_of_a_copy_is_free(p: Planted) -> str:
    ((start, length),) = p.do(copy_map_space.allocate_map, p.volume, 4)
    p.do(copy_map_space.free_map, p.volume, [(start, length)])
    register(p, (start, length))
    return f"blocks {start} to {start + length - 1}"


@damage("leaked", "I1")
def a_map_is_left_of_a_copy_that_has_ended(p: Planted) -> str:
    ((start, length),) = p.do(copy_map_space.allocate_map, p.volume, 4)
    return f"blocks {start} to {start + length - 1}"


def show(p: Planted, *parts: Part, kept: Kept | None = None) -> str:
    """Have the snapshot ``part`` show something else."""
    one = snapshots.get(p.fs, "part")
    one.parts = parts
    one.covered, one.passed = kept_by(parts) if kept is None else kept
    p.volume.instances.dirty.add(one.id)
    return "snapshot part"


@damage("covered-part")
def a_snapshot_covers_a_file_that_is_elsewhere(p: Planted) -> str:
    (part,) = snapshots.get(p.fs, "part").parts
    number = p.find("plain").ino
    return show(p, Part(number, (part.chain[0], number), part.way))


@damage("covered-part")
def a_chain_leaves_out_a_directory(p: Planted) -> str:
    (part,) = snapshots.get(p.fs, "part").parts
    return show(p, Part(part.ino, part.chain[1:], part.way[1:]))


@damage("covered-part")
def one_of_several_parts_is_no_inode(p: Planted) -> str:
    return show(
        p, *snapshots.get(p.fs, "part").parts, Part(INO_LIMIT - 1, (INO_LIMIT - 1,), (b"lost",))
    )


@damage("covered-part")
def a_snapshot_shows_what_it_does_not_preserve(p: Planted) -> str:
    (part,) = snapshots.get(p.fs, "part").parts
    return show(p, part, kept=((0,), (ROOT_INO,)))


@damage("covered-part")
def nothing_stood_in_a_directory_that_was_not_there(p: Planted) -> str:
    (part,) = snapshots.get(p.fs, "part").parts
    return show(p, part, Part(0, (INO_LIMIT - 1,), (b"gone", b"below")))


# Counts


@damage("record-blocks", severity=Severity.WARNING)
def a_block_of_record_storage_too_many_is_counted(p: Planted) -> str:
    p.volume.record_blocks += 1
    return "root record"


@damage("group-counts")
def the_group_table_counts_a_run_too_many(p: Planted) -> str:
    original = commit.write_header

    def write_header(volume: Volume, sealing: Sealing, group: Group, generation: int) -> GroupEntry:
        entry = original(volume, sealing, group, generation)
        return replace(entry, runs=entry.runs + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "write_header", write_header)
        p.commit()
    p.is_written = True
    return "group 0"


@damage("table-blocks", "I1")
def an_inode_table_counts_a_block_too_many(p: Planted) -> str:
    p.find("plain", change=True)
    p.base.table.blocks += 1
    return "the base"


@damage("table-blocks", "I1")
def the_group_table_counts_a_block_too_many(p: Planted) -> str:
    p.volume.group_tree.blocks += 1
    return "group table"


@damage("table-blocks", "I1")
def the_instance_table_counts_a_block_too_many(p: Planted) -> str:
    p.volume.instances_tree.blocks += 1
    return "instance table"


@damage("table-blocks", "I1")
def the_holder_sets_count_a_block_too_many(p: Planted) -> str:
    p.volume.sets_tree.blocks += 1
    p.volume.record_blocks += 1
    return "holder sets"


@damage("inode-count")
def a_view_counts_an_inode_too_many(p: Planted) -> str:
    view = p.view("copy")
    p.find("plain", view, change=True)
    view.inodes += 1
    return "snapshot copy"


@damage("content-count", severity=Severity.WARNING)
def a_view_counts_a_block_of_its_inodes_too_many(p: Planted) -> str:
    view = p.view("copy")
    p.find("plain", view, change=True)
    view.content += 1
    return "snapshot copy"


@damage("next-inode")
def a_number_would_be_given_out_twice(p: Planted) -> str:
    p.find("plain", change=True)
    p.base.next_ino = FIRST_INO
    return "the base"


@damage("next-inode")
def a_number_would_be_given_out_twice_in_a_view_of_few_inodes(p: Planted) -> str:
    """The base has higher numbers than the view: each one is compared with its own."""
    view = p.view("copy")
    p.find("plain", view, change=True)
    view.next_ino -= 1
    assert view.next_ino < p.base.next_ino
    return "snapshot copy"


@damage("data-blocks", "I1")
def a_file_counts_a_block_too_many(p: Planted) -> str:
    inode = p.find("plain", change=True)
    inode.data.blocks += 1
    return place(inode)


@damage("data-blocks", "I1")
def a_directory_of_a_snapshot_counts_a_block_too_few(p: Planted) -> str:
    inode = p.find("many", p.view("copy"), change=True)
    inode.data.blocks -= 1
    return f"{place(inode)} of snapshot copy"


@damage("attribute-blocks", "I1")
def attributes_have_a_block_behind_their_end(p: Planted) -> str:
    inode = p.find("twice", change=True)
    count = inode.attribute_bytes // BLOCK + 1
    p.do(inode.attribute_map.grow, count + 1)
    p.do(inode.attribute_map.writable, 0, count)
    return place(inode)


@damage("link-count")
def a_file_counts_a_name_too_many(p: Planted) -> str:
    inode = p.find("twice", change=True)
    inode.nlink += 1
    return place(inode)


@damage("link-count")
def a_file_with_a_name_counts_none(p: Planted) -> str:
    inode = p.find("plain", change=True)
    inode.nlink = 0
    return place(inode)


@damage("link-count")
def a_directory_of_a_snapshot_counts_a_subdirectory_too_many(p: Planted) -> str:
    inode = p.find("dir", p.view("copy"), change=True)
    inode.nlink += 1
    return f"{place(inode)} of snapshot copy"


# Names


@damage("dangling-name")
def a_name_leads_nowhere(p: Planted) -> str:
    root = p.find("")
    p.put_name(root, b"ghost", 9999 << 4 | 8)
    return place(root)


@damage("lost-inode", "I1")
def a_file_without_a_name_is_no_orphan(p: Planted) -> str:
    inode = p.find("fifo", change=True)
    p.pop_name(p.find(""), b"fifo")
    inode.nlink = 0
    return place(inode)


@damage("orphan-with-name")
def a_file_with_a_name_is_listed_as_an_orphan(p: Planted) -> str:
    inode = p.find("plain")
    p.put_name(p.orphans(), b"%x" % inode.ino, inode.ino << 4 | 8)
    return place(inode)


@damage("dangling-orphan")
def an_orphan_is_listed_that_is_not_there(p: Planted) -> str:
    p.put_name(p.orphans(), b"%x" % 9999, 9999 << 4 | 8)
    return "inode 9999"


@damage("orphan-name")
def an_orphan_is_listed_under_another_number(p: Planted) -> str:
    """It would never leave the list."""
    ((_, name, value),) = p.do(p.orphans().names.scan, 0, 10)
    p.pop_name(p.orphans(), name)
    p.put_name(p.orphans(), b"ffff", value)
    return place(p.orphans())


@damage("parent")
def a_directory_takes_another_for_its_parent(p: Planted) -> str:
    inode = p.find("dir/sub", change=True)
    inode.parent = p.find("many").ino
    return place(inode)


@damage("directory-names")
def a_directory_has_two_names(p: Planted) -> str:
    inode = p.find("dir/sub")
    p.put_name(p.find("dir"), b"second name", inode.ino << 4 | 4)
    p.find("dir", change=True).nlink += 1
    return place(inode)


@damage("not-connected")
def two_directories_are_in_each_other(p: Planted) -> str:
    first, second = p.make("", "first", DIRECTORY), p.make("", "second", DIRECTORY)
    root = p.find("")
    p.put_name(first, b"second", p.pop_name(root, b"second"))
    p.put_name(second, b"first", p.pop_name(root, b"first"))
    root.nlink -= 2
    for inode, other in ((first, second), (second, first)):
        inode.nlink += 1
        inode.parent = other.ino
    return place(first)


@damage("entry-type")
def a_name_has_the_type_of_another_file(p: Planted) -> str:
    root = p.find("")
    value = p.pop_name(root, b"fifo")
    p.put_name(root, b"fifo", value & ~15 | 8)
    return place(root)


@damage("name")
def a_name_has_a_slash(p: Planted) -> str:
    directory = p.find("dir")
    p.put_name(directory, b"sub/deep", 9999 << 4 | 8)
    return place(directory)


@damage("entry")
def a_name_leads_to_a_reserved_number(p: Planted) -> str:
    directory = p.find("dir")
    p.put_name(directory, b"reserved", 5 << 4 | 8)
    return place(directory)


@damage("unreadable", "I7")
def a_name_leads_to_a_text(p: Planted) -> str:
    return only_item(p, b"text", "text")


@damage("name")
def a_name_is_dot_dot(p: Planted) -> str:
    directory = p.find("dir", p.view("copy"))
    p.put_name(directory, b"..", 9999 << 4 | 8)
    return f"{place(directory)} of snapshot copy"


@damage("unreadable", "I7")
def a_key_of_a_directory_is_a_number(p: Planted) -> str:
    return only_item(p, 5, 9999 << 4 | 8)


@damage("unreadable", "I7")
def a_key_of_a_directory_is_a_text(p: Planted) -> str:
    return only_item(p, "text", 9999 << 4 | 8)


def only_item(p: Planted, key: object, value: object) -> str:
    directory = p.make("", "odd", DIRECTORY)
    directory.names._place(directory.names.root, 0, 0, 0, Bucket({key: value}, 0))
    return place(directory)


@damage("misplaced-item")
def a_name_is_in_the_wrong_bucket(p: Planted) -> str:
    directory = p.find("many", change=True)
    for number in range(160):
        p.do(directory.names.touch, b"%0100d" % number)
    first, second = [found for found in directory.names.dirty.values() if type(found) is Bucket][:2]
    name = next(iter(first.items))
    second.items[name] = first.items.pop(name)
    return place(directory)


# Trees


@damage("unreadable", "I7")
def a_bucket_is_empty(p: Planted) -> str:
    inode = p.make("", "empty", DIRECTORY)
    inode.names._place(inode.names.root, 0, 0, 0, Bucket({}, 0))
    return place(inode)


@damage("empty-pointer-block", "I1")
def a_pointer_block_of_a_directory_is_empty(p: Planted) -> str:
    inode = p.make("", "empty", DIRECTORY)
    chain(inode, 1)
    return place(inode)


@damage("empty-pointer-block", "I1")
def a_pointer_block_of_a_file_is_empty(p: Planted) -> str:
    inode = p.make("", "empty", REGULAR)
    p.do(inode.map.grow, 2)
    p.do(inode.map.writable, 1, 0)
    return place(inode)


@damage("empty-pointer-block", "I1")
def a_pointer_block_of_a_table_is_empty(p: Planted) -> str:
    p.do(p.base.table.grow, 257)
    p.do(p.base.table.writable, 1, 1)
    return "inode table"


@damage("tree-too-deep")
def a_directory_has_more_levels_than_a_hash_has_digits(p: Planted) -> str:
    inode = p.make("", "deep", DIRECTORY)
    chain(inode, 9)
    return place(inode)


def chain(directory: Inode, blocks: int) -> None:
    """Pointer blocks one below the other, the last one empty."""
    tree = directory.names
    words = tree.root
    for depth in range(blocks):
        words[0] = FLAG_DIRTY
        words = array("Q", bytes(BLOCK))
        tree._adopt(0 << DEPTH_BITS | depth, words)
        tree.blocks += 1


@damage("pointer-range")
def a_pointer_leads_out_of_the_volume(p: Planted) -> str:
    return point_somewhere(p, BLOCKS + 5)


@damage("pointer-range")
def a_pointer_leads_to_block_zero(p: Planted) -> str:
    return point_somewhere(p, 3 << 48)


@damage("pointer-range")
def a_pointer_to_a_pointer_block_leads_out_of_the_volume(p: Planted) -> str:
    inode = p.find("sparse", change=True)
    node = p.do(inode.map.writable, 2, 0)
    node[2 * 9] = BLOCKS + 5
    inode.data.blocks += 1
    inode.size = 1 << 24
    return place(inode)


@damage("pointer-into-fixed", "I4")
def a_pointer_leads_into_the_superblocks(p: Planted) -> str:
    return point_somewhere(p, 3)


@damage("pointer-into-fixed", "I4")
def a_pointer_leads_into_the_header_of_a_later_group(p: Planted) -> str:
    return point_somewhere(p, p.group(1).start + 2)


@damage("pointer-into-fixed", "I4")
def a_pointer_leads_into_the_copy_of_the_superblocks(p: Planted) -> str:
    return point_somewhere(p, BLOCKS - 1)


@damage("reached-twice", "I4")
def a_block_is_at_two_places_of_a_file(p: Planted) -> str:
    words, at = p.pointers(p.find("sparse"), 5)
    return point_somewhere(p, words[at], words[at + 1])


@damage("reached-twice", "I4")
def two_files_have_one_block(p: Planted) -> str:
    first, second = p.make("", "first", REGULAR, b"x"), p.make("", "second", REGULAR)
    second.data.root[:] = first.data.root[:]
    second.data.blocks, second.size = 1, 1
    return place(second)


@damage("pointer-flags")
def a_pointer_of_data_leads_to_a_bucket(p: Planted) -> str:
    words, at = p.pointers(p.find("sparse"), 5)
    words[at] |= FLAG_BUCKET
    return place(p.find("sparse"))


@damage("pointer-flags")
def a_pointer_of_a_file_leads_to_a_bucket(p: Planted) -> str:
    inode = p.find("dir/sub/deep", change=True)
    inode.data.root[0] |= FLAG_BUCKET
    return place(inode)


@damage("pointer-flags")
def a_pointer_of_a_directory_has_a_reserved_bit(p: Planted) -> str:
    inode = p.find("many", change=True)
    inode.data.root[0] |= 1 << 57
    return place(inode)


@damage("epoch-differs")
def a_block_has_another_epoch_in_a_snapshot(p: Planted) -> str:
    words, at = p.pointers(p.find("sparse"), 5)
    words[at + 1] &= ~EPOCH_MASK  # before all snapshots, as it was: its holders are the same
    return f"{place(p.find('sparse'))} of snapshot one"  # the base is walked first


def point_somewhere(p: Planted, first: int, second: int = 1) -> str:
    """A pointer in a hole of a file."""
    inode = p.find("sparse")
    words, at = p.pointers(inode, 7)
    words[at], words[at + 1] = first, second
    inode.data.blocks += 1
    return place(inode)


# Inodes


@damage("empty-inode-block", "I1")
def a_block_of_the_inode_table_is_empty(p: Planted) -> str:
    p.do(p.base.table.writable, 0, 200)
    return "inode table, block 200"


@damage("inode")
def an_inode_has_a_type_that_is_none(p: Planted) -> str:
    ino = p.base.next_ino
    leaf, at = slot(p, ino)
    leaf[at : at + 4] = (0xF000).to_bytes(4, "little")
    return f"inode {ino}"


@damage("inode")
def a_free_inode_is_not_empty(p: Planted) -> str:
    ino = p.base.next_ino
    leaf, at = slot(p, ino)
    leaf[at + 100] = 1
    return f"inode {ino}"


def slot(p: Planted, ino: int) -> tuple[bytearray, int]:
    """Where an inode that there is not would be."""
    return p.do(p.base.table.writable, 0, ino // p.base.per_leaf), ino % p.base.per_leaf * 256


@damage("inode-number", "format", "lost-inode")
def an_inode_has_a_reserved_number(p: Planted) -> str:
    """No name can lead to such a number: it is lost as well."""
    p.base.add(Inode(p.base, 5, FIFO))
    return "inode 5"


@damage("block-behind-end")
def a_block_lies_behind_the_end_of_a_file(p: Planted) -> str:
    inode = p.find("plain", change=True)
    inode.size = BLOCK
    return place(inode)


@damage("file-size")
def a_file_is_larger_than_any_can_be(p: Planted) -> str:
    inode = p.find("plain", change=True)
    inode.size = 1 << 63
    return place(inode)


@damage("symlink-size")
def a_short_target_has_another_length(p: Planted) -> str:
    inode = p.find("short", change=True)
    inode.size += 1
    return place(inode)


@damage("symlink-size")
def a_short_target_is_missing(p: Planted) -> str:
    inode = p.find("short", change=True)
    inode.inline_kind, inode.inline = 0, b""
    return place(inode)


@damage("symlink-size")
def a_long_target_is_longer_than_its_block(p: Planted) -> str:
    inode = p.find("long", change=True)
    inode.size = BLOCK + 1
    return place(inode)


@damage("data-of-special")
def a_fifo_has_data(p: Planted) -> str:
    inode = p.find("fifo", change=True)
    p.do(writing.write, inode, 0, bytes(BLOCK))
    inode.size = BLOCK
    return place(inode)


@damage("no-root")
def a_view_has_no_root_directory(p: Planted) -> str:
    return without(p, ROOT_INO)


@damage("no-orphan-list")
def a_view_has_no_list_of_orphans(p: Planted) -> str:
    return without(p, ORPHANS_INO)


def without(p: Planted, ino: int) -> str:
    """In an empty volume nothing follows from it."""
    p.device = SparseDevice(256 * BLOCK)
    format_volume(p.device)
    p.open()
    p.base.dirty[ino] = None
    p.base.inodes -= 1
    return f"inode {ino}"


@damage("designation")
def a_designated_directory_is_not_listed(p: Planted) -> str:
    """No snapshot of the policy would cover it."""
    where = p.find("dir/sub").ino
    p.pop_name(p.designated(), b"%x" % where)
    return f"inode {where}"


@damage("designation")
def a_snapshot_has_lost_its_list_of_designated_directories(p: Planted) -> str:
    where = p.find("dir/sub", p.view("copy")).ino
    p.pop_name(p.designated(p.view("copy")), b"%x" % where)
    return f"inode {where} of snapshot copy"


@damage("designation")
def a_directory_is_listed_as_designated_that_is_not(p: Planted) -> str:
    directory = p.find("dir")
    p.put_name(p.designated(), b"%x" % directory.ino, directory.ino << 4 | 4)
    return place(directory)


@damage("designation")
def a_removed_directory_is_listed_as_designated(p: Planted) -> str:
    p.put_name(p.designated(), b"%x" % 5000, 5000 << 4 | 4)
    return "inode 5000"


@damage("designation-name", "format", "designation")
def a_designated_directory_is_listed_under_another_name(p: Planted) -> str:
    p.put_name(p.designated(), b"other", p.pop_name(p.designated(), b"%x" % p.find("dir/sub").ino))
    return f"inode {DESIGNATED_INO}"


@damage("designation-list", "format", "designation", "leaked")
def the_list_of_designated_directories_is_a_file(p: Planted) -> str:
    p.device = SparseDevice(256 * BLOCK)
    format_volume(p.device)
    p.open()
    inode = p.make("", "d", DIRECTORY)
    p.do(p.fs.xattr_set, p.base, inode.ino, b"user.snapfs.designate", b"policy")
    p.commit()
    wrong = Inode(p.base, DESIGNATED_INO, REGULAR)
    wrong.nlink, wrong.parent = 1, ROOT_INO
    p.base.dirty[DESIGNATED_INO] = wrong
    return f"inode {DESIGNATED_INO}"


# What is wrong on the device itself (I7, I8)


@damage("superblock", severity=Severity.WARNING)
def an_older_superblock_fails_its_checksum(p: Planted) -> str:
    return flip_slot(p, 0, 1, 100)


@damage("superblock", severity=Severity.WARNING)
def an_older_superblock_has_lost_its_magic(p: Planted) -> str:
    return flip_slot(p, 0, 1, 0)


@damage("superblock", severity=Severity.WARNING)
def something_follows_a_superblock(p: Planted) -> str:
    return flip_slot(p, 1, 0, SUPERBLOCK_BYTES)


@damage("superblock-copy", "I8", severity=Severity.WARNING)
def the_newest_superblocks_are_missing_at_the_end(p: Planted) -> str:
    """Two of them: one alone is what a crash leaves between the writes of a commit."""
    for back in (0, 1):
        slot = (p.volume.generation - back) % SUPERBLOCK_SLOTS
        p.overwrite(p.volume.geometry.slot_offsets()[1][slot], bytes(SUPERBLOCK_BYTES))
    return "superblocks at the end"


@damage("superblock-copy", "I8", "superblock", severity=Severity.WARNING)
def the_newest_superblocks_are_damaged_at_the_front(p: Planted) -> str:
    flip_slot(p, 0, 0, 300)
    flip_slot(p, 0, 1, 300)
    return "superblocks at the front"


def flip_slot(p: Planted, ring: int, back: int, offset: int) -> str:
    slot = (p.volume.generation - back) % SUPERBLOCK_SLOTS
    p.flip(p.volume.geometry.slot_offsets()[ring][slot] + offset)
    return f"superblock slot {slot} at the {('front', 'end')[ring]}"


@damage("root-record", severity=Severity.WARNING)
def something_follows_the_root_record(p: Planted) -> str:
    p.flip(p.volume.root_block * BLOCK + BLOCK - 1)
    return "root record"


@damage("unreadable")
def the_root_record_fails_its_checksum(p: Planted) -> str:
    p.flip(p.volume.root_block * BLOCK)
    return "volume"


@damage("unreadable")
def two_snapshots_have_one_name(p: Planted) -> str:
    one = snapshots.get(p.fs, "one")
    one.name = "two"
    p.volume.instances.dirty.add(one.id)
    return "volume"


@damage("unreadable")
def the_counting_bitmap_has_forgotten_a_snapshot(p: Planted) -> str:
    p.volume.instances.counting[snapshots.get(p.fs, "one").id] = 0
    return "volume"


@damage("unreadable", "I7", "set-count")
def a_block_bitmap_fails_its_checksum(p: Planted) -> str:
    """Nobody knows the records of its group then."""
    p.flip((p.volume.geometry.header_block(0, p.group(0).slot) + 1) * BLOCK + 77)
    return "group 0"


@damage("unreadable", "I7", "set-count", "record-blocks", "leaked", "snapshot-bitmap")
def spilled_records_fail_their_checksum(p: Planted) -> str:
    """Nobody knows which blocks store them, either."""
    ((block, _), *_) = p.group(1).spill
    p.flip(block * BLOCK + 77)
    return "group 1"


@damage("unreadable", "I7", "data-blocks", "leaked")
def a_pointer_block_fails_its_checksum(p: Planted) -> str:
    inode = p.make("", "two blocks", REGULAR, bytes(2 * BLOCK))
    p.commit()
    p.flip(inode.data.root[0] * BLOCK)
    return place(inode)


@damage("unreadable", "I7", "link-count")
def a_bucket_fails_its_checksum(p: Planted) -> str:
    inode = p.make("", "directory", DIRECTORY)
    p.make("directory", "file", REGULAR)
    p.commit()
    p.flip((inode.data.root[0] & ~FLAG_BUCKET) * BLOCK)
    return place(inode)


@damage("unreadable", "I7")
def attributes_fail_their_checksum(p: Planted) -> str:
    inode = p.find("twice")
    *_, block = tree_blocks(p.volume, inode.attribute_map)
    p.flip(block * BLOCK)
    return place(inode)


@damage("unreadable", "I7")
def attributes_are_no_map(p: Planted) -> str:
    inode = p.find("plain", change=True)
    inode.inline = b"\xc1" + inode.inline[1:]
    return place(inode)


@damage("unreadable", "I7")
def attributes_have_a_hole(p: Planted) -> str:
    inode = p.find("twice", change=True)
    inode.attribute_bytes -= BLOCK
    p.do(inode.attribute_map.remove, 0)
    return place(inode)


@damage("unreadable", "I7")
def a_target_fails_its_checksum(p: Planted) -> str:
    inode = p.make("", "another", SYMLINK, target=b"target" * 50)
    p.commit()
    p.flip(inode.data.root[0] * BLOCK)
    return place(inode)
