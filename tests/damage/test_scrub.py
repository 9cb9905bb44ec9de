"""Scrub finds every damaged block that a volume reaches, names the file and the views that show it,
and nothing else (I7, E: scrub).

The small volume has something of everything, so every block of it can be damaged in turn; what must
be found follows from the pointers that the core reads, not from the scrub's own walk.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import random
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from snapfs import snapshots
from snapfs.blocks.claim import CLAIM_PLACE
from snapfs.blocks.geometry import SLOT_BYTES, SUPERBLOCK_SLOTS
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.check.opening import open_damaged
from snapfs.check.scrub.places import Damage
from snapfs.check.scrub.scrubbing import Scrub
from snapfs.control.commands import offline, scrubbing
from snapfs.control.commands.handlers import Handlers
from snapfs.control.socket import protocol
from snapfs.control.socket.caller import Alone
from snapfs.control.socket.protocol import Event
from snapfs.control.socket.server import ControlServer
from snapfs.device import open_device
from snapfs.errors import NoSpace, NotFound, SnapfsError, StaleInode, VolumeError
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ORPHANS_INO, ROOT_INO
from snapfs.store.commit.commit import seal
from snapfs.store.commit.recovery import open_volume
from tests.damage.planting import (
    BLOCK,
    DIRECTORY,
    REGULAR,
    SYMLINK,
    Planted,
    build,
    metadata,
    running_copy,
    snapshot,
)
from tests.harness.sparse import SparseDevice

Findings = list[dict[str, Any]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def scrubbed(device: Any) -> Findings:
    """What a scrub of a volume at rest finds."""
    volume, trouble = open_damaged(device)
    found: Findings = []
    caller = Alone(lambda event: found.extend(event["findings"]))
    result = offline.run(scrubbing.scrub(Filesystem(volume), caller, None, trouble=trouble))
    assert result["errors"] == len(found)
    return found


@functools.cache
def small() -> SparseDevice:
    """2 MiB: every kind of file and tree, snapshots of all and of a part, a view that was written,
    and names that have changed since.
    """
    device = SparseDevice(512 * BLOCK)
    format_volume(device)
    p = Planted(device)
    p.volume.hash_seed = 1
    make = p.make
    make("", "plain", REGULAR, b"plain" * 2000)
    make("", "renamed", REGULAR, b"renamed" * 1000)
    make("", "dir", DIRECTORY)
    make("dir", "sub", DIRECTORY)
    make("dir/sub", "deep", REGULAR, b"deep" * 2000)
    make("", "gone", REGULAR, b"gone" * 1500)
    make("", "twice", REGULAR, b"twice")
    p.do(p.fs.link, p.base, p.find("twice").ino, p.find("dir").ino, b"again")
    make("", "long", SYMLINK, target=b"dir/" * 75)
    make("", "many", DIRECTORY)
    for number in range(80):
        make("many", f"{number:0100}", REGULAR)
    sparse = make("", "sparse", REGULAR).ino
    for index in (0, 5, 300):
        p.do(p.fs.write, p.base, sparse, index * BLOCK, b"sparse" * 600)
    p.do(p.fs.xattr_set, p.base, p.find("twice").ino, b"user.large", b"blocks" * 1500)
    held = make("", "held", REGULAR, b"held" * 2000)
    p.fs.hold(p.base, held.ino)
    p.do(p.fs.unlink, p.base, ROOT_INO, b"held")
    snapshot(p, "one")
    p.do(p.fs.write, p.base, p.find("plain").ino, 0, b"after one")
    p.do(p.fs.rename, p.base, ROOT_INO, b"renamed", p.find("dir").ino, b"name")
    p.do(p.fs.unlink, p.base, ROOT_INO, b"gone")
    while p.do(p.fs.work):
        pass
    p.do(snapshots.create, p.fs, "copy", origin=snapshots.get(p.fs, "one").id)
    p.do(snapshots.create, p.fs, "part", targets=[p.find("dir/sub").ino])
    p.commit()
    view = p.view("copy")
    p.do(p.fs.write, view, p.find("dir/sub/deep", view).ino, 0, b"written in a view")
    make("", "new", REGULAR, b"new" * 3000)
    p.commit()
    running_copy(p)
    return device


def opened(device: SparseDevice) -> Planted:
    return Planted(device.copy())


def views(p: Planted) -> dict[str | None, Any]:
    return {None: p.base} | {one.name: p.fs.view(one.id) for one in p.volume.instances.live()}


def shows(p: Planted) -> dict[tuple[str | None, str], Any]:
    """All that the views show, by view and path. What cannot be read is missing."""
    out: dict[tuple[str | None, str], Any] = {}
    for name, view in views(p).items():
        work = [(ROOT_INO, "")]
        while work:
            ino, path = work.pop()
            try:
                inode = p.do(view.inode, ino)
                out[name, path] = [inode.mode, inode.size, inode.uid, inode.mtime]
                out[name, path + ":attributes"] = {
                    key: p.do(p.fs.xattr_get, view, ino, key)
                    for key in p.do(p.fs.xattr_list, view, ino)
                }
                if inode.is_directory:
                    entries = p.do(p.fs.entries, view, ino, 0, 1000)
                    out[name, path + ":names"] = sorted(entry.name for entry in entries)
                    work += [(entry.ino, f"{path}/{entry.name.decode()}") for entry in entries]
                elif stat.S_ISLNK(inode.mode):
                    out[name, path + ":target"] = p.do(p.fs.readlink, view, ino)
            except VolumeError:
                continue
            if stat.S_ISREG(inode.mode):
                for index in range(-(-inode.size // BLOCK)):
                    try:
                        out[name, f"{path}:{index}"] = p.do(
                            p.fs.read, view, ino, index * BLOCK, BLOCK
                        )
                    except VolumeError:
                        continue
    return out


def data(p: Planted) -> dict[int, tuple[int, set[tuple[str | None, str]]]]:
    """Every data block of a file with a name: where in the file, and the views and paths that show
    it.
    """
    out: dict[int, tuple[int, set[tuple[str | None, str]]]] = {}
    for name, view in views(p).items():
        work = [(ROOT_INO, "")]
        while work:
            ino, path = work.pop()
            inode = p.do(view.inode, ino)
            if inode.is_directory:
                work += [
                    (entry.ino, f"{path}/{entry.name.decode()}")
                    for entry in p.do(p.fs.entries, view, ino, 0, 1000)
                ]
            elif stat.S_ISREG(inode.mode):
                for index in range(-(-inode.size // BLOCK)):
                    words, slot = p.do(inode.map.pointers, index)
                    if words is not None and words[2 * slot]:
                        out.setdefault(words[2 * slot] & BLOCK_MASK, (index * BLOCK, set()))[1].add(
                            (name, path)
                        )
    return out


def orphaned(p: Planted) -> list[int]:
    """The data blocks of files that have no name."""
    out = []
    for view in views(p).values():
        for entry in p.do(p.fs.entries, view, ORPHANS_INO, 0, 1000):
            inode = p.do(view.inode, entry.ino)
            out += [p.block_of(inode, index) for index in range(-(-inode.size // BLOCK))]
    return sorted(set(out))


def ring_slots(p: Planted) -> list[tuple[str, int]]:
    """Name and byte offset of every superblock slot, and at the end of what
    is empty beside them.
    """
    front, tail = p.volume.geometry.slot_offsets()
    rings = (("front", front[:SUPERBLOCK_SLOTS]), ("end", tail))
    return [
        (f"superblock slot {slot} at the {ring}", offset)
        for ring, offsets in rings
        for slot, offset in enumerate(offsets)
    ]


def assert_error_or_right(device: Any, before: dict[tuple[str | None, str], Any]) -> None:
    """A damaged volume cannot be opened, or whatever it shows is right."""
    try:
        p = Planted(device)
    except VolumeError:
        return
    after = shows(p)
    assert {key: value for key, value in after.items() if before.get(key) != value} == {}


# --- every block of a small volume ----------------------------------------------------------------


def test_a_volume_without_damage_is_said_to_be_damaged() -> None:
    assert scrubbed(small().copy()) == []
    assert scrubbed(build().copy()) == []


def test_a_block_is_left_out_or_read_twice() -> None:
    """Blocks that many views share are read once; what is read is what the volume reaches, and the
    fixed parts that count.
    """
    p = opened(small())
    reads: Counter[int] = Counter()
    volume = open_volume(p.device, read_only=True)
    below = p.device.read

    def read(offset: int, length: int) -> bytes:
        reads.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
        return below(offset, length)

    fs = Filesystem(volume)
    p.device.read = read
    result = offline.run(scrubbing.scrub(fs, Alone(), None))
    p.device.read = below
    rings = {offset // BLOCK for _, offset in ring_slots(p)} | {CLAIM_PLACE // BLOCK}
    expected = {block for _, block in metadata(p)} | set(data(p)) | set(orphaned(p)) | rings
    assert set(reads) == expected
    # Of the root record's block the record and the rest; and inodes, to see what is below the
    # directory of a snapshot.
    again = {volume.root_block} | {block for what, block in metadata(p) if what == "inode table"}
    assert {block for block, count in reads.items() if count > 1} <= again
    assert result["blocks_read"] == sum(reads.values())
    assert result["bytes_read"] == BLOCK * result["blocks_read"]


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_of_metadata_is_missed_or_believed(seed: int) -> None:
    """Any bit of any metadata block, in turn: scrub names the block and nothing else, check finds
    it, and nobody is shown wrong data.
    """
    before = shows(opened(small()))
    rnd = random.Random(seed)
    blocks = list(metadata(opened(small())))
    assert len(blocks) > 40
    for what, block in blocks:
        p = opened(small())
        p.flip(block * BLOCK + rnd.randrange(BLOCK), rnd.randrange(8))
        found = scrubbed(p.device)
        assert [one["block"] for one in found] == [block], (what, block, found)
        assert found[0]["kind"] == "metadata"
        assert p.check(), (what, block)
        assert_error_or_right(p.device, before)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_of_data_is_missed_or_put_down_to_another_file(seed: int) -> None:
    """Any bit of any data block, in turn: scrub names the block, the place in the file, and exactly
    the views that show it; I7.
    """
    before = shows(opened(small()))
    rnd = random.Random(seed)
    for block, (offset, places) in data(opened(small())).items():
        p = opened(small())
        p.flip(block * BLOCK + rnd.randrange(BLOCK), rnd.randrange(8))
        (one,) = scrubbed(p.device)
        assert (one["block"], one["kind"], one["offset"], one["problem"]) == (
            block,
            "data",
            offset,
            "fails its checksum",
        )
        told = {(shown["snapshot"], shown["path"]) for shown in one["views"]}
        assert told <= places, one  # of a file with several names, one is told
        assert {name for name, _ in told} == {name for name, _ in places}, one
        assert_error_or_right(p.device, before)


def test_damage_of_a_file_without_a_name_is_missed() -> None:
    blocks = orphaned(opened(small()))
    assert blocks
    for block in blocks:
        p = opened(small())
        p.flip(block * BLOCK)
        (one,) = scrubbed(p.device)
        assert one["block"] == block
        assert {shown["path"] for shown in one["views"]} == {None}
        assert f"inode {one['inode']}" in one["message"]


def test_a_damaged_superblock_is_missed_or_keeps_the_volume_from_opening() -> None:
    """Any bit of any slot: scrub names the slot; the volume opens with the same content, by the
    copy or by the generation before.
    """
    p = opened(small())
    before = shows(p)
    rnd = random.Random(1)
    for what, offset in ring_slots(p):
        for _ in range(3):
            one = opened(small())
            one.flip(offset + rnd.randrange(SLOT_BYTES), rnd.randrange(8))
            assert [(found["what"], found["block"]) for found in scrubbed(one.device)] == [
                (what, offset // BLOCK)
            ]
            again = Planted(one.device)
            assert again.volume.generation == p.volume.generation
            assert shows(again) == before


def test_a_claim_is_taken_for_damage() -> None:
    """What the claim has in its slot is written at any time, and none of scrub's business."""
    p = opened(small())
    p.overwrite(CLAIM_PLACE, bytes(range(256)) * 16)
    assert scrubbed(p.device) == []


