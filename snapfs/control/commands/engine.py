"""What reaches the core: the daemon's ``Edge``, or ``offline.OfflineEngine`` for an image that
nobody has mounted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from snapfs import snapshots
from snapfs.errors import SnapfsError
from snapfs.snapshots import (
    Facts,
    Instance,
    NameInSnapshot,
    Permit,
    RestoreResult,
    SetDeletion,
    Target,
)


class Engine(Protocol):
    """What handlers need. Snapshot operations are durable when they return."""

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core, with whatever it must have fetched or committed first."""

    async def commit(self) -> None:
        """Make everything durable that was changed before. Raises ``DeviceError``, ``ReadOnly``."""

    async def create_snapshot(
        self,
        name: str | None,
        *,
        origin: int | Instance = 0,
        targets: Sequence[Target] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        facts: Facts = snapshots.NO_FACTS,
    ) -> Instance:
        """See ``snapshots.create``."""

    async def settle(self) -> None:
        """Have all that users have written until now on the volume, if it can be written."""

    async def delete_snapshots(
        self, names: Sequence[str], *, permit: Permit = snapshots.anyone
    ) -> SetDeletion:
        """See ``snapshots.delete_set``."""

    async def rename_snapshot(
        self, name: str, new_name: str, *, permit: Permit = snapshots.anyone
    ) -> Any:
        """See ``snapshots.rename``."""

    async def change_facts(
        self, name: str, change: Callable[[Facts], Facts], *, permit: Permit = snapshots.anyone
    ) -> Instance:
        """See ``snapshots.change_facts``."""

    async def restore(
        self,
        name: str,
        *,
        paths: Sequence[str] = (),
        owner: int = 0,
        permit: Permit = snapshots.anyone,
        detach: bool = False,
    ) -> RestoreResult:
        """See ``snapshots.restore.whole``; ``detach``: although something is mounted inside."""

    async def arrange(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of the core that changes what is planned, and nothing that shows; durable
        when it returns.
        """

    async def purge(
        self, places: Sequence[NameInSnapshot], *, permit: Permit = snapshots.anyone
    ) -> list[NameInSnapshot]:
        """See ``snapshots.take_out``; what can be large is freed in the background."""

    async def at_rest(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function that never waits when all that was written before is durable, and nothing
        else is going on.
        """

    async def work(self) -> bool:
        """One step of background work; True while there is more."""


async def settle(engine: Engine) -> None:
    """Have on the volume what users have written until now. Of a volume that cannot be written, the
    figures are those of what there is.
    """
    with contextlib.suppress(SnapfsError):
        await engine.settle()
