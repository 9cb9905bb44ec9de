"""A volume in memory: its blocks, and the tables, counters and contents that they are used for, as
everything above works with them from mount to the last commit.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from snapfs import probes
from snapfs.device.reserve import HostReserve
from snapfs.errors import DeviceError, DeviceFull
from snapfs.store.commit.sync_log import LogWrite, SyncLog
from snapfs.store.tables.copies import Copies
from snapfs.store.tables.instances import Instances, ViewRoot
from snapfs.store.tables.restores import Restores
from snapfs.store.trees.block_store import BlockStore
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.owners import RecordOwner, SystemOwner
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.blocks.group_header import GroupEntry
    from snapfs.blocks.log_record import FileChange
    from snapfs.blocks.superblock import Superblock
    from snapfs.device.base import Device
    from snapfs.store.tables.root_record import RootRecord
    from snapfs.store.trees.sealed import Sealed
    from snapfs.store.trees.sealing import Sealing

#: A commit is wanted when so many metadata blocks are dirty, or so many bytes of data were written.
DIRTY_BLOCKS = 8192
DIRTY_BYTES = 64 << 20


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


class Volume(BlockStore):
    """An open volume; ``recovery.open_volume`` opens one."""

    def __init__(
        self,
        device: Device,
        superblock: Superblock,
        root: RootRecord,
        entries: list[GroupEntry] | None = None,
    ) -> None:
        super().__init__(device, superblock, root.epoch, entries if entries is not None else [])
        self.hash_seed = root.hash_seed
        self.next_inode_generation = root.next_inode_generation
        self.record_blocks = root.record_blocks
        self.root_block = superblock.root_block
        self.base_root: ViewRoot = root.base
        self.instances = Instances()
        self.restores = Restores(root.scheduled, root.restored)
        self.copies = Copies(root.copy)
        self.system_owner = SystemOwner(self)
        self.record_owner = RecordOwner(self)
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
        self.written_bytes = 0  # data written since the last seal
        self.blocks_written = 0

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

    # Committing

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