def test_both_copies_of_the_newest_superblock_are_needed() -> None:
    """Without either copy of the newest one the generation before it counts, whole."""
    p = opened(small())
    p.do(p.fs.unlink, p.base, ROOT_INO, b"new")
    before = shows(opened(small()))
    p.commit()
    for offsets in p.volume.geometry.slot_offsets():
        p.flip(offsets[p.volume.generation % SUPERBLOCK_SLOTS])
    assert len(scrubbed(p.device)) == 2
    assert shows(Planted(p.device)) == before


def test_one_damaged_block_of_a_large_volume_is_missed() -> None:
    """Two groups, records in blocks of their own, files of thousands of blocks."""
    template = build()
    p = opened(template)
    rnd = random.Random(7)
    places = data(p)
    several = rnd.sample(sorted(places), 25) + [
        block for _, block in rnd.sample(list(metadata(p)), 25)
    ]
    for block in several:
        p = opened(template)
        p.flip(block * BLOCK + rnd.randrange(BLOCK), rnd.randrange(8))
        (one,) = scrubbed(p.device)
        assert one["block"] == block
        if block in places:
            told = {(shown["snapshot"], shown["path"]) for shown in one["views"]}
            assert told <= places[block][1]
            assert {name for name, _ in told} == {name for name, _ in places[block][1]}


