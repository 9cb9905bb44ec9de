"""What must be there after a crash: the whole visible state of each generation, taken when it was
sealed.
"""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass, field
from typing import Any

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import NoSpace
from snapfs.filesystem import Filesystem, View
from snapfs.ids import ROOT_INO
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.crash.recording import SECTOR
from tests.harness.sparse import SparseDevice, WatchedDevice, is_alike

Dump = dict[str, dict[bytes, tuple[Any, ...]]]

#: Stands for a path: holds, description and tags of a snapshot.
FACTS = b"what is said about it"

#: Likewise: the restore that is scheduled, and those that were done.
RESTORES = b"what is said of restores"

#: And the copy that is running.
COPY = b"what is said of a copy"


def dump(fs: Filesystem) -> Dump:
    """Everything that a user can see: of each view, each path with attributes and content."""
    views = {"": fs.base}
    for instance in snapshots.all(fs):
        views[instance.name] = fs.view(instance.id)
    found = {name: dict(_tree(fs, view)) for name, view in views.items()}
    found[""][RESTORES] = (fs.volume.restores.scheduled, tuple(fs.volume.restores.done))
    found[""][COPY] = (fs.volume.copies.current,)
    for instance in snapshots.all(fs):
        found[instance.name][FACTS] = (instance.facts,)
    return found


def _tree(fs: Filesystem, view: View) -> list[tuple[bytes, tuple[Any, ...]]]:
    volume = fs.volume
    out = []
    stack = [(b"", ROOT_INO)]
    while stack:
        path, ino = stack.pop()
        inode = drive(volume, fs.inode, view, ino)
        content: Any = b""
        if stat.S_ISDIR(inode.mode):
            entries = drive(volume, fs.entries, view, ino, 0, 1 << 30)
            stack += [(path + b"/" + entry.name, entry.ino) for entry in entries]
            content = tuple(sorted(entry.name for entry in entries))
        elif stat.S_ISREG(inode.mode):
            content = drive(volume, fs.read, view, ino, 0, inode.size)
        elif stat.S_ISLNK(inode.mode):
            content = drive(volume, fs.readlink, view, ino)
        xattrs = tuple(
            (name, drive(volume, fs.xattr_get, view, ino, name))
            for name in drive(volume, fs.xattr_list, view, ino)
        )
        size = 0 if stat.S_ISDIR(inode.mode) else inode.size
        out.append(
            (
                path,
                (
                    ino,
                    inode.mode,
                    inode.uid,
                    inode.gid,
                    inode.nlink,
                    size,
                    inode.mtime,
                    inode.ctime,
                    content,
                    xattrs,
                ),
            )
        )
    return out


