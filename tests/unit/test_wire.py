"""The kernel's protocol as bytes: layouts are those of ``linux/fuse.h``, replies have what was to
be said and fit where they must.
"""

from __future__ import annotations

import re
import stat
import struct
from pathlib import Path

import pyfuse3
import pytest

from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.wire import Op

HEADER = Path("/usr/include/linux/fuse.h")

#: Sizes of the structures in linux/fuse.h. Those of RELEASE and WRITE_IN share a layout here with
#: what they begin like.
SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "INIT_OUT": 64,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "GETATTR_IN": 16,
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "RENAME_IN": 8,
    "RENAME2_IN": 16,
    "LINK_IN": 8,
    "OPEN_IN": 8,
    "CREATE_IN": 16,
    "OPEN_OUT": 16,
    "FSYNC_IN": 16,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "WRITE_OUT": 8,
    "SETXATTR_IN": 8,
    "GETXATTR_IN": 8,
    "GETXATTR_OUT": 8,
    "STATFS_OUT": 80,
    "ATTR_OUT": 104,
    "ENTRY_OUT": 128,
    "DIRENT": 24,
    "INVAL_INODE_OUT": 24,
    "INVAL_ENTRY_OUT": 16,
    "PRUNE_OUT": 16,
    "ATTR_REPLY": 16 + 104,
    "ENTRY_REPLY": 16 + 128,
    "CREATE_REPLY": 16 + 128 + 16,
    "OPEN_REPLY": 16 + 16,
    "WRITE_REPLY": 16 + 8,
}

#: Where the attributes begin in a reply, without its header.
ATTR_AT, ENTRY_AT = 16, 40


