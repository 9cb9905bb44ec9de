"""What the kernel is told without having asked: that something it believes is so no longer."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from typing import Final, Protocol

import pyfuse3

log = logging.getLogger("snapfs.fuse")

#: What a notification ends with when there is nothing to forget.
_HARMLESS: Final = (errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.ENOTDIR, errno.EBADF)


class Notices(Protocol):
    """Both may block until requests have been served, so they are for worker threads. They raise
    ``OSError``.
    """

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """Forget attributes, and pages; what is dirty of these is written first."""

    def forget_name(self, parent: int, name: bytes) -> None:
        """Forget a name in a directory. What is mounted there, or below, is detached."""

    def expire_name(self, parent: int, name: bytes) -> None:
        """Look a name up again. Only if it leads elsewhere, or nowhere, it is forgotten as by
        ``forget_name``.
        """

    def prune(self, nodes: list[int]) -> None:
        """Let go of inodes that nobody uses. EINVAL where that is unknown."""

    def expire_all(self) -> None:
        """Look all names up again: those in use are forgotten on the way, with what is mounted
        below. EINVAL where that is unknown.
        """


class StockNotices:
    """By pyfuse3, where its own loop serves."""

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """See ``Notices``."""
        pyfuse3.invalidate_inode(node, attr_only=attributes_only)

    def forget_name(self, parent: int, name: bytes) -> None:
        """See ``Notices``."""
        pyfuse3.invalidate_entry(parent, name)

    def expire_name(self, parent: int, name: bytes) -> None:
        """See ``Notices``. pyfuse3 has no word for it: the name is forgotten."""
        self.forget_name(parent, name)

    def prune(self, nodes: list[int]) -> None:  # noqa: ARG002 - of whatever
        """See ``Notices``. pyfuse3 has no word for it."""
        raise OSError(errno.EINVAL, "this kernel lets go of inodes when it likes")

    def expire_all(self) -> None:
        """See ``Notices``. pyfuse3 has no word for it."""
        raise OSError(errno.EINVAL, "this kernel looks names up again one by one only")


def forget_names(notices: Notices, places: Iterable[tuple[int, bytes]]) -> None:
    """Forget names in directories; what goes wrong is logged."""
    for parent, name in places:
        try:
            notices.forget_name(parent, name)
        except OSError as exc:
            _not_forgotten(exc)


def expire_names(notices: Notices, places: Iterable[tuple[int, bytes]]) -> None:
    """Have names in directories looked up again; what goes wrong is logged."""
    for parent, name in places:
        try:
            notices.expire_name(parent, name)
        except OSError as exc:
            _not_forgotten(exc)


def forget_inodes(notices: Notices, nodes: Iterable[int], *, attributes_only: bool) -> None:
    """Forget attributes, and pages; what goes wrong is logged."""
    for node in nodes:
        try:
            notices.forget_inode(node, attributes_only=attributes_only)
        except OSError as exc:
            _not_forgotten(exc)


def _not_forgotten(exc: OSError) -> None:
    # What the kernel does not know it need not forget; and a mount that has ended knows nothing.
    if exc.errno not in _HARMLESS:
        log.warning("the kernel does not forget: %s", exc)
