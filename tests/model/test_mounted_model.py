"""Files and snapshots through a real mount, against plain dictionaries: random histories that end
with everything deleted and a volume whose counters are those of a fresh one (I6, I10; A9, A10, B3,
C6).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

EXAMPLES = 11
STEPS = 50

NAMES = st.sampled_from(["a", "b", "c", "d"])
SNAPSHOT_NAMES = st.sampled_from([f"s{number}" for number in range(6)])
#: Where a write begins, and how much it writes: within a block, over borders, far behind the end.
OFFSETS = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 8192, 40_000, 1 << 20])
SIZES = st.sampled_from([1, 10, 4096, 4097, 12_288, 30_000])

BASE = ""

#: What must be as on a fresh volume when everything is deleted.
COUNTERS = (
    "free_blocks",
    "snapshot_blocks",
    "record_blocks",
    "record_runs",
    "holder_sets",
    "instances",
)


@dataclass
class Tree:
    """A view. Paths name a directory (None) or a file by number, so that hard links are two paths
    with one number.
    """

    paths: dict[str, int | None] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree(dict(self.paths), dict(self.contents))

    def files(self) -> list[str]:
        return sorted(path for path, number in self.paths.items() if number is not None)

    def directories(self) -> list[str]:
        return ["", *sorted(path for path, number in self.paths.items() if number is None)]

    def within(self, path: str) -> list[str]:
        return [other for other in self.paths if other.startswith(path + "/")]

    def content(self, path: str) -> bytes:
        number = self.paths[path]
        assert number is not None
        return self.contents[number]

    def drop(self, path: str) -> None:
        number = self.paths.pop(path)
        if number is not None and number not in self.paths.values():
            del self.contents[number]


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """0 or an errno."""
    try:
        function(*args, **kwargs)
    except OSError as exc:
        return exc.errno or -1
    return 0


def under(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


class MountedVolume(RuleBasedStateMachine):
    """One volume and its model. ``mount`` gives a fresh one; set by the test."""

    mount: ClassVar[Callable[[], Any]]
    fresh: ClassVar[dict[str, int]]

    def __init__(self) -> None:
        super().__init__()
        self.mounted = self.mount()
        self.trees: dict[str, Tree] = {BASE: Tree()}
        self.origins: dict[str, str] = {}
        self.numbers = 0

    @property
    def snapshots(self) -> list[str]:
        return sorted(self.origins)

    def top(self, view: str) -> Path:
        """Where a view is: a snapshot of a snapshot is in the ``.snap`` of that."""
        return self.mounted.path if view == BASE else self.top(self.origins[view]) / ".snap" / view

    def pick(self, data: st.DataObject, kind: str) -> tuple[str, Tree, str]:
        """A view, and a path of it that is a directory, a file, or any."""
        view = data.draw(st.sampled_from([BASE, BASE, *self.snapshots]), label="view")
        tree = self.trees[view]
        choices = {
            "directory": tree.directories,
            "file": tree.files,
            "any": lambda: sorted(tree.paths),
        }[kind]()
        return view, tree, data.draw(st.sampled_from(choices), label="path") if choices else ""

    # --- files ---

    @initialize()
    def begin(self) -> None:
        """A file and a directory, so that something happens from the start."""
        (self.mounted / "d").mkdir()
        (self.mounted / "a").write_bytes(b"first" * 3000)
        self.trees[BASE] = Tree({"d": None, "a": 0}, {0: b"first" * 3000})
        self.numbers = 1

    @rule(
        data=st.data(),
        name=NAMES,
        offset=OFFSETS,
        size=SIZES,
        fill=st.integers(1, 255),
        mapped=st.booleans(),
        sync=st.booleans(),
    )
    def write(
        self,
        data: st.DataObject,
        name: str,
        offset: int,
        size: int,
        fill: int,
        mapped: bool,
        sync: bool,
    ) -> None:
        view, tree, parent = self.pick(data, "directory")
        path = under(parent, name)
        place = self.top(view) / path
        if path in tree.paths and tree.paths[path] is None:
            assert outcome(os.open, place, os.O_RDWR) == errno.EISDIR
            return
        before = tree.content(path) if path in tree.paths else b""
        chunk = bytes([fill]) * size
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if mapped and offset + size <= len(before):
                with mmap.mmap(descriptor, len(before)) as memory:
                    memory[offset : offset + size] = chunk
            else:
                assert os.pwrite(descriptor, chunk, offset) == size
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path not in tree.paths:
            tree.paths[path] = self.numbers
            self.numbers += 1
        number = tree.paths[path]
        assert number is not None
        tree.contents[number] = (
            before[:offset].ljust(offset, b"\0") + chunk + before[offset + size :]
        )

    @rule(data=st.data(), size=st.sampled_from([0, 1, 4095, 4096, 4097, 10_000, 50_000]))
    def truncate(self, data: st.DataObject, size: int) -> None:
        view, tree, path = self.pick(data, "file")
        if path:
            os.truncate(self.top(view) / path, size)
            number = tree.paths[path]
            assert number is not None
            tree.contents[number] = tree.content(path)[:size].ljust(size, b"\0")

    @rule(data=st.data(), name=NAMES)
    def mkdir(self, data: st.DataObject, name: str) -> None:
        view, tree, parent = self.pick(data, "directory")
        path = under(parent, name)
        if path.count("/") > 3:
            return
        assert outcome(os.mkdir, self.top(view) / path) == (
            errno.EEXIST if path in tree.paths else 0
        )
        tree.paths.setdefault(path, None)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        view, tree, path = self.pick(data, "any")
        if not path:
            return
        place = self.top(view) / path
        if tree.paths[path] is None:
            expected = errno.ENOTEMPTY if tree.within(path) else 0
            assert outcome(os.rmdir, place) == expected
            assert not expected or outcome(os.unlink, place) == errno.EISDIR
            if expected:
                return
        else:
            os.unlink(place)
        tree.drop(path)

    @rule(data=st.data(), name=NAMES)
    def link(self, data: st.DataObject, name: str) -> None:
        view, tree, path = self.pick(data, "file")
        if not path:
            return
        new = under(data.draw(st.sampled_from(tree.directories()), label="into"), name)
        assert outcome(os.link, self.top(view) / path, self.top(view) / new) == (
            errno.EEXIST if new in tree.paths else 0
        )
        tree.paths.setdefault(new, tree.paths[path])

    @rule(data=st.data(), name=NAMES)
    def rename(self, data: st.DataObject, name: str) -> None:
        view, tree, path = self.pick(data, "any")
        if not path:
            return
        new = under(data.draw(st.sampled_from(tree.directories()), label="into"), name)
        expected = self._rename_error(tree, path, new)
        assert outcome(os.rename, self.top(view) / path, self.top(view) / new) == expected
        if (
            expected
            or path == new
            or (new in tree.paths and tree.paths[new] == tree.paths[path] is not None)
        ):
            return
        if new in tree.paths:
            tree.drop(new)
        for old in [path, *tree.within(path)]:
            tree.paths[new + old[len(path) :]] = tree.paths.pop(old)

    @staticmethod
    def _rename_error(tree: Tree, path: str, new: str) -> int:
        is_directory = tree.paths[path] is None
        if is_directory and new.startswith(path + "/"):
            return errno.EINVAL
        if new not in tree.paths or new == path:
            return 0
        if path.startswith(new + "/"):
            return errno.ENOTEMPTY
        if is_directory and tree.paths[new] is not None:
            return errno.ENOTDIR
        if not is_directory and tree.paths[new] is None:
            return errno.EISDIR
        return errno.ENOTEMPTY if tree.within(new) else 0

    # --- snapshots ---

    @rule(data=st.data(), name=SNAPSHOT_NAMES)
    def snapshot(self, data: st.DataObject, name: str) -> None:
        view = data.draw(st.sampled_from([BASE, BASE, BASE, *self.snapshots]), label="of")
        taken = name in self.origins
        assert outcome(os.mkdir, self.top(view) / ".snap" / name) == (errno.EEXIST if taken else 0)
        if not taken:
            self.trees[name] = self.trees[view].copy()
            self.origins[name] = view

    @precondition(lambda self: self.origins)
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.snapshots))
        os.rmdir(self.top(name))
        self._forget(name)

    def _forget(self, name: str) -> None:
        origin = self.origins.pop(name)
        del self.trees[name]
        # What was made of it is found where it was itself.
        self.origins = {
            other: origin if above == name else above for other, above in self.origins.items()
        }

    @precondition(lambda self: self.origins)
    @rule(data=st.data(), new=SNAPSHOT_NAMES)
    def rename_snapshot(self, data: st.DataObject, new: str) -> None:
        name = data.draw(st.sampled_from(self.snapshots))
        taken = new in self.origins and new != name
        assert outcome(os.rename, self.top(name), self.top(name).parent / new) == (
            errno.EEXIST if taken else 0
        )
        if not taken and new != name:
            self.trees[new] = self.trees.pop(name)
            self.origins = {
                (new if other == name else other): (new if above == name else above)
                for other, above in self.origins.items()
            }

    @precondition(lambda self: self.origins)
    @rule(data=st.data(), how=st.sampled_from(["live", "mount"]))
    def restore(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(self.snapshots))
        before = self.trees[BASE]
        known = self.listed()
        if how == "live":
            changed = json.loads(
                self.mounted.run("restore", self.mounted.path, name, "--json").stdout
            )["changed"]
        else:
            self.mounted.remount(f"restore={name}")
            changed = None
        fresh = self.listed() - known
        assert changed in (None, bool(fresh))
        # A change of times alone is one, too; a change of contents always is.
        assert len(fresh) == 1 or (not fresh and self.same(before, self.trees[name]))
        self.trees[BASE] = self.trees[name].copy()
        for undo in fresh:
            assert undo.startswith("before-restore-")
            self.trees[undo] = before
            self.origins[undo] = BASE

    @staticmethod
    def same(one: Tree, other: Tree) -> bool:
        def flat(tree: Tree) -> dict[str, bytes | None]:
            return {
                path: None if number is None else tree.content(path)
                for path, number in tree.paths.items()
            }

        return flat(one) == flat(other)

    def listed(self) -> set[str]:
        return {
            one["name"]
            for one in json.loads(
                self.mounted.run("snapshot", "list", self.mounted.path, "--json").stdout
            )
        }

    # --- the volume ---

    @rule()
    def remount(self) -> None:
        self.mounted.remount()

    @rule()
    def crash(self) -> None:
        """What was synced survives a kill."""
        for view, tree in self.trees.items():
            for path in tree.files():
                descriptor = os.open(self.top(view) / path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        descriptor = os.open(self.mounted.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.mounted.kill()
        self.mounted.mount()

    @rule()
    def compare(self) -> None:
        """Every view shows what the model has."""
        for view, tree in self.trees.items():
            top = self.top(view)
            children = sorted(name for name, origin in self.origins.items() if origin == view)
            assert sorted(os.listdir(top / ".snap")) == children
            found: dict[str, bytes | None] = {}
            numbers: dict[int, set[str]] = {}
            for directory, directories, files in os.walk(top):
                here = os.path.relpath(directory, top)
                prefix = "" if here == "." else here
                for name in directories:
                    found[under(prefix, name)] = None
                for name in files:
                    path = under(prefix, name)
                    with open(top / path, "rb") as file:
                        found[path] = file.read()
                        status = os.fstat(file.fileno())
                    assert status.st_size == len(found[path] or b"")
                    numbers.setdefault(status.st_ino, set()).add(path)
            assert found.keys() == tree.paths.keys(), view
            for path, content in found.items():
                expected = None if tree.paths[path] is None else tree.content(path)
                assert content == expected, (view, path)
            links: dict[int, set[str]] = {}
            for path, number in tree.paths.items():
                if number is not None:
                    links.setdefault(number, set()).add(path)
            assert sorted(map(sorted, numbers.values())) == sorted(map(sorted, links.values()))

    def teardown(self) -> None:
        try:
            if self.mounted.is_mounted:
                self.compare()
                self.finish()
        finally:
            self.mounted.close()
            self.mounted.image.unlink()

    def finish(self) -> None:
        """Everything is deleted, and nothing is left of it (I10)."""
        for name in reversed(self.snapshots):
            os.rmdir(self.top(name))
            self._forget(name)
        for entry in os.scandir(self.mounted.path):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        pause = threading.Event()
        for _ in range(3000):
            counters = self.counters()
            if not counters["instances"]:
                break
            pause.wait(0.01)
        # The kernel may know deleted files until the mount ends; what the daemon does not get done
        # by then, the next one does.
        self.mounted.remount()
        self.mounted.unmount()
        counters = self.counters()
        assert {name: counters[name] for name in COUNTERS} == self.fresh
        self.mounted.run("check", self.mounted.image)

    def counters(self) -> dict[str, int]:
        return json.loads(self.mounted.run("info", self.mounted.image, "--json").stdout)["counters"]


@pytest.fixture
def machine(images, mount_volume, tmp_path: Path) -> Iterator[type[MountedVolume]]:
    """The state machine, with a way to a fresh volume for each example."""
    template = images.make("32M", name="template.img")
    count = iter(range(1_000_000))

    def mount() -> Any:
        image = tmp_path / f"example{next(count)}.img"
        shutil.copyfile(template, image)
        mounted = mount_volume(image)
        if not fresh:
            # The reference is a volume that has been mounted and left.
            mounted.unmount()
            counters = json.loads(mounted.run("info", image, "--json").stdout)["counters"]
            fresh.update({name: counters[name] for name in COUNTERS})
            mounted.mount()
        return mounted

    fresh: dict[str, int] = {}
    yield type("Machine", (MountedVolume,), {"mount": staticmethod(mount), "fresh": fresh})


@pytest.mark.slow
def test_random_histories_of_files_and_snapshots(machine: type[MountedVolume]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(
                HealthCheck
            ),  # a mount is slow, and what a test draws depends on what there is
            print_blob=True,
        ),
    )