def test_many_damaged_blocks_are_not_all_found() -> None:
    """Each once, whatever else is damaged: none of these lies below another one."""
    p = opened(small())
    blocks = set(data(p)) | {block for what, block in metadata(p) if what == "group header"}
    header = next(block for what, block in metadata(p) if what == "group header")
    blocks -= {header + 1, header + 2}  # its checksums are in the header
    for block in blocks:
        p.flip(block * BLOCK + 7)
    assert Counter(one["block"] for one in scrubbed(p.device)) == Counter(blocks)


def test_an_unreadable_block_is_the_end_or_spoils_its_neighbours() -> None:
    """A medium that fails one sector: that block is reported with the reason, the others of the
    same read are not.
    """
    p = opened(build())
    inode = p.find("large")
    bad = p.block_of(inode, 1001)
    below = p.device.read

    def read(offset: int, length: int) -> bytes:
        if offset <= bad * BLOCK < offset + length:
            raise protocol.error_kinds()["DeviceError"](
                f"read at {offset} failed: Input/output error"
            )
        return below(offset, length)

    p.device.read = read
    (one,) = scrubbed(p.device)
    assert one["block"] == bad
    assert "Input/output error" in one["problem"]


# --- a volume that changes meanwhile --------------------------------------------------------------


class Changing:
    """Changes a volume at random between the steps of a scrub, and keeps generations in flight."""

    def __init__(self, p: Planted, seed: int, kept: set[int]) -> None:
        self.p = p
        self.rnd = random.Random(seed)
        self.kept = kept  # inodes that stay as they are
        self.sealed: Any = None
        self.number = 0

    def some(self) -> None:
        for _ in range(self.rnd.randrange(1, 6)):
            try:
                self.rnd.choice(
                    [
                        self.write,
                        self.write,
                        self.write,
                        self.truncate,
                        self.make,
                        self.remove,
                        self.seal,
                        self.snapshot,
                    ]
                )()
            except (NoSpace, NotFound, StaleInode, IndexError):
                self.finish()

    def file(self) -> int:
        entries = [
            entry
            for entry in self.p.do(self.p.fs.entries, self.p.base, ROOT_INO, 0, 1000)
            if stat.S_ISREG(entry.type)
        ]
        return int(self.rnd.choice([entry.ino for entry in entries if entry.ino not in self.kept]))

    def write(self) -> None:
        content = self.rnd.randbytes(self.rnd.randrange(1, 5 * BLOCK))
        self.p.do(
            self.p.fs.write, self.p.base, self.file(), self.rnd.randrange(40 * BLOCK), content
        )

    def truncate(self) -> None:
        size = self.rnd.randrange(20 * BLOCK)
        self.p.do(
            self.p.fs.set_attributes, self.p.base, self.file(), Changes(size=size), privileged=True
        )

    def make(self) -> None:
        self.number += 1
        self.p.make("", f"made {self.number}", REGULAR, self.rnd.randbytes(3 * BLOCK))

    def remove(self) -> None:
        if self.number:
            self.p.do(
                self.p.fs.unlink,
                self.p.base,
                ROOT_INO,
                b"made %d" % self.rnd.randrange(1, self.number + 1),
            )

    def snapshot(self) -> None:
        self.finish()
        names = [one.name for one in snapshots.all(self.p.fs) if one.name.startswith("made")]
        if names and self.rnd.random() < 0.5:
            self.p.do(snapshots.delete, self.p.fs, self.rnd.choice(names))
            while self.p.do(self.p.fs.work):
                pass
        elif names and self.rnd.random() < 0.3:
            self.finish()
            self.p.do(snapshots.restore, self.p.fs, self.rnd.choice(names))
        else:
            self.number += 1
            self.p.do(snapshots.create, self.p.fs, f"made {self.number}")
        self.finish()

    def seal(self) -> None:
        """A generation is sealed now, and written at some other time."""
        if self.sealed is None:
            if self.p.volume.dirty:
                self.sealed = self.p.do(seal, self.p.volume)
        else:
            self.land()

    def land(self) -> None:
        if (
            self.sealed is not None and self.p.volume.in_flight is self.sealed
        ):  # or whoever needed space has done this already
            self.sealed.write()
            self.p.volume.committed(self.sealed)
        self.sealed = None

    def finish(self) -> None:
        self.land()
        self.p.commit()


