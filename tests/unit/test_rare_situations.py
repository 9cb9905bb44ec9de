"""What happens nearly never: situations with a name (``snapfs.probes``) that no story comes to by
itself.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from snapfs import probes
from snapfs.check import check_volume
from snapfs.copying.copy import Copy
from snapfs.copying.copy_map import CopyMap
from snapfs.errors import DeviceError, NoSpace
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.crash.copy_stage import COMPLETED, FINISHING
from tests.crash.copy_states import Run
from tests.crash.scenarios import Stage
from tests.damage.faults import Kind
from tests.damage.ordeal import Story
from tests.harness.sparse import SparseDevice

FILE = 0o100644
BLOCK = 4096


def furnished(device: SparseDevice) -> Filesystem:
    format_volume(device)
    fs = Filesystem(open_volume(device))
    inode = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", FILE, 0, 0)
    drive(fs.volume, fs.write, fs.base, inode.ino, 0, os.urandom(30 * BLOCK))
    commit(fs.volume)
    return fs


@pytest.mark.reaches(probes.COMMIT_WITHOUT_SPACE)
def test_a_commit_that_finds_no_block_loses_what_it_would_have_committed() -> None:
    """I8: nothing has changed, and the next commit that finds blocks has it all."""
    device = SparseDevice(400 * BLOCK)
    fs = furnished(device)
    volume, allocator = fs.volume, fs.volume.allocator
    drive(volume, fs.make, fs.base, ROOT_INO, b"new", FILE, 0, 0)
    allocator.prepare(allocator.available, urgency=2)
    taken = allocator.allocate(allocator.available)
    with pytest.raises(NoSpace, match="for a commit"):
        commit(volume)
    assert not volume.read_only
    allocator.give_back(taken)
    commit(volume)
    assert check_volume(device) == []
    again = Filesystem(open_volume(device))
    assert drive(again.volume, again.lookup, again.base, ROOT_INO, b"new").mode == FILE


@pytest.mark.reaches(probes.COMMIT_PLANNED_AGAIN, probes.GROUP_LEFT)
def test_a_commit_that_leaves_a_nearly_full_group_forgets_a_header() -> None:
    """I1: the plan is made anew, with the group that the blocks come from in the end."""
    device = SparseDevice(70_000 * BLOCK)
    fs = furnished(device)
    volume, allocator = fs.volume, fs.volume.allocator
    drive(volume, allocator.need_groups, [0, 1])
    inode = drive(volume, fs.make, fs.base, ROOT_INO, b"new", FILE, 0, 0)
    nearly_all = allocator.groups[0].available - 10
    allocator.prepare(nearly_all)
    taken = allocator.allocate(nearly_all)
    allocator.window[:] = [0]
    commit(volume)
    assert allocator.window == [1]
    for start, length in taken:
        allocator.free_run(start, length, unused=True)
    drive(volume, fs.write, fs.base, inode.ino, 0, b"written")
    commit(volume)
    assert check_volume(device) == []


class Failing(SparseDevice):
    """Its next flush fails when it is told so."""

    fails = False

    def flush(self) -> None:
        if self.fails:
            self.fails = False
            raise DeviceError("planted")


@pytest.mark.reaches(probes.COPY_HEARD_OF_LOSS, probes.COPIED_AGAIN, probes.COPIED_BEFORE_WRITE)
def test_a_flush_that_failed_for_another_counts_as_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D5: the error was told to whoever flushed first, and what both had written may be gone."""
    source, target = SparseDevice(400 * BLOCK), Failing(400 * BLOCK)
    volume = furnished(source).volume
    copy_map = CopyMap(bytes(range(16)), volume.generation, volume.geometry.blocks)
    entries = list(volume.allocator.entries)
    copy = Copy(source, target, copy_map, volume.geometry, entries, sparse=False)
    assert copy.step(2 * BLOCK) == 2 * BLOCK
    needed = copy.blocks_needed
    flush = copy._flush

    def flush_second(what: Any, losses: int) -> None:
        monkeypatch.setattr(copy, "_flush", flush)
        target.fails = True
        with pytest.raises(DeviceError, match="planted"):
            copy.ensure([(volume.root_block, 1)])
        flush(what, losses)

    monkeypatch.setattr(copy, "_flush", flush_second)
    with pytest.raises(DeviceError, match="a flush failed meanwhile"):
        copy.settle()
    assert copy_map.count() == 0
    assert copy.blocks_copied == 0
    while not copy.complete:
        if not copy.step():
            copy.settle()
    assert copy.blocks_copied == needed
    assert check_volume(target) == []


@pytest.mark.reaches(probes.RESTORED_IN_USE, probes.RESTORED_UNDER_ANOTHER_NUMBER)
def test_a_file_that_comes_back_takes_the_number_or_the_place_of_another() -> None:
    """C7: a file that is in use without a name gets its name back; where the number is another
    file's by now, the file that comes back has a new one.
    """
    stage = Stage(400)
    fs = stage.fs
    stage.fill(b"used", 9_000)
    stage.fill(b"gone", 9_000)
    stage.snapshot("one")
    used, gone = stage.node(b"used"), stage.node(b"gone")
    fs.hold(fs.base, used)
    stage.unlink(b"used")
    stage.unlink(b"gone")
    stage.work()
    stage.commit()
    assert stage.make(b"other") == gone
    stage.restore("one", "used")
    stage.restore("one", "gone")
    assert stage.node(b"used") == used
    assert stage.node(b"other") == gone != stage.node(b"gone")
    for name in (b"used", b"gone"):
        both = [
            stage.call(fs.read, view, stage.node(name, view), 0, 9_000)
            for view in (fs.base, stage.view("one"))
        ]
        assert both[0] == both[1]
    assert check_volume(stage.device) == []


@pytest.mark.reaches(probes.WRITE_UNDONE, probes.TORN_WRITE_ADOPTED)
def test_a_write_in_place_that_is_cut_short_makes_its_blocks_unreadable() -> None:
    story = Story.learn("in_place")
    faults = [fault for fault in story.faults() if fault.kind is Kind.SHORT_WRITE]
    assert faults
    for fault in faults:
        story.suffer(fault)


@pytest.mark.reaches(probes.COPY_WAS_COMPLETE)
def test_a_copy_that_was_complete_is_made_anew() -> None:
    """D4: the power fails when the target is whole and the volume does not know that yet."""
    run = Run()
    for phase in (FINISHING, COMPLETED):
        run.story("copy", 1, limit=12, phase=phase)
    assert run.distinct >= 10
