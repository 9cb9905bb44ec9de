"""Holder sets as they stand in their table. ``doc/format.md``, holder sets."""

from __future__ import annotations

from typing import Any

from snapfs.blocks.schema import check_range
from snapfs.errors import CorruptBlock
from snapfs.ids import MAX_INSTANCES
from snapfs.store.space.holders import HolderSet


def encode_set(entry: HolderSet) -> list[Any]:
    """A holder set as it stands in its table."""
    return [
        entry.base_held,
        entry.since,
        entry.mask.to_bytes((entry.mask.bit_length() + 7) // 8, "little"),
        entry.count,
    ]


def decode_set(value: object) -> HolderSet:
    """Validate a holder set. Raises ``CorruptBlock``."""
    if (
        type(value) is not list
        or len(value) != 4
        or type(value[0]) is not bool
        or type(value[2]) is not bytes
        or len(value[2]) > MAX_INSTANCES // 8 + 1
    ):
        raise CorruptBlock("holder set: not a set")
    return HolderSet(
        value[0],
        check_range(value[1], 0, 0xFFFF_FFFF, "holder set"),
        int.from_bytes(value[2], "little"),
        check_range(value[3], 0, 1 << 48, "holder set"),
    )
