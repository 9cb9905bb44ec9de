"""A full volume, mounted: what was acknowledged is there, what was not is reported, and the way
back is open.

With its writeback cache the kernel takes a write before the daemon has seen it. So a lack of space
is told by fsync and by close; without that cache (``writeback=off``) by the write itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = [("16M", 4096), ("64M", 4096), ("64M", 65536)]
volumes = pytest.mark.parametrize(
    ("size", "block_size"), [*SMALL, pytest.param("1G", 4096, marks=pytest.mark.slow)]
)
small_volumes = pytest.mark.parametrize(("size", "block_size"), SMALL)


def available(top: Path) -> int:
    found = os.statvfs(top)
    return found.f_bavail * found.f_frsize


def errno_of(function: Callable[..., object], *arguments: object) -> int:
    try:
        function(*arguments)
    except OSError as exc:
        return exc.errno or -1
    return 0


def pattern(number: int, size: int) -> bytes:
    return (b"%016d" % number) * (size // 16)


def write_until_full(path: Path, first: int = 1 << 20, last: int = 64 << 10) -> int:
    """Durable bytes of a file of ``pattern`` pieces; the pieces get smaller when the end is near,
    so that it is found exactly.
    """
    durable = number = 0
    piece = first
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        while piece >= last:
            try:
                assert os.pwrite(descriptor, pattern(number, piece), durable) == piece
                os.fsync(descriptor)
            except OSError as exc:
                assert exc.errno == errno.ENOSPC
                os.ftruncate(descriptor, durable)
                piece //= 4
            else:
                durable += piece
                number += 1
    finally:
        assert errno_of(os.close, descriptor) in (0, errno.ENOSPC)
    return durable


def close_to(found: int, promised: int, block_size: int) -> bool:
    return abs(found - promised) <= max(promised / 100, 5 * block_size)


@volumes
def test_df_promises_what_cannot_be_written(
    mount_volume, size: str, block_size: int, wait_until
) -> None:
    """Within 1 %: on a fresh volume, again when all was deleted, and when a snapshot holds it."""
    mounted = mount_volume(size=size, block_size=block_size)
    fresh = available(mounted.path)
    for _ in range(2):
        promised = available(mounted.path)
        found = write_until_full(mounted / "file", last=block_size)
        assert close_to(found, promised, block_size), (found, promised, fresh)
        assert available(mounted.path) <= promised // 100 + 5 * block_size
        (mounted / "file").unlink()
        wait_until(
            lambda: close_to(available(mounted.path), fresh, block_size),
            what="the space of the deleted file",
        )
    with (mounted / "file").open("wb") as file:
        file.write(os.urandom(fresh // 3))
        os.fsync(file.fileno())
    (mounted / ".snap" / "s").mkdir()
    promised = available(mounted.path)
    overwrite(mounted / "file", fresh // 3)
    assert close_to(available(mounted.path), promised - fresh // 3, block_size)
    promised = available(mounted.path)
    found = write_until_full(mounted / ".snap" / "s" / "new", last=block_size)
    assert close_to(found, promised, block_size), (found, promised)


def overwrite(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for offset in range(0, size, 1 << 20):
            os.pwrite(descriptor, os.urandom(min(1 << 20, size - offset)), offset)
        os.fsync(descriptor)
    finally:
        with contextlib.suppress(OSError):  # as fsync has said
            os.close(descriptor)


@volumes
def test_a_full_volume_is_a_dead_end(mounted_full, wait_until) -> None:
    """Deleting files and snapshots, going back, fsync and unmounting work at 100 %; the space is
    there again, and takes as much.
    """
    mounted, room, durable = mounted_full
    with pytest.raises(OSError, match="No space left"):
        overwrite(mounted / "more", 4 << 20)
    assert errno_of((mounted / ".snap" / "t").mkdir) in (0, errno.ENOSPC)
    (mounted / "more").unlink(missing_ok=True)
    # Going back: what filled the volume is held by the state from before.
    mounted.run("restore", mounted.path, "start")
    assert os.listdir(mounted.path) == ["old"]
    assert (mounted / "old").read_bytes() == pattern(7, 1 << 20)
    for name in os.listdir(mounted / ".snap"):
        (mounted / ".snap" / name).rmdir()
    wait_until(
        lambda: available(mounted.path) >= room * 0.99,
        limit=60,
        what="the space of the state from before",
    )
    assert write_until_full(mounted / "again") >= durable * 0.99
    os.truncate(mounted / "again", 1 << 20)
    mounted.remount()
    assert (mounted / "again").read_bytes() == pattern(0, 1 << 20)


@pytest.fixture
def mounted_full(mount_volume, size: str, block_size: int):
    """A mounted volume with a file and a snapshot of that, then filled; what it could take, and
    what went in.
    """
    mounted = mount_volume(size=size, block_size=block_size)
    with (mounted / "old").open("wb") as file:
        file.write(pattern(7, 1 << 20))
    (mounted / ".snap" / "start").mkdir()
    room = available(mounted.path)
    return mounted, room, write_until_full(mounted / "large")


@small_volumes
def test_what_fsync_acknowledged_is_lost_when_the_volume_is_full(mounted_full) -> None:
    mounted, _, durable = mounted_full
    # Half of what there is, again and again, in another file: none of it fits, and none of the
    # other is touched.
    for _ in range(3):
        assert errno_of(overwrite, mounted / "other", durable // 2) == errno.ENOSPC
    mounted.remount()
    data = (mounted / "large").read_bytes()
    assert len(data) == durable
    number = position = 0
    while position < durable:
        size = next(
            size
            for size in (1 << 20, 1 << 18, 1 << 16)
            if data[position : position + size] == pattern(number, size)
        )
        position += size
        number += 1
    assert (mounted / ".snap" / "start" / "old").read_bytes() == pattern(7, 1 << 20)


@pytest.mark.volume(size="32M")
def test_a_loss_is_told_to_nobody(mounted, wait_until) -> None:
    """By fsync, and by close without fsync; and by the next fsync of whoever else has the file
    open.
    """
    data = os.urandom(8 << 20)
    paths = [mounted / "one", mounted / "two"]
    told = []
    for path in paths:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        watcher = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):  # write() may know it already
            for _ in range(6):
                os.write(descriptor, data)
        if path == paths[0]:
            told.append(errno_of(os.fsync, descriptor))
            errno_of(os.close, descriptor)
        else:
            told.append(errno_of(os.close, descriptor))
        told.append(errno_of(os.fsync, watcher))
        os.close(watcher)
        path.unlink()
        wait_until(lambda: available(mounted.path) > 28 << 20, what="the space of the deleted file")
    assert told == [errno.ENOSPC] * 4


#: More than any kernel holds back.
ENDLESS = 8 << 30


def written_until_refused(descriptor: int) -> int:
    """Bytes that ``write()`` takes until it says that there is no space. Nobody asks what became of
    them.
    """
    piece = os.urandom(1 << 20)
    for number in range(ENDLESS >> 20):
        try:
            os.write(descriptor, piece)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            return number << 20
    return ENDLESS


@pytest.mark.volume(size="32M")
def test_a_program_that_only_writes_never_hears_of_a_lack_of_space(mounted, wait_until) -> None:
    """And goes on when there is space again."""
    with (mounted / "filler").open("wb") as filler:
        filler.write(os.urandom(20 << 20))
        os.fsync(filler.fileno())
    path = mounted / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        assert written_until_refused(descriptor) < ENDLESS
        stored = path.stat().st_size
        assert os.fstat(descriptor).st_size == stored
        # That somebody has looked changes nothing.
        assert errno_of(os.write, descriptor, b"more") == errno.ENOSPC
        # Who reads through the same handle is not refused.
        assert os.lseek(descriptor, 0, os.SEEK_END) == stored
        assert len(os.pread(descriptor, 1 << 20, 0)) == 1 << 20
        assert os.pread(descriptor, 10, stored) == b""
        assert errno_of(os.fsync, descriptor) == errno.ENOSPC
        room = available(mounted.path)
        (mounted / "filler").unlink()
        wait_until(
            lambda: available(mounted.path) > room + (16 << 20), what="the space of the filler"
        )
        more = os.urandom(8 << 20)
        assert os.write(descriptor, more) == len(more)
        os.fsync(descriptor)
        assert path.stat().st_size == stored + len(more)
    finally:
        with contextlib.suppress(OSError):  # what was lost before
            os.close(descriptor)
    before = path.read_bytes()
    mounted.remount()
    assert path.read_bytes() == before
    assert before[stored:] == more


@pytest.mark.volume(size="32M")
def test_a_file_that_did_not_fit_is_shown_as_if_it_had(mounted) -> None:
    path = mounted / "file"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    reader = os.open(path, os.O_RDONLY)
    told = set()
    for _ in range(48):
        told.add(errno_of(os.write, descriptor, os.urandom(1 << 20)))
    told.add(errno_of(os.close, descriptor))
    assert errno.ENOSPC in told
    seen = [
        os.fstat(reader).st_size,
        path.stat().st_size,
        os.lseek(reader, 0, os.SEEK_END),
        len(os.pread(reader, 64 << 20, 0)),
    ]
    os.close(reader)
    mounted.remount()
    assert seen == [path.stat().st_size] * 4


@pytest.mark.volume(size="32M", options="writeback=off")
def test_without_writeback_the_lack_of_space_comes_after_the_write(mounted) -> None:
    """write() takes what fits, then says ENOSPC; everything that it took is there."""
    promised = available(mounted.path)
    data = os.urandom(1 << 20)
    written = 0
    descriptor = os.open(mounted / "file", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        with pytest.raises(OSError, match="No space left"):
            while written < 64 << 20:
                written += os.write(descriptor, data[written % len(data) :])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert close_to(written, promised, 4096)
    mounted.remount()
    found = (mounted / "file").read_bytes()
    assert found == (data * (written // len(data) + 1))[:written]


def tiny_files(top: Path) -> None:
    for number in range(1 << 20):
        with (top / f"file-{number}").open("wb") as file:
            file.write(b"x" * 100)
            if number % 200 == 0:
                os.fsync(file.fileno())


def directories(top: Path) -> None:
    for number in range(1 << 20):
        (top / f"directory-{number}").mkdir()
        (top / f"directory-{number}" / "inner").mkdir()


def attributes(top: Path) -> None:
    for number in range(1 << 20):
        (top / f"file-{number}").touch()
        os.setxattr(top / f"file-{number}", "user.large", bytes([number & 255]) * 60_000)


def links(top: Path) -> None:
    for number in range(1 << 20):
        (top / f"link-{number}").symlink_to(f"{number:04000}")


def overwriting_what_snapshots_hold(top: Path) -> None:
    for number in range(1 << 20):
        overwrite(top / "old", 1 << 20)
        (top / ".snap" / f"s{number}").mkdir()


def views_of_snapshots(top: Path) -> None:
    for number in range(1 << 20):
        with (top / ".snap" / "start" / f"file-{number}").open("wb") as file:
            file.write(os.urandom(300_000))
            os.fsync(file.fileno())


@pytest.mark.parametrize("block_size", [4096, 65536])
@pytest.mark.parametrize(
    "fill",
    [
        tiny_files,
        directories,
        attributes,
        links,
        overwriting_what_snapshots_hold,
        views_of_snapshots,
    ],
)
def test_a_volume_that_is_filled_by_other_means_stays_full(
    mount_volume, fill: Callable[[Path], None], block_size: int, wait_until
) -> None:
    mounted = mount_volume(size="16M", block_size=block_size)
    fresh = available(mounted.path)
    overwrite(mounted / "old", 1 << 20)
    (mounted / ".snap" / "start").mkdir()
    assert errno_of(fill, mounted.path) == errno.ENOSPC
    mounted.run("info", mounted.path)
    # Both ways round: some of the files, all snapshots, all files.
    entries = sorted(os.listdir(mounted.path))
    for name in entries[: len(entries) // 2]:
        remove(mounted / name)
    for name in os.listdir(mounted / ".snap"):
        (mounted / ".snap" / name).rmdir()
    mounted.remount()
    for name in os.listdir(mounted.path):
        remove(mounted / name)
    wait_until(
        lambda: close_to(available(mounted.path), fresh, block_size), limit=60, what="all space"
    )
    assert close_to(write_until_full(mounted / "again", last=block_size), fresh, block_size)


def remove(path: Path) -> None:
    path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


@pytest.mark.volume(size="16M")
def test_the_space_of_what_did_not_fit_is_not_free_when_that_is_removed(mounted) -> None:
    """Fill, remove, and fill again, without a pause: nobody has to wait until the kernel has been
    told what is stored of the file.
    """
    chunk = os.urandom(128 << 10)
    for _ in range(5):
        file = os.open(mounted / "full", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="space"):
            while True:
                os.write(file, chunk)
                os.fsync(file)
        with contextlib.suppress(OSError):
            os.close(file)
        (mounted / "full").unlink()
