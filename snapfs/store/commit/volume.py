"""A volume in memory: everything that the layers above work with, from mount to the last commit.

Nothing here waits. What is not in memory is asked for with ``NotCached``; the driver fetches it
with ``read_wants`` (which may run in a worker thread) and hands it over with ``admit``.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, decode_pointers
from snapfs.blocks.superblock import KNOWN_READ_ONLY_COMPATIBLE
from snapfs.device.reserve import HostReserve
from snapfs.errors import (
    CommitNeeded,
    CorruptBlock,
    CorruptData,
    DeviceError,
    DeviceFull,
    Interrupt,
    NotCached,
    ReadOnly,
)
from snapfs.store.commit import (
    commit,
    guard,
    recovery,
)
from snapfs.store.commit.sync_log import LogWrite, SyncLog
from snapfs.store.space.allocator import Allocator
from snapfs.store.space.holders import HolderSets
from snapfs.store.tables.copies import Copies
from snapfs.store.tables.instances import Instances, ViewRoot
from snapfs.store.tables.restores import Restores
from snapfs.store.trees.buckets import Bucket, BucketTree
from snapfs.store.trees.cache import BlockCache, Want
from snapfs.store.trees.owners import RecordOwner, SystemOwner
from snapfs.store.trees.tree import BlockMap, check_pointer

if TYPE_CHECKING:
    from snapfs.blocks.group_header import GroupEntry
    from snapfs.blocks.log_record import FileChange
    from snapfs.blocks.superblock import Superblock
    from snapfs.device.base import Device
    from snapfs.store.trees.sealing import Sealed, Sealing

#: Bytes of metadata blocks that the cache keeps at least; decoded, and with the older half, they
#: take several times as much.
CACHE_BYTES = 10 << 20

#: A commit is wanted when so many metadata blocks are dirty, or so many bytes of data were written.
DIRTY_BLOCKS = 8192
DIRTY_BYTES = 64 << 20

Loaded = list[tuple[Want, Any]]

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "node": decode_pointers,
    "names": Bucket.decode_names,
    "table": Bucket.decode_table,
}


class Contents(Protocol):
    """What the layer above keeps in memory and a commit must write: ``filesystem.Filesystem``."""

    @property
    def dirty(self) -> bool:
        """Is there anything to seal?"""

    def plan_seal(self) -> int:
        """Make everything writable that ``seal`` changes; the blocks that it allocates, at most.
        May raise ``NotCached``.
        """

    def dirty_views(self) -> list[int]:
        """Ids of the snapshot views that ``seal`` gives a new root."""

    def seal(self, sealing: Sealing) -> None:
        """Seal the views and publish their roots."""

    def logged_changes(self, limit: int) -> list[FileChange] | None:
        """What the account's files come to, of ``limit`` blocks at most; None when a record cannot
        tell that. May raise ``NotCached``.
        """


class Nothing:
    """The contents of a volume that only its tables are read of."""

    dirty = False

    def plan_seal(self) -> int:
        """Nothing to do."""
        return 0

    def dirty_views(self) -> list[int]:
        """None."""
        return []

    def seal(self, sealing: Sealing) -> None:
        """Nothing to do."""

    def logged_changes(self, limit: int) -> list[FileChange] | None:  # noqa: ARG002 - the interface's
        """Nobody knows files."""
        return None


def number_hash(key: int) -> int:
    """Spreads consecutive numbers over 64 bits (Fibonacci hashing: Knuth, TAOCP 6.4)."""
    return key * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF


class Volume:
    """An open volume. ``epoch`` moves when a snapshot is made, ``generation`` with every commit."""

    def __init__(
        self,
        device: Device,
        superblock: Superblock,
        root: recovery.RootRecord,
        entries: list[GroupEntry] | None = None,
    ) -> None:
        self.device = device
        self.superblock = superblock
        self.geometry = superblock.geometry
        self.read_only = device.read_only
        self.read_only_reason: str | None = None
        #: Called with the reason when an error makes the volume read-only while it is open.
        self.became_read_only: Callable[[str], None] = lambda _reason: None
        self.generation = superblock.generation
        self.epoch = root.epoch
        self.hash_seed = root.hash_seed
        self.next_inode_generation = root.next_inode_generation
        self.record_blocks = root.record_blocks
        self.root_block = superblock.root_block
        self.base_root: ViewRoot = root.base
        self.cache = BlockCache(CACHE_BYTES // self.geometry.block_size)
        self.holders = HolderSets()
        self.instances = Instances()
        self.restores = Restores(root.scheduled, root.restored)
        self.copies = Copies(root.copy)
        self.system_owner = SystemOwner(self)
        self.record_owner = RecordOwner(self)
        self.allocator = Allocator(
            self.geometry, self.holders, self.cache, entries if entries is not None else []
        )
        self.account = self.allocator.account
        self.sync_log = SyncLog(self)
        self.allocator.spare = self.sync_log.give_up
        self.group_tree = BlockMap(self, self.system_owner, *root.groups, leaf_kind="groups")
        self.sets_tree = BucketTree(self, self.record_owner, "table", number_hash, *root.sets)
        self.instances_tree = BucketTree(
            self, self.system_owner, "table", number_hash, *root.instances
        )
        self.contents: Contents = Nothing()
        #: The time in ns, for the superblock. Whoever repeats a history gives its own.
        self.now: Callable[[], int] = time.time_ns
        self.reserve = HostReserve(device)
        self.in_flight: Sealed | None = None
        # metadata blocks and inodes made dirty since the last seal: what a commit must allocate,
        # about
        self.dirtied = 0
        self.written_bytes = 0  # data written since the last seal
        self.blocks_written = 0
        self.blocks_read = 0

    @classmethod
    def open(cls, device: Device, *, read_only: bool = False) -> Volume:
        """Recover the last durable generation.

        Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``CorruptBlock``,
        ``DeviceError``.
        """
        volume = recovery.open_volume(cls, device)
        volume.read_only = read_only or device.read_only
        unknown = volume.superblock.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE
        if unknown:
            volume.read_only = True
            volume.read_only_reason = (
                f"it has features {unknown:#x} that this snapfs can only read: use a newer "
                "one to change it"
            )
        elif volume.copies.trouble is not None:
            volume.read_only = True
            volume.read_only_reason = (
                "its metadata is damaged: what it says of a copy that is running "
                f"({volume.copies.trouble}); "
                "'snapfs check --repair' ends that copy, which has then to be started again"
            )
        volume.sync_log.open()
        return volume

    def close(self) -> None:
        """Forget what is cached. Whoever wants it durable commits before; the device stays open."""
        self.reserve.release()
        self.cache.clear()

    # Facts

    @property
    def label(self) -> str:
        """The volume's label."""
        return self.superblock.label

    @property
    def uuid(self) -> uuids.UUID:
        """The volume's UUID."""
        return uuids.UUID(bytes=self.superblock.uuid)

    @property
    def created_ns(self) -> int:
        """When it was formatted."""
        return self.superblock.created_ns

    @property
    def committed_ns(self) -> int:
        """When the newest sealed generation was sealed."""
        return self.superblock.committed_ns

    @property
    def dirty(self) -> bool:
        """Is there anything that a commit would write?"""
        return bool(
            self.contents.dirty
            or self.holders.dirty
            or self.has_dirty_tables
            or self.allocator.changed
            or self.sync_log.dirty
        )

    @property
    def is_synced(self) -> bool:
        """Do the newest sealed generation and its log tell everything?"""
        return not self.has_dirty_tables and self.account.is_logged

    @property
    def has_dirty_tables(self) -> bool:
        """Is there anything to be written that is neither in a view nor follows from what blocks
        are taken and freed?
        """
        return bool(
            self.instances.dirty
            or self.instances.pending
            or self.restores.dirty
            or self.copies.dirty
        )

    @property
    def unsaved(self) -> bool:
        """Is there anything that is not known to be durable?"""
        return self.in_flight is not None or self.dirty

    @property
    def commit_wanted(self) -> bool:
        """Is so much dirty that a commit should not wait for its timer?"""
        return self.dirtied > DIRTY_BLOCKS or self.written_bytes > DIRTY_BYTES

    def statistics(self) -> dict[str, int]:
        """Counters, for people and for tests."""
        allocator = self.allocator
        return {
            "blocks": self.geometry.blocks,
            "free_blocks": allocator.free,
            "available_blocks": allocator.available,
            "snapshot_blocks": allocator.held,
            "record_blocks": self.record_blocks,
            "holder_sets": len(self.holders.sets),
            "record_runs": sum(entry.runs for entry in allocator.entries),
            "groups": self.geometry.groups,
            "groups_loaded": len(allocator.groups),
            "instances": len(self.instances.table),
            "readers": len(allocator.readers),
            "cached_blocks": len(self.cache),
            "cache_hits": self.cache.hits,
            "cache_misses": self.cache.misses,
            "blocks_read": self.blocks_read,
            "blocks_written": self.blocks_written,
            "log_blocks": self.sync_log.region[1] if self.sync_log.region else 0,
            "log_records": self.sync_log.records,
        }

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
            return recovery.read_group(
                self.geometry, self.allocator.entries[want.block], want.block, block
            )
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

    # Committing

    def seal(self) -> Sealed:
        """Seal the open generation: see ``commit``. One generation may be in flight at a time.

        Raises ``NotCached``, ``CommitNeeded``, ``NoSpace``, ``ReadOnly`` before anything has
        changed.
        """
        self.check_writable()
        if self.in_flight is not None:
            raise CommitNeeded
        try:
            commit.plan(self)
        except BaseException as exc:
            guard.broke_off(self, exc, "a commit")
            raise
        try:
            sealed = commit.seal(self)
        except Interrupt as exc:
            # The plan has seen to everything that a sound volume can need.
            self.end_writing(
                "a commit broke off: the metadata contradicts itself: unmount it, then "
                "run 'snapfs check'"
            )
            raise CorruptBlock("a commit broke off: the metadata contradicts itself") from exc
        except BaseException as exc:
            # What is in memory is half of one generation and half of the next: it must not be
            # written, whatever has come out.
            self.end_writing(f"a commit broke off: {type(exc).__name__}: {exc}")
            raise
        sealed.reserve = self.reserve
        self.in_flight = sealed
        return sealed

    def committed(self, sealed: Sealed) -> None:
        """The generation is durable: what it freed may be used again."""
        self.in_flight = None
        self.blocks_written += len(sealed.blocks)
        self.allocator.released(sealed.waiting)

    def logged(self, record: LogWrite) -> None:
        """The record is durable, and with it all that was done before it was begun."""
        self.sync_log.records += 1
        self.blocks_written += len(record.data) // self.geometry.block_size

    def log_failed(self, record: LogWrite, exc: DeviceError) -> None:
        """The record could not be written. A commit may be possible; after a failed flush nothing
        is, as in ``failed``.
        """
        self.account.spoil()
        probes.LOG_WRITE_FAILED.hit()
        if record.is_unsure:
            probes.FLUSH_FAILED.hit()
            self.end_writing(
                f"what was written since generation {self.generation} could not be flushed: {exc}"
            )

    def discard(self, runs: Iterable[tuple[int, int]]) -> DeviceError | None:
        """Discard runs that ``allocator.discards`` gave out; what went wrong. May block; safe in a
        worker thread.
        """
        block_size = self.geometry.block_size
        try:
            for start, length in runs:
                self.device.discard(start * block_size, length * block_size)
        except DeviceError as exc:
            return exc
        return None

    def failed(self, sealed: Sealed, exc: DeviceError) -> None:
        """The generation could not be made durable. It stays in flight: its blocks go on being read
        from memory.

        When there was no space for it, nothing durable is touched and nothing lost, and it can be
        written again. After any other failure nobody knows what reached the device: nothing may be
        written any more.
        """
        if isinstance(exc, DeviceFull):
            self.allocator.prefer_used()
            probes.COMMIT_WAITS_FOR_HOST.hit()
        if sealed.is_unsure:
            probes.FLUSH_FAILED.hit()
        if not isinstance(exc, DeviceFull) or sealed.is_unsure:
            self.end_writing(f"generation {sealed.generation} could not be written: {exc}")
