"""Undo files of repairs come from anywhere: one is a line that says why it is none, or its writes,
inside the device.
"""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from snapfs.check.repair.undo import VERSION, undo
from snapfs.errors import DeviceError, UsageError
from snapfs.filesystem.format import format_volume
from snapfs.store.commit.superblocks import newest_superblock
from tests.harness.sparse import SparseDevice

DEVICE = SparseDevice(1024 * 4096)
format_volume(DEVICE)
HEADER = {
    "snapfs undo": VERSION,
    "uuid": newest_superblock(DEVICE).uuid,
    "size": DEVICE.size,
    "generation": newest_superblock(DEVICE).generation,
}

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=9)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from([*HEADER, "other"])
headers = (
    st.just(HEADER)
    | st.dictionaries(keys, anything, max_size=4).map(lambda some: {**HEADER, **some})
    | anything
)
without = st.builds(
    lambda gone: {key: value for key, value in HEADER.items() if key not in gone}, st.sets(keys)
)
writes = st.lists(
    st.tuples(
        st.integers(-1, 1 << 64) | st.sampled_from([0, DEVICE.size - 1, DEVICE.size]),
        st.binary(max_size=9),
    ).map(list)
)


@given(st.tuples(headers | without, writes | st.lists(anything, max_size=3)), st.binary(max_size=9))
@example(({"snapfs undo": VERSION, "generation": 1}, []), b"")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_undo_file_does_more_than_fail(
    tmp_path: Path, entries: tuple[object, list[object]], behind: bytes
) -> None:
    path = tmp_path / "undo"
    path.write_bytes(b"".join(_packed(entry) for entry in (entries[0], *entries[1])) + behind)
    device = SparseDevice(DEVICE.size)
    for offset in range(0, DEVICE.size, 1 << 20):
        device.write(offset, DEVICE.read(offset, min(1 << 20, DEVICE.size - offset)))
    try:
        undo(device, str(path))
    except (UsageError, DeviceError) as exc:
        assert "\n" not in str(exc)
        if isinstance(exc, UsageError):
            assert device.read(0, device.size) == DEVICE.read(0, DEVICE.size), (
                "something was written of a file that is none"
            )


def _packed(entry: object) -> bytes:
    try:
        return bytes(msgpack.packb(entry, use_bin_type=True))
    except OverflowError:
        return b"\xc1"


def test_no_undo_file_is_taken_for_one(tmp_path: Path) -> None:
    for content in (
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        msgpack.packb(HEADER)[:-1],
    ):
        (tmp_path / "undo").write_bytes(content)
        with pytest.raises(UsageError, match="not an undo file"):
            undo(DEVICE, str(tmp_path / "undo"))
