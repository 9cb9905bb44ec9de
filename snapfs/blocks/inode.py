"""The slot of an inode in the inode table. ``doc/format.md`` section 6."""

from __future__ import annotations

import struct
from typing import Final

INODE_BYTES: Final = 256

#: mode, uid, gid, links, size, blocks, then four times as (seconds, nanoseconds), generation,
#: flags, device number, parent, data root pointer, attribute root pointer, attribute bytes, data
#: depth, attribute depth, inline kind, inline bytes
LAYOUT: Final = struct.Struct("<IIIIQQqIqIqIqIIIQQQQQQIBBBB")

#: What of these counts blocks, for a look at a slot that is not decoded: blocks, attribute bytes,
#: attribute depth.
COUNTED: Final = struct.Struct("<24xQ104xIxB")

#: Bytes at the end of the slot for a short symlink target or few extended attributes.
INLINE_OFFSET: Final = 144
INLINE_BYTES: Final = INODE_BYTES - INLINE_OFFSET

INLINE_NONE: Final = 0
INLINE_TARGET: Final = 1
INLINE_ATTRIBUTES: Final = 2

#: Flags: it has or had several names; it has the content that a file has lost (the file is in its
#: parent field, the epoch of that in the device number).
FLAG_LINKED: Final = 1
FLAG_HEIR: Final = 2

NANOSECONDS: Final = 1_000_000_000
