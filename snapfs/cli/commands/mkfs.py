"""``snapfs mkfs`` and ``mkfs.snapfs``: make a volume, without ever overwriting something by
mistake.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from snapfs.cli.arguments import Parser, size
from snapfs.cli.exits import OK, USAGE, CommandFailed
from snapfs.device.base import is_memory

if TYPE_CHECKING:
    from snapfs.device import ImageDevice, Pinned


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "image", metavar="IMAGE", help="a file (made if it does not exist) or a block device"
    )
    parser.add_argument(
        "--size",
        "-s",
        type=size,
        help="size of the file to make, with K, M, G or T; it takes space only as it fills",
    )
    parser.add_argument(
        "--block-size",
        "-b",
        type=size,
        default=4096,
        metavar="N",
        help="bytes in a block (default 4096)",
    )
    parser.add_argument("--label", "-L", default="", metavar="TEXT", help="a name for people")
    parser.add_argument("--force", "-F", action="store_true", help="overwrite what is there")


def run_helper(words: Sequence[str]) -> int:
    """``mkfs.snapfs [options] DEVICE [SIZE]``, as mkfs(8) calls it."""
    parser = Parser(prog="mkfs.snapfs", allow_abbrev=False)
    configure(parser)
    parser.add_argument("blocks", nargs="?", type=size, metavar="SIZE", help=argparse.SUPPRESS)
    parser.add_argument("-V", "-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    arguments.size = arguments.size or arguments.blocks
    return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Format; a file that was made for it disappears again when that fails."""
    from snapfs.device import open_pinned
    from snapfs.filesystem.format import format_volume
    from snapfs.filesystem.occupied import refuse_occupied
    from snapfs.store.commit.device_claim import refuse_claimed

    path: str = arguments.image
    if is_memory(path):
        raise CommandFailed(
            f"{path}: a volume in memory is made when it is mounted: snapfs mount "
            f"{path} MOUNTPOINT",
            USAGE,
        )
    with _prepared(path, arguments.size) as pinned:
        device = open_pinned(pinned)
        try:
            if not arguments.force:
                refuse_occupied(device)
            refuse_claimed(device)
            if arguments.size and device.size != arguments.size:
                # Only a file comes here, under its lock: an empty one, or one that is to be
                # overwritten.
                _resize(device, arguments.size)
            format_volume(
                device,
                block_size=arguments.block_size,
                label=arguments.label,
                uid=os.geteuid(),
                gid=os.getegid(),
            )
        finally:
            device.close()
    return OK


@contextlib.contextmanager
def _prepared(path: str, wanted: int | None) -> Iterator[Pinned]:
    """The file or device, made if there is none. Raises ``CommandFailed`` for what cannot hold a
    volume.
    """
    from snapfs.device.pinned import anybody, pin_name

    try:
        pinned = pin_name(path, anybody)
    except OSError as exc:
        raise CommandFailed(f"{path}: {exc.strerror}") from exc
    with pinned:
        made = not pinned.exists
        if made:
            if wanted is None:
                raise CommandFailed(f"{path}: does not exist: give --size to make it", USAGE)
            try:
                pinned.make()
            except OSError as exc:
                raise CommandFailed(f"{path}: cannot be made: {exc.strerror}") from exc
        elif pinned.is_block_device:
            if wanted is not None:
                raise CommandFailed(
                    f"{path}: a block device has a size of its own: leave --size out", USAGE
                )
        elif not pinned.is_regular:
            raise CommandFailed(f"{path}: neither a regular file nor a block device")
        elif pinned.status().st_size == 0 and wanted is None:
            raise CommandFailed(f"{path}: is empty: give --size", USAGE)
        try:
            yield pinned
        except BaseException:
            if made:
                pinned.remove()
            raise


def _resize(device: ImageDevice, size: int) -> None:
    """An empty file of that size, whatever it was."""
    try:
        device.resize(size)
    except OSError as exc:
        if exc.errno == errno.EFBIG:
            raise CommandFailed(
                f"{device.path}: the filesystem there has no files of that size"
            ) from exc
        raise CommandFailed(f"{device.path}: cannot have {size} bytes: {exc.strerror}") from exc
