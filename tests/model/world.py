"""The core and its model side by side: every operation is done to both, and both must say the same.

Arguments are plain numbers that pick among what there is, so that Hypothesis and a seeded generator
can drive the same operations.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import FsError, NoAttribute, NoSpace, NotDirectory, NotFound, UsageError
from snapfs.filesystem import Changes, Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.snapshots import Designated
from snapfs.store.commit.copy_map_space import allocate_map, free_map
from snapfs.store.commit.driver import (
    commit,
    drive,
    sync,
)
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.copies import RunningCopy
from tests.harness.sparse import SparseDevice
from tests.model import brute_force, restored_part
from tests.model.tree_model import EXCHANGE, NOREPLACE, Node, Tree

NAMES = [b"a", b"b", b"c", b"d", b"e.txt", "ü".encode(), b"n" * 255]
ATTRIBUTES = [b"user.x", b"user.y", b"trusted.z"]
DESIGNATE = b"user.snapfs.designate"
POLICIES = [b"nightly", "häufig".encode()]
SNAPSHOTS = 7

#: Files of more blocks hand their content to an heir when they are emptied: few, so that histories
#: have heirs.
DETACH_BLOCKS = 5


class World:
    """A volume in memory with its model: the base, the snapshots by name, and what the last commit
    made durable.
    """

    def __init__(
        self,
        block_size: int,
        blocks: int,
        *,
        parts: bool = False,
        several: bool = False,
        policies: bool = False,
        discards: bool = False,
    ) -> None:
        self.block_size = block_size
        self.device = SparseDevice(blocks * block_size)
        format_volume(self.device, block_size=block_size)
        self.base = Tree()
        self.parts = parts  # are there snapshots of directories?
        self.several = several  # are there snapshots of several directories and files?
        self.policies = policies  # are there designated directories?
        self.discards = discards  # is what is freed discarded?
        self.snaps: dict[str, Tree] = {}
        self.held: set[int] = set()
        self.running: RunningCopy | None = None
        self.map: dict[int, bytes] = {}  # what was written last into the blocks of its map
        self.made = 0
        self.open()
        self.volume.hash_seed = 1  # instead of a random one: what fails fails again
        self.fs.base.change(self.drive(self.fs.inode, self.fs.base, ROOT_INO))
        self.commit()

    # Plumbing

    def open(self) -> None:
        self.volume = open_volume(self.device)
        self.volume.allocator.discards.wanted = self.discards
        self.fs = Filesystem(self.volume)
        self.fs.detach_blocks = DETACH_BLOCKS

    def drive(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def keep_durable(self) -> None:
        self.durable = (
            self.base.copy(named=True),
            {name: tree.copy() for name, tree in self.snaps.items()},
            self.running,
            dict(self.map),
        )

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the core. If that commits, then what was before is what has become durable."""
        generation = self.volume.generation
        try:
            return self.drive(function, *args, **kwargs)
        finally:
            if self.volume.generation != generation:
                self.keep_durable()

    def both(self, core: Callable[[], Any], model: Callable[[Any], None]) -> Any:
        """Do it to both. Either both raise the same or none does; a full volume is the core's
        affair, and leaves all as it is.
        """
        try:
            result = core()
        except NoSpace:
            return None
        except FsError as exc:
            try:
                model(None)
            except type(exc):
                return None
            raise
        model(result)
        return result

    def pick(self, which: int) -> tuple[Tree, View]:
        """A view: the base half of the time."""
        names = sorted(self.snaps)
        if which % 2 == 0 or not names:
            return self.base, self.fs.base
        name = names[which // 2 % len(names)]
        return self.snaps[name], self.view(name)

    def view(self, name: str) -> View:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def holding(self, tree: Tree) -> set[int]:
        return self.held if tree is self.base else set()

    # Names

    def make(self, which: int, where: int, name: int, kind: int, long: int = 0) -> None:
        tree, view = self.pick(which)
        parent = _of(tree.directories(), where)
        mode = _of(
            [
                stat.S_IFREG | 0o644,
                stat.S_IFREG | 0o600,
                stat.S_IFDIR | 0o755,
                stat.S_IFLNK | 0o777,
                stat.S_IFIFO | 0o600,
            ],
            kind,
        )
        target = b"t" * (1 + long % 3000) if stat.S_ISLNK(mode) else b""
        label = _of(NAMES, name)

        def model(inode: Any) -> None:
            tree.check_new(parent, label)
            tree.make(parent, label, mode, inode.ino, target)

        self.both(
            lambda: self.call(self.fs.make, view, parent, label, mode, 0, 0, target=target), model
        )

    def make_many(self, which: int, where: int, count: int) -> None:
        """Enough long names to need several buckets."""
        tree, view = self.pick(which)
        parent = _of(tree.directories(), where)
        for _ in range(count):
            self.made += 1
            name = b"%d" % self.made + b"-" * 200
            mode = stat.S_IFREG | 0o644

            def model(inode: Any, name: bytes = name, mode: int = mode) -> None:
                tree.make(parent, name, mode, inode.ino)

            self.both(
                lambda name=name, mode=mode: self.call(
                    self.fs.make, view, parent, name, mode, 0, 0
                ),
                model,
            )

    def unlink_many(self, which: int, where: int) -> None:
        tree, view = self.pick(which)
        parent = _of(tree.directories(), where)
        for name in sorted(tree.nodes[parent].names):
            self.both(
                lambda name=name: self.call(self.fs.unlink, view, parent, name),
                lambda _, name=name: tree.unlink(parent, name, self.holding(tree)),
            )

    def link(self, which: int, file: int, where: int, name: int) -> None:
        tree, view = self.pick(which)
        ino, parent, label = (
            _of(sorted(tree.nodes), file),
            _of(tree.directories(), where),
            _of(NAMES, name),
        )
        self.both(
            lambda: self.call(self.fs.link, view, ino, parent, label),
            lambda _: tree.link(ino, parent, label),
        )

    def unlink(self, which: int, place: int, *, directory: bool) -> None:
        tree, view = self.pick(which)
        if not tree.places():
            return
        parent, name = _of(tree.places(), place)
        core, model = (self.fs.rmdir, tree.rmdir) if directory else (self.fs.unlink, tree.unlink)
        self.both(
            lambda: self.call(core, view, parent, name),
            lambda _: model(parent, name, self.holding(tree)),
        )

    def rename(self, which: int, place: int, where: int, name: int, flags: int) -> None:
        tree, view = self.pick(which)
        if not tree.places():
            return
        parent, old = _of(tree.places(), place)
        to, new = _of(tree.directories(), where), _of(NAMES, name)
        if flags == EXCHANGE and len(tree.places()) > 1:  # a random name is rarely there
            to, new = _of(tree.places(), where)
        self.both(
            lambda: self.call(self.fs.rename, view, parent, old, to, new, flags),
            lambda _: tree.rename(parent, old, to, new, flags, self.holding(tree)),
        )

    # Contents

    def write(self, which: int, file: int, offset: int, length: int) -> None:
        tree, view = self.pick(which)
        if not tree.files():
            return
        ino = _of(tree.files(), file)
        self.made += 1
        data = random.Random(self.made).randbytes(length)
        self.both(
            lambda: self.call(self.fs.write, view, ino, offset, data),
            lambda _: tree.write(ino, offset, data),
        )

    def truncate(self, which: int, file: int, size: int) -> None:
        tree, view = self.pick(which)
        if not tree.files():
            return
        ino = _of(tree.files(), file)
        self.both(
            lambda: self.call(
                self.fs.set_attributes, view, ino, Changes(size=size), privileged=True
            ),
            lambda _: tree.truncate(ino, size),
        )

    def chmod(self, which: int, file: int, mode: int) -> None:
        tree, view = self.pick(which)
        ino = _of(sorted(tree.nodes), file)
        node = tree.nodes[ino]

        def model(_: Any) -> None:
            node.mode = stat.S_IFMT(node.mode) | mode

        self.both(
            lambda: self.call(
                self.fs.set_attributes, view, ino, Changes(mode=mode), privileged=True
            ),
            model,
        )

    def set_attribute(self, which: int, file: int, name: int, length: int) -> None:
        tree, view = self.pick(which)
        ino, label = (
            _of(
                sorted(
                    ino
                    for ino, node in tree.nodes.items()
                    if node.is_directory or stat.S_ISREG(node.mode)
                ),
                file,
            ),
            _of(ATTRIBUTES, name),
        )
        self.made += 1
        value = random.Random(self.made).randbytes(length)
        self.both(
            lambda: self.call(self.fs.xattr_set, view, ino, label, value),
            lambda _: tree.nodes[ino].attributes.update({label: value}),
        )

    def remove_attribute(self, which: int, file: int, name: int) -> None:
        tree, view = self.pick(which)
        ino, label = _of(sorted(tree.nodes), file), _of(ATTRIBUTES, name)
        self.both(
            lambda: self.call(self.fs.xattr_remove, view, ino, label),
            lambda _: tree.remove_attribute(ino, label),
        )

    def hold(self, file: int) -> None:
        """The kernel learns of an inode, or forgets it."""
        files = self.base.files()
        if not files:
            return
        ino = _of(files, file)
        if ino in self.held:
            self.held.discard(ino)
            self.base.forget(ino)
            self.fs.forget(self.fs.base, ino)
        elif self.base.nodes[ino].nlink:
            self.held.add(ino)
            self.fs.hold(self.fs.base, ino)

    # Snapshots

    def snapshot(self, which: int) -> None:
        tree, view = self.pick(which)
        if len(self.snaps) >= SNAPSHOTS:
            return
        self.made += 1
        name = f"s{self.made}"
        try:
            self.call(snapshots.create, self.fs, name, origin=view.id)
        except NoSpace:
            return
        self.snaps[name] = tree.copy(named=True)
        self.commit()

    def snapshot_of(self, which: int, where: int) -> None:
        """A snapshot of a directory."""
        tree, view = self.pick(which)
        if len(self.snaps) >= SNAPSHOTS:
            return
        self.made += 1
        name = f"d{self.made}"
        top = _of(tree.directories(), where)
        try:
            self.call(snapshots.create, self.fs, name, origin=view.id, targets=[top])
        except NoSpace:
            return
        self.snaps[name] = tree.within(top)
        self.commit()

    def snapshot_of_several(self, which: int, *places: int) -> None:
        """A snapshot of directories and files, given by their paths, some of which may lie within
        others.
        """
        tree, view = self.pick(which)
        found = tree.places()
        if len(self.snaps) >= SNAPSHOTS or not found:
            return
        self.made += 1
        name = f"p{self.made}"
        chosen = [_of(found, place) for place in places]
        ways = [self._way(tree, view, parent, label) for parent, label in chosen]
        inner = {
            way
            for way in ways
            if any(other == way[: len(other)] and other != way for other in ways)
        }
        tops = {
            tree.find(*place) for place, way in zip(chosen, ways, strict=True) if way not in inner
        }
        try:
            self.call(snapshots.create, self.fs, name, origin=view.id, targets=ways)
        except (NoSpace, UsageError):
            return
        self.snaps[name] = tree.within(*sorted(tops))
        self.commit()

    def designate(self, which: int, where: int, policy: int) -> None:
        """Designate a directory, or let it be one among others again (C8)."""
        tree, view = self.pick(which)
        ino, value = _of(tree.directories(), where), _of([*POLICIES, None], policy)
        if value is None:
            self.both(
                lambda: self.call(self.fs.xattr_remove, view, ino, DESIGNATE),
                lambda _: tree.remove_attribute(ino, DESIGNATE),
            )
        else:
            self.both(
                lambda: self.call(self.fs.xattr_set, view, ino, DESIGNATE, value),
                lambda _: tree.nodes[ino].attributes.update({DESIGNATE: value}),
            )

    def snapshot_of_policy(self, which: int, policy: int) -> None:
        """A snapshot of what is designated with a policy, or none if nothing is."""
        tree, view = self.pick(which)
        if len(self.snaps) >= SNAPSHOTS or tree.tops != (
            ROOT_INO,
        ):  # of the directories above parts, the model knows nothing
            return
        value = _of(POLICIES, policy)
        found = [
            ino for ino in tree.directories() if tree.nodes[ino].attributes.get(DESIGNATE) == value
        ]
        tops = [
            ino
            for ino in found
            if not any(tree.is_below(other, ino) for other in found if other != ino)
        ]
        self.made += 1
        name = f"q{self.made}"
        try:
            self.call(
                snapshots.create,
                self.fs,
                name,
                origin=view.id,
                targets=[Designated(value.decode())],
            )
        except NotFound:
            assert not tops
            return
        except (NoSpace, UsageError):
            return
        assert tops
        self.snaps[name] = tree.copy(named=True) if tops == [ROOT_INO] else tree.within(*tops)
        self.commit()

    @staticmethod
    def _way(tree: Tree, view: View, parent: int, name: bytes) -> tuple[bytes, ...]:
        """The names of the path of what a directory of a tree has."""
        way = [name]
        while parent not in tree.tops:
            above = tree.nodes[parent].parent
            way.append(
                next(label for label, ino in tree.nodes[above].names.items() if ino == parent)
            )
            parent = above
        parts = view.instance.parts if view.instance else ()
        return (*next((part.way for part in parts if part.ino == parent), ()), *reversed(way))

    def delete(self, which: int) -> None:
        if not self.snaps:
            return
        name = _of(sorted(self.snaps), which)
        self.call(snapshots.delete, self.fs, name)
        del self.snaps[name]

    def rename_snapshot(self, which: int) -> None:
        if not self.snaps:
            return
        name = _of(sorted(self.snaps), which)
        self.made += 1
        new = f"s{self.made}"
        try:
            self.call(snapshots.rename, self.fs, name, new)
        except NoSpace:
            return
        self.snaps[new] = self.snaps.pop(name)

    def restore(self, which: int) -> None:
        whole = sorted(name for name, tree in self.snaps.items() if tree.tops == (ROOT_INO,))
        if not whole or len(self.snaps) >= SNAPSHOTS:
            return
        name = _of(whole, which)
        try:
            result = self.call(snapshots.restore, self.fs, name)
        except NoSpace:
            return
        if result.changed:
            self.snaps[result.undo.name] = self.base.copy(named=True)
        else:
            assert {ino: node for ino, node in self.base.nodes.items() if node.nlink} == self.snaps[
                name
            ].nodes, "a restore saw no difference"
        if result.changed:
            self.base = self.snaps[name].copy()
            for ino in self.held:
                self.fs.forget(self.fs.base, ino)
            self.held.clear()
        self.commit()

    def restore_path(self, which: int, place: int) -> None:
        """Bring a path back, or all that a snapshot of parts covers (C7)."""
        if not self.snaps or len(self.snaps) >= SNAPSHOTS:
            return
        name = _of(sorted(self.snaps), which)
        past = self.snaps[name]
        parts = snapshots.get(self.fs, name).parts
        begin = {part.way: part.ino for part in parts} if parts else {(): ROOT_INO}
        found = {
            path: ino
            for way, top in begin.items()
            if top
            for path, ino in restored_part.flat(past, top, way).items()
            if path
        }
        if parts and (place % 3 == 0 or not found):
            targets: dict[restored_part.Path, int] = begin
        elif found:
            way = _of(sorted(found), place)
            targets = {way: found[way]}
        else:
            return
        before = self.base
        undone = {
            ino for path, ino in restored_part.flat(before, ROOT_INO).items() if path in targets
        }
        texts = [] if targets == begin else ["/" + b"/".join(way).decode() for way in targets]
        try:
            result = self.call(snapshots.restore, self.fs, name, paths=texts)
        except (NoSpace, NotDirectory, UsageError):
            return
        after = self.base = self.tree_of(self.fs.base)
        for ino in self.held:
            if ino not in after.nodes and ino in before.nodes:
                kept = after.nodes[ino] = before.nodes[ino].copy()
                kept.nlink = 0
                kept.names = {}
        self.held &= after.nodes.keys()
        restored_part.judge(before, past, targets, after)
        if result.changed:
            self.snaps[result.undo.name] = before.within(*sorted(undone))
        self.commit()

    def purge(self, which: int, place: int, *, everywhere: bool) -> None:
        """Take a path that a snapshot has out of it, or out of all that have it."""
        if not self.snaps:
            return
        name = _of(sorted(self.snaps), which)
        flat = {each: self.flat(each) for each in (sorted(self.snaps) if everywhere else [name])}
        if not self.below(name):
            return
        way = _of(self.below(name), place)
        found = [self.call(snapshots.find_places, self.fs, each, [b"/".join(way)]) for each in flat]
        for one in found:
            parts = one.instance.parts
            is_covered = any(
                way == part.way[: len(way)] and len(way) <= len(part.chain) for part in parts
            )
            assert bool(one.places) == (way in flat[one.instance.name] or is_covered), (
                "a snapshot has it or has it not"
            )
            is_held = bool(one.places) and bool(one.instance.facts.holds)
            assert bool(one.refusal) == (is_covered or is_held)
        chosen = [one for one in found if one.places and one.refusal is None]
        try:
            done = self.call(
                snapshots.take_out, self.fs, [place for one in chosen for place in one.places]
            )
        except NoSpace:
            return
        assert len(done) == len(chosen)
        for one in chosen:
            snapshot = one.instance.name
            self.snaps[snapshot].purge(flat[snapshot][way[:-1]], way[-1])

    def flat(self, name: str) -> dict[restored_part.Path, int]:
        """What a snapshot shows, by path: its parts, and what is in them."""
        parts = snapshots.get(self.fs, name).parts
        tops = {part.way: part.ino for part in parts if part.ino} if parts else {(): ROOT_INO}
        return {
            path: ino
            for way, top in tops.items()
            for path, ino in restored_part.flat(self.snaps[name], top, way).items()
        }

    def below(self, name: str) -> list[restored_part.Path]:
        """The paths of it that can be purged: those in its parts."""
        parts = snapshots.get(self.fs, name).parts
        return sorted(self.flat(name).keys() - ({part.way for part in parts} or {()}))

    def tree_of(self, view: View) -> Tree:
        """What a view shows, as a model."""
        tree = Tree()
        tree.nodes = {}
        stack = [ROOT_INO]
        while stack:
            ino = stack.pop()
            if ino in tree.nodes:
                continue
            inode = self.call(self.fs.inode, view, ino)
            node = tree.nodes[ino] = Node(inode.mode, inode.parent or ROOT_INO, inode.nlink)
            if node.is_directory:
                node.names = {name: there for name, (there, _) in self.listing(view, ino).items()}
                stack += node.names.values()
            elif stat.S_ISREG(node.mode):
                node.content = self.call(self.fs.read, view, ino, 0, inode.size)
            elif stat.S_ISLNK(node.mode):
                node.content = self.call(self.fs.readlink, view, ino)
            names = self.call(self.fs.xattr_list, view, ino)
            node.attributes = {
                name: self.call(self.fs.xattr_get, view, ino, name) for name in names
            }
        return tree

    # A copy that runs

    def copy(self, which: int, blocks: int) -> None:
        """A copy begins, with its map on the volume or outside; goes on, in another way; or ends
        (D5).
        """
        copies = self.volume.copies
        if self.running is None:
            runs = ()
            if which % 4:
                try:
                    runs = self.call(allocate_map, self.volume, 1 + blocks % 40)
                except NoSpace:
                    return
            self.made += 1
            name = b"%016d" % self.made
            self.running = RunningCopy(
                name, self.volume.generation, b"/copy", runs, b"" if runs else b"/map"
            ).checked()
            copies.put(self.running)
            self.map = {
                block: b"" for start, length in runs for block in range(start, start + length)
            }
            self.write_map(which)
        elif which % 3 == 0:
            self.call(free_map, self.volume, self.running.map_runs)
            copies.put(None)
            self.running, self.map = None, {}
        elif which % 3 == 1:
            self.running = replace(self.running, paused=not self.running.paused, rate=blocks)
            copies.put(self.running)
        self.write_map(which)

    def write_map(self, which: int) -> None:
        """What a copy does all the time: some blocks of its map are written in place. It was never
        said what they hold before.
        """
        for block in sorted(self.map):
            if not self.map[block] or (block + which) % 3 == 0:
                self.made += 1
                self.map[block] = random.Random(self.made).randbytes(self.block_size)
                self.device.write(block * self.block_size, self.map[block])
                if (
                    block in self.durable[3]
                ):  # the same map: it is not used again before its end is durable
                    self.durable[3][block] = self.map[block]

    # Time

    def commit(self) -> None:
        commit(self.volume)
        self.keep_durable()

    def sync(self) -> bool:
        """As fsync. Did the log take it?"""
        is_logged = sync(self.volume)
        self.keep_durable()
        return is_logged

    def reopen(self) -> None:
        """Unmount and mount."""
        self.commit()
        self.crash()

    def crash(self) -> None:
        """The process dies: what is not durable is gone (I8)."""
        self.base, self.snaps, self.running, self.map = self.durable
        self.held.clear()
        self.open()
        self.keep_durable()

    def work(self, steps: int) -> None:
        for _ in range(steps):
            if not self.call(self.fs.work):
                break

    # Proofs

    def compare(self) -> None:
        """Every view shows what its model says (I6)."""
        assert {one.name for one in snapshots.all(self.fs)} == set(self.snaps)
        assert self.volume.copies.current == self.running
        for block, content in self.map.items():
            assert self.device.read(block * self.block_size, self.block_size) == content, (
                f"block {block} of the map was overwritten"
            )
        self.compare_view(self.base, self.fs.base)
        for name, tree in self.snaps.items():
            self.compare_view(tree, self.view(name))

    def compare_view(self, tree: Tree, view: View) -> None:
        for ino, node in tree.nodes.items():
            inode = self.call(self.fs.inode, view, ino)
            # Names of it in a directory that is being purged count until that is empty.
            may_have_more = self.fs.orphans.is_emptying(view.id) and not node.is_directory
            links = min(inode.nlink, node.nlink) if may_have_more else inode.nlink
            assert (oct(inode.mode), links) == (oct(node.mode), node.nlink), (
                f"inode {ino} of view {view.id}"
            )
            if node.is_directory:
                if tree.tops == (ROOT_INO,) and node.nlink:
                    assert self.policy(view, ino) == tree.policy(ino, DESIGNATE), (
                        f"inode {ino} of view {view.id}"
                    )
                assert self.listing(view, ino) == {
                    name: (there, stat.S_IFMT(tree.nodes[there].mode))
                    for name, there in node.names.items()
                }
            elif stat.S_ISREG(node.mode):
                assert inode.size == len(node.content), f"inode {ino} of view {view.id}"
                assert self.call(self.fs.read, view, ino, 0, inode.size + 100) == node.content, (
                    f"inode {ino} of view {view.id}"
                )
            elif stat.S_ISLNK(node.mode):
                assert self.call(self.fs.readlink, view, ino) == node.content
            assert {
                name: self.call(self.fs.xattr_get, view, ino, name)
                for name in self.call(self.fs.xattr_list, view, ino)
            } == node.attributes

    def policy(self, view: View, ino: int) -> bytes | None:
        """What a directory answers about its designation."""
        try:
            value: bytes = self.call(self.fs.xattr_get, view, ino, DESIGNATE)
        except NoAttribute:
            return None
        return value

    def listing(self, view: View, ino: int) -> dict[bytes, tuple[int, int]]:
        """A directory, read in small parts."""
        found = {}
        after = 0
        while some := self.call(self.fs.entries, view, ino, after, 5):
            for entry in some:
                assert entry.name not in found, "a name was listed twice"
                found[entry.name] = entry.ino, entry.type
            after = some[-1].cookie
        return found

    def prove(self) -> None:
        """Compare all views, recompute all that is counted, and let the checker look."""
        self.compare()
        self.commit()
        self.check()
        brute_force.verify(self.fs)
        self.keep_durable()

    def check(self) -> None:
        """Ask the checker."""
        findings = check_volume(self.device)
        assert not findings, "\n".join(finding.message() for finding in findings)

    def finish(self) -> None:
        """Prove it all; then delete it all, and find the volume as if it were fresh (I10)."""
        self.prove()
        for name in list(self.snaps):
            self.call(snapshots.delete, self.fs, name)
        self.snaps.clear()
        for ino in self.held:
            self.fs.forget(self.fs.base, ino)
        self.held.clear()
        while self.running is not None:
            self.copy(0, 0)
        self.work(1_000_000)
        self.base = self.base.copy(named=True)
        for directory in reversed(self._depth_first(ROOT_INO)):
            for name, ino in sorted(self.base.nodes[directory].names.items()):
                self.call(
                    self.fs.rmdir if self.base.nodes[ino].is_directory else self.fs.unlink,
                    self.fs.base,
                    directory,
                    name,
                )
        for name in list(self.base.nodes[ROOT_INO].attributes):
            self.call(self.fs.xattr_remove, self.fs.base, ROOT_INO, name)
        self.commit()
        self.work(1_000_000)
        brute_force.verify(self.fs)
        fresh = SparseDevice(self.device.size)
        format_volume(fresh, block_size=self.block_size)
        assert brute_force.bitmaps(self.volume) == brute_force.bitmaps(open_volume(fresh)), "I10"
        assert (
            self.volume.record_blocks
            == len(self.volume.holders.sets)
            == len(self.volume.instances.table)
            == 0
        )
        self.check()

    def _depth_first(self, ino: int) -> list[int]:
        out = [ino]
        for there in self.base.nodes[ino].names.values():
            if self.base.nodes[there].is_directory:
                out += self._depth_first(there)
        return out

    # A random step

    def step_around_heirs(self, rnd: random.Random) -> None:
        """One of the operations in which it counts who has the blocks that a file has lost at once
        (C6, I3).
        """
        which, a, b, _ = (rnd.randrange(1000) for _ in range(4))
        blocks = DETACH_BLOCKS + 1 + rnd.randrange(5)
        operations: list[tuple[int, Callable[[], None]]] = [
            (9, lambda: self.write(0, a, 0, blocks * self.block_size)),
            (9, lambda: self.truncate(0 if b % 4 else 1, a, 0)),
            (
                9,
                lambda: self.write(
                    2 * b + 1, a, rnd.randrange(blocks) * self.block_size, self.block_size
                ),
            ),
            (1, lambda: self.unlink(which, a, directory=False)),
            (5, lambda: self.snapshot(0)),
            (5, lambda: self.snapshot_of(0, 1)),
            (1, lambda: self.snapshot_of(which, a)),
            (6, lambda: self.delete(a)),
            (1, lambda: self.restore(a)),
            (1, lambda: self.restore_path(a, b)),
            (1, self.commit),
            (1, self.reopen),
            (1, lambda: self.work(1)),
        ]
        (operation,) = rnd.choices(
            [one for _, one in operations], [weight for weight, _ in operations]
        )
        with suppress(NothingToDoItTo):
            operation()

    def step_over_borders(self, rnd: random.Random) -> None:
        """One of the operations by which names come into parts, leave them, and come back (C7)."""
        which, a, b, c = (rnd.randrange(1000) for _ in range(4))
        operations: list[Callable[[], None]] = [
            lambda: self.restore_path(a, b),
            lambda: self.rename(0, a, b, c, rnd.choice([0, EXCHANGE])),
            lambda: self.link(0, a, b, c),
            lambda: self.unlink(0, a, directory=bool(b % 2)),
            lambda: self.make(0, a, b, c),
            lambda: self.snapshot_of(which, a),
            lambda: self.snapshot_of_several(which, a, b),
            lambda: self.hold(a),
        ]
        with suppress(NothingToDoItTo):
            rnd.choice(operations)()

    def step(self, rnd: random.Random) -> None:
        """One operation, as likely as in a busy life."""
        which, a, b, name = (rnd.randrange(1000) for _ in range(4))
        size = self.block_size
        offset = rnd.choice(
            [0, rnd.randrange(5 * size), rnd.randrange(20) * size, rnd.randrange(100, 600) * size]
        )
        operations: list[tuple[int, Callable[[], None]]] = [
            (14, lambda: self.make(which, a, name, b, rnd.randrange(3000))),
            (2, lambda: self.make_many(which, a, 30)),
            (1, lambda: self.unlink_many(which, a)),
            (5, lambda: self.link(which, b, a, name)),
            (6, lambda: self.unlink(which, a, directory=False)),
            (4, lambda: self.unlink(which, a, directory=True)),
            (8, lambda: self.rename(which, a, b, name, rnd.choice([0, 0, NOREPLACE, EXCHANGE]))),
            (
                24,
                lambda: self.write(
                    which, a, offset, rnd.choice([1, 100, size, 2 * size, 7 * size + 3])
                ),
            ),
            (8, lambda: self.truncate(which, a, rnd.choice([0, offset, offset // size * size]))),
            (3, lambda: self.chmod(which, a, rnd.choice([0o600, 0o755, 0o4711]))),
            (
                5,
                lambda: self.set_attribute(
                    which, a, name, rnd.choice([5, 80, 500, min(2 * size, 65536)])
                ),
            ),
            (3, lambda: self.remove_attribute(which, a, name)),
            (3, lambda: self.hold(a)),
            (7, lambda: self.snapshot(which)),
            (7 if self.parts else 0, lambda: self.snapshot_of(which, a)),
            (9 if self.several else 0, lambda: self.snapshot_of_several(which, a, b, size + name)),
            (9 if self.policies else 0, lambda: self.designate(which, a, b)),
            (6 if self.policies else 0, lambda: self.snapshot_of_policy(which, a)),
            (4, lambda: self.delete(a)),
            (1, lambda: self.rename_snapshot(a)),
            (3, lambda: self.restore(a)),
            (4 if self.several else 0, lambda: self.restore_path(a, b)),
            (4, lambda: self.purge(which, a, everywhere=b % 2 == 0)),
            (5, lambda: self.work(rnd.choice([1, 3, 100]))),
            (4, lambda: self.copy(a, b)),
            (4, self.commit),
            (2, self.reopen),
            (2, self.crash),
        ]
        (operation,) = rnd.choices(
            [one for _, one in operations], [weight for weight, _ in operations]
        )
        with suppress(NothingToDoItTo):
            operation()


class NothingToDoItTo(Exception):
    """The view that was chosen has no directory, or none of what is needed:
    it is of a few files.
    """


def _of(items: list[Any], number: int) -> Any:
    if not items:
        raise NothingToDoItTo
    return items[number % len(items)]
