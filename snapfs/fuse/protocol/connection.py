"""The connection to the kernel of one mount: its descriptor, on which requests arrive, and replies
and notifications leave.

Looks for the next request for a moment before it lets the loop sleep: waking a sleeping process
costs more than most requests do.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Final

import trio

from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.wire import Piece

#: Seconds to look for the next request before sleeping.
PATIENCE: Final = 100e-6

#: Seconds after which other tasks get their turn, although there are requests.
TURN: Final = 2e-3

#: Buffers that are kept for requests that wait.
_SPARE: Final = 4

#: What reading ends with when a request was taken back, and when the mount has ended.
_TAKEN_BACK: Final = (errno.ENOENT, errno.EINTR, errno.EAGAIN)
_ENDED: Final = (errno.ENODEV, errno.EBADF)

log = logging.getLogger("snapfs.fuse")


class Connection:
    """``is_busy`` tells whether tasks of the loop have something to do now: then nobody looks,
    everybody sleeps.

    The same on a single processor, where looking keeps away whoever would send a request, and with
    ``polling`` off.
    """

    def __init__(
        self, descriptor: int, is_busy: Callable[[], bool], *, polling: bool = True
    ) -> None:
        self._descriptor = descriptor
        # What was to be read may be gone when it is read: whoever asked was killed.
        os.set_blocking(descriptor, False)
        self._is_busy = is_busy
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._patience = PATIENCE if polling and len(os.sched_getaffinity(0)) > 1 else 0.0
        self._turn_ends = 0.0
        self._is_interrupted = False
        #: When it was seen that the request in ``buffer`` is there (``time.perf_counter``).
        self.arrived = 0.0
        self._spare: list[bytearray] = []
        self.buffer = bytearray(wire.HEAD_ROOM + wire.MAX_WRITE)

    async def receive(self, now: float) -> int:
        """The next request is in ``buffer``: its length; 0 when the mount has ended.

        ``now``: the time, which the caller has just looked at, by ``time.perf_counter``.
        """
        while True:
            if self._is_interrupted or not await self._is_there(now):
                return 0
            try:
                return os.readv(self._descriptor, [self.buffer])
            except OSError as exc:
                if exc.errno in _ENDED:
                    return 0
                if exc.errno not in _TAKEN_BACK:
                    raise
            now = time.perf_counter()

    async def _is_there(self, now: float) -> bool:
        clock = time.perf_counter
        if now < self._turn_ends:
            poll = self._poll.poll
            if poll(0):
                self.arrived = now
                return True
            if self._patience and not self._is_busy():
                limit = now + self._patience
                while (now := clock()) < limit:
                    if poll(0):
                        self.arrived = now
                        return True
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except trio.ClosedResourceError:
            return False
        self.arrived = clock()
        self._turn_ends = self.arrived + TURN
        return True

    def interrupt(self) -> None:
        """End ``receive``, as if the mount had ended."""
        self._is_interrupted = True
        trio.lowlevel.notify_closing(self._descriptor)

    def close(self) -> None:
        """The descriptor is about to be closed: its number may soon be another file's."""
        self._descriptor = -1

    def keep_buffer(self) -> None:
        """The request in ``buffer`` is not done with: it keeps the buffer
        until that is given back.
        """
        self.buffer = self._spare.pop() if self._spare else bytearray(len(self.buffer))

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks into it any more."""
        if len(self._spare) < _SPARE:
            self._spare.append(buffer)

    def send(self, pieces: list[Piece]) -> None:
        """A whole reply, its header first. Where the kernel does not take it, whoever asked gets
        EIO, or he would wait for ever.
        """
        try:
            os.writev(self._descriptor, pieces)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, *_ENDED):
                log.error("the kernel does not take an answer: %s", exc)  # noqa: TRY400 - where it was sent says nothing
                _, error, unique = wire.OUT_HEADER.unpack_from(pieces[0])
                if not error:
                    self.send(wire.refusal(unique, errno.EIO))

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """Have the kernel forget attributes, and pages. Blocks until what is dirty of them is
        written. Raises ``OSError``.
        """
        self._notify(
            wire.NOTIFY_INVAL_INODE,
            wire.INVAL_INODE_OUT.pack(node, -1 if attributes_only else 0, 0),
        )

    def forget_name(self, parent: int, name: bytes) -> None:
        """Have the kernel forget a name. Blocks while a request has the directory locked. Raises
        ``OSError``.
        """
        self._notify(
            wire.NOTIFY_INVAL_ENTRY, wire.INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
        )

    def expire_name(self, parent: int, name: bytes) -> None:
        """Have the kernel look a name up again. An older one forgets it. Blocks as ``forget_name``.
        Raises ``OSError``.
        """
        self._notify(
            wire.NOTIFY_INVAL_ENTRY,
            wire.INVAL_ENTRY_OUT.pack(parent, len(name), wire.EXPIRE_ONLY) + name + b"\0",
        )

    def expire_all(self) -> None:
        """Have the kernel look every name up again. Raises ``OSError``, EINVAL where the kernel
        cannot (before Linux 6.16).
        """
        self._notify(wire.NOTIFY_INC_EPOCH, b"")

    def prune(self, nodes: list[int]) -> None:
        """Have the kernel let go of inodes that nobody uses. Raises ``OSError``, EINVAL where the
        kernel cannot (before Linux 6.18).
        """
        self._notify(
            wire.NOTIFY_PRUNE,
            wire.PRUNE_OUT.pack(len(nodes), 0, 0) + struct.pack(f"<{len(nodes)}Q", *nodes),
        )

    def _notify(self, code: int, data: bytes) -> None:
        os.write(
            self._descriptor, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(data), code, 0) + data
        )
