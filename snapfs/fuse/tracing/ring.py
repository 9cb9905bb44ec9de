"""Who writes a trace: puts records together, and writes them to the ring in the file.

Some records are gathered before they are written: a system call for each would cost as much as all
else of a record. Whoever uses this flushes before the loop sleeps. So a daemon that is killed takes
the last ``GATHERED`` requests with it at most, and if it was doing nothing, none.

The file is written, and not mapped into memory: what is mapped can be cut off under the daemon by
whoever owns the file, which would end the daemon (SIGBUS), and with it the mount.
"""

from __future__ import annotations

import os
from typing import Final

from crc32c import crc32c

from snapfs.fuse.protocol.wire import Piece
from snapfs.fuse.tracing.record import (
    ALIGNMENT,
    CHECKSUM,
    FIXED,
    HAS_DATA,
    HEADER_BYTES,
    IS_CUT,
    RECORD,
    RECORD_MAGIC,
    Header,
)

#: Records that are gathered before they are written, and their bytes, which are less than half of
#: any ring.
GATHERED: Final = 8
_GATHERED_BYTES: Final = 16 << 10

_PADDING: Final = [bytes(number) for number in range(ALIGNMENT)]

# Called for each request: what is looked up here need not be looked up then.
pack_record: Final = RECORD.pack
pack_checksum: Final = CHECKSUM.pack


class Ring:
    """Owns ``descriptor``, a new empty file. Raises ``OSError`` when that cannot have its size."""

    def __init__(self, descriptor: int, header: Header) -> None:
        self._descriptor = descriptor
        self._size = header.size
        self._salt = header.salt
        #: Bytes of a record, at most: whatever is asked, the ring has some requests.
        self._most = header.size >> 2
        #: Bytes of a request that is recorded whole, if it has no long reply.
        self.room = self._most >> 1
        self._position = 0
        # Records that are not written yet, and where the first of them belongs.
        self._gathered: list[bytes] = []
        self._start = 0
        #: Requests that have been recorded.
        self.number = 0
        # Its space is taken now: later the host may have none, and nobody would be told.
        os.posix_fallocate(descriptor, 0, HEADER_BYTES + header.size)
        os.pwrite(descriptor, header.encode(), 0)

    def append(
        self,
        began: float,
        took: float,
        error: int,
        request: Piece,
        request_length: int,
        reply: Piece,
        reply_length: int,
        flags: int = 0,
        checksum: int = 0,
        data_length: int = 0,
    ) -> None:
        """One more record; see ``Record``. Raises as ``flush``.

        ``request`` and ``reply`` are cut where a record would take more than a quarter of the ring.
        """
        kept, reply_kept = len(request), len(reply)
        length = FIXED + kept + reply_kept
        if length > self._most:
            request, reply = request[: self.room], reply[: self._most >> 2]
            flags = flags & ~HAS_DATA | IS_CUT
            kept, reply_kept = len(request), len(reply)
            length = FIXED + kept + reply_kept
        padding = -length & ALIGNMENT - 1
        length += padding
        position = self._position
        start = pack_record(
            RECORD_MAGIC, length, flags, error, position, self.number, began, took,
            kept, request_length, reply_kept, reply_length, checksum, data_length,
        )  # fmt: skip
        record = b"".join((start, request, reply, _PADDING[padding]))
        record += pack_checksum(crc32c(record, self._salt))
        self._gathered.append(record)
        self._position = position + length
        self.number += 1
        gathered = self._position - self._start
        if len(self._gathered) >= GATHERED or gathered > _GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has been gathered. Raises ``OSError``; what was gathered is then lost."""
        if not self._gathered:
            return
        data, offset = b"".join(self._gathered), self._start % self._size
        self._gathered.clear()
        self._start = self._position
        room = self._size - offset
        _write(self._descriptor, data[:room], HEADER_BYTES + offset)
        if len(data) > room:
            _write(self._descriptor, data[room:], HEADER_BYTES)

    def close(self) -> None:
        """Let go of the file. Further calls do nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done
