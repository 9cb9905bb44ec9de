"""Versions of files, and deleted names, over random histories, as looking into every view finds
them (issue 4, point 6).
"""

from __future__ import annotations

import random
import stat
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.errors import IsDirectory, NotDirectory, NotFound
from snapfs.snapshots.compare.versions import (
    Deleted,
    Lost,
    Seen,
    Version,
    Versions,
)
from tests.model.diff_reference import (
    Found,
    Tree,
    directories,
    drive_steps,
    part,
    same,
    state,
    top_of,
    walk,
)
from tests.model.world import World


def trees(world: World) -> tuple[list[Any], list[tuple[str | None, Tree]]]:
    """The states, newest first, and what walking each of them finds."""
    fs = world.fs
    views = [fs.base, *(fs.view(one.id) for one in reversed(snapshots.all(fs)))]
    walked = [
        (view.instance.name if view.instance else None, walk(fs, view, world.call))
        for view in views
    ]
    world.commit()
    return [state(fs, view) for view in views], walked


def at(tree: Tree, path: bytes) -> Found | None:
    directory, _, name = path.rpartition(b"/")
    return tree[1].get(directory, {}).get(name)


def check_versions(
    world: World, states: list[Any], walked: list[tuple[str | None, Tree]], path: bytes
) -> int:
    there = [(name, found) for name, tree in walked if (found := at(tree, path)) is not None]
    try:
        told = drive_steps(world.volume, Versions(world.fs, states, path).steps())
    except IsDirectory:
        assert there[0][1].kind == stat.S_IFDIR
        return 0
    versions = {one.number: one for one in told if isinstance(one, Version)}
    seen = [one for one in told if isinstance(one, Seen)]
    assert [one.snapshot for one in seen] == [name for name, _ in there]
    assert list(versions) == list(range(1, len(versions) + 1)), (
        "versions are numbered as they are met"
    )
    for (_, one), mine in zip(there, seen, strict=True):
        shown = versions[mine.version].shown
        assert (shown.ino, shown.mode) == (one.identity[0], one.attributes[0])
        for (_, other), its in zip(there, seen, strict=True):
            a, b = versions[mine.version], versions[its.version]
            facts = (
                same(one.identity, other.identity),
                one.data == other.data,
                (one.attributes, one.mtime) == (other.attributes, other.mtime),
            )
            assert (a.file == b.file) == facts[0]
            assert one.kind == other.kind == stat.S_IFDIR or (mine.version == its.version) == all(
                facts
            )
            if all(facts[:2]) and one.kind != stat.S_IFDIR:
                assert a.data == b.data
    return len(versions)


def check_deleted(
    world: World, states: list[Any], walked: list[tuple[str | None, Tree]], path: bytes
) -> int:
    expected: dict[bytes, str] = {}
    present = walked[0][1]
    for (name, tree), one in zip(walked[1:], states[1:], strict=True):
        # On the way to what a snapshot of a directory covers, directories show one name, and are
        # not covered.
        top = next(found for found in directories(*tree) if found.identity[0] == top_of(one))
        for entry in part(tree, top)[1].get(path, {}):
            if entry not in present[1].get(path, {}):
                expected.setdefault(entry, name or "")
    try:
        told = drive_steps(world.volume, Deleted(world.fs, states, path).steps())
    except NotDirectory:
        assert at(present, path) is not None
        return 0
    except NotFound:  # at most, it lies on the way to what a snapshot of a directory covers
        assert not expected
        assert path not in present[1]
        return 0
    found: dict[bytes, str] = {}
    for one in told:
        assert isinstance(one, Lost)
        found.setdefault(one.name, one.snapshot)
    assert found == expected
    return len(found)


@pytest.mark.parametrize("seed", range(6))
def test_a_version_or_a_deleted_name_is_missed(seed: int) -> None:
    """Each state shows the version that it has; equal pointers are one version; another inode at
    the path is told; names that are gone.
    """
    rnd = random.Random(seed)
    world = World(4096, 4096)
    world.parts = seed % 2 == 1
    versions = deleted = 0
    for _ in range(5):
        for _ in range(80):
            world.step(rnd)
        world.commit()
        states, walked = trees(world)
        files = sorted(
            {
                found.path
                for _, (_, listing) in walked
                for names in listing.values()
                for found in names.values()
            }
        )
        for path in rnd.sample(files, min(len(files), 40)):
            versions += check_versions(world, states, walked, path)
        directories = sorted({path for _, (_, listing) in walked for path in listing})
        for path in directories:
            deleted += check_deleted(world, states, walked, path)
    world.finish()
    assert versions
    assert deleted
