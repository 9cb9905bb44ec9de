"""Finding the name that a directory has for an inode: a search, because directories are in the
order of hashes of names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs.filesystem.names import TYPE_BITS

if TYPE_CHECKING:
    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.views import Views


def name_of(views: Views, parent: Inode, ino: int) -> bytes | None:
    """A name of an inode in a directory, None when it has none there.

    Goes on where it was interrupted, because directories can be large. May raise ``NotCached``.
    """
    for name, child in parent.view.above.get(parent.ino, {}).items():
        if child == ino:
            return name
    searches = views.searches
    key = parent.view.id, parent.ino, ino
    while items := parent.names.scan(searches.get(key, 0), 1):
        for _, name, value in items:
            if value >> TYPE_BITS == ino:
                searches.pop(key, None)
                return bytes(name)
        searches[key] = items[-1][0] + 1
    searches.pop(key, None)
    return None
