"""What was written most since a snapshot (A3): as a walk of the whole present counts it, at the
cost of what was written.
"""

from __future__ import annotations

import random
import stat
from collections import Counter
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, WRITES_MAX, WRITES_SHIFT
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.snapshots.hot import Heat
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice
from tests.model.diff_reference import drive_steps
from tests.model.tree_model import Tree
from tests.model.world import World

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
BLOCK = 4096


@pytest.fixture
def fs() -> Filesystem:
    device = SparseDevice(8192 * BLOCK)
    format_volume(device)
    return Filesystem(open_volume(device))


def make(fs: Filesystem, name: bytes, parent: int = ROOT_INO, mode: int = FILE) -> int:
    ino: int = drive(fs.volume, fs.make, fs.base, parent, name, mode, 0, 0).ino
    return ino


def write(fs: Filesystem, ino: int, index: int, times: int = 1) -> None:
    for _ in range(times):
        drive(fs.volume, fs.write, fs.base, ino, index * BLOCK, b"x" * BLOCK)


def snapshot(fs: Filesystem, name: str, **options: Any) -> None:
    drive(fs.volume, snapshots.create, fs, name, **options)
    commit(fs.volume)


def heat(fs: Filesystem, name: str, limit: int = 1 << 20) -> Heat:
    commit(fs.volume)
    found = Heat(fs.volume, snapshots.get(fs, name), limit=limit)
    assert not drive_steps(fs.volume, found.steps())
    return found


def files(found: Heat) -> list[tuple[bytes | None, int, int, int]]:
    return [(one.path, one.writes, one.blocks, one.saturated) for one in found.files]


def blocks(found: Heat) -> list[tuple[bytes | None, int, int]]:
    return [(one.path, one.index, one.writes) for one in found.blocks]


def test_the_hottest_is_not_the_first(fs: Filesystem) -> None:
    """Files by the writes to all their blocks, blocks by their own; what is as it was then is not
    among them; nor is what is deleted.
    """
    directory = make(fs, b"d", mode=DIRECTORY)
    cold, warm, hot, gone = (
        make(fs, b"cold"),
        make(fs, b"warm"),
        make(fs, b"hot", directory),
        make(fs, b"gone"),
    )
    for ino in (cold, warm, hot, gone):
        for index in range(3):
            write(fs, ino, index, 5)
    snapshot(fs, "one")
    write(fs, warm, 1, 4)
    write(fs, hot, 0, 3)
    write(fs, hot, 700, 2)
    write(fs, gone, 0, 9)
    new = make(fs, b"new", directory)
    write(fs, new, 0)
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"gone")
    found = heat(fs, "one")
    assert files(found) == [(b"d/hot", 5, 2, 0), (b"warm", 4, 1, 0), (b"d/new", 1, 1, 0)]
    assert blocks(found) == [
        (b"warm", 1, 4),
        (b"d/hot", 0, 3),
        (b"d/hot", 700, 2),
        (b"d/new", 0, 1),
    ]
    assert files(heat(fs, "one", 1)) == [(b"d/hot", 5, 2, 0)]
    assert blocks(heat(fs, "one", 2)) == [(b"warm", 1, 4), (b"d/hot", 0, 3)]


def test_a_count_runs_over(fs: Filesystem) -> None:
    """It stays at 255 and is shown to be no more than a lower bound."""
    ino = make(fs, b"f")
    snapshot(fs, "one")
    write(fs, ino, 0, 600)
    write(fs, ino, 1, 254)
    found = heat(fs, "one")
    assert files(found) == [(b"f", 255 + 254, 2, 1)]
    assert [(one.writes, one.saturated) for one in found.blocks] == [(255, True), (254, False)]
    write(fs, ino, 1)
    assert [one.saturated for one in heat(fs, "one").blocks] == [True, True]


def test_another_snapshot_makes_what_was_written_look_unwritten(fs: Filesystem) -> None:
    """A count is of one epoch. Of an older snapshot it is a lower bound, and older writes count,
    too.
    """
    ino = make(fs, b"f")
    snapshot(fs, "one")
    write(fs, ino, 0, 7)
    write(fs, ino, 1, 7)
    snapshot(fs, "two")
    write(fs, ino, 0, 2)
    assert blocks(heat(fs, "two")) == [(b"f", 0, 2)]
    assert blocks(heat(fs, "one")) == [(b"f", 1, 7), (b"f", 0, 2)]


def test_what_a_restore_brought_back_looks_written(fs: Filesystem) -> None:
    ino = make(fs, b"f")
    write(fs, ino, 0, 3)
    snapshot(fs, "old")
    write(fs, ino, 0, 3)
    snapshot(fs, "new")
    assert drive(fs.volume, snapshots.restore, fs, "old").changed
    assert files(heat(fs, "new")) == []
    write(fs, ino, 0, 2)
    assert blocks(heat(fs, "new")) == blocks(heat(fs, "old")) == [(b"f", 0, 2)]