def changing(seed: int, damage: Callable[[Planted], list[int]]) -> tuple[list[int], list[int]]:
    """Scrub a volume in small steps while it changes: the damaged blocks, and those that were
    found.
    """
    p = opened(small())
    kept = {p.find(path).ino for path in ("plain", "twice", "sparse")}
    blocks = damage(p)
    changes = Changing(p, seed, kept)
    with Scrub(p.fs, step_bytes=changes.rnd.choice([1, 3, 40]) * BLOCK) as work:
        steps = work.steps()
        try:
            wanted = next(steps)
            while True:
                changes.some()
                found = work.verifier.read(wanted)
                changes.some()
                wanted = steps.send(found)
        except StopIteration:
            pass
        found_blocks = [one.block for one in work.damage]
    changes.finish()
    assert p.check() == []
    return blocks, found_blocks


@pytest.mark.parametrize("seed", range(8))
def test_what_changes_meanwhile_is_taken_for_damage(seed: int) -> None:
    """Writes, deletions, snapshots, restores and commits between any two steps, blocks used again
    and generations in flight.
    """
    assert changing(seed, lambda _: []) == ([], [])


@pytest.mark.parametrize("seed", range(8))
def test_damage_hides_behind_what_changes_meanwhile(seed: int) -> None:
    """Of files that nobody touches, in all views, each damaged block is found once."""

    def damage(p: Planted) -> list[int]:
        one = p.view("one")
        blocks = [
            p.block_of(p.find("plain"), 1),
            p.block_of(p.find("twice")),
            p.block_of(p.find("sparse"), 300),
        ]
        blocks += [p.block_of(p.find("plain", one)), p.block_of(p.find("gone", one), 1)]
        for block in blocks:
            p.flip(block * BLOCK + 99)
        return blocks

    blocks, found = changing(seed, damage)
    assert sorted(found) == sorted(blocks)


