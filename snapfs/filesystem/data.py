"""File data: what to read from where, writing, truncation.

Reads are planned here and moved by the caller. Writes happen here whole: the bytes go to the device (the host's page cache takes
them), then the pointers change. A block that was allocated in the open generation is overwritten in place; every other one is
replaced (I4).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    WRITES_MAX,
    WRITES_SHIFT,
    are_born,
    checksums_of,
    first_words,
    run_of,
    second_words,
)
from snapfs.errors import CorruptBlock, CorruptData, DeviceError, DeviceFull, FileTooBig, Interrupt, NotCached, NotReady
from snapfs.ids import FILE_SIZE_MAX, SYMLINK_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapfs.device.base import Buffer
    from snapfs.filesystem.inode import Inode
    from snapfs.store.cache import Want

#: Pointer blocks of level 1 that one step of a truncation drops at most. What fits one step happens whole or not at all.
CUT_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Which bytes of the device a read consists of. ``runs`` are (offset, length); holes have none.

    ``pieces`` are (blocks, checksums or None for a hole) in the order of the file; ``skip`` bytes of the first block and
    all that exceeds ``size`` are not part of the answer. ``start`` is where the first block stands in the file, in bytes.
    """

    runs: list[tuple[int, int]]
    pieces: list[tuple[int, list[int] | None]]
    skip: int
    size: int
    block_size: int
    start: int = 0

    def pieces_of(self, parts: Sequence[Buffer]) -> list[Buffer]:
        """The bytes of the read in order, from the bytes of its runs; every block is verified (I7). Raises ``CorruptData``."""
        out: list[Buffer] = []
        rest = iter(zip(self.runs, parts, strict=True))
        at = self.start
        for blocks, checksums in self.pieces:
            if checksums is None:
                out.append(bytes(blocks * self.block_size))
            else:
                run, part = next(rest)
                self._verify(run, part, checksums, at)
                out.append(part)
            at += blocks * self.block_size
        surplus = at - self.start - self.skip - self.size
        if surplus:
            out[-1] = memoryview(out[-1])[:-surplus]
        if self.skip:
            out[0] = memoryview(out[0])[self.skip :]
        return out

    def assemble(self, parts: Sequence[Buffer]) -> bytes:
        """The same in one piece."""
        pieces = self.pieces_of(parts)
        return pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)

    def _verify(self, run: tuple[int, int], part: Buffer, checksums: list[int], at: int) -> None:
        found = block_checksums(part, self.block_size)
        if found == checksums:
            return
        index = next(index for index, pair in enumerate(zip(found, checksums, strict=True)) if pair[0] != pair[1])
        block = run[0] // self.block_size + index
        raise CorruptData(f"block {block}, which has the data from byte {at + index * self.block_size} on, fails its checksum")


def block_checksums(content: Buffer, block_size: int) -> list[int]:
    """The checksums of the blocks in ``content``."""
    if len(content) == block_size:
        return [crc32c(content)]
    with memoryview(content) as view:
        return [crc32c(view[start : start + block_size]) for start in range(0, len(content), block_size)]


