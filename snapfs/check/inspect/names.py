"""The paths that a view shows an inode by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from snapfs.check.inspect.page import text
from snapfs.check.inspect.trees import leaves
from snapfs.check.scrub.places import Tree, TreeKind
from snapfs.check.scrub.whereabouts import path_of
from snapfs.errors import CorruptBlock, DeviceError, FsError
from snapfs.filesystem.names import TYPE_BITS
from snapfs.store.commit.recovery import fetched

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected
    from snapfs.filesystem import View

#: Paths of one inode in one view that are told, at most.
PATHS_MAX: Final = 64


def paths_of(
    image: Inspected, view: View, ino: int, directories: Iterable[int], guesses: dict[int, bytes]
) -> list[str | None]:
    """The paths of an inode whose names are in some directories. A path that leads through what
    cannot be read is left out.

    ``guesses`` are as of ``whereabouts.path_of``.
    """
    paths: dict[str | None, None] = {}
    links = 2
    if (path := _path(image, view, ino, guesses)) is not None:
        paths[path] = None
        links = fetched(image.volume, lambda: view.raw_inode(ino)).nlink
    for directory in sorted(directories) if links > 1 else ():
        if (above := _path(image, view, directory, guesses)) is None:
            continue
        root = fetched(image.volume, lambda: view.raw_inode(directory)).names.root_words  # noqa: B023 - called at once
        for leaf in leaves(
            image.volume, Tree(TreeKind.NAMES, view.id, ino=directory), root, 0, "names"
        ):
            for name, value in leaf.content.items.items() if leaf.content else ():
                if value >> TYPE_BITS == ino and len(paths) < PATHS_MAX:
                    paths[f"{above.rstrip('/')}/{text(name)}"] = None
    return list(paths)


def _path(image: Inspected, view: View, ino: int, guesses: dict[int, bytes]) -> str | None:
    try:
        one = fetched(image.volume, lambda: view.raw_inode(ino))
        return fetched(image.volume, lambda: path_of(image.fs, view, one, guesses))
    except (FsError, CorruptBlock, DeviceError):
        return None
