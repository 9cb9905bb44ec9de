"""The root record, which a superblock names: the roots of everything else, and the volume's
counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapfs.blocks.pointer import BLOCK_MASK, FLAG_DIRTY
from snapfs.blocks.schema import COUNT_MAX, as_count, check_range, pack, unpack_map
from snapfs.errors import CorruptBlock
from snapfs.ids import MAX_INSTANCES
from snapfs.store.tables.copies import CopyBlock
from snapfs.store.tables.instances import ViewRoot
from snapfs.store.tables.restores import Restored, Scheduled, decode_done, decode_scheduled

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry

EMPTY_ROOT = ViewRoot()

#: Bytes of a root record, at most, without its counting bitmap and what it says of restores.
ROOT_FIXED = 384

TreeRoot = tuple[tuple[int, int], int]  # root words, blocks
MapRoot = tuple[tuple[int, int], int, int]  # root words, depth, blocks


@dataclass(frozen=True, slots=True)
class RootRecord:
    """What a superblock names: the roots of everything else, and the volume's counters."""

    epoch: int = 1
    hash_seed: int = 0
    next_inode_generation: int = 1
    record_blocks: int = 0
    counting: bytes = b""
    base: ViewRoot = EMPTY_ROOT
    groups: MapRoot = ((0, 0), 0, 0)
    sets: TreeRoot = ((0, 0), 0)
    instances: TreeRoot = ((0, 0), 0)
    scheduled: Scheduled | None = None
    restored: tuple[Restored, ...] = ()
    copy: CopyBlock | None = None

    def encode(self) -> bytes:
        """The root record's bytes."""
        return pack({
            "epoch": self.epoch, "seed": self.hash_seed,
            "inode_generation": self.next_inode_generation,
            "records": as_count(self.record_blocks), "counting": self.counting,
            "base": self.base.encode(),
            "groups": [*self.groups[0], *self.groups[1:]],
            "sets": [*self.sets[0], self.sets[1]], "instances": [*self.instances[0],
            self.instances[1]],
            "scheduled": self.scheduled and self.scheduled.encode(),
            "restored": [one.encode() for one in self.restored],
            "copy": self.copy and self.copy.encode(),
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes, geometry: Geometry) -> RootRecord:
        """Validate. Raises ``CorruptBlock``."""
        what = "root record"
        blocks = geometry.blocks
        fields: dict[str, type | tuple[type, ...]] = {
            "epoch": int, "seed": int, "inode_generation": int, "records": int, "counting": bytes,
            "base": list, "groups": list,
            "sets": list, "instances": list,
        }  # fmt: skip
        found = unpack_map(data, what, fields)
        if len(found["counting"]) > MAX_INSTANCES // 8 + 1:
            raise CorruptBlock(f"{what}: its counting bitmap is too long")
        groups = _root(found["groups"], 4, blocks)
        sets, instances = _root(found["sets"], 3, blocks), _root(found["instances"], 3, blocks)
        return cls(
            check_range(found["epoch"], 1, 0xFFFF_FFFF, what),
            check_range(found["seed"], 0, (1 << 64) - 1, what),
            check_range(found["inode_generation"], 0, COUNT_MAX, what),
            check_range(found["records"], 0, COUNT_MAX, what),
            found["counting"],
            ViewRoot.decode(found["base"], what, geometry),
            (
                (groups[0], groups[1]),
                check_range(groups[2], 0, geometry.table_depth, what),
                groups[3],
            ),
            ((sets[0], sets[1]), sets[2]),
            ((instances[0], instances[1]), instances[2]),
            decode_scheduled(found.get("scheduled")),
            decode_done(found.get("restored")),
            None if found.get("copy") is None else CopyBlock.decode(found["copy"], geometry),
        )


def _root(value: list[Any], length: int, blocks: int) -> list[int]:
    if len(value) != length:
        raise CorruptBlock("root record: a root of another length was expected")
    words = [check_range(number, 0, (1 << 64) - 1, "root record") for number in value]
    if words[0] & FLAG_DIRTY or words[0] & BLOCK_MASK >= blocks or words[-1] > blocks:
        raise CorruptBlock("root record: a root lies outside the volume")
    return words
