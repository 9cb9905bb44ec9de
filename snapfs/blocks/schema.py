"""msgpack with a bound on every dimension: the only way that variable data from a volume is
decoded.

A decoder here either returns the expected types or raises ``CorruptBlock``. Callers check the
values' meaning.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from snapfs.errors import CorruptBlock

#: No list on a volume is longer, but the records of a group, which are not decoded by ``unpack``:
#: one that says it is would make the decoder set memory aside for what never comes, once more for
#: each list in it.
LIST_MAX: Final = 512

#: Highest value of a counter of blocks or inodes on a volume.
COUNT_MAX: Final = 1 << 48


def pack(value: object) -> bytes:
    """Encode; bytes stay bytes and text stays text."""
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data


def unpack(data: bytes | memoryview, what: str) -> Any:
    """Decode one value that fills ``data``; no length in it may exceed its size, no list
    ``LIST_MAX``. Raises ``CorruptBlock``.
    """
    size = len(data)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=min(size, LIST_MAX),
            max_map_len=size,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as exc:
        raise CorruptBlock(f"{what}: not decodable ({type(exc).__name__})") from exc


def unpack_numbers(data: bytes, what: str) -> list[Any]:
    """Decode a list of any length that has no lists, maps or strings in it. Raises
    ``CorruptBlock``.
    """
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(data),
        max_array_len=0,
        max_map_len=0,
        max_str_len=0,
        max_bin_len=0,
        max_ext_len=0,
    )
    unpacker.feed(data)
    try:
        count = unpacker.read_array_header()
        # One value after the other: each costs memory only when it is there.
        values = list(unpacker)
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise CorruptBlock(f"{what}: not decodable ({type(exc).__name__})") from exc
    if len(values) != count or unpacker.tell() != len(data):
        raise CorruptBlock(f"{what}: a list of another length was expected")
    return values


def unpack_map(
    data: bytes | memoryview, what: str, fields: dict[str, type | tuple[type, ...]]
) -> dict[str, Any]:
    """Decode a map whose keys are all of ``fields``, each with a value of its type. Raises
    ``CorruptBlock``.
    """
    value = unpack(data, what)
    if type(value) is not dict:
        raise CorruptBlock(f"{what}: a map was expected")
    for name, kind in fields.items():
        found = value.get(name)
        if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
            raise CorruptBlock(f"{what}: field {name!r} is missing or of the wrong type")
    return value


def as_count(value: int) -> int:
    """A counter as it may be written: one that damage had made wrong must not make the volume
    unreadable by running below zero.
    """
    return min(max(value, 0), COUNT_MAX)


def check_range(value: object, low: int, high: int, what: str) -> int:
    """Return ``value`` when it is an integer within ``low`` to ``high``.
    Raises ``CorruptBlock``.
    """
    if type(value) is not int or not low <= value <= high:
        raise CorruptBlock(f"{what}: {value!r} is not within {low} to {high}")
    return value
