"""How fast users make snapshots: each may make some at once, and then one now and then (see also
``snapshots.shares``).

A program that has gone wrong, or means ill, otherwise makes thousands in a minute, each of which is
a commit that others wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from snapfs.errors import SnapshotBusy

#: Snapshots that a user may make at once, and seconds until there may be one more.
AT_ONCE: Final = 100
SECONDS: Final = 1.0


class Allowance:
    """Of each user what is left. ``clock`` counts seconds, and is never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}  # when a user has all again

    def take(self, user: int) -> None:
        """The user makes a snapshot. Raises ``SnapshotBusy`` for one who has nothing left."""
        now = self._clock()
        until = max(self._until.get(user, now), now) + SECONDS
        if until - now > AT_ONCE * SECONDS:
            raise SnapshotBusy(
                f"user {user} has made {AT_ONCE} snapshots just now, and may make one "
                f"more every {SECONDS:g} s: try again"
            )
        if len(self._until) > AT_ONCE:
            self._until = {one: when for one, when in self._until.items() if when > now}
        self._until[user] = until
