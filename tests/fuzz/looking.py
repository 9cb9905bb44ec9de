"""Everything that `snapfs dump` shows of an image, asked of a hostile one: each page comes, or ends
with one of our errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from snapfs.check.inspect import blocks, fixed, inodes, maps, paths, tables
from snapfs.check.inspect.opened import inspect
from snapfs.check.inspect.page import BlockPage
from snapfs.check.inspect.why import why
from snapfs.cli.commands.dump import document
from snapfs.errors import SnapfsError
from snapfs.ids import HIDDEN_INOS, ROOT_INO
from tests.fuzz.forging import Image

#: Rows of a table: what a page may hold is bounded by them.
ROWS = 300

PATHS = (
    b"",
    b"file",
    b"dir/sub/deep/sparse",
    b"dir/sub",
    b"long",
    b".snap/one/dir/again",
    b"dir/sub/.snap/two/deep",
)


def look_inside(image: Image) -> None:
    """Ask for every page."""
    shown = [_shown(lambda: fixed.superblocks(image, ROWS))]
    try:
        looked = inspect(image, ROWS)
    except SnapfsError:
        return
    volume, base = looked.volume, looked.fs.base
    asked: list[Callable[[], BlockPage]] = [
        *(
            lambda page=page: page(looked)
            for page in (fixed.root, fixed.log, tables.groups, tables.instances, tables.sets)
        ),
        *(
            lambda number=number: tables.group(looked, number)
            for number in (0, volume.geometry.groups - 1)
        ),
        *(
            lambda ino=ino: inodes.inode(looked, base, ino)
            for ino in (ROOT_INO, *HIDDEN_INOS, 16, 18)
        ),
        *(lambda path=path: paths.path(looked, base, path) for path in PATHS),
        *(lambda path=path: maps.block_map(looked, base, path) for path in PATHS),
    ]
    blocks_seen = (
        volume.root_block,
        volume.base_root.first & 0xFFFF_FFFF_FFFF,
        volume.geometry.blocks // 2,
    )
    asked += [lambda block=block: blocks.block(looked, block) for block in blocks_seen]
    asked.append(lambda: why(looked, blocks_seen[1]))
    shown += [_shown(page) for page in asked]
    assert all(len(table.rows) <= ROWS for page in shown if page for table in page.tables.values())


def _shown(page: Callable[[], BlockPage]) -> BlockPage | None:
    with contextlib.suppress(SnapfsError):
        found = page()
        document(found)
        return found
    return None