def plan_read(inode: Inode, offset: int, size: int) -> ReadPlan:
    """Plan to read; clipped to the file's size. Raises ``NotCached``."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    size = max(0, min(size, inode.size - offset))
    if not size:
        return ReadPlan([], [(0, None)], 0, 0, block_size)
    first, last = offset // block_size, (offset + size - 1) // block_size
    runs: list[tuple[int, int]] = []
    pieces: list[tuple[int, list[int] | None]] = []
    start = length = hole = 0
    checksums: list[int] = []
    for _, words, slot, count in inode.map.spans(first, last - first + 1):
        if words is None:
            if length:
                runs.append((start * block_size, length * block_size))
                pieces.append((length, checksums))
                length = 0
            hole += count
            continue
        together = run_of(words, slot, count)
        if together:
            if length and together == start + length:
                length += count
                checksums += checksums_of(words, slot, count)
                continue
            if length:
                runs.append((start * block_size, length * block_size))
                pieces.append((length, checksums))
            if hole:
                pieces.append((hole, None))
                hole = 0
            start, length, checksums = together, count, checksums_of(words, slot, count)
            continue
        for index in range(2 * slot, 2 * (slot + count), 2):
            block = words[index] & BLOCK_MASK
            if not block or block != start + length or not length:
                if length:
                    runs.append((start * block_size, length * block_size))
                    pieces.append((length, checksums))
                    length = 0
                if not block:
                    hole += 1
                    continue
                if hole:
                    pieces.append((hole, None))
                    hole = 0
                start, checksums = block, []
            length += 1
            checksums.append(words[index + 1] >> CHECKSUM_SHIFT)
    if length:
        runs.append((start * block_size, length * block_size))
        pieces.append((length, checksums))
    if hole:
        pieces.append((hole, None))
    end = volume.geometry.size
    if any(start + length > end for start, length in runs):
        raise CorruptBlock(f"inode {inode.ino}: a pointer names a block outside the volume")
    return ReadPlan(runs, pieces, offset - first * block_size, size, block_size, first * block_size)


def target(inode: Inode) -> bytes:
    """The target of a symbolic link. Raises ``NotCached``, ``CorruptBlock``."""
    if not inode.data.blocks:
        return inode.inline
    block = inode.map.node(0, 0)
    if block is None or inode.size > min(len(block), SYMLINK_MAX):
        raise CorruptBlock(f"inode {inode.ino}: the target is missing")
    return bytes(block[: inode.size])


def write(inode: Inode, offset: int, data: Buffer, *, urgency: int = 0) -> None:
    """Write ``data``; the size grows as needed.

    Raises ``NotCached``, ``NotReady``, ``CommitNeeded``, ``NoSpace``, ``FileTooBig``, ``DeviceError``.
    """
    if offset + len(data) > FILE_SIZE_MAX:
        raise FileTooBig("files cannot be larger than 8 EiB")
    volume = inode.view.volume
    allocator = volume.allocator
    block_size = volume.geometry.block_size
    tree = inode.map
    end = offset + len(data)
    first, last = offset // block_size, (end - 1) // block_size
    count = last - first + 1
    spans = tree.spans(first, count)
    content = _whole_blocks(inode, spans, offset, data)
    old = [
        word & BLOCK_MASK
        for _, words, slot, number in spans
        if words is not None
        for word in words[2 * slot : 2 * (slot + number) : 2]
        if word
    ]
    allocator.need_blocks(old)
    fresh = allocator.fresh_among(old)
    allocator.prepare(count - len(fresh), urgency=urgency, metadata=volume.dirtied + 4)
    inode.view.change(inode)
    tree.grow(last + 1)
    writable = [(index, *tree.writable_pointers(index), number) for index, _, _, number in tree.spans(first, count)]
    # From here on only the device can fail, and the pointers change after it.
    runs = allocator.allocate(count - len(fresh))
    places = list(chain.from_iterable(range(start, start + length) for start, length in runs))
    if fresh:
        new = iter(places)
        blocks = (word & BLOCK_MASK for _, words, slot, number in writable for word in words[2 * slot : 2 * (slot + number) : 2])
        places = [block if block in fresh else next(new) for block in blocks]
    try:
        _wait_for(inode, runs)
        _store(inode, places, content)
    except (DeviceError, Interrupt) as exc:
        allocator.give_back(runs)
        if isinstance(exc, DeviceFull):
            allocator.prefer_used()
        if isinstance(exc, DeviceError):
            _adopt_torn(inode, writable, fresh)
        for index, _, _, _ in writable:
            tree.trim(index)
        tree.shrink()
        raise
    for start, length in runs:
        inode.view.owner.taken(start, length)
    volume.written_bytes += len(data)
    _point(inode, writable, places, content, fresh, keep=content is not data)


def _whole_blocks(inode: Inode, spans: list[tuple[int, array[int] | None, int, int]], offset: int, data: Buffer) -> Buffer:
    """The content of all blocks of a write: what it does not cover of the first and the last one comes from the file."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    head, tail = offset % block_size, -(offset + len(data)) % block_size
    if not head and not tail:
        return data

    def content(words: array[int] | None, slot: int) -> bytes:
        if words is None or not words[2 * slot]:
            return bytes(block_size)
        found: bytes = volume.load("data", words[2 * slot], words[2 * slot + 1])
        return found

    before = after = b""
    wants: list[Want] = []
    if head:
        try:
            before = content(spans[0][1], spans[0][2])[:head]
        except NotCached as exc:
            wants += exc.wants
    if tail:
        if offset + len(data) < inode.size:
            _, words, slot, number = spans[-1]
            try:
                after = content(words, slot + number - 1)[block_size - tail :]
            except NotCached as exc:
                wants += exc.wants
        else:
            after = bytes(tail)  # nothing but zeros is stored behind the end of a file
    if wants:
        raise NotCached(wants)
    return b"".join((before, data, after))


def _wait_for(inode: Inode, runs: list[tuple[int, int]]) -> None:
    """Raises ``NotReady`` when something has to be done with these new blocks before they are written."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    places = [(start * block_size, length * block_size) for start, length in runs]
    if volume.device.must_wait(places):
        raise NotReady(places)


def _store(inode: Inode, places: list[int], content: Buffer) -> None:
    """Write blocks to the device, neighbours together."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    if places[-1] - places[0] == len(places) - 1 and places == list(range(places[0], places[-1] + 1)):
        volume.device.write(places[0] * block_size, content)
        return
    with memoryview(content) as view:
        start = 0
        for index in range(1, len(places) + 1):
            if index == len(places) or places[index] != places[index - 1] + 1:
                volume.device.write(places[start] * block_size, view[start * block_size : index * block_size])
                start = index


