"""The page of a path: the way along it, through snapshots, too, and the inode that it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapfs.check.inspect.inodes import find, show
from snapfs.check.inspect.page import OK, BlockPage, text
from snapfs.errors import CorruptBlock, DeviceError, NotDirectory, NotFound
from snapfs.filesystem import names
from snapfs.ids import ROOT_INO
from snapfs.store.commit.recovery import fetched

if TYPE_CHECKING:
    from snapfs.check.inspect.opened import Inspected
    from snapfs.filesystem import View

#: The directory in a path behind which a snapshot is named, as mounts show it unless they are told
#: another name.
SNAPDIR: Final = b".snap"


@dataclass(frozen=True, slots=True)
class Way:
    """Where a path leads: (name, view, inode) from the root on; ``problem`` where it cannot be
    followed any further.
    """

    steps: list[tuple[bytes, View, int]]
    problem: str = ""


def follow(image: Inspected, view: View, path: bytes) -> Way:
    """Follow a path from the root of a view. ``.snap/NAME`` in it leads into a snapshot, as in a
    mount.

    Symbolic links are not followed. Raises ``NotFound``, ``NotDirectory``, ``NoSuchSnapshot``.
    """
    steps = [(b"/", view, ROOT_INO)]
    parts = [name for name in path.split(b"/") if name not in (b"", b".")]
    while parts:
        name = parts.pop(0)
        _, view, ino = steps[-1]
        if name == SNAPDIR:
            if not parts:
                raise NotFound(f"{text(path)}: name a snapshot behind {text(SNAPDIR)}")
            name = parts.pop(0)
            view = image.view(text(name))
            steps.append((SNAPDIR + b"/" + name, view, ino))
            continue
        try:
            where = find(image, view, ino)
            if where.inode is None:
                raise CorruptBlock(where.problem)
            parent = where.inode
            if not parent.is_directory:
                raise NotDirectory(
                    f"{text(path)}: {text(steps[-1][0])!r} is no directory (inode {ino})"
                )
            child = fetched(image.volume, lambda: names.find(view, parent, name))  # noqa: B023 - called at once
        except NotFound as exc:
            raise NotFound(f"{text(path)}: no {text(name)!r} in inode {ino}: {exc}") from exc
        except (CorruptBlock, DeviceError) as exc:
            return Way(steps, f"{text(name)!r} cannot be looked for in inode {ino}: {exc}")
        steps.append((name, view, child))
    return Way(steps)


def path(image: Inspected, view: View, wanted: bytes) -> BlockPage:
    """The way along a path, and the inode that it leads to."""
    page = image.page()
    way = show_way(page, image, view, wanted)
    if not way.problem:
        _, last, ino = way.steps[-1]
        show(page, image, last, ino)
    return page


def show_way(page: BlockPage, image: Inspected, view: View, wanted: bytes) -> Way:
    """Follow a path, and put the way on a page. Raises as ``follow``."""
    way = follow(image, view, wanted)
    table = page.table("way", "name", "snapshot", "inode", "table_block", "state")
    for name, where, ino in way.steps:
        block, state = None, OK
        try:
            found = find(image, where, ino)
            block, state = found.way[-1].block, found.problem or OK
        except (CorruptBlock, DeviceError, NotFound) as exc:
            state = page.trouble(f"inode {ino}", exc)
        table.add(text(name), where.instance.name if where.instance else None, ino, block, state)
    if way.problem:
        table.add(None, None, None, None, page.trouble(text(wanted), way.problem))
    return way
