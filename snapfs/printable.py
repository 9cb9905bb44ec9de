"""Text that can be shown: one line, whatever names from an image hold, in whatever encoding it is written.

The one place that decides this, for commands, logs and messages. What a terminal would obey (control characters), what changes the order
in which the rest is shown (bidi), what looks like nothing or like a new line, bytes that are not UTF-8 and what an encoding lacks are
written as Python would. JSON is not for showing: it has all of them as they are.
"""

from __future__ import annotations


def printable(text: str, encoding: str | None = None) -> str:
    """The text as it can be shown by what is written in ``encoding`` (None: in one that has everything). Doing it twice changes nothing."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return shown if encoding is None else shown.encode(encoding, "backslashreplace").decode(encoding)
