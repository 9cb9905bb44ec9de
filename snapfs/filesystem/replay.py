"""Doing again what the log of a generation tells, when its volume is opened (I8).

A record names the blocks that a file was given, and their checksums: they are free in the
generation, and hold what was written. Each record happens whole or not at all, and after one that
cannot be believed none does. Only memory changes; who may write commits afterwards, and until that
is durable the same can be done again: so nothing that a record names is overwritten or given out
before (I4).
"""

from __future__ import annotations

import logging
import stat
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, EPOCH_MASK, FLAG_BUCKET, pointer_runs
from snapfs.errors import CorruptBlock, DeviceError, StaleInode
from snapfs.filesystem.reading import block_checksums
from snapfs.ids import FILE_SIZE_MAX
from snapfs.store.commit import costs
from snapfs.store.commit.guard import broke_off
from snapfs.store.commit.recovery import fetched

if TYPE_CHECKING:
    from snapfs.blocks.log_record import FileChange, LogRecord
    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.view import View
    from snapfs.store.commit.volume import Volume

log = logging.getLogger("snapfs.filesystem")

#: Groups that were never written and that a log may name blocks of: each costs memory, and a whole
#: log has fewer blocks than two of them.
NEW_GROUPS_MAX = 4

Span = tuple[int, "array[int]", int, int]  # index, words, first slot, blocks


class _DoesNotFit(Exception):
    """A record says what cannot have happened to this volume."""


class _NotThere(Exception):
    """Blocks do not hold what a record says. Of the last record that is no wonder: nobody was told
    yet that they do.
    """


@dataclass
class _Step:
    """What one record does to one inode."""

    inode: Inode
    change: FileChange
    runs: list[tuple[int, int]]  # blocks


def replay(base: View) -> None:
    """Do what the pending records of the log tell. What ends that early is logged.

    Raises ``DeviceError`` if the volume may be written and the device cannot be read: nothing that
    was promised is given up for that.
    """
    volume = base.volume
    path, pending = volume.device.path, volume.sync_log.pending
    for record in pending:
        try:
            steps = fetched(volume, lambda: _plan(base, record))  # noqa: B023 - called at once
            for step in steps:
                _verify(volume, step)
            # From here on whatever is wrong is so with the volume's own metadata.
            targets = fetched(volume, lambda: _writable(base, steps))  # noqa: B023 - as above
            for step, spans in zip(steps, targets, strict=True):
                _apply(volume, step, spans)
        except (_DoesNotFit, _NotThere, StaleInode, CorruptBlock, DeviceError) as exc:
            if isinstance(exc, DeviceError) and not volume.read_only:
                raise
            if isinstance(exc, _NotThere) and record is pending[-1]:
                probes.LOG_BLOCKS_MISSING.hit()
                break
            log.warning(
                "%s: of %d synced changes in the log only %d can be used: %s",
                path,
                len(pending),
                volume.sync_log.repeated,
                exc,
            )
            if isinstance(exc, CorruptBlock):
                broke_off(volume, exc)
            return
        volume.allocator.keep([run for step in steps for run in step.runs])
        volume.sync_log.repeated += 1
    log.info(
        "%s: %d synced changes since the last commit were taken over from the log",
        path,
        volume.sync_log.repeated,
    )


def _plan(base: View, record: LogRecord) -> list[_Step]:
    """Load what the record touches, and see that it fits. May raise ``NotCached``, ``StaleInode``,
    ``CorruptBlock``.
    """
    volume = base.volume
    steps = [_step(base, change) for change in record.changes]
    blocks = [
        block for step in steps for run in step.runs for block in range(run[0], run[0] + run[1])
    ]
    if len(set(blocks)) != len(blocks):
        raise _DoesNotFit("a record names a block twice")
    if volume.allocator.available < len(blocks) + volume.dirtied + costs.of_commit(volume):
        raise _DoesNotFit("it takes more space than there is")
    return steps


