"""``snapfs mkfs`` and ``mkfs.snapfs``: make a volume, without ever overwriting something by mistake."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from snapfs.cli.arguments import Parser, size
from snapfs.cli.exits import OK, USAGE, CommandFailed

#: Where the signatures of filesystems and partition tables are: this much at both ends of a device.
SIGNATURE_SPAN: Final = 1 << 20

_CHUNK: Final = 1 << 20


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", metavar="IMAGE", help="a file (made if it does not exist) or a block device")
    parser.add_argument("--size", "-s", type=size, help="size of the file to make, with K, M, G or T; it takes space only as it fills")
    parser.add_argument("--block-size", "-b", type=size, default=4096, metavar="N", help="bytes in a block (default 4096)")
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
    from snapfs.device import open_device
    from snapfs.filesystem.format import format_volume

    path: str = arguments.image
    with _prepared(path, arguments.size):
        device = open_device(path)
        try:
            if not arguments.force:
                _refuse_data(path)
            if arguments.size and device.size != arguments.size:
                # Only a file comes here, under its lock: an empty one, or one that is to be overwritten.
                os.truncate(path, 0)
                os.truncate(path, arguments.size)
                device.size = arguments.size
            format_volume(device, block_size=arguments.block_size, label=arguments.label, uid=os.geteuid(), gid=os.getegid())
        finally:
            device.close()
    return OK


@contextlib.contextmanager
def _prepared(path: str, wanted: int | None) -> Iterator[None]:
    """Make the file if there is none. Raises ``CommandFailed`` for what cannot hold a volume."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if wanted is None:
            raise CommandFailed(f"{path}: does not exist: give --size to make it", USAGE) from None
        _make(path, wanted)
        try:
            yield
        except BaseException:
            os.unlink(path)
            raise
        return
    if stat.S_ISBLK(status.st_mode):
        if wanted is not None:
            raise CommandFailed(f"{path}: a block device has a size of its own: leave --size out", USAGE)
    elif not stat.S_ISREG(status.st_mode):
        raise CommandFailed(f"{path}: neither a regular file nor a block device")
    elif status.st_size == 0 and wanted is None:
        raise CommandFailed(f"{path}: is empty: give --size", USAGE)
    yield


def _make(path: str, wanted: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # all that is in it can be read in it
    try:
        os.ftruncate(descriptor, wanted)
    except OSError as exc:
        os.unlink(path)
        if exc.errno == errno.EFBIG:
            raise CommandFailed(f"{path}: the filesystem there has no files of that size") from exc
        raise
    finally:
        os.close(descriptor)


def _refuse_data(path: str) -> None:
    """Raise ``CommandFailed`` when something is there: any byte of a file that is not zero, or either end of a device."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if stat.S_ISBLK(os.fstat(file.fileno()).st_mode):
            spans = [(0, min(SIGNATURE_SPAN, end)), (max(0, end - SIGNATURE_SPAN), end)]
        else:
            spans = list(_data_spans(file.fileno(), end))
        if not any(_has_data(file.fileno(), start, stop) for start, stop in spans):
            return
    what = "a snapfs volume" if _is_volume(path) else "something else's data"
    raise CommandFailed(f"{path}: holds {what}: give --force to overwrite it")


def _data_spans(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file is not a hole."""
    place = 0
    while place < end:
        try:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        place = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, place


def _has_data(descriptor: int, start: int, stop: int) -> bool:
    while start < stop:
        chunk = os.pread(descriptor, min(_CHUNK, stop - start), start)
        if not chunk:
            return False
        if chunk.count(0) != len(chunk):
            return True
        start += len(chunk)
    return False


def _is_volume(path: str) -> bool:
    from snapfs.device import open_device
    from snapfs.errors import NotAVolume, SnapfsError
    from snapfs.store.volume import Volume

    device = open_device(path, read_only=True, lock=False)
    try:
        Volume.open(device, read_only=True)
    except NotAVolume:
        return False
    except SnapfsError:
        return True  # damaged or newer, but one of ours
    finally:
        device.close()
    return True
