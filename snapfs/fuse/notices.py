"""What the kernel is told without having asked: that something it believes is so no longer."""

from __future__ import annotations

from typing import Protocol

import pyfuse3


class Notices(Protocol):
    """Both may block until requests have been served, so they are for worker threads. They raise ``OSError``."""

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """Forget attributes, and pages; what is dirty of these is written first."""

    def forget_name(self, parent: int, name: bytes) -> None:
        """Forget a name in a directory."""


class StockNotices:
    """By pyfuse3, where its own loop serves."""

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """See ``Notices``."""
        pyfuse3.invalidate_inode(node, attr_only=attributes_only)

    def forget_name(self, parent: int, name: bytes) -> None:
        """See ``Notices``."""
        pyfuse3.invalidate_entry(parent, name)