def an_entry(**changes: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    values = {"st_ino": 7, "st_mode": stat.S_IFREG | 0o640, "st_nlink": 2, "st_size": 10} | changes
    for name, value in values.items():
        setattr(entry, name, value)
    entry.entry_timeout = entry.attr_timeout = 3600
    return entry


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_every_structure_has_the_size_that_the_kernel_knows(name: str, size: int) -> None:
    assert getattr(wire, name).size == size


def test_every_structure_has_its_size_tested() -> None:
    # INIT_IN and RELEASE_IN are the beginning of what the kernel sends: no more is looked at.
    structures = {name for name, value in vars(wire).items() if isinstance(value, struct.Struct)}
    assert structures == SIZES.keys() | {"INIT_IN", "RELEASE_IN"}


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's header is not installed")
def test_numbers_are_those_of_the_kernels_header() -> None:
    text = HEADER.read_text()
    opcodes = {
        name: int(value)
        for name, value in re.findall(r"^\tFUSE_(\w+)\s*=\s*(\d+),", text, re.MULTILINE)
    }
    defines = {
        name: 1 << int(value)
        for name, value in re.findall(r"^#define FUSE_(\w+)\s+\(1 << (\d+)\)", text, re.MULTILINE)
    }
    attributes = {
        name: int(value)
        for name, value in re.findall(r"^#define FATTR_(\w+)\s+\(1 << (\d+)\)", text, re.MULTILINE)
    }
    assert {op.name: op.value for op in Op} == {op.name: opcodes[op.name] for op in Op}
    assert {flag.name: flag.value for flag in wire.Init} == {
        flag.name: defines[str(flag.name)] for flag in wire.Init
    }
    told = {name: value for name, value in vars(wire.Set).items() if name.isupper()}
    assert told == {name: 1 << attributes[name] for name in told}
    assert defines["GETATTR_FH"] == wire.GETATTR_FH
    assert defines["WRITE_KILL_SUIDGID"] == wire.WRITE_KILL_SUIDGID
    assert defines["OPEN_KILL_SUIDGID"] == wire.OPEN_KILL_SUIDGID
    assert "#define FOPEN_KEEP_CACHE\t(1 << 1)" in text
    assert opcodes["NOTIFY_INVAL_INODE"] == wire.NOTIFY_INVAL_INODE
    assert opcodes["NOTIFY_INVAL_ENTRY"] == wire.NOTIFY_INVAL_ENTRY


@pytest.mark.parametrize(
    "time",
    [
        0,
        -1,
        -1_000_000_000,
        -1_500_000_000,
        253_402_300_799_999_999_999 // 1000,
        1_700_000_000_123_456_789,
    ],
)
def test_times_before_1970_have_nanoseconds_that_count_forwards(time: int) -> None:
    entry = an_entry(st_atime_ns=time, st_mtime_ns=time, st_ctime_ns=time)
    for packed, at in ((wire.attr_out(entry), ATTR_AT), (wire.entry_out(entry), ENTRY_AT)):
        seconds = struct.unpack_from("<qqq", packed, at + 24)
        nanoseconds = struct.unpack_from("<III", packed, at + 48)
        assert [
            second * 1_000_000_000 + part for second, part in zip(seconds, nanoseconds, strict=True)
        ] == [time] * 3
        assert all(0 <= part < 1_000_000_000 for part in nanoseconds)


def test_attributes_stand_where_the_kernel_looks_for_them() -> None:
    entry = an_entry(
        st_blocks=3, st_uid=1, st_gid=2, st_blksize=4096, st_rdev=0x1_2345_6789, generation=9
    )
    packed = wire.entry_out(entry)
    assert struct.unpack_from("<QQQQII", packed) == (7, 9, 3600, 3600, 0, 0)
    assert struct.unpack_from("<QQQ", packed, ENTRY_AT) == (7, 10, 3)
    assert struct.unpack_from("<IIIIIII", packed, ENTRY_AT + 60) == (
        stat.S_IFREG | 0o640,
        2,
        1,
        2,
        0x2345_6789,
        4096,
        0,
    )
    assert wire.attr_out(entry)[ATTR_AT:] == packed[ENTRY_AT:]


def test_what_is_valid_for_less_than_a_second_is_said_in_nanoseconds() -> None:
    entry = an_entry()
    entry.entry_timeout, entry.attr_timeout = 0.5, 1.25
    assert struct.unpack_from("<QQII", wire.entry_out(entry), 16) == (
        0,
        1,
        500_000_000,
        250_000_000,
    )
    assert struct.unpack_from("<QI", wire.attr_out(entry)) == (1, 250_000_000)


def test_a_request_of_setattr_is_taken_apart_as_the_kernel_puts_it_together() -> None:
    body = struct.pack("<IIQQQqqqIIIIIIII", 1, 0, 2, 3, 4, -5, 6, 7, 8, 9, 10, 0o644, 0, 11, 12, 0)
    assert wire.SETATTR_IN.unpack(body) == (1, 2, 3, 4, -5, 6, 7, 8, 9, 10, 0o644, 11, 12)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 255])
def test_names_in_a_listing_are_padded_to_eight_bytes(length: int) -> None:
    rows = wire.Rows(1 << 12)
    assert rows.add(b"x" * length, an_entry(), 5)
    assert rows.add(b"next", an_entry(st_ino=8, st_mode=stat.S_IFDIR), 6)
    padded = -(-length // 8) * 8
    assert len(rows.data) == 2 * (128 + 24) + padded + 8
    assert struct.unpack_from("<QQII", rows.data, 128) == (7, 5, length, stat.S_IFREG >> 12)
    assert rows.data[152 : 152 + padded] == b"x" * length + bytes(padded - length)
    assert struct.unpack_from("<QQII", rows.data, 152 + padded + 128) == (
        8,
        6,
        4,
        stat.S_IFDIR >> 12,
    )


def test_a_listing_fills_what_it_was_given_and_not_a_byte_more() -> None:
    one = 128 + 24 + 8
    for room, expected in ((3 * one, 3), (3 * one - 1, 2), (one, 1), (one - 1, 0), (0, 0)):
        rows = wire.Rows(room)
        added = 0
        while rows.add(b"abc", an_entry(), added):
            added += 1
        assert (added, len(rows.data)) == (expected, expected * one)


def test_names_that_a_request_ends_with_are_split_at_their_zeros() -> None:
    assert wire.names_in(memoryview(b"old\0new\0")) == [b"old", b"new"]
    assert wire.names_in(memoryview(b"\xff\xfe\0")) == [b"\xff\xfe"]
    assert wire.names_in(memoryview(b"")) == []
