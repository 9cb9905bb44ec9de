"""Changes to a volume that keep every checksum right: bytes, and structures by their meaning.

All choices come from a string of bytes, so that one format of input serves Hypothesis, atheris and
replays, and a shorter string is a simpler case. A string that ends goes on with zeros.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from snapfs.blocks import group_header, inode, superblock
from snapfs.blocks.geometry import SLOT_BYTES
from snapfs.blocks.pointer import CHECKSUM_SHIFT, FLAG_BUCKET
from tests.fuzz.forging import CHECKSUM, Image
from tests.fuzz.volumes import SHAPES, Place, Seed, seed

T = TypeVar("T")

#: Values at which something ends or begins.
NUMBERS = (
    0, 1, 2, 7, 16, 127, 255, 256, 4095, 4096, 0x7FFF, 0xFFFF, 1 << 16, (1 << 24) + 1,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    (1 << 44) + 1, 1 << 47, (1 << 47) - 1, (1 << 48) - 1, 1 << 48, 1 << 56, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1,
)  # fmt: skip

#: Names that no directory has, and some that it may.
NAMES = (
    b"",
    b".",
    b"..",
    b"a/b",
    b"nul\0",
    b"n" * 255,
    b"n" * 256,
    b"n" * 3000,
    b"\xff\xfe",
    b"\x1b[2J",
    b"file",
    b".snap",
    b"10",
    b"dir",
)

#: msgpack that means to be large, deep or strange.
BOMBS = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 3000,
    b"\x81\x00" * 1500,
    b"\xdd\x00\x00\xff\xff" * 600, b"\xdc\xff\xff" * 1000, b"\xd6\xff\x00\x00\x00\x00",
    b"\xc7\x0c\xff" + bytes(12),
    b"\x82\x00\x00\x00\x00", b"\x81\x90\x00", b"\xcb\x7f\xf8" + bytes(6), b"\xc1", b"\xa2\xff\xff",
    b"\xdc\x0f\x00" + b"\x80" * 0xF00, b"",
)  # fmt: skip


class Choices:
    """Numbers out of a string of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece.ljust(size, b"\0"), "little")

    def below(self, limit: int) -> int:
        """A number below ``limit``."""
        return (
            self.number(1 if limit <= 256 else 2 if limit <= 1 << 16 else 4) % limit
            if limit > 1
            else 0
        )

    def one(self, options: Any) -> Any:
        """One of a sequence."""
        return options[self.below(len(options))]

    def value(self) -> int:
        """A 64-bit number: one where something ends, or any."""
        return self.one(NUMBERS) if self.below(4) else self.number(8)

    def bytes(self, size: int) -> bytes:
        return self.number(size).to_bytes(size, "little")


