"""What is said about snapshots, among random histories: it survives what snapshots survive, and is
obeyed.
"""

from __future__ import annotations

import random
import stat
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.errors import FsError, NoSpace, ReadOnly, SnapshotHeld
from snapfs.filesystem import Changes, View
from snapfs.ids import ROOT_INO
from snapfs.snapshots import NO_FACTS, Facts, Hold
from tests.model.tree_model import Tree
from tests.model.world import World


class FactsWorld(World):
    """A world in which people say something about snapshots. ``facts`` is what they said,
    ``durable_facts`` what a crash leaves of it.
    """

    def __init__(self, block_size: int, blocks: int) -> None:
        self.facts: dict[str, Facts] = {}
        self.obeyed = 0
        super().__init__(block_size, blocks)

    def keep_durable(self) -> None:
        super().keep_durable()
        self.durable_facts = dict(self.facts)

    def crash(self) -> None:
        self.facts = dict(self.durable_facts)
        super().crash()

    def pick(self, which: int) -> tuple[Tree, View]:
        """Nothing can be changed in a read-only view, so changes go to the base."""
        tree, view = super().pick(which)
        if view.writable:
            return tree, view
        self.try_to_change(view, which)
        return self.base, self.fs.base

    def try_to_change(self, view: View, which: int) -> None:
        ino = which % 40
        fs = self.fs
        for function, *arguments in (
            (fs.make, ROOT_INO, b"new", stat.S_IFREG | 0o600, 0, 0),
            (fs.link, ino, ROOT_INO, b"new"),
            (fs.unlink, ROOT_INO, b"a"),
            (fs.rmdir, ROOT_INO, b"a"),
            (fs.rename, ROOT_INO, b"a", ROOT_INO, b"b"),
            (fs.write, ino, 0, b"new"),
            (fs.xattr_set, ino, b"user.x", b"new"),
            (fs.xattr_remove, ino, b"user.x"),
        ):
            try:
                self.call(function, view, *arguments)
            except ReadOnly:
                self.obeyed += 1
            except FsError:
                continue  # there is no such file
            else:
                raise AssertionError(f"{function.__name__} changed a read-only view")
        with pytest.raises(ReadOnly):
            self.call(fs.set_attributes, view, ROOT_INO, Changes(mode=0o700), privileged=True)

    def delete(self, which: int) -> None:
        if not self.snaps:
            return
        name = sorted(self.snaps)[which % len(self.snaps)]
        if self.facts[name].holds:
            with pytest.raises(SnapshotHeld):
                self.call(snapshots.delete, self.fs, name)
            self.obeyed += 1
            return
        super().delete(which)
        del self.facts[name]

    def settle(self, before: set[str]) -> None:
        """After something that may have made or renamed a snapshot."""
        gone, new = before - set(self.snaps), set(self.snaps) - before
        if gone and new:
            self.facts[new.pop()] = self.facts.pop(gone.pop())
        for name in new:
            self.facts[name] = NO_FACTS

    def commit(self) -> None:
        self.settle(set(self.facts))
        super().commit()

    def rename_snapshot(self, which: int) -> None:
        before = set(self.snaps)
        super().rename_snapshot(which)
        self.settle(before)

    def say(self, rnd: random.Random) -> None:
        """Change what is said about one of them, to a random length: the table's buckets split and
        join.
        """
        if not self.snaps:
            return
        name = rnd.choice(sorted(self.snaps))
        now = self.facts[name]
        if now.holds and rnd.random() < 0.5:
            held = rnd.choice(now.holds).name
            wanted = now.release(held)
        elif rnd.random() < 0.5 and len(now.holds) < 8:
            self.made += 1
            wanted = now.hold(Hold(f"h{self.made}", "r" * rnd.randrange(128), self.made, self.made))
        else:
            wanted = now.changed(
                read_only=rnd.random() < 0.5,
                description="d" * rnd.choice([0, 1, 512]),
                tags={f"k{n}": "v" * rnd.randrange(28) for n in range(rnd.randrange(17))},
                untag=list(now.tags),
            )
        try:
            self.call(snapshots.change_facts, self.fs, name, lambda _: wanted)
        except NoSpace:
            return
        self.facts[name] = wanted

    def compare(self) -> None:
        assert {one.name: one.facts for one in snapshots.all(self.fs)} == self.facts
        super().compare()

    def finish(self) -> None:
        self.prove()
        for name in self.facts:
            self.facts[name] = NO_FACTS
            self.call(snapshots.change_facts, self.fs, name, lambda _: NO_FACTS)
        super().finish()


@pytest.mark.parametrize(("block_size", "blocks"), [(4096, 3000), (4096, 600), (16384, 600)])
@pytest.mark.parametrize("seed", range(4))
def test_what_was_said_about_a_snapshot_is_forgotten_or_not_obeyed(
    block_size: int, blocks: int, seed: int
) -> None:
    """I6, I8: no operation changes a read-only view or deletes a held snapshot; facts are as
    durable as everything else.
    """
    rnd: Any = random.Random(f"{block_size}/{blocks}/{seed}")
    world = FactsWorld(block_size, blocks)
    for step in range(150):
        world.step(rnd)
        if step % 2:
            world.say(rnd)
        if step % 50 == 49:
            world.prove()
    world.finish()
    assert world.obeyed > 5
