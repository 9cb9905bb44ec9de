"""Set-id bits, which are ours to take away (FUSE_HANDLE_KILLPRIV_V2): which requests do, and whose
bits stay.

The kernel says of a change of content or size whether whoever makes it may keep them. Before a
write that takes them, or capabilities, and for a ``chown`` to the same owner and group, it sends a
change of no attribute at all. What groups somebody is in it never says.
"""

from __future__ import annotations

import stat
from typing import Final

import pyfuse3

from snapfs.filesystem import Inode
from snapfs.fuse.protocol.wire import RequestCaller

#: linux/capability.h
_CAP_FSETID: Final = 4


def keeps_set_id(ctx: pyfuse3.RequestContext | RequestCaller) -> bool:
    """Whether set-id bits survive when this caller changes a file's content: the kernel knows, and
    does not always say.
    """
    told = getattr(ctx, "keeps_set_id", None)
    return ctx.uid == 0 if told is None else bool(told)


def groups_of(ctx: pyfuse3.RequestContext | RequestCaller) -> set[int]:
    """The groups of a caller, as far as can be seen."""
    try:
        return {ctx.gid} | pyfuse3.get_sup_groups(ctx.pid)
    except OSError:  # it is not of our process namespace
        return {ctx.gid}


def keeps_group(
    ctx: pyfuse3.RequestContext | RequestCaller, inode: Inode, gid: int, *, told: bool | None = None
) -> bool:
    """Whether a set-group-ID bit without execution survives a change by this caller; True where
    there is none.

    ``gid`` is the file's group as everybody sees it; ``told`` whether the kernel says that the
    caller may keep set-id bits, if it does.
    """
    if inode.mode & (stat.S_ISGID | stat.S_IXGRP) != stat.S_ISGID:
        return True
    return (is_capable(ctx) if told is None else told) or gid in groups_of(ctx)


def is_capable(ctx: pyfuse3.RequestContext | RequestCaller) -> bool:
    """Has root, as whom somebody comes, CAP_FSETID? Not every root has."""
    if ctx.uid:
        return False
    try:
        with open(f"/proc/{ctx.pid}/status", encoding="ascii", errors="replace") as file:
            words = next((line.split() for line in file if line.startswith("CapEff:")), [])
    except OSError:  # as above
        return True
    return len(words) < 2 or bool(int(words[1], 16) >> _CAP_FSETID & 1)


def loses(inode: Inode, *, in_group: bool) -> int:
    """The set-id bits that a change of content or owner takes from an inode; see ``keeps_group``
    for ``in_group``.
    """
    if inode.is_directory:
        return 0
    group = stat.S_ISGID if inode.mode & stat.S_IXGRP or not in_group else 0
    return inode.mode & (stat.S_ISUID | group)
