"""Names in directories: looking up and listing, with the errors that ext4 gives."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.errors import (
    CorruptBlock,
    InvalidArgument,
    NameTooLong,
    NotDirectory,
    NotFound,
    NotPermitted,
    StaleInode,
)
from snapfs.filesystem.inode import Home, Inode
from snapfs.filesystem.view import HASH_UNIT, View
from snapfs.ids import FIRST_INO, INO_LIMIT, NAME_MAX, ROOT_INO
from snapfs.interrupts import NotCached

if TYPE_CHECKING:
    from snapfs.interrupts import Want

TYPE_BITS = 4

_DOTS = {b".", b".."}


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory. ``type`` has the file type bits of a mode; a listing goes on behind
    ``cookie``.
    """

    name: bytes
    ino: int
    type: int
    cookie: int


def directory(view: Home, ino: int) -> Inode:
    """The directory of that number. Raises ``NotDirectory``, ``StaleInode``."""
    inode = view.inode(ino)
    if not inode.is_directory:
        raise NotDirectory(f"inode {ino} is not a directory")
    return inode


def check_name(name: bytes) -> None:
    """Raises ``NameTooLong``, ``InvalidArgument``."""
    if len(name) > NAME_MAX:
        raise NameTooLong("the name is too long")
    if not name or b"/" in name or b"\0" in name:
        raise InvalidArgument("not a name")


def find(view: Home, parent: Inode, name: bytes) -> int:
    """The inode number behind a name. Raises ``NotFound``."""
    if len(name) > NAME_MAX:
        raise NameTooLong("the name is too long")
    only = view.above.get(parent.ino)
    if only is not None:
        if name not in only:
            raise NotFound("this snapshot does not cover it")
        return only[name]
    value = parent.names.get(name)
    if value is None:
        raise NotFound("no such name")
    if not FIRST_INO <= value >> TYPE_BITS < INO_LIMIT:
        raise CorruptBlock(f"directory {parent.ino}: an entry is not an inode number")
    number: int = value >> TYPE_BITS
    return number


def named(view: Home, parent: Inode, name: bytes) -> Inode:
    """The inode behind a name. Raises ``NotFound``, and ``CorruptBlock`` for a name that leads
    nowhere.
    """
    ino = find(view, parent, name)
    try:
        return view.inode(ino)
    except StaleInode as exc:
        raise CorruptBlock(
            f"directory {parent.ino}: a name leads to inode {ino}, which does not exist"
        ) from exc


def lookup(view: Home, parent: int, name: bytes) -> Inode:
    """The inode behind a name; ``.`` and ``..`` as well. Raises ``NotFound``, ``NotDirectory``,
    ``NameTooLong``.
    """
    where = directory(view, parent)
    if name == b".":
        return where
    if name == b"..":
        return directory(view, where.parent or ROOT_INO)
    return named(view, where, name)


def entries(view: View, ino: int, after: int, limit: int) -> list[Entry]:
    """Names behind the cookie ``after`` (0: from the beginning), about ``limit`` of them; empty at
    the end.
    """
    where = directory(view, ino)
    if ino in view.above:
        return _entries_above(view, ino, after)
    out: list[Entry] = []
    start = after * HASH_UNIT
    while not out:
        items = where.names.scan(start, limit)
        if not items:
            break
        check_entries(ino, items)
        for index, (hashed, name, value) in enumerate(items):
            # Of names with one hash, a listing that stops between them begins again: a name twice
            # is better than one lost.
            again = index + 1 < len(items) and items[index + 1][0] == hashed
            out.append(
                Entry(
                    name,
                    value >> TYPE_BITS,
                    (value & 15) << 12,
                    hashed // HASH_UNIT + (0 if again else 1),
                )
            )
        start = items[-1][0] + HASH_UNIT
    return out


def _entries_above(view: View, ino: int, after: int) -> list[Entry]:
    """What a directory above parts shows. Nothing changes these names, so their positions are
    cookies.
    """
    found: list[Entry] = []
    wants: dict[Want, None] = {}
    for cookie, (name, child) in enumerate(sorted(view.above[ino].items()), start=1):
        try:
            found.append(Entry(name, child, stat.S_IFMT(view.raw_inode(child).mode), cookie))
        except NotCached as exc:
            wants.update(dict.fromkeys(exc.wants))
        except StaleInode as exc:
            raise CorruptBlock(
                f"directory {ino}: a name leads to inode {child}, which does not exist"
            ) from exc
    if wants:
        raise NotCached(list(wants))
    return found[after:]


def check_entry(ino: int, name: bytes, value: int) -> None:
    """Raises ``CorruptBlock`` for what cannot stand in the directory ``ino``."""
    check_entries(ino, [(0, name, value)])


def check_entries(ino: int, items: list[tuple[int, bytes, int]]) -> None:
    """The same for items (hash, name, value). All at once: one by one, it would double the time of
    a listing.
    """
    names = [name for _, name, _ in items]
    text = b"/".join(names)
    lengths = [len(name) for name in names]
    if (
        not min(lengths)
        or max(lengths) > NAME_MAX
        or text.count(b"/") >= len(names)
        or b"\0" in text
        or not _DOTS.isdisjoint(names)
    ):
        raise CorruptBlock(f"directory {ino}: it has a name that is not a name")
    values = [value for _, _, value in items]
    if min(values) >> TYPE_BITS < FIRST_INO or max(values) >> TYPE_BITS >= INO_LIMIT:
        raise CorruptBlock(f"directory {ino}: an entry is not an inode number")


def check_changeable(view: View, parent: Inode) -> None:
    """Raises unless names may be changed in a directory."""
    view.check_writable()
    if parent.ino in view.above:
        raise NotPermitted("this snapshot does not cover this directory")
    if not parent.nlink:
        raise NotFound("the directory has been removed")


def entry_value(inode: Inode) -> int:
    """What a directory stores for an inode: its number and its type."""
    return inode.ino << TYPE_BITS | stat.S_IFMT(inode.mode) >> 12
