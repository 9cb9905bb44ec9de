"""Arguments of requests: what JSON's types do not say yet. Whoever may ask a daemon can send
anything, and some of it would be stored.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

from snapfs.control.socket.protocol import NO_LIMIT, Result
from snapfs.device import is_memory
from snapfs.errors import UsageError
from snapfs.snapshots.paths import CODING, path_bytes

#: Commands by their names: the arguments with their types, and what answers.
Commands = dict[str, tuple[dict[str, type], Callable[..., Awaitable[Result]]]]

#: Bytes a second that are no limit to anything; what is stored of a copy has room for more.
RATE_MAX: Final = 1 << 62


def check_text(arguments: dict[str, object]) -> None:
    """Raises ``UsageError`` for texts that are no bytes in the coding of names: JSON can carry half
    a character, which nothing stores.
    """
    waiting: list[object] = [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode(*CODING)
            except UnicodeEncodeError:
                raise UsageError(f"{value!r}: has a character that no text has") from None
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def needed(argument: str, value: str | None) -> str:
    """A value that must be there. Raises ``UsageError``."""
    if value is None:
        raise UsageError(f"argument {argument!r} is missing")
    return value


def names_in(values: list[object] | None, argument: str = "names") -> list[str]:
    """A list of texts; none is an empty one. Raises ``UsageError``."""
    found = [name for name in values or () if isinstance(name, str)]
    if len(found) != len(values or ()):
        raise UsageError(f"{argument}: each is text")
    return found


def texts(values: dict[str, object] | None) -> dict[str, str]:
    """Tags. Raises ``UsageError``."""
    found = {key: value for key, value in (values or {}).items() if isinstance(value, str)}
    if len(found) != len(values or {}):
        raise UsageError("tags: the value of each is text")
    return found


def way(path: str) -> list[bytes]:
    """The names of a path in the volume. Raises ``UsageError``."""
    found = path_bytes(path)
    return found.split(b"/") if found else []


def rate_of(rate: int | None) -> int | None:
    """Bytes a second, 0 for nothing, or ``NO_LIMIT``; None leaves it as it is. Raises
    ``UsageError``.
    """
    if rate is not None and rate != NO_LIMIT and not 0 <= rate <= RATE_MAX:
        raise UsageError(f"{rate}: a rate is between 0 and {RATE_MAX} bytes a second")
    return rate


def place_of(path: str) -> str:
    """Where a copy goes: a path from the root, since the daemon is somewhere else, or ``mem:NAME``.
    Raises ``UsageError``.
    """
    if "\0" in path:
        raise UsageError(f"{path!r}: no path has a zero byte")
    if not is_memory(path) and not os.path.isabs(path):
        raise UsageError(f"{path!r}: give the destination by its whole path")
    return path
