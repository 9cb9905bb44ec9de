"""Names of snapshots, and which of them the ``.snap`` of a directory shows."""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import TYPE_CHECKING

from snapfs.errors import (
    BadName,
    CorruptBlock,
    NoSuchSnapshot,
    StaleInode,
)
from snapfs.filesystem.searching import name_of
from snapfs.ids import NAME_MAX, ROOT_INO
from snapfs.interrupts import NotCached
from snapfs.store.tables.instances import Instance, name_fault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapfs.filesystem import Filesystem, Inode, View
    from snapfs.interrupts import Want


#: Bytes of a directory's path that an instance keeps, for people to see.
PATH_SHOWN = 1000

#: Characters without a shape that say in which direction text is written (Unicode, UAX 9).
_ORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def default_name(now_ns: int) -> str:
    """The name of a snapshot that was given none: the UTC time."""
    return dt.datetime.fromtimestamp(now_ns // 1_000_000_000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def free_name(fs: Filesystem, wanted: str) -> str:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3`` ... that no snapshot has; a very long
    one is cut before the number.
    """
    instances = fs.volume.instances
    taken = {one.name for one in instances.pending}
    number, name = 1, wanted
    while len(name.encode()) > NAME_MAX or name in taken or instances.by_name(name) is not None:
        number += 1
        behind = f"-{number}"
        name = wanted.encode()[: NAME_MAX - len(behind)].decode(errors="ignore") + behind
    return name


def check_name(name: str) -> None:
    """Raises ``BadName``, saying why. Snapshots that were made before some of these rules keep
    their names.
    """
    if fault := name_fault(name) or misleading(name):
        raise BadName(fault)


def misleading(name: str, what: str = "a snapshot's name") -> str | None:
    """Why a name would be taken for something else by commands or by people; None when it would
    not.
    """
    if name.startswith("-"):
        return f"{name!r}: {what} cannot begin with '-', which commands take for an option"
    if name != name.strip():
        return f"{name!r}: {what} cannot begin or end with a blank, which nobody sees"
    for sign in name:
        if sign in _ORDERING or unicodedata.category(sign) in ("Zl", "Zp"):
            return (
                f"{name!a}: {what} cannot contain U+{ord(sign):04X}, which changes how what "
                "follows it is shown"
            )
    return None


def get(fs: Filesystem, which: str | Instance) -> Instance:
    """The live instance of that name; or the one that was found before a wait, if it is still
    there. Raises ``NoSuchSnapshot``.

    Whoever waits between looking and acting keeps the instance: its name, and its bit, may be
    another one's by then.
    """
    if isinstance(which, str):
        found = fs.volume.instances.by_name(which)
        if found is None:
            raise NoSuchSnapshot(
                f"no snapshot is named {which!r}; 'snapfs snapshot list' shows those that there are"
            )
        return found
    if fs.volume.instances.table.get(which.id) is not which or which.going:
        raise NoSuchSnapshot(f"the snapshot {which.name!r} has been deleted")
    return which


def all(fs: Filesystem) -> list[Instance]:  # noqa: A001 - reads as snapshots.all
    """All live instances, oldest first."""
    return fs.volume.instances.live()


def visible(fs: Filesystem, view: View, directory: int) -> list[Instance]:
    """What the ``.snap`` of a directory shows, oldest first. May raise ``NotCached``."""
    out: list[Instance] = []
    wants: list[Want] = []
    for instance in all(fs):
        try:
            if shows(fs, view, directory, instance):
                out.append(instance)
        except NotCached as exc:
            wants += exc.wants
    if wants:
        raise NotCached(list(dict.fromkeys(wants)))
    return out


def find(fs: Filesystem, view: View, directory: int, name: bytes) -> Instance:
    """One of them by its name. Raises ``NoSuchSnapshot``."""
    try:
        instance = fs.volume.instances.by_name(name.decode())
    except UnicodeDecodeError:
        instance = None
    if instance is None or not shows(fs, view, directory, instance):
        raise NoSuchSnapshot("no such snapshot here")
    return instance


def view_inode(fs: Filesystem, instance: Instance, directory: int) -> Inode:
    """The directory that ``.snap/NAME`` of a directory stands for."""
    return fs.view(instance.id).inode(directory)


def shows(fs: Filesystem, view: View, directory: int, instance: Instance) -> bool:
    """Is the instance made of this view, was this directory there then, and does the instance cover
    it?
    """
    if instance.origin != view.id:
        return False
    if directory == ROOT_INO:
        return not instance.parts
    past = fs.view(instance.id)
    try:
        then = past.inode(directory)
    except StaleInode:
        return False
    if (
        then.generation != view.inode(directory).generation
        or not then.is_directory
        or not then.nlink
    ):
        return False
    if fs.orphans.is_emptying(instance.id) and is_cut_off(past, directory):
        return False
    return not instance.parts or not {part.ino for part in instance.parts}.isdisjoint(
        ancestry(past, then)
    )


def is_cut_off(view: View, directory: int) -> bool:
    """Does a directory lie in one that was purged? The numbers above it may
    be stale: then it does.
    """
    try:
        return any(not view.inode(ino).nlink for ino in ancestry(view, view.inode(directory)))
    except StaleInode:
        return True


def ancestry(view: View, directory: Inode) -> list[int]:
    """The numbers from a directory up to the root, both included. Raises ``CorruptBlock`` for a
    cycle.
    """
    out = {directory.ino: None}
    while directory.ino != ROOT_INO:
        directory = view.inode(directory.parent)
        if directory.ino in out:
            raise CorruptBlock("directories form a cycle")
        out[directory.ino] = None
    return list(out)


def path_of(fs: Filesystem, view: View, directory: Inode) -> str:
    """The path of a directory in its view, for people. May raise ``NotCached``."""
    return as_path(way_to(fs, view, directory))


def as_path(way: Iterable[bytes]) -> str:
    """Names from the root on as a path for people; of a very long one the end."""
    path = "/" + "/".join(name.decode(errors="replace") for name in way)
    while len(path.encode()) > PATH_SHOWN:
        path = "..." + path[max(4, len(path) // 8) :]
    return path


def way_to(fs: Filesystem, view: View, directory: Inode) -> list[bytes]:
    """The names of the directories from the root to this one. May raise ``NotCached``."""
    way: list[bytes] = []
    while directory.ino != ROOT_INO:
        parent = view.inode(directory.parent)
        way.append(name_of(fs, parent, directory.ino) or b"?")
        directory = parent
    return way[::-1]