def _step(base: View, change: FileChange) -> _Step:
    volume, ino = base.volume, change.ino
    geometry = volume.geometry
    inode = base.inode(ino)
    if inode.generation != change.generation:
        raise _DoesNotFit(f"inode {ino} is another file")
    if not stat.S_ISREG(inode.mode) and (change.runs or change.size != inode.size):
        raise _DoesNotFit(f"inode {ino} is no file")
    if not inode.size <= change.size <= max(inode.size, FILE_SIZE_MAX):
        raise _DoesNotFit(f"inode {ino} cannot have the size {change.size}")
    runs = []
    for index, words in change.runs:
        count = len(words) // 2
        if (index + count - 1) * geometry.block_size >= change.size:
            raise _DoesNotFit(f"inode {ino} has blocks behind its end")
        if any(first >= FLAG_BUCKET or not first & BLOCK_MASK for first in words[::2]) or any(
            second & EPOCH_MASK != volume.epoch for second in words[1::2]
        ):
            raise _DoesNotFit(f"inode {ino} is given blocks that are none of this generation")
        runs += [(block, length) for block, length, _ in pointer_runs(words, 0, count, BLOCK_MASK)]
        inode.map.spans(index, count)  # what is missing is asked for
    for start, length in runs:
        _check_free(volume, start, length)
    return _Step(inode, change, runs)


def _check_free(volume: Volume, start: int, length: int) -> None:
    """Can these blocks have been given out after the generation was sealed?"""
    allocator, span = volume.allocator, volume.geometry.group_span
    number, low = divmod(start, span)
    if number >= len(allocator.entries) or low + length > span:
        raise _DoesNotFit(f"blocks {start} to {start + length - 1} are outside the volume")
    is_new = number not in allocator.groups and not allocator.entries[number].flags & ENTRY_WRITTEN
    if (
        is_new
        and sum(not allocator.entries[each].flags & ENTRY_WRITTEN for each in allocator.groups)
        >= NEW_GROUPS_MAX
    ):
        raise _DoesNotFit("it names blocks all over the volume")
    allocator.need_groups([number])
    group = allocator.groups[number]
    first, blocks = volume.superblock.log_block, volume.superblock.log_blocks
    is_in_log = start < first + blocks and first < start + length
    if (
        is_in_log
        or low < group.first
        or low + length > group.last
        or group.busy.count(1, low, low + length)
    ):
        raise _DoesNotFit(f"blocks {start} to {start + length - 1} are in use")


def _verify(volume: Volume, step: _Step) -> None:
    """The blocks hold what was written. Raises ``DeviceError``."""
    block_size = volume.geometry.block_size
    for index, words in step.change.runs:
        checksums = iter([second >> CHECKSUM_SHIFT for second in words[1::2]])
        for start, length, _ in pointer_runs(words, 0, len(words) // 2, BLOCK_MASK):
            found = block_checksums(
                volume.device.read(start * block_size, length * block_size), block_size
            )
            if any(one != next(checksums) for one in found):
                raise _NotThere(
                    f"what was written to inode {step.change.ino} from block {index} on "
                    "is not on the device"
                )


def _writable(base: View, steps: list[_Step]) -> list[list[Span]]:
    """Make the pointers writable that change, and load the groups of the old blocks too. May raise
    ``NotCached``, ``CorruptBlock``.
    """
    allocator, span = base.volume.allocator, base.volume.geometry.group_span
    targets = []
    old: list[tuple[int, int]] = []
    for step in steps:
        inode = step.inode
        base.change(inode)
        spans: list[Span] = []
        for index, words in step.change.runs:
            count = len(words) // 2
            inode.map.grow(index + count)
            spans += [
                (at, *inode.map.writable_pointers(at), number)
                for at, _, _, number in inode.map.spans(index, count)
            ]
        old += [
            run[:2]
            for _, words, slot, number in spans
            for run in pointer_runs(words, slot, slot + number, BLOCK_MASK)
        ]
        targets.append(spans)
    allocator.need(old)
    allocator.need_groups(
        {start // span for start, _ in old}
        | {start // span for step in steps for start, _ in step.runs}
    )
    return targets


def _apply(volume: Volume, step: _Step, spans: list[Span]) -> None:
    """The file is as the record says. Raises ``CorruptBlock`` when the
    volume contradicts itself.
    """
    inode, change = step.inode, step.change
    volume.allocator.take(step.runs)
    for start, length in step.runs:
        inode.view.owner.taken(start, length)
    new = array("Q")
    for _, run in change.runs:
        new += run
    drops: list[tuple[int, int, int]] = []
    position = 0
    for _, words, slot, number in spans:
        old = pointer_runs(words, slot, slot + number, BLOCK_MASK)
        words[2 * slot : 2 * (slot + number)] = new[2 * position : 2 * (position + number)]
        inode.map.blocks += number - sum([length for _, length, _ in old])
        drops += old
        position += number
    for start, length, born in drops:
        inode.data.owner.drop(start, length, born)
    inode.size, inode.atime, inode.mtime, inode.ctime = (
        change.size,
        change.atime,
        change.mtime,
        change.ctime,
    )