def test_the_changes_are_too_tame_to_prove_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub that believes what it sees first takes blocks that were used again for damaged."""

    def hasty(self: Scrub, item: Any, at: int) -> Iterator[Any]:
        self.damage.append(Damage(item.wanted.start + at, "it was too hasty"))
        yield from ()
        return []

    monkeypatch.setattr(Scrub, "_failed", hasty)
    assert any(changing(seed, lambda _: [])[1] for seed in range(8))


def test_the_log_grows_with_the_damage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each finding, and so many at most; all are told."""
    monkeypatch.setattr(scrubbing, "LOGGED_MAX", 3)
    p = opened(small())
    for block in data(p):
        p.flip(block * BLOCK)
    found: Findings = []
    with caplog.at_level(logging.INFO, "snapfs"):
        result = offline.run(
            scrubbing.scrub(
                p.fs, Alone(lambda event: found.extend(event["findings"])), None, log_it=True
            )
        )
    assert result["errors"] == len(found) == len(data(p))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "scrub: began"
    assert lines[1:4] == [f"scrub: {one['message']}" for one in found[:3]]
    assert lines[4] == "scrub: further damage is not logged"
    assert lines[5].endswith(f"{len(found)} blocks damaged")
    assert len(lines) == 6


def test_more_damage_than_is_told_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "FINDINGS_MAX", 3)
    p = opened(small())
    for block in data(p):
        p.flip(block * BLOCK)
    found: Findings = []
    result = offline.run(
        scrubbing.scrub(p.fs, Alone(lambda event: found.extend(event["findings"])), None)
    )
    assert (result["errors"], len(found)) == (len(data(p)), 3)


