"""What all request handlers share: the way from the kernel's numbers to the core and back, and from
exceptions to errno.

A handler is a coroutine that answers one request. Which requests there are and what they mean is in
the modules that import this.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3

from snapfs.errors import NoSuchSnapshot, ReadOnly, SnapfsError, StaleInode
from snapfs.filesystem import Filesystem, Inode, View
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol.errno import errno_of, is_trouble
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.protocol.wire import RequestCaller
from snapfs.fuse.requests.attributes import Attributes
from snapfs.fuse.requests.passage import Passage
from snapfs.fuse.requests.set_id import keeps_group
from snapfs.fuse.requests.trouble import Trouble
from snapfs.ids import BASE_VIEW

#: Requests whose answer gives the kernel an inode, which it counts.
_MAKING: Final = frozenset({"mknod", "mkdir", "symlink", "create", "link"})

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")


def handler(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Count the request, and let nothing but an errno out of it: anything
    else would end the mount.
    """
    name = function.__name__

    @functools.wraps(function)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        requests = cast("Requests", args[0])
        edge = requests.edge
        edge.requests[name] = edge.requests.get(name, 0) + 1
        edge.in_progress += 1
        try:
            result = await function(*args, **kwargs)
            if name in requests.stored_at_once:
                try:
                    await edge.commits.sync()
                except BaseException:
                    await requests.not_told(name, result)
                    raise
            return result
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            raise await requests.refusal(name, args[1:], exc) from exc
        finally:
            edge.in_progress -= 1

    return answer


class Requests(pyfuse3.Operations):
    """Base of the handlers' classes, each of which adds requests of one kind."""

    supports_dot_lookup = True

    def __init__(
        self,
        edge: Edge,
        known: Known,
        numbers: Numbers,
        kernel: MountedKernel,
        options: MountOptions,
        block_size: int,
    ) -> None:
        super().__init__()
        self.edge = edge
        self.fs: Filesystem = edge.fs
        self.known = known
        self.numbers = numbers
        self.kernel = kernel
        self.trouble = Trouble(edge, numbers)
        self.options = options
        self.stored_at_once = options.stored_at_once
        self.attributes = Attributes(
            options, block_size, kernel.pause, known.replaced, numbers.root_view
        )
        kernel.generation = self.attributes.generation
        self.passage = Passage(self.fs, self.attributes)
        self.snapdir_name = kernel.snapdir = options.snapdir.encode(errors="surrogateescape")

    async def refusal(
        self, name: str, arguments: tuple[object, ...], exc: Exception
    ) -> pyfuse3.FUSEError:
        """What a request is answered with that ended with an exception; what
        is worth it is logged.
        """
        what = await self.trouble.words(name, arguments, exc) if is_trouble(exc) else name
        return pyfuse3.FUSEError(errno_of(exc, what))

    async def fail(self, name: str, node: int, exc: Exception) -> None:
        """Answer a request with what an exception means."""
        raise await self.refusal(name, (node,), exc) from exc

    async def not_told(self, name: str, result: object) -> None:
        """The kernel is not given what a request has made, and never gives it back."""
        made, entry = result if isinstance(result, tuple) else (None, result)
        if made is not None:
            self.known.closed(made.fh)
        if name in _MAKING and isinstance(entry, pyfuse3.EntryAttributes):
            await self.forget([(entry.st_ino, 1)])

    def view(self, view_id: int) -> View:
        """A view that the kernel has a number of. Raises ``StaleInode`` when it is gone."""
        if view_id == BASE_VIEW:
            return self.fs.base
        try:
            return self.fs.view(view_id)
        except NoSuchSnapshot as exc:
            raise StaleInode(str(exc)) from exc

    def place(self, node: int) -> tuple[View, int]:
        """View and inode number. Raises ``ReadOnly`` for a ``.snap`` directory: it has no inode
        that could take part in anything.
        """
        if self.numbers.is_snapdir(node):
            raise ReadOnly(
                "in this directory snapshots are made, renamed and deleted, and nothing else"
            )
        view_id, ino = self.numbers.split(node)
        return self.view(view_id), ino

    async def at(
        self,
        function: Callable[Concatenate[View, int, Q], T],
        node: int,
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T:
        """Run a core function on the view and inode of ``node``; see ``Edge.call``."""
        return await self.edge.call(self._at, function, node, *args, **kwargs)

    async def change_at(
        self,
        function: Callable[Concatenate[View, int, Q], T],
        node: int,
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T:
        """The same for one that changes something; see ``Edge.change``."""
        return await self.edge.change(self._at, function, node, *args, **kwargs)

    def _at(
        self,
        function: Callable[Concatenate[View, int, Q], T],
        node: int,
        /,
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> T:
        # In every attempt anew: while one waits the view may go away.
        view, ino = self.place(node)
        return function(view, ino, *args, **kwargs)

    async def keeps_group(
        self, node: int, ctx: pyfuse3.RequestContext | RequestCaller, *, told: bool | None = None
    ) -> bool:
        """See ``set_id.keeps_group``."""
        inode = await self.at(self.fs.inode, node)
        return keeps_group(ctx, inode, self.attributes.permissions(inode)[2], told=told)

    async def accessed(self, node: int) -> None:
        """Renew an access time where that is due. Not worth failing for, nor waiting for a snapshot
        that is being made.
        """
        if (
            self.fs.atime == "relatime"
            and self.numbers.view_of(node) == BASE_VIEW
            and not self.edge.gate.is_closed
        ):
            with contextlib.suppress(SnapfsError):
                await self.change_at(self.fs.touch_atime, node)

    def learned(self, parent: int, name: bytes, inode: Inode) -> pyfuse3.EntryAttributes:
        """What to reply with when the kernel learns of an inode of the same view as ``parent`` by
        its name.

        To be called in the synchronous stretch in which the core gave the inode.
        """
        view_id, _ = self.numbers.split(parent)
        node = self.numbers.node(view_id, inode.ino)
        self.known.add(node)
        self.known.name(node, inode.mode, parent, name)
        return self.attributes.entry(node, inode)

    def unlinked(self, view_id: int, inode: Inode, parent: int, name: bytes) -> None:
        """A name of an inode is gone, perhaps the last."""
        if inode.nlink:
            self.known.unname(self.numbers.node(view_id, inode.ino), parent, name)
        if inode.nlink == 0:
            node = self.numbers.node(view_id, inode.ino)
            self.known.unlinked(node, inode.mode)
            self.kernel.shortage.unlinked(node)
            self.edge.work_soon()
