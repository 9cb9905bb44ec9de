"""Listing directories: rows of names with attributes, in the order of cookies that stay valid while
entries come and go.

The kernel always wants attributes with the names (READDIRPLUS), which saves it a lookup for each;
every entry that it accepts counts as one.
"""

from __future__ import annotations

import stat
from typing import Final, NamedTuple

from snapfs.errors import CorruptBlock, StaleInode
from snapfs.filesystem import Filesystem, Inode, View
from snapfs.fuse.kernel.pause import VALID
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.interrupts import NotCached, Want

#: Cookies of what every listing begins with; the core's come after them.
DOT_COOKIE: Final = 1
DOTDOT_COOKIE: Final = 2
SNAPDIR_COOKIE: Final = 3
FIRST_COOKIE: Final = 3

#: Entries that are fetched at a time. A listing with default buffers takes about 190 of them.
CHUNK: Final = 64


class Row(NamedTuple):
    """One entry: its name, the kernel's number and the inode of what it leads to, the cookie that
    stands after it, how long it lasts.
    """

    name: bytes
    node: int
    inode: Inode
    cookie: int
    valid: float = VALID


def first_rows(node: int, mode: int, parent: int, after: int) -> list[tuple[bytes, int, int, int]]:
    """``.`` and ``..`` as (name, number, mode, cookie), as far as they come after the cookie
    ``after``.
    """
    rows = ((b".", node, mode, DOT_COOKIE), (b"..", parent, stat.S_IFDIR, DOTDOT_COOKIE))
    return [row for row in rows if row[3] > after]


def rows(fs: Filesystem, numbers: Numbers, view: View, ino: int, after: int) -> list[Row]:
    """The next rows of a directory after a cookie, empty at the end. Raises ``NotCached`` for all
    that is missing at once.
    """
    found: list[Row] = []
    wants: list[Want] = []
    for entry in fs.entries(view, ino, max(0, after - FIRST_COOKIE), CHUNK):
        try:
            inode = fs.inode(view, entry.ino)
        except NotCached as exc:
            wants += exc.wants
            continue
        except StaleInode as exc:
            raise CorruptBlock(
                f"directory {ino}: a name leads to inode {entry.ino}, which does not exist"
            ) from exc
        found.append(
            Row(entry.name, numbers.node(view.id, entry.ino), inode, entry.cookie + FIRST_COOKIE)
        )
    if wants:
        raise NotCached(wants)
    return found
