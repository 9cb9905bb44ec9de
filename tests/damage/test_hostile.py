"""Hostile images (I4, I7): whatever an image says with all its checksums right, each use of it
succeeds or ends with one of our errors.

Never a hang, memory without bound, a write outside the volume, or another exception. ``tests/fuzz``
has the harness; `make fuzz` goes on from here for as long as one likes.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs import snapshots
from snapfs.blocks import superblock
from snapfs.blocks.geometry import Geometry
from snapfs.blocks.group_header import ENTRY, GroupHeader, decode_records
from snapfs.blocks.pointer import CHECKSUM_SHIFT, EPOCH_MASK, FLAG_BUCKET
from snapfs.blocks.schema import unpack
from snapfs.check import check_volume
from snapfs.check.inspect import inodes, maps
from snapfs.check.inspect.opened import inspect
from snapfs.device import open_device
from snapfs.errors import (
    CorruptBlock,
    NoSpace,
    TooManySnapshots,
    Truncated,
    UsageError,
)
from snapfs.filesystem import Changes, Filesystem, Inode
from snapfs.filesystem.format import format_volume
from snapfs.ids import FIRST_INO, INO_LIMIT, ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.trees.bucket import Bucket
from tests.fuzz.forging import CHECKSUM, Image, forged, limits
from tests.fuzz.looking import look_inside
from tests.fuzz.mutations import BOMBS, hostile
from tests.fuzz.rerun import report
from tests.fuzz.using import User, decode, use
from tests.fuzz.volumes import DIRECTORY, REGULAR, seed

#: Cases of the fixed budget: they take about twenty seconds.
EXAMPLES = 250

#: What one case may take. Sound volumes of this size take a hundredth of it.
SECONDS, MEMORY = 20.0, 512 << 20

#: The seed that is crafted from: blocks of 8 KiB.
MEDIUM = 1


def bounded(function: Callable[..., Any], *args: Any) -> None:
    with forged(), limits(SECONDS, MEMORY):
        function(*args)


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.binary(max_size=64))
def test_an_image_does_more_than_fail(data: bytes) -> None:
    """Structure-aware mutations of volumes of several shapes; checked, opened, looked at, changed,
    and once more.
    """
    with report(data, "volume", "hypothesis"):
        bounded(lambda: use(*hostile(data)))


@settings(
    max_examples=4 * EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(
    st.binary(max_size=1)
    | st.sampled_from([b"%c%s" % (kind, bomb) for kind in range(10) for bomb in BOMBS]),
    st.binary(max_size=600),
)
def test_a_decoder_does_more_than_fail(head: bytes, rest: bytes) -> None:
    """Every decoder, on bytes of any kind."""
    with report(head + rest, "decoders", "hypothesis"):
        bounded(decode, head + rest)


@settings(
    max_examples=EXAMPLES // 2,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.binary(min_size=8, max_size=64))
def test_looking_into_an_image_does_more_than_fail(data: bytes) -> None:
    """Every page of `snapfs dump`, of the same mutations."""
    with report(data, "volume", "hypothesis"):
        bounded(lambda: look_inside(hostile(data)[0]))


# Every kind of thing that was found so far


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    with limits(60, 1 << 30):
        yield


class Crafted:
    """An open volume to be made hostile: change what is in memory or on the
    device, then ``user``.
    """

    def __init__(self, number: int = MEDIUM) -> None:
        self.image = seed(number).image.copy()
        self.open()

    def open(self) -> None:
        self.volume = open_volume(self.image)
        self.fs = Filesystem(self.volume)
        self.base = self.fs.base
        self.block_size = self.volume.geometry.block_size

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def commit(self) -> None:
        for group in self.volume.allocator.groups.values():
            group.dirty = True
        commit(self.volume)

    def user(self) -> User:
        """Somebody who opens it after a commit."""
        self.commit()
        return User(self.image)

    def find(self, path: str) -> Inode:
        ino = ROOT_INO
        for name in path.split("/"):
            ino = self.do(self.fs.lookup, self.base, ino, name.encode()).ino if name else ino
        inode: Inode = self.do(self.base.inode, ino)
        self.base.change(inode)
        return inode

    def make(self, name: str, mode: int = REGULAR, parent: int = ROOT_INO) -> Inode:
        inode: Inode = self.do(self.fs.make, self.base, parent, name.encode(), mode, 0, 0)
        return inode

    def take(self, count: int) -> list[int]:
        """Blocks that are marked as in use by the next commit."""
        self.do(self.volume.allocator.prepare, count)
        return [
            block
            for start, length in self.volume.allocator.allocate(count)
            for block in range(start, start + length)
        ]

    def put_name(self, directory: Inode, name: bytes, value: int) -> None:
        self.do(directory.names.touch, name)
        directory.names.put(name, value)

    def endless(self, bottom: bytes, levels: int, flag: int = 0) -> tuple[int, int]:
        """A pointer to so many levels of pointer blocks, in each of which every slot names the one
        block below.
        """
        blocks = self.take(levels + 1)
        self.image.put(blocks[0], bottom)
        pointer = blocks[0] | flag, CHECKSUM << CHECKSUM_SHIFT | 1
        for block in blocks[1:]:
            self.image.put(block, struct.pack("<QQ", *pointer) * (self.block_size // 16))
            pointer = block, CHECKSUM << CHECKSUM_SHIFT | 1
        return pointer

    def endless_file(self, bottom: bytes = b"data", levels: int = 4) -> Inode:
        inode = self.make("endless")
        inode.data.root = array("Q", self.endless(bottom, levels))
        inode.data.depth, inode.data.blocks = levels, levels + 1
        inode.size = 1 << 40
        return inode


@pytest.fixture
def crafted() -> Iterator[Crafted]:
    with forged():
        yield Crafted()


def names(user: User, ino: int) -> list[bytes]:
    return [entry.name for entry in drive(user.volume, user.fs.entries, user.fs.base, ino, 0, 1000)]


# Bitmaps and counts


@pytest.mark.parametrize("where", ["ring", "headers", "tail", "behind the end"])
def test_fixed_metadata_is_given_to_files(where: str) -> None:
    """A block bitmap that has it free is not believed: files would be written there, or where there
    is no volume at all.
    """
    with forged():
        c = Crafted()
        geometry = c.volume.geometry
        first, last = geometry.usable_range(0)
        c.do(c.volume.allocator.need_groups, [0])
        group = c.volume.allocator.groups[0]
        offset = {"ring": 0, "headers": first - 1, "tail": last, "behind the end": geometry.blocks}[
            where
        ]
        group.blocks[offset] = 0
        group.free += 1
        user = c.user()
        with pytest.raises(CorruptBlock, match="gives fixed metadata away"):
            drive(user.volume, user.fs.write, user.fs.base, c.find("file").ino, 0, b"x" * 50000)
        assert [finding.rule for finding in check_volume(c.image)].count("unreadable") == 1


@pytest.mark.parametrize(
    "what", ["a block twice", "a free block", "the superblocks", "a header", "behind the end"]
)
def test_a_file_gives_blocks_back_that_it_cannot_have(crafted: Crafted, what: str) -> None:
    c = crafted
    inode = c.make("thief")
    c.do(c.fs.write, c.base, inode.ino, 0, b"!" * 2 * c.block_size)
    group = c.volume.allocator.groups[0]
    own = inode.map.node(1, 0)[0]
    free = group.busy.find(0, group.last - 10)
    stolen = {
        "a block twice": own,
        "a free block": free,
        "the superblocks": 1,
        "a header": group.first - 2,
        "behind the end": group.last,
    }[what]
    inode.map.writable_pointers(1)[0][2] = stolen & 0xFFFF_FFFF_FFFF
    user = c.user()
    free_before = user.volume.allocator.free
    with pytest.raises(CorruptBlock, match="free or fixed metadata"):
        drive(
            user.volume,
            user.fs.set_attributes,
            user.fs.base,
            inode.ino,
            Changes(size=0),
            privileged=True,
        )
    assert user.volume.read_only, "what memory has now is half of a truncation"
    assert user.volume.allocator.free <= free_before + 2


def test_counts_that_lie_make_somebody_wait_for_ever(crafted: Crafted) -> None:
    """No free blocks by the group table, and background work that cannot begin without: ENOSPC, not
    another try, and another.
    """
    c = crafted
    c.do(snapshots.delete, c.fs, "one")
    c.commit()
    leaf = next(place.block for place in seed(MEDIUM).places if place.kind == "groups")
    leaf = c.volume.group_tree.root[0] & EPOCH_MASK or leaf
    fields = list(ENTRY.unpack(c.image.read(leaf * c.block_size, ENTRY.size)))
    fields[2] = 0
    c.image.patch(leaf, 0, ENTRY.pack(*fields))
    user = User(c.image)
    with pytest.raises(NoSpace):
        drive(user.volume, user.fs.work)
    with pytest.raises(NoSpace):
        drive(user.volume, user.fs.make, user.fs.base, ROOT_INO, b"new", REGULAR, 0, 0)


def test_counters_leave_their_fields(crafted: Crafted) -> None:
    """Links, blocks and sizes at their limits: what goes above or below them is neither stored nor
    shown.
    """
    c = crafted
    source, target = c.make("source", DIRECTORY), c.make("target", DIRECTORY)
    c.make("below", DIRECTORY, source.ino)
    file = c.make("file with too many")
    for inode, links, blocks in (
        (source, 1, 0),
        (target, 0xFFFF_FFFF, 1 << 48),
        (file, 0xFFFF_FFFF, 1 << 48),
    ):
        c.base.change(inode)
        inode.nlink, inode.data.blocks = links, blocks
    file.size = (1 << 64) - 1
    user = c.user()
    base = user.fs.base
    drive(user.volume, user.fs.rename, base, source.ino, b"below", target.ino, b"below")
    drive(user.volume, user.fs.write, base, file.ino, 0, b"x")
    drive(user.volume, user.fs.unlink, base, ROOT_INO, b"file with too many")
    for inode in (source, target, file):
        user.look(base, drive(user.volume, base.inode, inode.ino))
    commit(user.volume)
    User(c.image).walk()


# Trees that do not end


def test_a_directory_of_pointer_blocks_is_listed_for_ever(crafted: Crafted) -> None:
    c = crafted
    inode = c.make("endless", DIRECTORY)
    inode.data.root = array("Q", c.endless(b"", 4))
    user = c.user()
    with pytest.raises(CorruptBlock, match="points nowhere"):
        names(user, inode.ino)
    assert "empty-pointer-block" in [finding.rule for finding in check_volume(c.image)]


def test_one_bucket_everywhere_is_listed_for_ever(crafted: Crafted) -> None:
    c = crafted
    inode = c.make("endless", DIRECTORY)
    inode.data.root = array(
        "Q",
        c.endless(Bucket({b"name": FIRST_INO << 4 | 8}, 20).encode(c.block_size), 4, FLAG_BUCKET),
    )
    user = c.user()
    with pytest.raises(CorruptBlock, match="no item of its range"):
        names(user, inode.ino)


@pytest.mark.parametrize("bottom", [b"data", b""])
def test_an_endless_file_is_truncated_for_ever(crafted: Crafted, bottom: bytes) -> None:
    c = crafted
    inode = c.endless_file(bottom, 5)
    user = c.user()
    with pytest.raises(CorruptBlock, match=r"two places|free or fixed"):
        drive(
            user.volume,
            user.fs.set_attributes,
            user.fs.base,
            inode.ino,
            Changes(size=5),
            privileged=True,
        )


def test_an_endless_orphan_is_freed_for_ever(crafted: Crafted) -> None:
    c = crafted
    c.endless_file()
    c.commit()
    c.open()
    c.do(c.fs.unlink, c.base, ROOT_INO, b"endless")
    with pytest.raises(CorruptBlock, match=r"two places|free or fixed"):
        while c.do(c.fs.work):
            pass
    assert c.volume.read_only


def test_an_endless_view_is_restored_for_ever(crafted: Crafted) -> None:
    c = crafted
    c.endless_file()
    c.do(snapshots.create, c.fs, "endless")
    c.commit()
    c.open()
    inode = c.find("endless")
    inode.data.root, inode.data.depth, inode.data.blocks = array("Q", (0, 0)), 0, 0
    c.commit()
    with pytest.raises(CorruptBlock, match="two places of one view"):
        c.do(snapshots.restore, c.fs, "endless")
    assert c.volume.read_only


def test_a_block_that_is_two_things_is_fetched_for_ever(crafted: Crafted) -> None:
    """An inode table whose only pointer block is its first leaf as well: each would drive the other
    out of the cache.
    """
    c = crafted
    table = c.base.table
    root = table.root[0] & EPOCH_MASK
    assert table.depth
    node = bytearray(c.image.block(root))
    struct.pack_into("<Q", node, 0, root)
    c.image.put(root, node)
    c.volume.cache.clear()
    user = User(c.image)
    with pytest.raises(CorruptBlock, match="in use for two things"):
        drive(user.volume, user.fs.base.inode, ROOT_INO)
    check_volume(c.image)


def test_parents_form_a_cycle(crafted: Crafted) -> None:
    """Who is above whom is walked for renames, snapshots and paths."""
    c = crafted
    one, two = c.make("one", DIRECTORY), c.make("two", DIRECTORY)
    for inode, parent in ((one, two), (two, one)):
        c.base.change(inode)
        inode.parent = parent.ino
    user = c.user()
    with pytest.raises(CorruptBlock, match="cycle"):
        drive(user.volume, user.fs.rename, user.fs.base, ROOT_INO, b"dir", one.ino, b"dir")
    user = User(c.image)
    with pytest.raises(CorruptBlock, match="cycle"):
        drive(user.volume, snapshots.create, user.fs, "new", targets=[one.ino])


def test_a_long_way_up_takes_quadratic_time(crafted: Crafted) -> None:
    c = crafted
    inode = c.find("dir")
    c.base.table = None  # type: ignore[assignment]
    count = 40_000
    for number in range(count):
        ino = 1000 + number
        one = Inode(c.base, ino, DIRECTORY)
        one.parent = ino + 1 if number < count - 1 else ROOT_INO
        c.base.dirty[ino] = one
    inode.parent = 1000
    with limits(5, MEMORY):
        assert len(snapshots.ancestry(c.base, inode)) == count + 2


# msgpack and sizes


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\x00\x00\xff\xff" * 1000,
        b"\xdc\xff\xff" * 1000,
        b"\x91" * 60000,
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_a_list_that_says_it_is_long_takes_memory(bomb: bytes) -> None:
    data = bomb.ljust(65536, b"\0")
    with limits(2, 16 << 20):
        for decoder in (
            lambda: unpack(data, "bomb"),
            lambda: list(decode_records(b"\xdd\x00\x0f\xff\xff" + data, 0, 1 << 19)),
        ):
            with pytest.raises(CorruptBlock):
                decoder()


def test_records_are_read_from_one_block_a_thousand_times() -> None:
    blocks = 5000
    header = GroupHeader(
        0, 1, 0, 0, 0, blocks * 65536, 0, 0, b"", tuple((100 + n, 0) for n in range(blocks))
    )
    with pytest.raises(CorruptBlock, match="impossible size"):
        GroupHeader.decode(header.encode(65536), 0, 1 << 20)
    header = GroupHeader(0, 1, 0, 0, 0, 2 * 65536, 0, 0, b"", ((100, 0), (100, 0)))
    with pytest.raises(CorruptBlock, match="twice"):
        GroupHeader.decode(header.encode(65536), 0, 1 << 20)


def test_attributes_are_larger_than_the_cache(crafted: Crafted) -> None:
    """16 MiB of attributes in one block that is named 4096 times; or ten million empty maps."""
    c = crafted
    inode = c.find("file")
    inode.attribute_map.root = array("Q", c.endless(b"\x82", 2))
    inode.attribute_map.depth, inode.attribute_bytes, inode.inline_kind, inode.inline = (
        2,
        1 << 24,
        0,
        b"",
    )
    ino = inode.ino
    user = c.user()
    with pytest.raises(CorruptBlock, match="not possible"):
        drive(user.volume, user.fs.xattr_list, user.fs.base, ino)


@pytest.mark.parametrize(
    ("field", "value"),
    [(24, 1 << 63), (24, (1 << 64) - 1), (16, 1 << 40), (16, (1 << 64) - 1), (16, 0)],
)
def test_a_superblock_lies(field: int, value: int) -> None:
    """Generations that leave no room for the next; sizes that the device has not."""
    image = seed(MEDIUM).image.copy()
    with forged():
        for block in [place.block for place in seed(MEDIUM).places if place.kind == "superblock"]:
            for offset in range(0, image.block_size, 4096):
                if image.block(block)[offset : offset + 8] == superblock.MAGIC:
                    image.patch(block, offset + field, struct.pack("<Q", value))
        with limits(2, 32 << 20), pytest.raises((CorruptBlock, Truncated)):
            open_volume(image)
        with limits(2, 32 << 20), pytest.raises((CorruptBlock, Truncated)):
            check_volume(image)


def test_a_large_sparse_image_costs_memory_by_its_size(tmp_path: Path) -> None:
    """16 TiB that are there, as a hole: opened, used and checked in little memory. The claim of
    more than a volume can have is refused.
    """
    path = tmp_path / "sparse.img"
    size = 15 << 40
    try:
        with path.open("wb") as file:
            file.truncate(size)
    except OSError:  # a filesystem with smaller files below the tests
        size = 1 << 40
        with path.open("wb") as file:
            file.truncate(size)
    device = open_device(os.fspath(path))
    with limits(30, 96 << 20):
        format_volume(device)
        volume = open_volume(device)
        fs = Filesystem(volume)
        ino = drive(volume, fs.make, fs.base, ROOT_INO, b"file", REGULAR, 0, 0).ino
        drive(volume, fs.write, fs.base, ino, 0, b"data")
        commit(volume)
        assert check_volume(device) == []
    device.close()
    with pytest.raises(UsageError, match="TiB at most"):
        Geometry(4096, (1 << 35) + 1)


def test_a_few_pointers_make_thousands_of_groups_load() -> None:
    """Blocks of 64 KiB, 4096 pointers in each: every one into a group that was never written."""
    geometry = Geometry(65536, 3000 << 19)
    with forged():
        image = Image(geometry.size, 65536, {})
        format_volume(image, block_size=65536, clear=False)
        c = Crafted.__new__(Crafted)
        c.image = image
        c.open()
        inode = c.make("wide")
        (node,) = c.take(1)
        image.put(
            node,
            b"".join(
                struct.pack("<QQ", (n << 19) + 1000, CHECKSUM << CHECKSUM_SHIFT | 1)
                for n in range(1, 2999)
            ),
        )
        inode.data.root = array("Q", (node, CHECKSUM << CHECKSUM_SHIFT | 1))
        inode.data.depth, inode.data.blocks, inode.size = 1, 2999, 4096 * 65536
        user = c.user()
        with limits(20, 200 << 20):
            with pytest.raises(CorruptBlock, match="no block is in use"):
                drive(
                    user.volume,
                    user.fs.set_attributes,
                    user.fs.base,
                    inode.ino,
                    Changes(size=0),
                    privileged=True,
                )
            assert "not-marked" in [finding.rule for finding in check_volume(image)]


# Limits


def test_the_last_epoch_is_exceeded(crafted: Crafted) -> None:
    """One more would go into the checksums of pointers."""
    c = crafted
    c.volume.epoch = EPOCH_MASK - 1
    c.commit()
    c.do(snapshots.create, c.fs, "last")
    c.commit()
    assert c.volume.epoch == EPOCH_MASK
    with pytest.raises(TooManySnapshots, match="copy it to a new one"):
        c.do(snapshots.create, c.fs, "one more")
    c.make("differs")
    c.commit()
    with pytest.raises(TooManySnapshots):
        c.do(snapshots.restore, c.fs, "last")
    c.do(snapshots.delete, c.fs, "last")
    c.commit()
    User(c.image).walk()


def test_the_last_inode_number_is_exceeded(crafted: Crafted) -> None:
    """One more would be the number of a ``.snap`` directory."""
    c = crafted
    c.base.next_ino = INO_LIMIT - 1
    c.base._unused = []
    c.base._searched = INO_LIMIT
    assert c.make("last").ino == INO_LIMIT - 1
    with pytest.raises(NoSpace, match="inode numbers"):
        c.make("one more")
    user = c.user()
    assert drive(user.volume, user.fs.lookup, user.fs.base, ROOT_INO, b"last").ino == INO_LIMIT - 1


# Names


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"nul\0nul", b"n" * 256, b""])
def test_a_name_that_cannot_be_reaches_the_kernel(crafted: Crafted, name: bytes) -> None:
    c = crafted
    directory, file = c.make("bad", DIRECTORY), c.find("file")
    c.put_name(directory, name, file.ino << 4 | 8)
    user = c.user()
    with pytest.raises(CorruptBlock, match="is not a name"):
        names(user, directory.ino)


@pytest.mark.parametrize(
    "value", [ROOT_INO << 4 | 4, 2 << 4 | 4, 0, -1, INO_LIMIT << 4 | 8, (1 << 64) - 1]
)
def test_a_name_leads_to_what_has_no_name(crafted: Crafted, value: int) -> None:
    """The root, the list of orphans, ``.snap`` directories."""
    c = crafted
    directory = c.make("bad", DIRECTORY)
    c.put_name(directory, b"name", value)
    user = c.user()
    with pytest.raises(CorruptBlock, match="not an inode number"):
        names(user, directory.ino)
    with pytest.raises(CorruptBlock, match="not an inode number"):
        drive(user.volume, user.fs.lookup, user.fs.base, directory.ino, b"name")


def test_a_name_leads_nowhere(crafted: Crafted) -> None:
    """EIO and a line in the log, not ESTALE, for which the kernel would look again."""
    c = crafted
    directory = c.make("bad", DIRECTORY)
    c.put_name(directory, b"name", 5000 << 4 | 8)
    c.commit()
    for operation in ("lookup", "unlink", "rmdir"):
        user = User(c.image)
        with pytest.raises(CorruptBlock, match="inode 5000, which does not exist"):
            drive(user.volume, getattr(user.fs, operation), user.fs.base, directory.ino, b"name")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a,b", "line\nline", "\x1b[2J", "n" * 256]
)
def test_a_snapshot_has_a_name_that_cannot_be(crafted: Crafted, name: str) -> None:
    """It would be a directory of that name in ``.snap``, and a line of that text on somebody's
    terminal.
    """
    c = crafted
    one = snapshots.get(c.fs, "one")
    one.name = name
    c.volume.instances.dirty.add(one.id)
    c.commit()
    with pytest.raises(CorruptBlock, match="name"):
        open_volume(c.image)


def test_an_orphan_with_names_is_freed(crafted: Crafted) -> None:
    c = crafted
    file = c.find("file")
    c.base.orphans.add(file.ino)
    c.put_name(c.do(c.base.inode, 2), b"%x" % file.ino, file.ino << 4 | 8)
    c.base.change(c.do(c.base.inode, 2))
    c.base.listed_orphans.add(file.ino)
    user = c.user()
    with pytest.raises(CorruptBlock, match="listed as an orphan, and has names"):
        drive(user.volume, user.fs.work)
    assert drive(user.volume, user.fs.read, user.fs.base, file.ino, 0, 5) == b"in th"


def test_a_split_takes_the_place_of_another_bucket(crafted: Crafted) -> None:
    """Items in a bucket where their hashes do not belong, when it becomes full."""
    c = crafted
    directory = c.find("dir/sub")
    for _ in range(2):
        words = (
            directory.names.root
            if directory.names.root[0] & FLAG_BUCKET
            else c.do(c.volume.load, "node", *directory.names.root_words)
        )
        slots = [n for n in range(0, len(words), 2) if words[n]]
        buckets = [words[n] & EPOCH_MASK for n in slots]
    assert len(buckets) > 1
    first, second = (c.image.block(block) for block in buckets[:2])
    c.image.put(buckets[0], second)
    c.image.put(buckets[1], first)
    user = User(c.image)
    with pytest.raises(CorruptBlock, match="not of its range"):
        for number in range(200):
            drive(
                user.volume,
                user.fs.make,
                user.fs.base,
                directory.ino,
                b"%0120d" % number,
                REGULAR,
                0,
                0,
            )
    assert user.volume.read_only


def test_a_data_pointer_leads_outside(crafted: Crafted) -> None:
    c = crafted
    inode = c.make("outside")
    c.do(c.fs.write, c.base, inode.ino, 0, b"x")
    inode.data.root[0] = (1 << 48) - 1
    user = c.user()
    with pytest.raises(CorruptBlock, match="outside the volume"):
        drive(user.volume, user.fs.read, user.fs.base, inode.ino, 0, 10)


# Looking into images


@pytest.mark.parametrize("bottom", ["data", "nothing", "a bucket"])
def test_a_map_of_an_endless_tree_takes_for_ever(crafted: Crafted, bottom: str) -> None:
    """Every pointer of a block names the one block below: each is walked through once."""
    c = crafted
    if bottom == "data":
        c.endless_file(b"data", 5)
    else:
        inode = c.make("endless", DIRECTORY)
        bucket = Bucket({b"name": FIRST_INO << 4 | 8}, 20).encode(c.block_size)
        flag = FLAG_BUCKET if bottom == "a bucket" else 0
        inode.data.root = array("Q", c.endless(bucket if flag else b"", 4, flag))
    c.commit()
    with limits(5, MEMORY):
        look_inside(c.image)
        looked = inspect(c.image)
        page = maps.block_map(looked, looked.fs.base, b"endless")
    levels = 4 if bottom == "a bucket" else 5  # zeros are a pointer block, too
    once = 1 + (levels - 1) * c.volume.geometry.fan_out
    assert len(page.tables["pointer_blocks"].rows) == once
    assert page.problems


def test_an_endless_inode_table_is_looked_at_for_ever(crafted: Crafted) -> None:
    """Every inode is one and the same directory, which is its own parent."""
    c = crafted
    inode = Inode(c.base, 999, DIRECTORY)
    inode.nlink = 2
    inode.parent = 999
    depth = c.volume.geometry.table_depth
    root = c.endless(inode.encode() * (c.block_size // 256), depth)
    c.commit()
    c.volume.base_root = replace(c.volume.base_root, first=root[0], second=root[1], depth=depth)
    for group in c.volume.allocator.groups.values():
        group.dirty = True
    commit(c.volume)
    with limits(5, MEMORY):
        look_inside(c.image)
        looked = inspect(c.image)
        assert inodes.inode(looked, looked.fs.base, 12345).facts["parent"] == 999
