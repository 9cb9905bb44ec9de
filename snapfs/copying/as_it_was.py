"""The volume as it was when the copy began, for this process: reading it copies what is read."""

from __future__ import annotations

from snapfs.copying.copy import Copy
from snapfs.device.base import Unwritable
from snapfs.errors import DeviceError


class AsItWas(Unwritable):
    """What is read of it, and needed, is copied first: whoever reads everything of a file has it
    copied.
    """

    def __init__(self, copy: Copy) -> None:
        self.path = copy.source.path
        self.size = copy.geometry.size
        self._copy = copy

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        if offset < 0 or offset + length > self.size:
            raise DeviceError(
                f"{self.path}: read of {length} bytes at {offset} is outside the volume"
            )
        size = self._copy.geometry.block_size
        first = offset // size
        data = self._copy.fetch(first, -(-(offset + length) // size) - first)
        return data[offset - first * size :][:length]

    def close(self) -> None:
        """The devices below go on being used."""
