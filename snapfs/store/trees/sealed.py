"""A sealed generation on its way to the device: the bytes of its blocks, in the order that makes it
safe. It is written away from the event loop, and touches nothing else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.errors import DeviceFull

if TYPE_CHECKING:
    from snapfs.device.base import Device
    from snapfs.device.reserve import HostReserve
    from snapfs.store.space.groups import Waiting

#: Blocks that lie side by side are written together, up to this many bytes.
WRITE_BYTES = 4 << 20


class Sealed:
    """A sealed generation. Its blocks can be read from here while they are being written."""

    def __init__(
        self,
        device: Device,
        block_size: int,
        generation: int,
        blocks: dict[int, bytes],
        superblock: tuple[bytes, tuple[int, ...]],
        waiting: list[Waiting],
    ) -> None:
        self.device = device
        self.block_size = block_size
        self.generation = generation
        self.blocks = blocks
        self.superblock = superblock
        self.waiting = waiting
        #: A flush has failed: nobody knows which writes are on the device, those of file data among
        #: them.
        self.is_unsure = False
        #: What each flush has taken.
        self.flush_seconds: list[float] = []
        self.reserve: HostReserve | None = None

    def write(self) -> None:
        """Write everything, flush, write the superblock and its copy, flush (I8). Blocks; raises
        ``DeviceError``.

        After ``DeviceFull`` it may be called again, unless ``is_unsure``: the same bytes go to the
        same places.
        """
        run: list[bytes] = []
        start = previous = -2
        limit = max(1, WRITE_BYTES // self.block_size)
        for block in sorted(self.blocks):
            if block != previous + 1 or len(run) >= limit:
                self._write_run(start, run)
                start, run = block, []
            run.append(self.blocks[block])
            previous = block
        self._write_run(start, run)
        self._flush()
        data, offsets = self.superblock
        for offset in offsets:
            self._put(offset, data)
        self._flush()
        if self.reserve is not None:
            self.reserve.keep()

    def _flush(self) -> None:
        self.is_unsure = True
        start = time.perf_counter()
        self.device.flush()
        self.flush_seconds.append(time.perf_counter() - start)
        self.is_unsure = False

    def _write_run(self, start: int, run: list[bytes]) -> None:
        if run:
            self._put(start * self.block_size, b"".join(run))

    def _put(self, offset: int, data: bytes) -> None:
        while True:
            try:
                self.device.write(offset, data)
            except DeviceFull:
                if self.reserve is None or not self.reserve.spend():
                    raise
                probes.HOST_RESERVE_SPENT.hit()
            else:
                return
