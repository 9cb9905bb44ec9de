"""A disk that fails, fills up or rots below a real mount: who is told what, and what goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE
from snapfs.device import open_device
from snapfs.device.reserve import PIECE_BYTES, RESERVE_BYTES, HostReserve
from snapfs.errors import DeviceFull

BLOCK = 4096
MIB = 1 << 20


class Front:
    """A volume that is mounted in the foreground, so that its log can be read."""

    def __init__(
        self,
        image: Path,
        place: Path,
        snapfs: Callable[..., list[str]],
        start: Callable[..., subprocess.Popen[Any]],
        run: Callable[..., Any],
        wait: Callable[..., None],
    ) -> None:
        self.image = image
        self.path = place / "mnt"
        self.path.mkdir(exist_ok=True)
        self._log = place / "log"
        self._run = run
        self._wait = wait
        command = snapfs("mount", image, self.path, "-f", "-o", "commit=3600")
        with self._log.open("ab") as log:
            self.process = start(command, stderr=log, stdin=subprocess.DEVNULL)
        self._wait(
            lambda: os.path.ismount(self.path) or self.process.poll() is not None, what="the mount"
        )
        assert self.process.poll() is None, self._log.read_text()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def logged(self, *words: str) -> list[str]:
        """The lines with all these words."""
        return [line for line in self.log if all(word in line for word in words)]

    @property
    def read_only(self) -> str | None:
        reason: str | None = json.loads(self._run("info", self.path, "--json").stdout)["read_only"]
        if reason:
            assert reason in self._run("info", self.path).stdout
        return reason

    def unmount(self) -> None:
        began = time.monotonic()
        if self.process.poll() is None:
            self._run("umount", self.path)
        self.process.wait(60)
        assert time.monotonic() - began < 30
        assert not [line for line in self.log if "Traceback" in line or "internal error" in line], (
            self.log
        )

    def close(self) -> None:
        try:
            self.unmount()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(60)
                subprocess.run(["fusermount3", "-u", "-z", self.path], check=False, timeout=60)


@pytest.fixture
def front(
    tmp_path: Path, snapfs_command, start, run_snapfs, wait_until
) -> Iterator[Callable[[Path], Front]]:
    made: list[Front] = []

    def mount(image: Path) -> Front:
        place = tmp_path / f"front{len(made)}"
        place.mkdir()
        made.append(Front(image, place, snapfs_command, start, run_snapfs, wait_until))
        return made[-1]

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [stack.callback(one.close) for one in made])
        yield mount


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        assert file.write(content) == len(content)
        os.fsync(file.fileno())


def error_of(function: Callable[[], Any]) -> int | None:
    try:
        function()
    except OSError as exc:
        return exc.errno
    return None


def pattern(number: int, size: int) -> bytes:
    """Content of which no two lines are the same, here or in any other."""
    return b"".join(b"pattern %06d line %06d\n" % (number, line) for line in range(size // 27 + 1))[
        :size
    ]


def unclaimed(data: bytes) -> bytes:
    """An image without who has it open."""
    return data[:CLAIM_PLACE] + data[CLAIM_PLACE + CLAIM_BYTES :]


def flip(image: Path, where: int) -> None:
    with image.open("r+b", buffering=0) as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 0x10]))


def places(image: Path, what: bytes) -> list[int]:
    """Where bytes stand in an image."""
    content, found, at = image.read_bytes(), [], -1
    while (at := content.find(what, at + 1)) >= 0:
        found.append(at)
    return found


# A disk that dies


@pytest.fixture
def dying(
    tmp_path: Path, images, start, wait_until
) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """An image on a host that fails, and how to give it its orders."""
    backing, top, orders = images.make(), tmp_path / "host", tmp_path / "orders"
    top.mkdir()
    orders.write_text("")
    program = Path(__file__).with_name("failing_host.py")
    process = start(
        [sys.executable, program, backing, top, orders], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"

    def order(words: str) -> None:
        fresh = orders.with_suffix(".new")
        fresh.write_text(words)
        fresh.rename(orders)

    try:
        yield top / "image", order
    finally:
        order("")
        subprocess.run(["fusermount3", "-u", "-z", top], check=True, timeout=60)
        process.wait(60)


def test_a_failed_flush_is_not_told_to_fsync(
    dying: tuple[Path, Callable[[str], None]], front
) -> None:
    """EIO once, EROFS from then on; what is there can be read, and what was promised is there after
    it.
    """
    image, order = dying
    volume = front(image)
    write_durably(volume / "durable", b"d" * 100_000)
    order("flush")
    with (volume / "lost").open("wb", buffering=0) as file:
        file.write(b"l" * 100_000)
        assert error_of(lambda: os.fsync(file.fileno())) == errno.EIO
        order("")
        assert error_of(lambda: os.fsync(file.fileno())) == errno.EROFS
    assert "could not be written" in (volume.read_only or "")
    assert len(volume.logged("CRITICAL", "read-only from now on", "is lost")) == 1
    assert error_of(lambda: (volume / "more").write_bytes(b"x")) == errno.EROFS
    assert error_of(lambda: (volume / "durable").open("r+b")) == errno.EROFS
    assert error_of((volume / "durable").unlink) == errno.EROFS
    assert error_of((volume / ".snap" / "one").mkdir) == errno.EROFS
    assert (volume / "durable").read_bytes() == b"d" * 100_000
    volume.unmount()
    again = front(image)
    assert (again / "durable").read_bytes() == b"d" * 100_000
    write_durably(again / "goes on", b"x")
    again.unmount()


def test_a_write_error_in_a_commit_is_not_told(
    dying: tuple[Path, Callable[[str], None]], front
) -> None:
    image, order = dying
    volume = front(image)
    (volume / "directory").mkdir()
    descriptor = os.open(volume.path, os.O_RDONLY)
    order("write")
    assert error_of(lambda: os.fsync(descriptor)) == errno.EIO
    os.close(descriptor)
    assert "write at" in (volume.read_only or "")
    assert (volume / "directory").is_dir()
    volume.unmount()


def test_a_write_error_of_data_ends_writing_for_all(
    dying: tuple[Path, Callable[[str], None]], front
) -> None:
    image, order = dying
    volume = front(image)
    (volume / "d").mkdir()
    write_durably(volume / "d" / "file", b"before" * 1000)
    with (volume / "d" / "file").open("r+b", buffering=0) as file:
        order("write")
        file.write(b"x" * 4096)
        assert error_of(lambda: os.fsync(file.fileno())) == errno.EIO
    order("")
    assert volume.read_only is None
    assert volume.logged("ERROR", "write of /d/file (inode ", "in the base", "Input/output error")
    write_durably(volume / "other", b"other")
    volume.unmount()


def test_a_read_error_lasts_longer_than_the_fault(
    dying: tuple[Path, Callable[[str], None]], front
) -> None:
    image, order = dying
    volume = front(image)
    (volume / "d").mkdir()
    content = pattern(1, 300_000)
    write_durably(volume / "d" / "file", content)
    volume.unmount()
    volume = front(image)
    os.stat(volume / "d" / "file")
    order("read")
    assert error_of((volume / "d" / "file").read_bytes) == errno.EIO
    order("")
    assert (volume / "d" / "file").read_bytes() == content
    assert volume.read_only is None
    assert (
        len(volume.logged("ERROR", "read of /d/file (inode ", "in the base", "Input/output error"))
        == 1
    )
    write_durably(volume / "d" / "file", content[::-1])
    volume.unmount()


# A host without space


@pytest.fixture(params=["tmpfs", "ext4"])
def small_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem needs root")
    top = tmp_path / "small"
    top.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24M", "none", top]
    if request.param == "ext4":
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(24 * MIB)
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", disk],
            check=True,
            timeout=60,
        )
        command = ["mount", "-o", "loop", disk, top]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if result.returncode:
        pytest.skip(f"no {request.param} to mount here: {result.stderr.strip()}")
    yield top
    subprocess.run(["umount", top], check=True, timeout=60)


def fill(volume: Front) -> dict[str, bytes]:
    """Write files until there is no space; those whose fsync returned."""
    kept: dict[str, bytes] = {}
    for number in range(200):
        content = pattern(number, MIB)
        error = error_of(
            lambda number=number, content=content: write_durably(volume / f"f{number}", content)
        )
        if error is not None:
            assert error == errno.ENOSPC
            return kept
        kept[f"f{number}"] = content
    raise AssertionError("the host does not fill up")


def all_there(volume: Front, kept: dict[str, bytes]) -> None:
    assert not [name for name, content in kept.items() if (volume / name).read_bytes() != content]


def test_a_full_host_loses_files_or_ends_writing(
    small_host: Path, images, run_snapfs, front
) -> None:
    """ENOSPC for who writes; with space on the host, or in the volume, everything goes on."""
    ballast = small_host / "ballast"
    ballast.write_bytes(os.urandom(6 * MIB))
    image = small_host / "volume.img"
    run_snapfs("mkfs", image, "--size", "256M")
    images.watch(image)
    volume = front(image)
    kept = fill(volume)
    assert len(kept) >= 5
    assert volume.read_only is None
    all_there(volume, kept)
    # Somebody makes room on the host.
    ballast.unlink()
    content = pattern(500, MIB)
    write_durably(volume / "after", content)
    kept["after"] = content
    kept |= {f"again{name}": content for name, content in kept_again(volume).items()}
    all_there(volume, kept)
    # Somebody makes room in the volume: what the image has already is used again.
    for name in list(kept)[:4]:
        (volume / name).unlink()
        del kept[name]
    sync(volume)
    content = pattern(600, 2 * MIB)
    write_durably(volume / "instead", content)
    kept["instead"] = content
    assert volume.read_only is None
    volume.unmount()
    again = front(image)
    all_there(again, kept)
    again.unmount()
    assert run_snapfs("check", image, "--json", code=0)


def test_files_take_what_is_kept_for_commits(small_host: Path) -> None:
    """Whatever a commit does not need of it is not given away: others write to the host at the same
    moment.
    """
    image = small_host / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    with (
        contextlib.closing(open_device(str(image))) as device,
        (small_host / "others").open("wb", buffering=0) as others,
    ):
        reserve = HostReserve(device)
        reserve.keep()
        for number in range(RESERVE_BYTES // PIECE_BYTES):
            taken = 0
            while error_of(lambda: others.write(bytes(BLOCK))) is None:
                taken += BLOCK
            assert number == 0 or taken < PIECE_BYTES
            with pytest.raises(DeviceFull):
                device.write(number * MIB, b"x" * BLOCK)
            assert reserve.spend()
            device.write(number * MIB, b"x" * BLOCK)
        assert not reserve.spend()


def kept_again(volume: Front) -> dict[str, bytes]:
    """Fill it once more, under other names."""
    kept: dict[str, bytes] = {}
    for number in range(200):
        content = pattern(1000 + number, MIB // 4)
        if error := error_of(
            lambda number=number, content=content: write_durably(volume / f"again{number}", content)
        ):
            assert error == errno.ENOSPC
            return kept
        kept[str(number)] = content
    raise AssertionError("the host does not fill up")


def sync(volume: Front) -> None:
    descriptor = os.open(volume.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_an_unmount_on_a_full_host_hangs_or_loses_what_was_promised(
    small_host: Path, images, run_snapfs, front
) -> None:
    image = small_host / "volume.img"
    run_snapfs("mkfs", image, "--size", "256M")
    images.watch(image)
    volume = front(image)
    kept = fill(volume)
    # Nothing is left for a commit, either.
    with contextlib.suppress(OSError), (small_host / "rest").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    for number in range(300):
        if error_of((volume / f"empty{number}").touch):
            break
    volume.unmount()
    (small_host / "rest").unlink()
    again = front(image)
    all_there(again, kept)
    again.unmount()


# Rot


def test_a_flipped_bit_in_a_file_is_read_or_not_named(images, front) -> None:
    """I7: EIO for who reads it, wherever it shows, with the file and the view in the log; everybody
    else reads on.
    """
    image = images.make()
    volume = front(image)
    (volume / "d").mkdir()
    content, other = pattern(1, 200_000), pattern(2, 200_000)
    write_durably(volume / "d" / "victim\nof rot", content)
    write_durably(volume / "d" / "neighbour", other)
    (volume / ".snap" / "one").mkdir()
    write_durably(volume / "d" / "later", b"x")
    volume.unmount()
    volume = front(image)
    spots = places(image, content[8192:12288])
    assert len(spots) == 1
    flip(image, spots[0] + 77)
    for top, view in ((volume.path, "in the base"), (volume / ".snap" / "one", "in snapshot one")):
        victim = top / "d" / "victim\nof rot"
        assert error_of(victim.read_bytes) == errno.EIO
        assert (top / "d" / "neighbour").read_bytes() == other
        with victim.open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 4096, 100_000) == content[100_000:104_096]
        found = volume.logged(
            "ERROR",
            "read of /d/victim\\nof rot (inode ",
            view,
            "data from byte 8192 on, fails its checksum",
        )
        assert len(found) == 1, volume.log
    assert volume.read_only is None
    write_durably(volume / "d" / "victim\nof rot", other)  # written anew it is well again
    assert (volume / "d" / "victim\nof rot").read_bytes() == other
    images.expect_damage(image)  # of the snapshot
    volume.unmount()


def test_a_flipped_bit_in_a_directory_is_believed_or_written_on(images, run_snapfs, front) -> None:
    """The volume is read-only, says why and serves the rest."""
    image = images.make()
    volume = front(image)
    (volume / "sound").mkdir()
    write_durably(volume / "sound" / "file", b"sound" * 1000)
    (volume / "rotten").mkdir()
    write_durably(volume / "rotten" / "a-name-that-is-nowhere-else", b"x")
    volume.unmount()
    volume = front(image)
    before = image.read_bytes()
    for spot in places(image, b"a-name-that-is-nowhere-else"):
        flip(image, spot)
    damaged = image.read_bytes()
    assert damaged != before
    (volume / "unsaved").touch()
    assert error_of(lambda: os.listdir(volume / "rotten")) == errno.EIO
    assert "metadata is damaged" in (volume.read_only or "")
    assert error_of(lambda: os.listdir(volume / "rotten")) == errno.EIO
    assert len(volume.logged("read-only from now on", "metadata is damaged", "is lost")) == 1
    assert len(volume.logged("ERROR", "/rotten (inode ", "in the base", "fails its checksum")) >= 1
    assert (volume / "sound" / "file").read_bytes() == b"sound" * 1000
    assert error_of(lambda: (volume / "sound" / "file").write_bytes(b"x")) == errno.EROFS
    assert error_of(lambda: sync(volume)) == errno.EROFS  # "unsaved" is not
    volume.unmount()
    assert unclaimed(image.read_bytes()) == unclaimed(damaged)
    images.expect_damage(image)
    assert run_snapfs("check", image, code=4)


def test_an_image_that_is_cut_off_below_its_mount_ends_the_daemon_or_lies(images, front) -> None:
    """EIO, never SIGBUS and never other bytes."""
    image = images.make()
    images.expect_damage(image)
    volume = front(image)
    contents = {f"f{number}": pattern(number, MIB) for number in range(20)}
    for name, content in contents.items():
        write_durably(volume / name, content)
    volume.unmount()
    volume = front(image)
    late = os.open(volume / "more", os.O_CREAT | os.O_WRONLY, 0o644)
    os.fsync(late)
    os.truncate(image, 8 * MIB)
    outcomes = set()
    for name, content in contents.items():
        try:
            assert (volume / name).read_bytes() == content
            outcomes.add("right")
        except OSError as exc:
            assert exc.errno == errno.EIO
            outcomes.add("error")
    assert "error" in outcomes
    os.write(late, b"x" * 5000)
    assert error_of(lambda: os.fsync(late)) == errno.EIO
    os.close(late)
    volume.unmount()
