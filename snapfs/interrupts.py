"""What the core raises to ask its driver for something, before it has changed anything (plan,
fetch, apply). Control flow: no user ever sees one.

::

    Interrupt
    ├── NotCached        blocks are needed in memory
    ├── NotReady         blocks are needed that a running copy has to copy first
    └── CommitNeeded     blocks are needed that only a commit gives back
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Want(NamedTuple):
    """A block that is needed in memory; ``kind`` says how to decode it. For a group, ``block`` is
    its number.
    """

    kind: str
    block: int
    checksum: int


class Interrupt(Exception):
    """Base of these. Nothing has been changed when one is raised."""


class NotCached(Interrupt):
    """These are needed in memory: fetch them, admit them, and call again."""

    def __init__(self, wants: Sequence[Want]) -> None:
        super().__init__(wants)
        self.wants = wants


class NotReady(Interrupt):
    """Writing these runs, (offset, length) on the device, has to wait for another device: have it
    made ready, and call again.
    """

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        super().__init__(runs)
        self.runs = runs


class CommitNeeded(Interrupt):
    """Blocks wait for a commit before they can be used again, and are needed: commit and call
    again.
    """