def judge_map(device: SparseDevice, volume: Volume) -> None:
    """The map of a running copy is written in place, so any of its sectors may be old or new; but
    each is one of this copy's.
    """
    copy, block_size = volume.copies.current, volume.geometry.block_size
    for start, length in copy.map_runs if copy else ():
        data = device.read(start * block_size, length * block_size)
        strangers = [
            at
            for at in range(0, len(data), SECTOR)
            if not copy or data[at : at + len(copy.id)] != copy.id
        ]
        assert not strangers, (
            f"the map in blocks {start} to {start + length - 1} has something else at "
            f"{strangers[:5]}"
        )


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery that went well. ``seen``: the pages that it has read, as the crash left them;
    ``point``: the generation that came up, and how many records of its log.
    """

    seen: dict[int, bytes]
    point: tuple[int, int]


class Recoveries(list[Recovery]):
    """The recoveries that went well so far.

    A recovery is a function of what it reads: if two states have the same bytes wherever the
    recovery of one of them has looked, the other one recovers in the same way, and need not be
    tried. Most crash states differ only in blocks that no durable generation reaches.
    """

    def covers(self, left: SparseDevice, promised: tuple[int, int], newest: int) -> bool:
        """Has a state recovered that recovery cannot tell from this one, within these bounds?"""
        return any(
            promised <= known.point and known.point[0] <= newest and is_alike(known.seen, left)
            for known in reversed(self)
        )


@dataclass
class Oracle:
    """The states of all generations of a recording, and by (generation, records) those that their
    logs tell. ``recoveries`` are what ``judge`` has found well so far, ``shown`` what ``look`` has.
    """

    generations: dict[int, Dump] = field(default_factory=dict)
    logged: dict[tuple[int, int], Dump] = field(default_factory=dict)
    recoveries: Recoveries = field(default_factory=Recoveries)
    shown: Recoveries = field(default_factory=Recoveries)

    def judge(self, left: SparseDevice, promised: int | tuple[int, int], newest: int) -> None:
        """A crash left this: the generation that comes up is whole, and none that was promised is
        lost (I8). The device is not changed.

        Raises ``AssertionError``.
        """
        least = promised if isinstance(promised, tuple) else (promised, 0)
        if self.recoveries.covers(left, least, newest):
            return
        device = WatchedDevice(left)
        point = self._recover(device, least, newest)
        self.recoveries.append(Recovery(device.seen, point))

    def _recover(
        self, device: SparseDevice, promised: tuple[int, int], newest: int
    ) -> tuple[int, int]:
        """Recover, go on, and return the point that came up."""
        fs = self.show(device, promised, newest)
        volume = fs.volume
        point = volume.generation, volume.sync_log.repeated
        judge_map(device, volume)
        if volume.sync_log.repeated:
            self._judge_recovery(device, fs)
        # The volume goes on: what the crash interrupted is worked off, and changes can be
        # committed.
        while drive(volume, fs.work):
            pass
        with contextlib.suppress(NoSpace):  # the story of the full volume
            drive(
                volume, fs.make, fs.base, ROOT_INO, b"after the crash", stat.S_IFREG | 0o600, 0, 0
            )
        commit(volume)
        return point

    def _judge_recovery(self, device: SparseDevice, fs: Filesystem) -> None:
        """Another crash, while what the log told is committed: it is told once more. And when that
        is done, it is so for good.
        """
        volume, before = fs.volume, dump(fs)
        again = device.copy()
        sealed = drive(volume, seal, volume)
        for block, content in list(sealed.blocks.items())[::2]:
            again.write(block * sealed.block_size, content)
        assert dump(Filesystem(open_volume(again, read_only=True))) == before, (
            "a crash after a crash"
        )
        sealed.write()
        volume.committed(sealed)
        found = check_volume(device)
        assert not found, [one.message() for one in found][:5]
        reopened = open_volume(device, read_only=True)
        assert not reopened.sync_log.pending
        assert dump(Filesystem(reopened)) == before, (
            "what the log told is not what was committed then"
        )

    def look(self, left: SparseDevice, promised: tuple[int, int], newest: int) -> None:
        """As ``judge``, but nothing goes on from what came up."""
        if not self.shown.covers(left, promised, newest):
            device = WatchedDevice(left)
            volume = self.show(device, promised, newest).volume
            self.shown.append(Recovery(device.seen, (volume.generation, volume.sync_log.repeated)))

    def show(self, device: SparseDevice, promised: tuple[int, int], newest: int) -> Filesystem:
        """Open what a crash has left: it is clean, and what its generation was when it was sealed,
        or its log was written.

        Raises ``AssertionError``.
        """
        volume = open_volume(device)
        found = check_volume(device)
        assert not found, [one.message() for one in found][:5]
        fs = Filesystem(volume)
        point = volume.generation, volume.sync_log.repeated
        assert promised <= point and volume.generation <= newest, (
            f"generation and records {point}, promised {promised}, newest {newest}"
        )
        seen, expected = (
            dump(fs),
            self.logged[point] if point[1] else self.generations[volume.generation],
        )
        assert seen.keys() == expected.keys(), (sorted(seen), sorted(expected))
        for name, tree in expected.items():
            assert seen[name].keys() == tree.keys(), (name, sorted(seen[name].keys() ^ tree.keys()))
            for path, facts in tree.items():
                assert seen[name][path] == facts, (name, path)
        return fs
