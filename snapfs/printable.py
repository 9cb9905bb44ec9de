"""Text that can be shown: one line, whatever names from an image hold, in whatever encoding it is
written.

The one place that decides this, for commands, logs and messages. What a terminal would obey
(control characters), what changes the order in which the rest is shown (bidi), what looks like
nothing or like a new line, bytes that are not UTF-8 and what an encoding lacks are written as
Python would. JSON is not for showing: it has all of them as they are.
"""

from __future__ import annotations

import shlex
from typing import Final

#: Bytes that stand for themselves in a shell's ``$'...'``: all of ASCII that can be shown but the
#: quote and the backslash.
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {0x27, 0x5C}


def printable(text: str, encoding: str | None = None) -> str:
    """The text as it can be shown by what is written in ``encoding`` (None: in one that has
    everything). Doing it twice changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return (
        shown if encoding is None else shown.encode(encoding, "backslashreplace").decode(encoding)
    )


def quoted(text: str, encoding: str | None = None) -> str:
    """The text as one word of a command that can be copied into a shell, whatever it holds: as
    ``$'...'`` where it cannot be shown.
    """
    if printable(text, encoding) == text:
        return shlex.quote(text)
    return (
        "$'"
        + "".join(
            chr(byte) if byte in _PLAIN else f"\\x{byte:02x}"
            for byte in text.encode("utf-8", "surrogateescape")
        )
        + "'"
    )
