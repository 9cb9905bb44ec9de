"""Paths in the volume as commands give them: text, with lone surrogates for bytes that are not
UTF-8. Inside they are bytes.
"""

from __future__ import annotations

from typing import Final

from snapfs.errors import UsageError

#: How names travel: as UTF-8, whatever the locale of either side.
CODING: Final = ("utf-8", "surrogateescape")


def path_bytes(path: str) -> bytes:
    """A path in the volume, without slashes at its ends; empty for the
    root. Raises ``UsageError``.
    """
    try:
        names = [name for name in path.encode(*CODING).split(b"/") if name not in (b"", b".")]
    except UnicodeEncodeError:
        raise UsageError("a path has a character that no name has") from None
    if any(b"\0" in name for name in names):
        raise UsageError(f"{path!r}: no name has a zero byte")
    if b".." in names:
        raise UsageError(f"{path}: '..' has no place in a path of the volume")
    return b"/".join(names)


def path_text(path: bytes) -> str:
    """The same as commands are told it, with a slash before it."""
    return "/" + path.decode(*CODING)
