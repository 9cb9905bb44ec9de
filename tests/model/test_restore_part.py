"""What restoring a part costs and keeps, in the core (C7). Random lives with it are in
``test_parts.py``.
"""

from __future__ import annotations

import os
import random

import pytest

from snapfs import snapshots
from snapfs.errors import NotPermitted
from snapfs.filesystem import Changes
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit
from tests.model.test_parts import BLOCK, DIRECTORY, FILE, Volumes
from tests.model.world import World


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


def restore(v: Volumes, name: str, *paths: str) -> snapshots.RestoreResult:
    result: snapshots.RestoreResult = v.do(snapshots.restore, v.fs, name, paths=paths)
    commit(v.volume)
    return result


def test_going_back_copies_data(volumes: Volumes) -> None:
    """C7: blocks change hands: no data is read or written, and what the volume has free is what it
    had.
    """
    v = volumes
    v.make("in/large", FILE)
    v.write("in/large", os.urandom(300 * BLOCK))
    v.snapshot("large", "in")
    before = v.read("in/large")
    v.write("in/large", os.urandom(300 * BLOCK))
    v.commit()
    free, read, written = v.volume.allocator.free, v.volume.blocks_read, v.volume.blocks_written
    restore(v, "large")
    assert v.volume.blocks_read - read < 40 and v.volume.blocks_written - written < 40
    assert free - v.volume.allocator.free < 20
    assert v.read("in/large") == before
    v.prove()


def test_what_is_outside_makes_it_dearer() -> None:
    """C7, I9: the cost is that of what differs, whatever else the volume has."""
    costs = []
    for count in (10, 3000):
        v = Volumes()
        for number in range(count):
            v.make(f"in/{number}", FILE)
            v.make(f"out/{number}", FILE)
            if number % 500 == 0:
                v.commit()
        v.snapshot("now", "in")
        v.write("in/file1", b"changed")
        v.do(v.fs.unlink, v.fs.base, v.find("in"), b"file2")
        v.commit()
        v.open()
        v.commit()
        before = v.volume.blocks_read, v.volume.blocks_written
        result = restore(v, "now")
        assert len(result.inodes) < 5
        costs.append((v.volume.blocks_read - before[0], v.volume.blocks_written - before[1]))
        v.prove()
    assert costs[1][0] <= costs[0][0] + 20 and costs[1][1] <= costs[0][1] + 10, costs


def test_a_file_that_has_moved_out_is_torn_from_its_new_place(volumes: Volumes) -> None:
    """C7: it stays there, and its data is copied; sparse, and with attributes that take blocks."""
    v = volumes
    v.make("in/sparse", FILE)
    v.write("in/sparse", b"begin" * 1000)
    v.write("in/sparse", b"end" * 5000, offset=1 << 33)
    v.do(v.fs.xattr_set, v.fs.base, v.find("in/sparse"), b"user.large", bytes(9000))
    v.make("in/deep/more", DIRECTORY)
    v.make("in/deep/more/file", FILE)
    v.write("in/deep/more/file", b"x" * 9000)
    v.snapshot("now", "in")
    base = v.fs.base
    v.do(v.fs.rename, base, v.find("in"), b"sparse", v.find("out"), b"sparse", 0)
    v.do(v.fs.rename, base, v.find("in"), b"deep", v.find("out"), b"deep", 0)
    restore(v, "now")
    v.prove()
    for place in ("in", "out"):
        ino = v.find(f"{place}/sparse")
        assert v.do(v.fs.read, base, ino, (1 << 33) - 10, 100) == bytes(10) + (b"end" * 5000)[:90]
        assert v.do(v.fs.inode, base, ino).blocks < 20
        assert v.do(v.fs.xattr_get, base, ino, b"user.large") == bytes(9000)
        assert v.read(f"{place}/deep/more/file") == b"x" * 9000
    assert v.find("in/sparse") != v.find("out/sparse") and v.find("in/deep/more") != v.find(
        "out/deep/more"
    )
    v.write("out/sparse", b"its own")
    assert v.read("in/sparse")[:5000] == b"begin" * 1000
    v.prove()


def test_somebody_may_restore_what_belongs_to_others(volumes: Volumes) -> None:
    v = volumes
    v.write("in/file0", b"changed")
    with pytest.raises(NotPermitted):
        v.do(snapshots.restore, v.fs, "part", permit=snapshots.owner_or_root(1000))
    with pytest.raises(NotPermitted):
        v.do(
            snapshots.restore,
            v.fs,
            "part",
            paths=["/in/file0"],
            permit=snapshots.owner_or_root(1000),
        )
    mine = snapshots.owner_or_root(1000)
    v.do(v.fs.set_attributes, v.fs.base, v.find("in"), Changes(uid=1000), privileged=True)
    v.do(v.fs.rename, v.fs.base, ROOT_INO, b"in", ROOT_INO, b"mine", 0)
    v.make("in", DIRECTORY)
    with pytest.raises(NotPermitted):
        v.do(snapshots.restore, v.fs, "part", permit=mine)  # another's directory stands there now
    v.do(v.fs.rename, v.fs.base, ROOT_INO, b"in", v.find("out"), b"in", 0)
    with pytest.raises(NotPermitted):
        v.do(
            snapshots.restore, v.fs, "part", permit=mine
        )  # who may not make one there may not bring one back
    v.do(v.fs.rename, v.fs.base, ROOT_INO, b"mine", ROOT_INO, b"in", 0)
    assert [one.name for one in snapshots.all(v.fs)] == ["part"]
    v.do(snapshots.restore, v.fs, "part", permit=mine)
    assert v.fs.base.inode(v.find("in")).uid == 0 and v.find("") == ROOT_INO


@pytest.mark.parametrize("seed", range(12))
def test_a_life_of_going_back_by_parts_breaks_something(seed: int) -> None:
    """C7, I3, I6: names that come and go over the border, numbers used again, open files, and paths
    restored all the time.
    """
    rnd = random.Random(seed)
    world = World(BLOCK, 2048, parts=True)
    for step in range(150):
        world.step(rnd)
        world.step_over_borders(rnd)
        if step % 30 == 29:
            world.prove()
    world.finish()
