"""Access control lists: what chmod, inheritance and broken values do."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs.errors import InvalidArgument, NotPermitted
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.acl import (
    ACCESS,
    DEFAULT,
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    Acl,
)
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

NOBODY = 0xFFFF_FFFF
EXTENDED = Acl(
    (
        (USER_OBJ, 7, NOBODY),
        (USER, 5, 1000),
        (GROUP_OBJ, 5, NOBODY),
        (MASK, 5, NOBODY),
        (OTHER, 0, NOBODY),
    )
)
MINIMAL = Acl(((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 4, NOBODY)))


def raw(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.fixture
def fs() -> Filesystem:
    device = SparseDevice(512 * 4096)
    format_volume(device)
    return Filesystem(open_volume(device))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        raw(*EXTENDED.entries, version=1),
        raw(*EXTENDED.entries) + b"x",
        raw(*EXTENDED.entries[:-1]),
        raw(*(entry for entry in EXTENDED.entries if entry[0] != MASK)),
        raw(*EXTENDED.entries, (OTHER, 0, NOBODY)),
        raw(*MINIMAL.entries, (64, 0, NOBODY)),
        raw((USER_OBJ, 8, NOBODY), *MINIMAL.entries[1:]),
    ],
    ids=[
        "empty",
        "short",
        "version",
        "odd",
        "no other",
        "no mask",
        "two others",
        "unknown tag",
        "permissions",
    ],
)
def test_a_broken_list_is_stored(value: bytes, fs: Filesystem) -> None:
    with pytest.raises(InvalidArgument):
        Acl.decode(value)
    with pytest.raises(InvalidArgument):
        drive(fs.volume, fs.xattr_set, fs.base, ROOT_INO, ACCESS, value)
    assert fs.xattr_list(fs.base, ROOT_INO) == []


@settings(deadline=None, database=None)
@given(st.binary(max_size=80))
def test_any_bytes_break_the_decoder(value: bytes) -> None:
    try:
        decoded = Acl.decode(b"\2\0\0\0" + value)
    except InvalidArgument:
        return
    assert Acl.decode(decoded.encode()) == decoded


@settings(deadline=None, database=None)
@given(st.integers(0, 0o777))
def test_chmod_and_the_list_disagree(mode: int) -> None:
    """acl(5): chmod sets the mask where there is one, the owning group otherwise; the mode says the
    same as the list.
    """
    for one in (EXTENDED, MINIMAL):
        assert one.with_mode(mode).mode == mode
        assert one.with_mode(mode).entries[-1] == (OTHER, mode & 7, NOBODY)
        assert one.inherited(mode).mode == one.mode & mode
    assert (GROUP_OBJ, 5, NOBODY) in EXTENDED.with_mode(mode).entries
    assert (USER, 5, 1000) in EXTENDED.with_mode(mode).entries


def test_a_new_file_ignores_the_default_list(fs: Filesystem) -> None:
    base = fs.base
    drive(fs.volume, fs.xattr_set, base, ROOT_INO, DEFAULT, EXTENDED.encode())
    file = drive(fs.volume, fs.make, base, ROOT_INO, b"file", 0o100666, 0, 0)
    assert file.mode == 0o100640
    assert Acl.decode(fs.xattr_get(base, file.ino, ACCESS)) == EXTENDED.inherited(0o666)
    directory = drive(fs.volume, fs.make, base, ROOT_INO, b"directory", 0o040777, 0, 0)
    assert fs.xattr_get(base, directory.ino, DEFAULT) == EXTENDED.encode()
    link = drive(fs.volume, fs.make, base, ROOT_INO, b"link", 0o120777, 0, 0, target=b"t" * 100)
    assert link.mode == 0o120777
    assert fs.xattr_list(base, link.ino) == []
    long = drive(fs.volume, fs.make, base, directory.ino, b"n" * 255, 0o010666, 0, 0)
    assert fs.xattr_list(base, long.ino) == [ACCESS]


def test_a_minimal_list_costs_space(fs: Filesystem) -> None:
    """What the mode alone says is not stored; a list that has named entries is, and chmod changes
    it.
    """
    file = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100600, 0, 0)
    drive(fs.volume, fs.xattr_set, fs.base, file.ino, ACCESS, MINIMAL.encode())
    assert (file.mode, fs.xattr_list(fs.base, file.ino)) == (0o100644, [])
    drive(
        fs.volume,
        fs.xattr_set,
        fs.base,
        file.ino,
        ACCESS,
        raw(
            (USER_OBJ, 7, 0),
            (USER, 5, 1),
            (GROUP, 1, 2),
            (GROUP_OBJ, 5, 0),
            (MASK, 3, 0),
            (OTHER, 0, 0),
        ),
    )
    assert file.mode == 0o100730
    drive(fs.volume, fs.set_attributes, fs.base, file.ino, Changes(mode=0o751), privileged=True)
    assert Acl.decode(fs.xattr_get(fs.base, file.ino, ACCESS)).mode == 0o751
    drive(fs.volume, fs.xattr_remove, fs.base, file.ino, ACCESS)
    drive(fs.volume, fs.xattr_remove, fs.base, file.ino, ACCESS)
    assert (file.mode, fs.xattr_list(fs.base, file.ino)) == (0o100751, [])


def test_a_file_gets_a_default_list(fs: Filesystem) -> None:
    file = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100600, 0, 0)
    with pytest.raises(NotPermitted):
        drive(fs.volume, fs.xattr_set, fs.base, file.ino, DEFAULT, EXTENDED.encode())
