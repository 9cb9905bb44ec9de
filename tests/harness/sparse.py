"""A device in memory that keeps only the pages that were written, and shares them with its copies.

A copy costs a dictionary of pages instead of the whole volume, and two devices are compared page by
page, by identity where they share one. ``WatchedDevice`` notes in addition which pages were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from snapfs.device.base import Buffer, SoleUse
from snapfs.errors import DeviceError

PAGE: Final = 4096

_ZEROS: Final = bytes(PAGE)

#: What a discarded range reads as: not the zeros that most devices have there.
GARBAGE: Final = b"\xdb"


#: Bytes that are discarded at once.
_PIECE: Final = 1 << 20


class SparseDevice(SoleUse):
    """``size`` bytes. ``pages`` has no page of zeros, so equal devices have equal pages."""

    def __init__(
        self, size: int, path: str = "mem:", pages: Mapping[int, bytes] | None = None
    ) -> None:
        self.path = path
        self.size = size
        self.read_only = False
        self.pages: dict[int, bytes] = dict(pages or {})
        self._last = _ZEROS

    def copy(self) -> SparseDevice:
        """Another device with the same content and path."""
        return SparseDevice(self.size, self.path, self.pages)

    def become(self, other: SparseDevice) -> None:
        """Have the content of another device."""
        self.size, self.pages = other.size, dict(other.pages)

    def image(self) -> bytes:
        """All bytes of the device: for small ones."""
        return self.read(0, self.size)

    def _page(self, number: int) -> bytes:
        return self.pages.get(number, _ZEROS)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        if offset < 0 or offset + length > self.size:
            raise DeviceError(
                f"{self.path}: read of {length} bytes at {offset} is outside the device"
            )
        number, start = divmod(offset, PAGE)
        if start + length <= PAGE:
            return self._page(number)[start : start + length]
        last = (offset + length - 1) // PAGE
        joined = b"".join([self._page(each) for each in range(number, last + 1)])
        return joined if len(joined) == length else joined[start : start + length]

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Memory never blocks."""
        return self.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``."""
        content = bytes(data)
        if offset < 0 or offset + len(content) > self.size:
            raise DeviceError(
                f"{self.path}: write of {len(content)} bytes at {offset} is outside the device"
            )
        at = 0
        while at < len(content):
            number, start = divmod(offset + at, PAGE)
            piece = content[at : at + PAGE - start]
            at += len(piece)
            if len(piece) < PAGE:
                old = self._page(number)
                piece = old[:start] + piece + old[start + len(piece) :]
            self._put(number, piece)

    def _put(self, number: int, page: bytes) -> None:
        if page == _ZEROS:
            self.pages.pop(number, None)
            return
        if page == self._last:  # what is written a thousand times is kept once
            page = self._last
        self._last = self.pages[number] = page

    def flip(self, offset: int, mask: int = 1) -> None:
        """Invert bits of one byte, as a medium may."""
        self.write(offset, bytes([self.read(offset, 1)[0] ^ mask]))

    def flush(self) -> None:
        """Nothing is more durable than the memory itself."""

    def discard(self, offset: int, length: int) -> None:
        """See ``Device.discard``."""
        for start in range(offset, offset + length, _PIECE):
            self.write(start, GARBAGE * min(_PIECE, offset + length - start))

    def close(self) -> None:
        """Keep the bytes: a test may open them again."""


class WatchedDevice(SparseDevice):
    """Begins with the content of another device, and notes each page of that which is read.

    Pages that were written before they were read are none of it. Its copies note what they read in
    the same place. ``seen``: page -> content; its order is that of the first reads.
    """

    def __init__(self, other: SparseDevice) -> None:
        super().__init__(other.size, other.path, other.pages)
        self.seen: dict[int, bytes] = {}
        self._written: set[int] = set()

    def copy(self) -> SparseDevice:
        """Another device with the same content, whose reads are noted here as well."""
        other = WatchedDevice(self)
        other.seen, other._written = self.seen, set(self._written)
        return other

    def become(self, other: SparseDevice) -> None:
        """Not to be used: what is read afterwards says nothing about what the device began with."""
        raise NotImplementedError

    def _page(self, number: int) -> bytes:
        page = self.pages.get(number, _ZEROS)
        if number not in self._written:
            self.seen.setdefault(number, page)
        return page

    def _put(self, number: int, page: bytes) -> None:
        self._written.add(number)
        super()._put(number, page)


def is_alike(seen: Mapping[int, bytes], device: SparseDevice) -> bool:
    """Whoever has read this of one device would read the same of another one."""
    pages = device.pages
    return all(pages.get(number, _ZEROS) == page for number, page in seen.items())