# --- the daemon's socket --------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="snapfs-") as directory:
        yield Path(directory)


async def test_a_scrub_goes_on_after_its_caller_has_gone(place: Path) -> None:
    p = opened(build())
    server = ControlServer(Handlers(offline.OfflineEngine(p.fs), p.fs), str(place / "s.sock"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            stream = await trio.open_unix_socket(server.path)
            await stream.send_all(protocol.encode_request("scrub", {"rate": 4096}))
            assert b'"event"' in await stream.receive_some()
            assert p.allocator.watchers
            await stream.aclose()
            while p.allocator.watchers:  # the scrub's own end
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    server.close()


@pytest.mark.parametrize("rate", [0, -1, "fast", 1.5])
def test_a_rate_that_is_none_is_believed(rate: object) -> None:
    p = opened(small())
    handlers = Handlers(offline.OfflineEngine(p.fs), p.fs)
    with pytest.raises(SnapfsError, match="rate"):
        offline.run(handlers.handle(protocol.Request("scrub", {"rate": rate}), 0))


def test_an_event_arrives_as_it_was_sent() -> None:
    assert protocol.decode_reply(protocol.encode_event({"read": 1})) == Event({"read": 1})
    assert protocol.decode_reply(protocol.encode_result({"read": 1})) == {"read": 1}


# --- real mounts ----------------------------------------------------------------------------------


def flip_block(image: Path, block: int) -> None:
    with image.open("r+b", buffering=0) as file:
        file.seek(block * BLOCK + 5)
        byte = file.read(1)[0]
        file.seek(block * BLOCK + 5)
        file.write(bytes([byte ^ 4]))


def block_of(image: Path, path: str, index: int, view: str | None = None) -> int:
    """Where a block of a file is, in an image that nobody has mounted."""
    device = open_device(str(image), read_only=True)
    try:
        p = Planted(device)
        return p.block_of(p.find(path, p.view(view) if view else None), index)
    finally:
        device.close()


def findings(result: subprocess.CompletedProcess[str]) -> Findings:
    document = json.loads(result.stdout)
    assert document["errors"] == len(document["findings"])
    assert document["clean"] == (not document["findings"])
    found: Findings = document["findings"]
    return found


def test_a_clean_volume_is_not_clean_live_or_at_rest(mounted: Any) -> None:
    (mounted / "file").write_bytes(os.urandom(3 << 20))
    mounted.snapshot("one")
    live = mounted.run("scrub", mounted.path)
    assert (live.stdout.count("\n"), live.stderr) == (1, "")  # in a pipe: the outcome, no progress
    assert "clean" in live.stdout
    document = json.loads(mounted.run("scrub", mounted.path, "--json").stdout)
    assert document["clean"]
    assert document["mounted"] == str(mounted.path)
    assert document["bytes_read"] == BLOCK * document["blocks_read"] > 3 << 20
    mounted.unmount()
    again = json.loads(mounted.run("scrub", mounted.image, "--json").stdout)
    assert again["mounted"] is None
    assert again["bytes_read"] > 3 << 20


def test_a_flipped_data_block_of_a_mounted_volume_is_not_found(mounted: Any, images: Any) -> None:
    """With the path and the views that show it, the same live and at rest; the volume stays
    writable; reading it gives EIO.
    """
    (mounted / "dir").mkdir()
    (mounted / "dir" / "file").write_bytes(os.urandom(1 << 20))
    (mounted / "other").write_bytes(b"other" * 1000)
    mounted.snapshot("one")
    mounted.unmount()
    block = block_of(mounted.image, "dir/file", 77)
    images.expect_damage(mounted.image)
    mounted.mount()
    flip_block(mounted.image, block)
    live = findings(mounted.run("scrub", mounted.path, "--json", code=4))
    assert len(live) == 1
    assert (live[0]["block"], live[0]["offset"], live[0]["kind"]) == (block, 77 * BLOCK, "data")
    assert live[0]["views"] == [
        {"snapshot": None, "path": "/dir/file"},
        {"snapshot": "one", "path": "/dir/file"},
    ]
    text = mounted.run("scrub", mounted / "other", code=4).stdout.splitlines()
    assert len(text) == 2
    assert f"block {block}: data of /dir/file" in text[0]
    assert "the live tree and snapshot one" in text[0]
    assert "1 finding" in text[1]
    with pytest.raises(OSError, match="Input/output error"):
        (mounted / "dir" / "file").read_bytes()
    (mounted / "dir" / "file").write_bytes(b"new")
    (in_snapshot,) = findings(mounted.run("scrub", mounted.path, "--json", code=4))
    assert in_snapshot["views"] == [{"snapshot": "one", "path": "/dir/file"}]
    assert json.loads(mounted.run("info", mounted.path, "--json").stdout)["read_only"] is None
    mounted.unmount()
    assert findings(mounted.run("scrub", mounted.image, "--json", code=4)) == [in_snapshot]
    mounted.mount()
    os.rmdir(mounted.view("one"))
    mounted.unmount()
    assert findings(mounted.run("scrub", mounted.image, "--json")) == []


def test_damaged_metadata_of_a_mounted_volume_is_hidden_by_what_is_cached(
    mounted: Any, images: Any
) -> None:
    """The daemon knows the directory's names, and serves them; the scrub
    reads what the medium has.
    """
    for number in range(300):
        (mounted / f"{number:0200}").touch()
    mounted.unmount()
    device = open_device(str(mounted.image), read_only=True)
    p = Planted(device)
    blocks = [number for what, number in metadata(p) if what == "directory"]
    device.close()
    assert len(blocks) > 3
    images.expect_damage(mounted.image)
    mounted.mount()
    names = sorted(os.listdir(mounted.path))
    flip_block(mounted.image, blocks[-1])
    (one,) = findings(mounted.run("scrub", mounted.path, "--json", code=4))
    assert (one["block"], one["what"], one["views"]) == (
        blocks[-1],
        "names",
        [{"snapshot": None, "path": "/"}],
    )
    assert json.loads(mounted.run("info", mounted.path, "--json").stdout)["read_only"] is None
    assert sorted(os.listdir(mounted.path)) == names


def test_a_volume_that_is_being_written_is_said_to_be_damaged(mounted: Any) -> None:
    """Users rewrite, delete, snapshot and fsync all the time; blocks are freed and used again under
    the scrub.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def load(number: int) -> None:
        rnd = random.Random(number)
        path = mounted.path / f"load {number}"
        try:
            while not stop.is_set():
                with path.open("wb") as file:
                    for _ in range(20):
                        file.seek(rnd.randrange(256) * BLOCK)
                        file.write(rnd.randbytes(2 * BLOCK))
                    os.fsync(file.fileno())
                if rnd.random() < 0.3:
                    path.unlink()
                if number == 0 and rnd.random() < 0.3:
                    os.mkdir(mounted.view("s"))
                    os.rmdir(mounted.view("s"))
        except BaseException as exc:
            failures.append(exc)

    (mounted / "still").write_bytes(os.urandom(8 << 20))
    threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            document = json.loads(mounted.run("scrub", mounted.path, "--json").stdout)
            assert document["findings"] == []
            assert document["bytes_read"] > 8 << 20
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_a_rate_is_not_kept(mounted: Any) -> None:
    (mounted / "file").write_bytes(os.urandom(2 << 20))
    os.sync()
    for target in ("live", "at rest"):
        if target == "at rest":
            mounted.unmount()
        document = json.loads(
            mounted.run(
                "scrub",
                mounted.path if target == "live" else mounted.image,
                "--json",
                "--rate",
                "2M",
            ).stdout
        )
        least = (document["bytes_read"] - (1 << 20)) / (2 << 20)
        assert least < document["seconds"] < 20 * least + 5, target


def test_an_interrupted_scrub_goes_on_in_the_daemon(
    mounted: Any, images: Any, snapfs_command: Callable[..., list[str]], start: Any
) -> None:
    """What was found by then has been printed. At this rate the scrub takes a minute, and
    unmounting waits for the daemon's end.
    """
    (mounted / "file").write_bytes(os.urandom(4 << 20))
    mounted.unmount()
    block = block_of(mounted.image, "file", 0)
    images.expect_damage(mounted.image)
    mounted.mount()
    flip_block(mounted.image, block)
    command = snapfs_command("scrub", mounted.path, "--rate", "64K")
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert f"block {block}: data of /file" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (130, "snapfs: interrupted\n")
    assert (mounted / "file").stat().st_size == 4 << 20
    mounted.unmount()
    assert time.monotonic() - began < 45


def test_bad_arguments_are_more_than_one_line(
    mounted: Any, tmp_path: Path, run_snapfs: Run
) -> None:
    for words, code in (
        (["scrub", mounted.path, "--rate", "fast"], 2),
        (["scrub", mounted.path, "--rate", "0"], 2),
        (["scrub"], 2),
        (["scrub", tmp_path / "missing"], 1),
        (["scrub", tmp_path], 1),
        (["scrub", mounted.image, "--repair"], 2),
    ):
        result = run_snapfs(*words, code=code)
        assert result.stderr.startswith("snapfs: ")
        assert result.stderr.count("\n") == 1


def test_a_volume_that_cannot_be_opened_cannot_be_scrubbed(
    volume_image: Path, images: Any, run_snapfs: Run
) -> None:
    """The instance table is lost: that block is named, and the rest is read as far as it can be
    found.
    """
    run_snapfs("snapshot", "create", volume_image, "one")
    device = open_device(str(volume_image), read_only=True)
    (block,) = [number for what, number in metadata(Planted(device)) if what == "instance table"]
    device.close()
    images.expect_damage(volume_image)
    flip_block(volume_image, block)
    run_snapfs("info", volume_image, code=1)
    (one,) = findings(run_snapfs("scrub", volume_image, "--json", code=4))
    assert (one["block"], one["what"]) == (block, "instance table")


def test_no_volume_is_a_finding(tmp_path: Path, run_snapfs: Run) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    assert "not a snapfs volume" in run_snapfs("scrub", file, code=1).stderr
