"""Writing files: writes and truncation.

Writes happen here whole: the bytes go to the device (the host's page cache takes them), then the
pointers change. A block that was allocated in the open generation is overwritten in place; every
other one is replaced (I4).
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    WRITES_MAX,
    WRITES_SHIFT,
    are_born,
    first_words,
    run_of,
    second_words,
)
from snapfs.errors import (
    DeviceError,
    DeviceFull,
    FileTooBig,
)
from snapfs.filesystem.reading import block_checksums
from snapfs.ids import FILE_SIZE_MAX
from snapfs.interrupts import (
    Interrupt,
    NotCached,
    NotReady,
)
from snapfs.store.commit.costs import (
    INODE,
    of_cut,
    of_write,
)
from snapfs.store.trees import cutting

if TYPE_CHECKING:
    from snapfs.device.base import Buffer
    from snapfs.filesystem.inode import Inode
    from snapfs.interrupts import Want

#: Pointer blocks of level 1 that one step of a truncation drops at most. What fits one step happens
#: whole or not at all.
CUT_BUDGET = 1024


def write(inode: Inode, offset: int, data: Buffer, *, urgency: int = 0) -> None:
    """Write ``data``; the size grows as needed.

    Raises ``NotCached``, ``NotReady``, ``CommitNeeded``, ``NoSpace``, ``FileTooBig``,
    ``DeviceError``.
    """
    if offset + len(data) > FILE_SIZE_MAX:
        raise FileTooBig("files cannot be larger than 8 EiB")
    block_size = inode.view.volume.geometry.block_size
    if len(data) == block_size and not offset % block_size:
        _write_block(inode, offset // block_size, data, urgency)
    else:
        _write_blocks(inode, offset, data, urgency)


def _write_block(inode: Inode, index: int, data: Buffer, urgency: int) -> None:
    """One whole block: what ``_write_blocks`` does for any number, in half the time. Small writes
    come by the ten thousand.
    """
    view, tree = inode.view, inode.map
    volume = view.volume
    allocator = volume.allocator
    found, slot = tree.pointers(index)
    old = found[2 * slot] & BLOCK_MASK if found is not None else 0
    cost = INODE + tree.depth if found is not None else of_write(tree, index, index)
    in_place = False
    if old:
        allocator.need_block(old)
        in_place = allocator.is_fresh(old)
    allocator.prepare(0 if in_place else 1, urgency=urgency, metadata=volume.dirtied + cost)
    view.change(inode)
    tree.grow(index + 1)
    words, slot = tree.writable_pointers(index)
    # From here on only the device can fail, and the pointer changes after it.
    runs = [] if in_place else allocator.allocate(1)
    place = old if in_place else runs[0][0]
    try:
        _wait_for(inode, runs)
        volume.device.write(place * len(data), data)
    except (DeviceError, Interrupt) as exc:
        _undo(inode, runs, [(index, words, slot, 1)], {old} if in_place else set(), exc)
        raise
    volume.written_bytes += len(data)
    first, second = words[2 * slot], words[2 * slot + 1]
    born = second & EPOCH_MASK
    writes = (
        min((first >> WRITES_SHIFT & WRITES_MAX) + 1, WRITES_MAX)
        if old and born == volume.epoch
        else 1
    )
    words[2 * slot] = place | writes << WRITES_SHIFT
    words[2 * slot + 1] = crc32c(data) << CHECKSUM_SHIFT | volume.epoch
    if not in_place:
        view.owner.taken(place, 1)
        if old:
            tree.owner.drop(old, 1, born)
        else:
            tree.blocks += 1


def _write_blocks(inode: Inode, offset: int, data: Buffer, urgency: int) -> None:
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
    allocator.prepare(
        count - len(fresh), urgency=urgency, metadata=volume.dirtied + of_write(tree, first, last)
    )
    inode.view.change(inode)
    tree.grow(last + 1)
    writable = [
        (index, *tree.writable_pointers(index), number)
        for index, _, _, number in tree.spans(first, count)
    ]
    # From here on only the device can fail, and the pointers change after it.
    runs = allocator.allocate(count - len(fresh))
    places = list(chain.from_iterable(range(start, start + length) for start, length in runs))
    if fresh:
        new = iter(places)
        blocks = (
            word & BLOCK_MASK
            for _, words, slot, number in writable
            for word in words[2 * slot : 2 * (slot + number) : 2]
        )
        places = [block if block in fresh else next(new) for block in blocks]
    try:
        _wait_for(inode, runs)
        _store(inode, places, content)
    except (DeviceError, Interrupt) as exc:
        _undo(inode, runs, writable, fresh, exc)
        raise
    for start, length in runs:
        inode.view.owner.taken(start, length)
    volume.written_bytes += len(data)
    _point(inode, writable, places, content, fresh, keep=content is not data)


def _whole_blocks(
    inode: Inode, spans: list[tuple[int, array[int] | None, int, int]], offset: int, data: Buffer
) -> Buffer:
    """The content of all blocks of a write: what it does not cover of the first and the last one
    comes from the file.
    """
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
    """Raises ``NotReady`` when something has to be done with these new blocks before they are
    written.
    """
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    places = [(start * block_size, length * block_size) for start, length in runs]
    if volume.device.must_wait(places):
        raise NotReady(places)


def _store(inode: Inode, places: list[int], content: Buffer) -> None:
    """Write blocks to the device, neighbours together."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    if places[-1] - places[0] == len(places) - 1 and places == list(
        range(places[0], places[-1] + 1)
    ):
        volume.device.write(places[0] * block_size, content)
        return
    with memoryview(content) as view:
        start = 0
        for index in range(1, len(places) + 1):
            if index == len(places) or places[index] != places[index - 1] + 1:
                volume.device.write(
                    places[start] * block_size, view[start * block_size : index * block_size]
                )
                start = index