class Mutator:
    """Changes one copy of a seed."""

    def __init__(self, found: Seed, choices: Choices) -> None:
        self.seed = found
        self.image = found.image.copy()
        self.choices = choices
        self.block_size = self.image.block_size

    def mutate(self) -> None:
        """One change."""
        c = self.choices
        if not c.below(6):
            self._bytes(c.one(self.seed.places))
            return
        kinds = sorted({place.kind for place in self.seed.places})
        kind = c.one(kinds)
        place = c.one([place for place in self.seed.places if place.kind == kind])
        getattr(self, f"_{kind}", self._bytes)(place)

    # Anything

    def _bytes(self, place: Place) -> None:
        c = self.choices
        how = c.below(6)
        if how == 0:
            self.image.patch(place.block, c.below(self.block_size), c.bytes(1 + c.below(4)))
        elif how == 1:
            size = c.one((2, 4, 8))
            at = c.below(min(self.block_size, 512)) // size * size
            self.image.patch(
                place.block, at, (c.value() & (1 << 8 * size) - 1).to_bytes(size, "little")
            )
        elif how == 2:
            self.image.put(place.block, b"")
        elif how == 3:  # another kind of block
            self.image.put(place.block, self.image.block(c.one(self.seed.places).block))
        elif how == 4:
            self.image.put(place.block, c.bytes(1) * self.block_size)
        else:
            self.image.patch(place.block, c.below(self.block_size), c.bytes(16) * (1 + c.below(8)))

    # Pointers

    def _pointer(self) -> bytes:
        """A pointer to anything: to something of the volume, mostly."""
        c = self.choices
        how = c.below(8)
        first, second = c.one(self.seed.pointers)
        if how == 0:
            first = c.value()
        elif how == 1:
            first = c.one(self.seed.places).block | c.below(2) * FLAG_BUCKET
        elif how == 2:
            first ^= FLAG_BUCKET
        elif how == 3:
            first = c.below(1 << 17)
        elif how == 4:
            second = CHECKSUM << CHECKSUM_SHIFT | c.value() & 0xFFFF_FFFF
        return struct.pack("<QQ", first & (1 << 64) - 1, second)

    def _node(self, place: Place) -> None:
        c = self.choices
        fan_out = self.block_size // 16
        how = c.below(6)
        if how == 0:
            self.image.put(place.block, b"")
        elif how == 1:  # every slot names one child
            self.image.put(place.block, self._pointer() * fan_out)
        elif how == 2:  # it names itself
            pointer = struct.pack("<QQ", place.block, CHECKSUM << CHECKSUM_SHIFT | 1)
            self.image.patch(place.block, 16 * c.below(fan_out), pointer * (1 + c.below(fan_out)))
        elif how == 3:  # a run of blocks, whoever has them
            start = c.below(1 << 16)
            run = b"".join(
                struct.pack("<QQ", start + n, CHECKSUM << CHECKSUM_SHIFT | 1)
                for n in range(1 + c.below(fan_out))
            )
            self.image.patch(place.block, 0, run)
        else:
            for _ in range(1 + c.below(3)):
                self.image.patch(place.block, 16 * c.below(min(fan_out, 16)), self._pointer())

    # Inodes

    def _inodes(self, place: Place) -> None:
        c = self.choices
        at = inode.INODE_BYTES * c.below(self.block_size // inode.INODE_BYTES)
        how = c.below(8)
        data = self.image.block(place.block)
        used = [n for n in range(0, self.block_size, inode.INODE_BYTES) if any(data[n : n + 4])]
        if used and c.below(8):
            at = c.one(used)
        if how == 0:
            self.image.patch(place.block, at, bytes(inode.INODE_BYTES))
        elif how == 1:
            other = c.one(used or [0])
            self.image.patch(place.block, at, data[other : other + inode.INODE_BYTES])
        elif how == 2:
            self.image.patch(place.block, at + c.one((104, 120)), self._pointer())
            self.image.patch(place.block, at + c.one((140, 141)), bytes([c.below(8)]))
        elif how == 3:
            types = (0o100644, 0o40755, 0o120777, 0o10600, 0o60600, 0o20600, 0o140600, 0o170000, 0)
            self.image.patch(place.block, at, struct.pack("<I", c.one(types)))
        elif how == 4:  # who is above whom
            self.image.patch(place.block, at + 96, struct.pack("<Q", c.below(self.seed.inodes + 8)))
        elif how == 5:
            self.image.patch(place.block, at + 12, struct.pack("<I", c.value() & 0xFFFF_FFFF))
        else:
            offset, size = c.one(
                (
                    (4, 4),
                    (16, 8),
                    (24, 8),
                    (32, 8),
                    (40, 4),
                    (80, 4),
                    (88, 8),
                    (96, 8),
                    (136, 4),
                    (140, 1),
                    (141, 1),
                    (142, 1),
                    (143, 1),
                )
            )
            self.image.patch(
                place.block, at + offset, (c.value() & (1 << 8 * size) - 1).to_bytes(size, "little")
            )

    # msgpack

    def _names(self, place: Place) -> None:
        self._bucket(place)

    def _table(self, place: Place) -> None:
        self._bucket(place)

    def _bucket(self, place: Place) -> None:
        data = self.image.block(place.block)
        size = int.from_bytes(data[:4], "little")
        body = self._packed(data[4 : 4 + size])[: self.block_size - 4]
        size = len(body) if self.choices.below(16) else self.choices.value() & 0xFFFF_FFFF
        self.image.put(place.block, struct.pack("<I", size) + body)

    def _blob(self, place: Place) -> None:
        if self.choices.below(2):
            self.image.put(
                place.block, self._packed(self.image.block(place.block))[: self.block_size]
            )
        else:
            self._bytes(place)

    def _records(self, place: Place) -> None:
        self.image.put(place.block, self._packed(self.image.block(place.block))[: self.block_size])

    def _root(self, place: Place) -> None:
        data = self.image.block(place.block)
        body = self._packed(data.rstrip(b"\0"))[: self.block_size] or b"\0"
        self.image.put(place.block, body)
        self._superblocks(lambda slot: slot[:160] + struct.pack("<I", len(body)) + slot[164:])

    def _copy(self, place: Place) -> None:
        """What describes a running copy; the root record has its length."""
        body = self._packed(self.image.block(place.block).rstrip(b"\0"))[: self.block_size] or b"\0"
        self.image.put(place.block, body)
        (root,) = (one.block for one in self.seed.places if one.kind == "root")
        with contextlib.suppress(Exception):  # if it has been mutated before
            record = msgpack.unpackb(self.image.block(root).rstrip(b"\0"), strict_map_key=False)
            record["copy"][1] = len(body)
            changed = msgpack.packb(record)
            self.image.put(root, changed)
            self._superblocks(
                lambda slot: slot[:160] + struct.pack("<I", len(changed)) + slot[164:]
            )

    def _packed(self, data: bytes) -> bytes:
        """Other msgpack than this."""
        c = self.choices
        if not c.below(6):
            return bytes(c.one(BOMBS))
        try:
            unpacker = msgpack.Unpacker(
                raw=False, strict_map_key=False, unicode_errors="surrogateescape"
            )
            unpacker.feed(data)
            value = unpacker.unpack()
            for _ in range(1 + c.below(3)):
                value = self._changed(value)
            return bytes(msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape"))
        except Exception:
            return c.bytes(8) + data

    def _changed(self, value: Any) -> Any:
        """A value with one thing changed in it, at any depth."""
        c = self.choices
        if type(value) is dict and value and c.below(8):
            key = c.one(list(value))
            how = c.below(6)
            if how == 0:
                del value[key]
            elif how == 1:
                value[self._scalar(key)] = value[key]
            elif how == 2:
                value[c.one(NAMES)] = c.below(self.seed.inodes) << 4 | c.one((4, 8, 10, 0, 15))
            elif how == 3 and type(value[key]) is int:
                value[key] = c.below(self.seed.inodes) << 4 | c.one((4, 8, 10, 0, 15))
            else:
                value[key] = self._changed(value[key])
            return value
        if type(value) is list and value and c.below(8):
            index = c.below(len(value))
            how = c.below(6)
            if how == 0:
                del value[index]
            elif how == 1:
                value.insert(index, self._scalar(value[index]))
            elif how == 2 and index + 1 < len(value):
                value[index : index + 2] = struct.unpack("<QQ", self._pointer())
            else:
                value[index] = self._changed(value[index])
            return value
        return self._scalar(value)

    def _scalar(self, value: Any) -> Any:
        c = self.choices
        how = c.below(8)
        if how < 4 and type(value) is int:
            return c.value() if how else value + c.one((-1, 1, 16, -16))
        if how < 4 and type(value) is str:
            return c.one(
                ("", ".", "..", "a/b", "nul\0", "s" * 300, "\x1b[2J", "one", "two", "\udcff")
            )
        if how < 4 and type(value) is bytes:
            return c.one((*NAMES, b"\xff" * 2001, b"\xff" * 2002))
        if how < 4 and type(value) is bool:
            return not value
        return c.one((None, 1.5, True, -1, [], [[]] * 20, b"x", "x", 0, c.value()))

    # Fixed layouts

    def _superblocks(self, change: Callable[[bytes], bytes]) -> None:
        """Change the newest superblock in both rings."""
        slots = []
        for place in self.seed.places:
            if place.kind == "superblock":
                data = self.image.block(place.block)
                for offset in range(0, self.block_size, SLOT_BYTES):
                    if data[offset : offset + 8] == superblock.MAGIC:
                        slots.append(
                            (struct.unpack_from("<Q", data, offset + 24)[0], place.block, offset)
                        )
        newest = max(slots)[0]
        for generation, block, offset in slots:
            if generation == newest:
                self.image.patch(
                    block, offset, change(self.image.block(block)[offset : offset + 512])
                )

    def _superblock(self, place: Place) -> None:
        c = self.choices
        offset, size = c.one(
            (
                (8, 4),
                (12, 4),
                (16, 8),
                (16, 8),
                (24, 8),
                (32, 8),
                (40, 8),
                (48, 8),
                (72, 8),
                (136, 8),
                (144, 8),
                (152, 8),
                (160, 4),
            )
        )
        value = (
            self.image.size // self.block_size + c.one((0, -1, 1, -256, 1 << 20))
            if c.below(3) == 0
            else c.value()
        )
        if offset == 12 and c.below(2):
            value = c.one((4096, 8192, 16384, 32768, 65536))
        content = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self._superblocks(lambda slot: slot[:offset] + content + slot[offset + size :])

    def _header(self, place: Place) -> None:
        c = self.choices
        if c.below(2):
            offset, size = c.one(
                ((0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4), (32, 4))
            )
            value = c.below(400) if c.below(2) else c.value()
            self.image.patch(
                place.block, offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            )
        elif c.below(2):
            data = self.image.block(place.block)
            body = self._packed(data[group_header.PAYLOAD_OFFSET :])[
                : self.block_size - group_header.PAYLOAD_OFFSET
            ]
            self.image.patch(place.block, 28, struct.pack("<I", len(body)))
            self.image.patch(place.block, group_header.PAYLOAD_OFFSET, body)
        else:
            entry = struct.pack(
                "<QI", c.one(self.seed.places).block if c.below(2) else c.value(), CHECKSUM
            )
            self.image.patch(place.block, group_header.PAYLOAD_OFFSET + 12 * c.below(3), entry)

    def _bitmap(self, place: Place) -> None:
        """Bits set or cleared, and counted in the header and in the group table as they are."""
        c = self.choices
        start = c.one((0, 0, c.below(self.block_size)))
        length = c.one((1, 2, 64, self.block_size))
        self.image.patch(place.block, start, c.one((b"\0", b"\xff", b"\x55")) * length)
        if not c.below(4):
            return
        counts = {}
        for header in (one for one in self.seed.places if one.kind == "header"):
            free = (
                8 * self.block_size
                - int.from_bytes(self.image.block(header.block + 1), "little").bit_count()
            )
            held = int.from_bytes(self.image.block(header.block + 2), "little").bit_count()
            self.image.patch(header.block, 16, struct.pack("<II", free, held))
            counts[struct.unpack_from("<I", self.image.block(header.block), 4)[0]] = free, held
        for table in (one for one in self.seed.places if one.kind == "groups"):
            for number, both in counts.items():
                if 32 * number < self.block_size:
                    self.image.patch(table.block, 32 * number + 12, struct.pack("<II", *both))

    def _groups(self, place: Place) -> None:
        c = self.choices
        offset, size = c.one(((0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4)))
        value = c.below(1 << 16) if c.below(2) else c.value()
        content = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.image.patch(place.block, 32 * c.below(4) + offset, content)


def hostile(data: bytes) -> tuple[Image, Choices]:
    """The image that a string of choices makes, and what is left of the
    choices. Under ``forged``.
    """
    choices = Choices(data)
    mutator = Mutator(seed(choices.below(len(SHAPES))), choices)
    for _ in range(1 + choices.below(4)):
        mutator.mutate()
    return mutator.image, choices
