"""Bringing into memory what the core was interrupted for, while others are served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from snapfs.errors import CorruptBlock
from snapfs.fuse.driving.threads import Pool, in_thread

if TYPE_CHECKING:
    from snapfs.interrupts import Want
    from snapfs.store.commit.volume import Volume


async def fetch(
    volume: Volume, wants: Sequence[Want], *, trusting: bool = True, pool: Pool = Pool.READS
) -> bool:
    """Bring metadata into memory; False when something came that cannot be believed, and the caller
    should look again.

    A thread may read a block that is freed and used again meanwhile, which looks like damage. So
    whoever looks again does so with ``trusting=False``: then the loop itself reads, while nothing
    else happens. Raises ``CorruptBlock``, ``DeviceError``.
    """
    if not wants:
        await trio.lowlevel.checkpoint()  # a long piece of work gives others their turn
    loaded = volume.read_wants_nowait(wants) if trusting else volume.read_wants(wants)
    if loaded is None:
        try:
            # Anything may happen while a thread reads.
            loaded = await in_thread(pool, volume.read_wants, wants)
        except CorruptBlock:
            return False
    volume.admit(loaded)
    return True
