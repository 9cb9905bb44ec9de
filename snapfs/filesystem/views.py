"""The views of a volume: the base, and those of snapshots that somebody looks at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from snapfs.errors import NoSuchSnapshot
from snapfs.filesystem.rules import Rules
from snapfs.filesystem.view import InodeCache, View
from snapfs.ids import BASE_VIEW

if TYPE_CHECKING:
    from snapfs.filesystem.inode import Inode
    from snapfs.store.commit.volume import Volume


class Views:
    """What everything that works in several views needs.

    ``refresh``: called before an inode is changed whose trees may not know yet which instances
    preserve them (``coverage``).
    """

    def __init__(self, volume: Volume, refresh: Callable[[Inode], None]) -> None:
        self.volume = volume
        self.now: Callable[[], int] = time.time_ns
        #: The same where a hundredth of a second does not matter, for what is asked at every read.
        self.about_now: Callable[[], int] = lambda: self.now()  # noqa: PLW0108 - whatever it is then
        #: What holds in all snapshots.
        self.rules = Rules()
        self.refresh = refresh
        self._cache = InodeCache()
        self.views: dict[int, View] = {}
        self.base = self.views[BASE_VIEW] = View(volume, self._cache, volume.base_root, refresh)
        #: How far searches for names were that ``NotCached`` interrupted: (view, directory, inode)
        #: -> the hash to go on from (``searching``).
        self.searches: dict[tuple[int, int, int], int] = {}

    def view(self, instance_id: int) -> View:
        """The view of an instance (0: the base). Raises ``NoSuchSnapshot``."""
        instance = self.volume.instances.table.get(instance_id)
        if instance_id != BASE_VIEW and (instance is None or instance.going):
            raise NoSuchSnapshot("the snapshot is gone")
        found = self.views.get(instance_id)
        if found is None and instance is not None:
            found = self.views[instance_id] = View(
                self.volume, self._cache, instance.root, self.refresh, instance, self.rules
            )
        if found is None:
            raise NoSuchSnapshot("the snapshot is gone")
        return found

    def drop_view(self, instance_id: int) -> None:
        """Forget a view, whatever was changed in it since the last commit."""
        if self.views.pop(instance_id, None):
            self._cache.forget_view(instance_id)