def test_a_snapshot_of_a_directory_counts_what_lies_elsewhere(fs: Filesystem) -> None:
    directory = make(fs, b"d", mode=DIRECTORY)
    below = make(fs, b"e", directory, DIRECTORY)
    inside, outside = make(fs, b"in", below), make(fs, b"out")
    snapshot(fs, "part", targets=[directory])
    write(fs, inside, 0)
    write(fs, outside, 0, 5)
    assert files(heat(fs, "part")) == [(b"d/e/in", 1, 1, 0)]


def test_a_file_whose_name_is_elsewhere_ends_the_command(fs: Filesystem) -> None:
    """A hard link's first directory may have no name for it any more, or be gone."""
    one, two = make(fs, b"one", mode=DIRECTORY), make(fs, b"two", mode=DIRECTORY)
    kept, orphaned = make(fs, b"f", one), make(fs, b"g", two)
    for ino, name in ((kept, b"f"), (orphaned, b"g")):
        drive(fs.volume, fs.link, fs.base, ino, ROOT_INO, name)
    snapshot(fs, "one")
    drive(fs.volume, fs.unlink, fs.base, one, b"f")
    drive(fs.volume, fs.unlink, fs.base, two, b"g")
    drive(fs.volume, fs.rmdir, fs.base, ROOT_INO, b"two")
    write(fs, kept, 0, 2)
    write(fs, orphaned, 0, 1)
    found = heat(fs, "one")
    assert [one.writes for one in found.files] == [2, 1]
    assert all(
        one.path is None or fs.lookup(fs.base, ROOT_INO, one.path).ino == one.ino
        for one in found.files
    )


def pointers(world: World, tree: Tree, view: View) -> dict[tuple[int, int], tuple[int, int]]:
    """Every pointer to data in a view, by file and index."""
    found = {}
    for ino, node in tree.nodes.items():
        if not stat.S_ISREG(node.mode) or not node.nlink:
            continue
        inode = world.call(world.fs.inode, view, ino)
        for index, words, slot, count in world.call(
            inode.map.spans, 0, -(-inode.size // world.block_size)
        ):
            for n in range(count if words is not None else 0):
                if words[2 * (slot + n)]:
                    found[ino, index + n] = words[2 * (slot + n)], words[2 * (slot + n) + 1]
    return found


def counted(world: World, name: str) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """The same by walking both trees."""
    by_file: Counter[int] = Counter()
    by_block: Counter[tuple[int, int]] = Counter()
    past = pointers(world, world.snaps[name], world.view(name))
    for (ino, index), (first, second) in pointers(world, world.base, world.fs.base).items():
        is_new = first & BLOCK_MASK != past.get((ino, index), (0, 0))[0] & BLOCK_MASK
        if is_new and second & EPOCH_MASK > snapshots.get(world.fs, name).epoch:
            by_block[ino, index] = first >> WRITES_SHIFT & WRITES_MAX
            by_file[ino] += by_block[ino, index]
    return by_file, by_block


@pytest.mark.parametrize("seed", range(6))
def test_counts_differ_from_those_of_a_walk(seed: int) -> None:
    """A3: against random histories, from every snapshot that covers all."""
    rnd = random.Random(seed)
    world = World(4096, 3000)
    seen = 0
    for _ in range(6):
        for _ in range(80):
            world.step(rnd)
        world.commit()
        for name in world.snaps:
            one = snapshots.get(world.fs, name)
            if one.parts:
                continue
            found = heat(world.fs, name)
            by_file, by_block = counted(world, name)
            assert {file.ino: file.writes for file in found.files} == by_file
            assert {(block.ino, block.index): block.writes for block in found.blocks} == by_block
            assert found.files == sorted(found.files, key=lambda file: -file.writes)
            seen += len(found.blocks)
    world.finish()
    assert seen > 20


def test_looking_for_heat_costs_what_the_volume_costs(fs: Filesystem) -> None:
    """I9: one written block among thousands of files is found by looking at a handful of blocks."""
    inos = [make(fs, b"%d" % number) for number in range(3000)]
    for ino in inos[::100]:
        write(fs, ino, 600)
    snapshot(fs, "one")
    write(fs, inos[1500], 600, 3)
    commit(fs.volume)
    cold = Filesystem(open_volume(fs.volume.device))
    before = cold.volume.blocks_read
    found = heat(cold, "one")
    assert blocks(found) == [(b"1500", 600, 3)]
    # Two roots, two leaves and two maps of the file; the directory that has its name, which is not
    # larger for other reasons.
    directory = cold.base.inode(ROOT_INO).data.blocks
    assert cold.volume.blocks_read - before <= 16 + directory
    assert found.compared < 20
