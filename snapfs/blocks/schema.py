"""msgpack with a bound on every dimension: the only way that variable data from a volume is decoded.

A decoder here either returns the expected types or raises ``CorruptBlock``. Callers check the values' meaning.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from snapfs.errors import CorruptBlock

#: Highest value of a counter of blocks or inodes on a volume.
COUNT_MAX: Final = 1 << 48


def pack(value: object) -> bytes:
    """Encode; bytes stay bytes and text stays text."""
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data


def unpack(data: bytes | memoryview, what: str) -> Any:
    """Decode one value that fills ``data``; lengths inside cannot exceed its size. Raises ``CorruptBlock``."""
    size = len(data)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=size,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as exc:
        raise CorruptBlock(f"{what}: not decodable ({type(exc).__name__})") from exc


def unpack_list(data: bytes | memoryview, what: str) -> list[Any]:
    """Decode a list. Raises ``CorruptBlock``."""
    value = unpack(data, what)
    if type(value) is not list:
        raise CorruptBlock(f"{what}: a list was expected")
    return value


def unpack_map(data: bytes | memoryview, what: str, fields: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Decode a map whose keys are all of ``fields``, each with a value of its type. Raises ``CorruptBlock``."""
    value = unpack(data, what)
    if type(value) is not dict:
        raise CorruptBlock(f"{what}: a map was expected")
    for name, kind in fields.items():
        found = value.get(name)
        if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
            raise CorruptBlock(f"{what}: field {name!r} is missing or of the wrong type")
    return value


def as_count(value: int) -> int:
    """A counter as it may be written: one that damage had made wrong must not make the volume unreadable by running below zero."""
    return min(max(value, 0), COUNT_MAX)


def check_range(value: object, low: int, high: int, what: str) -> int:
    """Return ``value`` when it is an integer within ``low`` to ``high``. Raises ``CorruptBlock``."""
    if type(value) is not int or not low <= value <= high:
        raise CorruptBlock(f"{what}: {value!r} is not within {low} to {high}")
    return value