def _undo(
    inode: Inode,
    runs: list[tuple[int, int]],
    spans: list[tuple[int, array[int], int, int]],
    fresh: set[int],
    exc: DeviceError | Interrupt,
) -> None:
    """Nothing was written, for this reason: give the blocks back, and the pointer blocks that were
    made for them.
    """
    allocator = inode.view.volume.allocator
    allocator.give_back(runs)
    if isinstance(exc, DeviceFull):
        allocator.prefer_used()
    if isinstance(exc, DeviceError):
        probes.WRITE_UNDONE.hit()
        _adopt_torn(inode, spans, fresh)
    for index, _, _, _ in spans:
        inode.map.trim(index)
    inode.map.shrink()


def _adopt_torn(
    inode: Inode, spans: list[tuple[int, array[int], int, int]], fresh: set[int]
) -> None:
    """A write over blocks in place has failed, nobody knows where: what they hold now is what the
    file has there.

    That is what a failed write may leave, as on any disk; without this, all that these blocks held
    would be unreadable.
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
                probes.TORN_WRITE_ADOPTED.hit()
                words[n + 1] = crc32c(found) << CHECKSUM_SHIFT | words[n + 1] & EPOCH_MASK


def _point(
    inode: Inode,
    spans: list[tuple[int, array[int], int, int]],
    places: list[int],
    content: Buffer,
    fresh: set[int],
    *,
    keep: bool,
) -> None:
    """Let the pointers name the new blocks, and drop the old ones. ``keep`` the blocks at both ends
    in the cache.
    """
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
            writes = (
                min((words[low] >> WRITES_SHIFT & WRITES_MAX) + 1, WRITES_MAX)
                if born == epoch
                else 1
            )
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
    """Set the size; what is cut off is freed, what is added is a hole. Raises ``NotCached``,
    ``CommitNeeded``, ``NoSpace``, ``FileTooBig``.

    The caller may change the inode once more without setting anything aside.

    Cutting off many blocks may take several calls, each with ``NotCached``; the size goes down with
    them.
    """
    if size > FILE_SIZE_MAX:
        raise FileTooBig("files cannot be larger than 8 EiB")
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    if size >= inode.size:
        # As any other change of attributes, so that a program can say on a full volume how large a
        # file really is.
        volume.allocator.prepare(0, urgency=1, metadata=volume.dirtied + 2 * INODE)
        inode.view.change(inode)
        inode.size = size
        return
    keep = -(-size // block_size)
    tail = b""
    if size % block_size:
        words, slot = inode.map.pointers(keep - 1)
        if words is not None and words[2 * slot]:
            tail = volume.load("data", words[2 * slot], words[2 * slot + 1])[size % block_size :]
    # Zeros in place of the tail, and whoever calls, set blocks aside for this inode once more, when
    # it is changed: they must find them.
    cost = (
        2 * INODE
        + of_cut(inode.map)
        + (of_write(inode.map, keep - 1, keep - 1) if any(tail) else 0)
    )
    volume.allocator.prepare(1 if any(tail) else 0, urgency=1, metadata=volume.dirtied + cost)
    inode.view.change(inode)
    budget = min(CUT_BUDGET, volume.cache.capacity // 2)  # all of a step is in the cache at once
    while True:
        if any(tail) and cutting.plan_cut(inode.map, keep, budget) <= keep:
            # Nothing but zeros may be stored behind the end. This may fail, what is left of the
            # truncation after it cannot.
            write(inode, size, bytes(min(inode.size, keep * block_size) - size), urgency=1)
            tail = b""
        left = cutting.cut(inode.map, keep, budget)
        inode.size = min(inode.size, left * block_size)
        if left <= keep:
            break
    inode.size = size
