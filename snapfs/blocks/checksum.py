"""The checksum of the volume: CRC32C (Castagnoli), as in iSCSI, ext4 and btrfs."""

from __future__ import annotations

from crc32c import crc32c

__all__ = ["crc32c"]