def _adopt_torn(inode: Inode, spans: list[tuple[int, array[int], int, int]], fresh: set[int]) -> None:
    """A write over blocks in place has failed, nobody knows where: what they hold now is what the file has there.

    That is what a failed write may leave, as on any disk; without this, all that these blocks held would be unreadable.
    """
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    for _, words, slot, number in spans:
        for n in range(2 * slot, 2 * (slot + number), 2):
            if words[n] & BLOCK_MASK in fresh:
                try:
                    found = volume.device.read((words[n] & BLOCK_MASK) * block_size, block_size)
                except DeviceError:
                    continue  # it can be read neither now nor, with its old checksum, later
                words[n + 1] = crc32c(found) << CHECKSUM_SHIFT | words[n + 1] & EPOCH_MASK


def _point(
    inode: Inode, spans: list[tuple[int, array[int], int, int]], places: list[int], content: Buffer, fresh: set[int], *, keep: bool
) -> None:
    """Let the pointers name the new blocks, and drop the old ones. ``keep`` the blocks at both ends in the cache."""
    volume = inode.view.volume
    block_size, epoch = volume.geometry.block_size, volume.epoch
    checksums = block_checksums(content, block_size)
    drops: list[list[int]] = []
    position = 0
    added = 0
    for _, words, slot, number in spans:
        low, high = 2 * slot, 2 * (slot + number)
        replaced = 0 if fresh else run_of(words, slot, number)
        born = words[low + 1] & EPOCH_MASK
        if replaced and (number == 1 or are_born(words, slot, number, born)):
            writes = min((words[low] >> WRITES_SHIFT & WRITES_MAX) + 1, WRITES_MAX) if born == epoch else 1
            drops.append([replaced, number, born])
        elif not any(words[low:high:2]):
            writes = 1
            added += number
        else:
            writes = 0
        if writes:
            stop = position + number
            if number == 1:
                words[low] = places[position] | writes << WRITES_SHIFT
                words[low + 1] = checksums[position] << CHECKSUM_SHIFT | epoch
            else:
                words[low:high:2] = first_words(places[position:stop], writes)
                words[low + 1 : high : 2] = second_words(checksums[position:stop], epoch)
            position = stop
            continue
        for n in range(low, high, 2):
            first, second = words[n], words[n + 1]
            block = first & BLOCK_MASK
            born = second & EPOCH_MASK
            writes = 1
            if block:
                if born == epoch:
                    writes = min((first >> WRITES_SHIFT & WRITES_MAX) + 1, WRITES_MAX)
                if block not in fresh:
                    if drops and drops[-1][0] + drops[-1][1] == block and drops[-1][2] == born:
                        drops[-1][1] += 1
                    else:
                        drops.append([block, 1, born])
            else:
                added += 1
            words[n] = places[position] | writes << WRITES_SHIFT
            words[n + 1] = checksums[position] << CHECKSUM_SHIFT | epoch
            position += 1
    if keep:  # the next write may go on in the same block
        for position in {0, len(places) - 1}:
            piece = bytes(content[position * block_size : (position + 1) * block_size])
            volume.cache.put("data", places[position], checksums[position], piece)
    inode.map.blocks += added
    for start, length, born in drops:
        inode.data.owner.drop(start, length, born)


def truncate(inode: Inode, size: int) -> None:
    """Set the size; what is cut off is freed, what is added is a hole. Raises ``NotCached``, ``CommitNeeded``, ``NoSpace``, ``FileTooBig``.

    Cutting off many blocks may take several calls, each with ``NotCached``; the size goes down with them.
    """
    if size > FILE_SIZE_MAX:
        raise FileTooBig("files cannot be larger than 8 EiB")
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    if size >= inode.size:
        volume.allocator.prepare(0, metadata=volume.dirtied)
        inode.view.change(inode)
        inode.size = size
        return
    keep = -(-size // block_size)
    tail = b""
    if size % block_size:
        words, slot = inode.map.pointers(keep - 1)
        if words is not None and words[2 * slot]:
            tail = volume.load("data", words[2 * slot], words[2 * slot + 1])[size % block_size :]
    volume.allocator.prepare(1 if any(tail) else 0, urgency=1, metadata=volume.dirtied + 8)
    inode.view.change(inode)
    budget = min(CUT_BUDGET, volume.cache.capacity // 2)  # all of a step is in the cache at once
    while True:
        if any(tail) and inode.map.plan_cut(keep, budget) <= keep:
            # Nothing but zeros may be stored behind the end. This may fail, what is left of the truncation after it cannot.
            write(inode, size, bytes(min(inode.size, keep * block_size) - size), urgency=1)
            tail = b""
        left = inode.map.cut(keep, budget)
        inode.size = min(inode.size, left * block_size)
        if left <= keep:
            break
    inode.size = size
