"""Hostile images for real (I4, I7): commands end with one line and the documented exit code, and a
mounted hostile tree stops neither the daemon nor those who walk it.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import CHECKSUM_SHIFT, FLAG_BUCKET
from snapfs.blocks.schema import pack
from snapfs.device.memory import MemoryDevice
from snapfs.filesystem import Filesystem, Inode
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.root_record import RootRecord
from snapfs.store.trees.bucket import Bucket

BLOCK = 4096
FILE, DIRECTORY, LINK, FIFO = 0o100644, 0o40755, 0o120777, 0o10600

#: No walk of the hostile tree may take longer, in seconds.
LIMIT = 60

OK, ERROR, LEFT, OPERATION, MOUNT_FAILED = 0, 1, 4, 8, 32


class Craft:
    """A volume in memory that is made hostile through the core, so that its checksums are right."""

    def __init__(self) -> None:
        self.device = MemoryDevice(4096 * BLOCK)
        format_volume(self.device, clear=False)
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)
        self.base = self.fs.base
        file = self.make("file")
        self.do(self.fs.write, self.base, file.ino, 0, b"content")
        self.do(snapshots.create, self.fs, "snapshot")
        self.commit()

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def commit(self) -> None:
        self.do(self.volume.allocator.need_groups, [0])
        self.volume.allocator.groups[0].dirty = True
        commit(self.volume)

    def make(self, name: str, mode: int = FILE, parent: int = ROOT_INO, **more: Any) -> Inode:
        inode: Inode = self.do(self.fs.make, self.base, parent, name.encode(), mode, 0, 0, **more)
        return inode

    def name(self, directory: Inode, name: bytes, ino: int, kind: int) -> None:
        """A name, without anything that belongs to it."""
        self.base.change(directory)
        self.do(directory.names.touch, name)
        directory.names.put(name, ino << 4 | kind >> 12)

    def endless(self, bottom: bytes, levels: int, flag: int = 0) -> tuple[int, int]:
        """A pointer to levels of pointer blocks, in each of which every slot names the one block
        below.
        """
        self.do(self.volume.allocator.prepare, levels + 1)
        blocks = [
            block
            for start, length in self.volume.allocator.allocate(levels + 1)
            for block in range(start, start + length)
        ]
        content = bottom.ljust(BLOCK, b"\0")
        for block in blocks:
            self.device.write(block * BLOCK, content)
            pointer = block | flag, crc32c(content) << CHECKSUM_SHIFT | 1
            content, flag = struct.pack("<QQ", *pointer) * (BLOCK // 16), 0
        return pointer

    def save(self, path: Path) -> Path:
        self.commit()
        path.write_bytes(self.device.data)
        return path


# Volumes as a whole


def free_superblocks(c: Craft) -> None:
    c.commit()
    c.volume.allocator.groups[0].blocks[0] = 0
    c.volume.allocator.groups[0].free += 1


def colourful_name(c: Craft) -> None:
    one = snapshots.get(c.fs, "snapshot")
    one.name = "\x1b[31mred\n"
    c.volume.instances.dirty.add(one.id)


def endless_snapshots(c: Craft) -> None:
    one = snapshots.get(c.fs, "snapshot")
    c.volume.instances_tree.root = array(
        "Q", c.endless(Bucket({one.id: one.encode()}, 1).encode(BLOCK), 6, FLAG_BUCKET)
    )


def nested_root_record(c: Craft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RootRecord, "encode", lambda _self: b"\x91" * 4000)
    c.commit()


def endless_generations(c: Craft) -> None:
    c.volume.generation = (1 << 64) - 3


def lost_root(c: Craft) -> None:
    c.base.change(c.do(c.base.inode, ROOT_INO))
    c.base.dirty[ROOT_INO] = None


#: Each with the exit codes of mount, check, info and snapshot list.
IMAGES: dict[str, tuple[Callable[..., None], tuple[int, int, int, int]]] = {
    "free superblocks": (free_superblocks, (OK, LEFT, OK, OK)),
    "colourful name": (colourful_name, (MOUNT_FAILED, LEFT, ERROR, ERROR)),
    "endless snapshots": (endless_snapshots, (MOUNT_FAILED, LEFT, ERROR, ERROR)),
    "nested root record": (nested_root_record, (MOUNT_FAILED, LEFT, ERROR, ERROR)),
    "endless generations": (endless_generations, (OK, OK, OK, OK)),
    "lost root": (lost_root, (MOUNT_FAILED, LEFT, OK, OK)),
}


def one_line(result: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in result.stdout + result.stderr
    if result.returncode in (ERROR, OPERATION, MOUNT_FAILED):
        assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
        assert "internal error" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("kind", IMAGES)
def test_a_command_does_more_than_one_line(
    kind: str,
    tmp_path: Path,
    run_snapfs: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, codes = IMAGES[kind]
    craft = Craft()
    if make is nested_root_record:
        make(craft, monkeypatch)
    else:
        make(craft)
    image = craft.save(tmp_path / "hostile.img")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    results = [
        run_snapfs(*words, code=None, limit=LIMIT)
        for words in (("check", image), ("info", image), ("snapshot", "list", image))
    ]
    results.insert(0, run_snapfs("mount", image, mountpoint, code=None, limit=LIMIT))
    try:
        for result in results:
            one_line(result)
        assert tuple(result.returncode for result in results) == codes, [
            result.stderr for result in results
        ]
    finally:
        if results[0].returncode == OK:
            run_snapfs("umount", mountpoint)


# A tree


def hostile_tree(path: Path) -> Path:
    """Directories and files that lead back, nowhere, or on for ever."""
    c = Craft()
    above = c.make("above", DIRECTORY)
    loop = c.make("loop", DIRECTORY, above.ino)
    c.name(loop, b"back", above.ino, DIRECTORY)
    c.name(loop, b"root", ROOT_INO, DIRECTORY)
    shared = c.make("shared", DIRECTORY)
    c.make("inside", FILE, shared.ino)
    c.name(above, b"shared too", shared.ino, DIRECTORY)
    one, two = c.make("one", DIRECTORY), c.make("two", DIRECTORY)
    for inode, parent in ((one, two), (two, one)):
        c.base.change(inode)
        inode.parent = parent.ino
        c.name(inode, b"other", parent.ino, DIRECTORY)
    file = c.make("types", FILE)
    for name in (b"..", b".", b"a/b", b".snap", b"n" * 300):
        c.name(c.make(f"names {name[:5]!r}".replace("/", "-"), DIRECTORY), name, file.ino, FILE)
    c.name(c.make("nowhere", DIRECTORY), b"name", 9999, FILE)
    c.name(c.make("another type", DIRECTORY), b"name", file.ino, DIRECTORY)
    endless = c.make("endless directory", DIRECTORY)
    endless.data.root = array("Q", c.endless(b"", 5))
    full = c.make("one bucket", DIRECTORY)
    full.data.root = array(
        "Q", c.endless(Bucket({b"name": file.ino << 4 | 8}, 20).encode(BLOCK), 5, FLAG_BUCKET)
    )
    long = c.make("endless file")
    long.data.root, long.data.depth, long.data.blocks, long.size = (
        array("Q", c.endless(b"data", 4)),
        4,
        5,
        1 << 40,
    )
    huge = c.make("huge file")
    huge.size, huge.data.blocks, huge.nlink = (1 << 64) - 1, 1 << 48, 0xFFFF_FFFF
    outside = c.make("outside")
    c.do(c.fs.write, c.base, outside.ino, 0, b"x")
    outside.data.root[0] = (1 << 48) - 1
    c.make("circle", LINK, target=b"circle")
    c.make("upwards", LINK, target=b"above/loop/back/loop/back")
    target = c.make("target", LINK, target=b"t" * 300)
    target.size = 1 << 40
    odd = c.make("attributes")
    odd.inline_kind, odd.inline = (
        2,
        pack({b"": b"x", b"user.\0nul": b"y", b"user." + b"n" * 40: bytes(20)}),
    )
    c.make("pipe", FIFO)
    return c.save(path)


#: Walks as users make them. A pipe is read by none of them.
WALKS = {
    "find": ["find", ".", "-xdev"],
    "find -follow": ["find", "-L", ".", "-xdev"],
    "du": ["du", "-axL", "."],
    "ls": ["ls", "-laRi", "."],
    "cat": ["find", ".", "-xdev", "-type", "f", "-exec", "head", "-c", "100000", "{}", "+"],
    "getfattr": ["getfattr", "-dRh", "-m-", "."],
    "snapshots": ["ls", "-la", ".snap", ".snap/snapshot", "above/.snap", "one/other/.snap"],
    "open": [
        sys.executable,
        "-c",
        (
            "import os; [os.stat(os.path.join(w, n), follow_symlinks=False) for w, d, f in "
            "os.walk('.') for n in d + f]"
        ),
    ],
}


def test_a_hostile_tree_stops_the_daemon_or_whoever_walks_it(
    mount_volume: Callable[..., Any], images: Any, tmp_path: Path
) -> None:
    image = hostile_tree(tmp_path / "hostile.img")
    images.expect_damage(image)
    mounted = mount_volume(image)
    pid = mounted.pid
    for name, command in WALKS.items():
        result = subprocess.run(
            command, cwd=mounted.path, check=False, capture_output=True, timeout=LIMIT
        )
        assert result.returncode >= 0, f"{name} was killed"
    assert (mounted / "file").read_bytes() == b"content"
    assert mounted.pid == pid
    info = mounted.run("info", mounted.path).stdout
    assert "metadata is damaged" in info
    os.statvfs(mounted.path)
    mounted.unmount()
    assert mounted.run("check", image, code=LEFT, limit=LIMIT).stdout.count("\n") > 10


@pytest.mark.parametrize(
    "command",
    [
        [
            "rm",
            "-rf",
            "above",
            "one",
            "endless file",
            "endless directory",
            "names b'..'",
            "nowhere",
            "target",
            "huge file",
        ],
        ["mv", "above", "above/loop/inside"],
        ["truncate", "-s", "5", "endless file", "huge file", "outside"],
        ["mkdir", "one/.snap/new", "above/.snap/new", ".snap/new"],
        ["chmod", "-R", "u+x", "."],
        ["cp", "-r", "above", "shared", "names b'a-b'", "new"],
        ["setfattr", "-n", "user.new", "-v", "value", "attributes", "target", "above"],
    ],
    ids=lambda command: command[0],
)
def test_a_change_in_a_hostile_tree_stops_the_daemon(
    command: list[str], mount_volume: Callable[..., Any], images: Any, tmp_path: Path
) -> None:
    image = hostile_tree(tmp_path / "hostile.img")
    images.expect_damage(image)
    mounted = mount_volume(image)
    result = subprocess.run(
        command, cwd=mounted.path, check=False, capture_output=True, timeout=LIMIT
    )
    assert result.returncode >= 0
    assert (mounted / "file").read_bytes() == b"content"
    mounted.unmount()
