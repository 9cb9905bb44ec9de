"""What trees and their owners need of a volume: its blocks, in memory or on the device, each
verified, and the space that they lie in.

Nothing here waits. What is not in memory is asked for with ``NotCached``; the driver fetches it
with ``read_wants`` (which may run in a worker thread) and hands it over with ``admit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, decode_pointers
from snapfs.errors import CorruptBlock, CorruptData, ReadOnly
from snapfs.interrupts import NotCached, Want
from snapfs.store.space.allocator import Allocator
from snapfs.store.space.group_reading import read_group
from snapfs.store.space.holders import HolderSets
from snapfs.store.trees.bucket import Bucket
from snapfs.store.trees.cache import BlockCache

if TYPE_CHECKING:
    from snapfs.blocks.group_header import GroupEntry
    from snapfs.blocks.superblock import Superblock
    from snapfs.device.base import Device
    from snapfs.store.trees.sealed import Sealed

#: Bytes of metadata blocks that the cache keeps at least; decoded, and with the older half, they
#: take several times as much.
CACHE_BYTES = 10 << 20

Loaded = list[tuple[Want, Any]]

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "node": decode_pointers,
    "names": Bucket.decode_names,
    "table": Bucket.decode_table,
}


class BlockStore:
    """The blocks of a volume that is open; ``Volume`` adds what they are used for.

    ``epoch`` moves when a snapshot is made, ``generation`` with every commit. A subclass and not a
    part of the volume: trees ask for these facts at every step.
    """

    def __init__(
        self, device: Device, superblock: Superblock, epoch: int, entries: list[GroupEntry]
    ) -> None:
        self.device = device
        self.superblock = superblock
        self.geometry = superblock.geometry
        self.read_only = device.read_only
        self.read_only_reason: str | None = None
        #: Called with the reason when an error makes the volume read-only while it is open.
        self.became_read_only: Callable[[str], None] = lambda _reason: None
        self.generation = superblock.generation
        self.epoch = epoch
        #: Blocks that store records.
        self.record_blocks = 0
        self.cache = BlockCache(CACHE_BYTES // self.geometry.block_size)
        self.holders = HolderSets()
        self.allocator = Allocator(self.geometry, self.holders, entries, self.cache.forget)
        #: The generation that is on its way to the device.
        self.in_flight: Sealed | None = None
        #: Metadata blocks and inodes made dirty since the last seal: what a commit must allocate,
        #: about.
        self.dirtied = 0
        self.blocks_read = 0

    # Changing

    def check_writable(self) -> None:
        """Raises ``ReadOnly`` when the volume must not be changed."""
        if self.read_only:
            raise ReadOnly(self.read_only_reason or "the volume is mounted read-only")

    def end_writing(self, reason: str) -> None:
        """Be read-only from now on. What memory has that is not durable can be read, and is lost
        when the volume is closed.
        """
        if self.read_only:
            return  # the first reason is the one to know
        self.read_only, self.read_only_reason = True, reason
        self.allocator.discards.end()
        self.became_read_only(reason)

    # Reading

    def load(self, kind: str, first: int, second: int) -> Any:
        """The decoded block that a pointer names. Raises ``NotCached``, ``CorruptBlock``."""
        block = first & BLOCK_MASK
        found = self.cache.get(kind, block, second >> CHECKSUM_SHIFT)
        if found is None:
            check_pointer(first, self.geometry.blocks)
            raise NotCached([Want(kind, block, second >> CHECKSUM_SHIFT)])
        return found

    def load_all(self, kind: str, pointers: Iterable[tuple[int, int]]) -> list[Any]:
        """The same for several pointers; what is missing is asked for at once."""
        out: list[Any] = []
        wants: list[Want] = []
        for first, second in pointers:
            try:
                out.append(self.load(kind, first, second))
            except NotCached as exc:
                wants += exc.wants
        if wants:
            raise NotCached(wants)
        return out

    def read_wants(self, wants: Iterable[Want]) -> Loaded:
        """Read, verify and decode. May block; safe in a worker thread. Raises ``CorruptBlock``,
        ``DeviceError``.
        """
        return [(want, self._decode(want, self.device.read)) for want in wants]

    def read_wants_nowait(self, wants: Iterable[Want]) -> Loaded | None:
        """The same from what the host has in memory; None when a read would block."""

        def read(offset: int, length: int) -> bytes:
            data = self.device.read_nowait(offset, length)
            if data is None:
                raise BlockingIOError
            return bytes(data)

        try:
            return [(want, self._decode(want, read)) for want in wants]
        except BlockingIOError:
            return None

    def read_block(self, block: int, checksum: int, read: Callable[[int, int], bytes]) -> bytes:
        """One verified block; from the generation in flight, if it is there. Raises
        ``CorruptBlock``.
        """
        flying = self.in_flight
        data = flying.blocks.get(block) if flying else None
        if data is None:
            data = read(block * self.geometry.block_size, self.geometry.block_size)
            self.blocks_read += 1
            if crc32c(data) != checksum:
                raise CorruptBlock(f"{self.device.path}: block {block} fails its checksum")
        return data

    def _decode(self, want: Want, read: Callable[[int, int], bytes]) -> Any:
        def block(number: int, checksum: int) -> bytes:
            return self.read_block(number, checksum, read)

        if want.kind == "group":
            return read_group(self.geometry, self.allocator.entries[want.block], want.block, block)
        if want.kind == "data":
            try:
                return block(want.block, want.checksum)
            except CorruptBlock as exc:
                raise CorruptData(str(exc)) from exc
        data = block(want.block, want.checksum)
        decoder = _DECODERS.get(want.kind)
        try:
            return decoder(data) if decoder else data
        except CorruptBlock as exc:
            raise CorruptBlock(f"block {want.block}: {exc}") from exc

    def admit(self, loaded: Loaded) -> None:
        """Take what was read into memory. What has changed since it was wanted is left aside."""
        for want, found in loaded:
            if want.kind == "group":
                if self.allocator.entries[want.block].checksum == want.checksum:
                    self.allocator.admit(found)
            else:
                self.cache.put(want.kind, want.block, want.checksum, found)


def check_pointer(first: int, blocks: int) -> int:
    """The block of a pointer read from the device. Raises ``CorruptBlock`` when it lies outside the
    volume.
    """
    block = first & BLOCK_MASK
    if not 0 < block < blocks:
        raise CorruptBlock(f"a pointer names block {block}, which is outside the volume")
    return block
