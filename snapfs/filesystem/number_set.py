"""A set of inode numbers that takes some bits for each, where Python's takes a hundred bytes: the
kernel may know millions.
"""

from __future__ import annotations

#: Numbers per word: those of files that were made together are neighbours.
_SHIFT = 6
_MASK = (1 << _SHIFT) - 1


class NumberSet:
    """What of ``set[int]`` is needed here."""

    def __init__(self) -> None:
        self._words: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return bool(self._words.get(number >> _SHIFT, 0) >> (number & _MASK) & 1)

    def add(self, number: int) -> None:
        """See ``set``."""
        key = number >> _SHIFT
        self._words[key] = self._words.get(key, 0) | 1 << (number & _MASK)

    def discard(self, number: int) -> None:
        """See ``set``."""
        key = number >> _SHIFT
        left = self._words.get(key, 0) & ~(1 << (number & _MASK))
        if left:
            self._words[key] = left
        else:
            self._words.pop(key, None)
