"""All request handlers together, and the end of what the kernel knows: what pyfuse3 is given.

The handlers themselves are in ``names``, ``attribute_requests`` and ``data_requests``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from snapfs.errors import SnapfsError, StaleInode
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.requests.attribute_handlers import AttributeRequests
from snapfs.fuse.requests.data_handlers import DataRequests
from snapfs.fuse.requests.name_handlers import NameRequests

log = logging.getLogger("snapfs.fuse")


class Operations(NameRequests, AttributeRequests, DataRequests):
    """Answers the kernel."""

    def __init__(
        self,
        edge: Edge,
        known: Known,
        numbers: Numbers,
        kernel: MountedKernel,
        options: MountOptions,
        block_size: int,
    ) -> None:
        super().__init__(edge, known, numbers, kernel, options, block_size)
        self.enable_writeback_cache = options.writeback
        self.enable_acl = options.xattr
        kernel.shortage.let_go = self.forget
        #: The kernel has asked its first request, INIT, so that all others are answered, too.
        self.begun = trio.Event()

    def init(self) -> None:
        """INIT is being answered, in the same synchronous stretch."""
        self.begun.set()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """The kernel drops inodes. Nobody waits for this, and nothing may come out of it."""
        self.edge.requests["forget"] += 1
        for node, count in inode_list:
            if self.known.drop(node, count):
                await self.release_inode(node)

    async def release_inode(self, node: int) -> None:
        """Let the core forget an inode, unless the kernel has learned of it again. Frees it if
        nothing else needs it.
        """
        try:
            await self.edge.change(self.release_now, node)
        except StaleInode:
            self.known.released(node)  # with its whole view
        except SnapfsError as exc:
            log.warning(
                "inode %d of view %d is not released: %s", *reversed(self.numbers.split(node)), exc
            )
            self.known.released(node)
        except Exception:
            log.exception("forget: internal error")

    def release_now(self, node: int) -> None:
        """A core call: see ``release_inode``."""
        # While this waited the kernel may have come back.
        if node in self.known:
            return
        if not self.numbers.is_snapdir(node):
            view, ino = self.place(node)
            self.fs.forget(view, ino)
        self.known.released(node)
        self.edge.work_soon()
