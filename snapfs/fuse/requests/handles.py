"""File handles: the way of who comes by one (open_by_handle_at(2), NFS export), and not by a path.

The kernel keeps no names of what nobody has used lately. For a file it asks for ``.``. For a
directory it goes on to ``..``, lists that directory to find a name with the number that it came
from, and so on up to the root. Listings hide ``.snap``, and the root of a view is nowhere below the
root of another: so above the directory that ``.snap/NAME`` leads to is that ``.snap``, and the
process that was just told what is above a ``.snap`` is shown it by the next listing there.
"""

from __future__ import annotations

from typing import Any, Final

import pyfuse3

from snapfs import snapshots
from snapfs.blocks.inode import FLAG_LINKED
from snapfs.errors import NoSuchSnapshot, StaleInode
from snapfs.filesystem import Inode
from snapfs.fuse.requests.snapdir import SnapdirRequests

#: Climbing processes that are remembered. Each opens the directory at once, so there are never more
#: than run at a time.
_CLIMBERS: Final = 256


class HandleRequests(SnapdirRequests):
    """See the module."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._climbers: dict[int, int] = {}

    async def relative(
        self, node: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """``.`` or ``..`` of an inode. Raises ``StaleInode`` for what was deleted, though somebody
        may still use it.
        """
        if self.numbers.is_snapdir(node):
            covered = self.numbers.covered(node)
            if name == b".":
                return await self.enter_snapdir(covered)
            entry = await self._itself(covered)
            self._remember(ctx.pid, covered)
            return entry
        if name == b".":
            return await self._itself(node)
        view_id, ino = self.numbers.split(node)
        if view_id != self.numbers.root_view:
            origin = await self.edge.call(self._origin, node)
            if origin is not None:
                return await self.enter_snapdir(self.numbers.node(origin, ino))
        return self._found(view_id, await self.at(self.fs.lookup, node, b".."))

    def climbs(self, pid: int, node: int) -> bool:
        """Is this process looking for the ``.snap`` of a directory, which it is about to list? It
        is asked about once.
        """
        return self._climbers.pop(pid, None) == node

    def _remember(self, pid: int, node: int) -> None:
        if len(self._climbers) >= _CLIMBERS:
            # whoever is forgotten gets ESTALE, as for a directory that is gone
            self._climbers.clear()
        self._climbers[pid] = node

    async def _itself(self, node: int) -> pyfuse3.EntryAttributes:
        return self._found(self.numbers.split(node)[0], await self.edge.call(self._existing, node))

    def _found(self, view_id: int, inode: Inode) -> pyfuse3.EntryAttributes:
        node = self.numbers.node(view_id, inode.ino)
        self.known.add(node)
        return self.attributes.entry(node, inode)

    # --- core calls ---

    def _existing(self, node: int) -> Inode:
        view, ino = self.place(node)
        inode = self.fs.inode(view, ino)
        directory = ino if inode.is_directory else inode.parent
        is_emptied = self.fs.orphans.is_emptying(view.id) and (
            inode.is_directory or not inode.flags & FLAG_LINKED
        )
        if not inode.nlink or (is_emptied and snapshots.is_cut_off(view, directory)):
            raise StaleInode(f"inode {ino} was deleted")
        return inode

    def _origin(self, node: int) -> int | None:
        """The view in whose ``.snap`` this directory of a snapshot is; None where it is in another
        directory of the snapshot.
        """
        view, ino = self.place(node)
        if view.instance is None or ino not in view.instance.tops:
            return None
        origin = self.view(view.instance.origin)
        try:
            snapshots.find(self.fs, origin, ino, view.instance.name.encode())
        except NoSuchSnapshot as exc:
            raise StaleInode("no path leads to it any more") from exc
        return origin.id
