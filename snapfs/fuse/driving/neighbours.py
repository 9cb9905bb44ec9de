"""Whom the edge needs, and what of them: the kernel, and whoever finds space; and those who are
there when nobody else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from snapfs.fuse.driving.mounted_inside import Inside
from snapfs.snapshots import NameInSnapshot, RestoreResult

#: As the size of a file: the kernel need not be told one, it only has to look at the inode again.
LOOK_AGAIN: Final = -1


@dataclass(slots=True)
class Outdated:
    """``expired``: names that lead elsewhere, to nothing, or to something at last. ``forgotten``:
    names of regular files that differ.

    ``nodes``: inodes of which attributes, pages and ACLs are to be forgotten. ``renewed``: inodes
    that the kernel must take for others, or whose size and time of change (ns) it believes to know
    better, with what these are.
    """

    expired: set[tuple[int, bytes]] = field(default_factory=set)
    forgotten: set[tuple[int, bytes]] = field(default_factory=set)
    nodes: list[int] = field(default_factory=list)
    renewed: dict[int, tuple[int, int]] = field(default_factory=dict)


class Kernel(Protocol):
    """What the edge needs of the kernel (``kernel.MountedKernel``)."""

    async def flush(self, view_ids: Collection[int] | None = None) -> None:
        """Have the kernel send the writes to these views (None: all) that it holds back, and wait
        until they are done.
        """

    def paused(
        self, view_ids: Collection[int] | None
    ) -> AbstractAsyncContextManager[Callable[[], None]]:
        """The same, and let nobody begin to write until the context ends, or what it gives is
        called.
        """

    async def view_ended(self, view_id: int, *, asked_by: int | None) -> None:
        """A snapshot is gone: let go of everything in it. ``asked_by``: the ``.snap`` whose request
        caused it, if one did.
        """

    async def view_renamed(self, view_id: int, *, asked_by: int | None) -> None:
        """A snapshot has another name: the one that the kernel was shown is wrong."""

    async def mounted_inside(self) -> list[Inside]:
        """What is mounted on directories and files of the base."""

    async def carriers(self, view_ids: Collection[int], *, is_used: bool) -> dict[int, str]:
        """Those of these views, of snapshots, in which something is mounted, and where.

        ``is_used``: the kernel knows the top of each, if only because it asks.
        """

    def came_back(self, result: RestoreResult) -> None:
        """The base has changed under the kernel, in this synchronous stretch."""

    async def outdated(self, result: RestoreResult) -> Outdated:
        """What it believes that is wrong now; nothing changes the base meanwhile. Raises what
        reading the volume raises.
        """

    async def restored(self, found: Outdated | None) -> None:
        """Have it believe that no longer (None: all that it could believe), and wait until it does
        not. Requests are served meanwhile.
        """

    async def purged(self, places: Collection[NameInSnapshot]) -> None:
        """These names are gone, with all that was below them."""


class NoKernel:
    """For an edge without a mount: tests, and the time before and after."""

    async def flush(self, view_ids: Collection[int] | None = None) -> None:
        """Nobody holds writes back."""

    def paused(
        self,
        view_ids: Collection[int] | None,  # noqa: ARG002 - whichever
    ) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Nobody writes."""
        return nullcontext(lambda: None)

    async def view_ended(self, view_id: int, *, asked_by: int | None) -> None:
        """Nobody knows the view."""

    async def view_renamed(self, view_id: int, *, asked_by: int | None) -> None:
        """As ``view_ended``."""

    async def mounted_inside(self) -> list[Inside]:
        """Nothing is."""
        return []

    async def carriers(
        self,
        view_ids: Collection[int],  # noqa: ARG002 - whichever
        *,
        is_used: bool,  # noqa: ARG002 - it does not
    ) -> dict[int, str]:
        """None."""
        return {}

    def came_back(self, result: RestoreResult) -> None:
        """Nobody has anything in use."""

    async def outdated(self, result: RestoreResult) -> Outdated:  # noqa: ARG002 - whichever
        """Nobody believes anything."""
        return Outdated()

    async def restored(self, found: Outdated | None) -> None:
        """Nobody remembers anything."""

    async def purged(self, places: Collection[NameInSnapshot]) -> None:
        """As ``restored``."""


class Room(Protocol):
    """Who finds space when there is none left (``autodelete.AutoDelete``)."""

    def soon(self) -> None:
        """The background has done all that it had to do: there may be too little space."""

    async def make(self) -> bool:
        """A change found no space. Whether there may be more when it is tried again."""


class NoRoom:
    """Nobody does."""

    def soon(self) -> None:
        """That is how it stays."""

    async def make(self) -> bool:
        """There will not be."""
        return False
