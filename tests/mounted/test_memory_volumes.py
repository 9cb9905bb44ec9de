"""D6: volumes in memory, empty or loaded from an image: everything works as on an image, and
nothing is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


@dataclass
class InMemory:
    """A mount of memory."""

    path: Path
    run: Run
    pid: int = 0
    is_mounted: bool = field(default=False)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def info(self) -> dict:
        return json.loads(self.run("info", self.path, "--json").stdout)

    def memory(self) -> Path:
        """The file without a name behind it."""
        (found,) = (
            link
            for link in Path(f"/proc/{self.pid}/fd").iterdir()
            if os.readlink(link).startswith("/memfd:mem:")
        )
        return found

    def used(self) -> int:
        return self.memory().stat().st_blocks * 512

    def unmount(self) -> None:
        self.run("umount", self.path)
        self.is_mounted = False


@pytest.fixture
def mount_memory(run_snapfs: Run, tmp_path: Path) -> Iterator[Callable[..., InMemory]]:
    """Mounts memory; what is still mounted at the end has its newest generation checked, in a copy
    of the memory.
    """
    made: list[InMemory] = []

    def mount(*words: object, options: str = "commit=0.2") -> InMemory:
        path = tmp_path / f"m{len(made)}"
        path.mkdir()
        volume = InMemory(path, run_snapfs)
        result = run_snapfs("mount", *words, path, "-o", options)
        assert result.stdout == result.stderr == ""
        made.append(volume)
        volume.is_mounted = True
        volume.pid = volume.info()["pid"]
        return volume

    with contextlib.ExitStack() as stack:
        stack.callback(
            lambda: [stack.callback(volume.unmount) for volume in made if volume.is_mounted]
        )
        yield mount
        for volume in (one for one in made if one.is_mounted):
            descriptor = os.open(volume.path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            copy = tmp_path / "copy.img"
            subprocess.run(["cp", "--sparse=always", volume.memory(), copy], check=True, timeout=60)
            run_snapfs("check", copy)


def test_d6_a_volume_in_memory_does_what_others_do(mount_memory, run_snapfs: Run) -> None:
    """D6: files, snapshots, going back; the block size is the page size;
    the root is the caller's.
    """
    volume = mount_memory("mem:64M")
    info = volume.info()
    assert (info["image"], info["in_memory"], info["block_size"]) == (
        "mem:64M",
        True,
        resource.getpagesize(),
    )
    status = volume.path.stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    (volume / "d").mkdir()
    (volume / "d" / "file").write_bytes(b"first" * 10_000)
    os.setxattr(volume / "d" / "file", "user.x", b"y")
    run_snapfs("snapshot", "create", volume.path, "one")
    (volume / "d" / "file").write_bytes(b"second" * 10_000)
    (volume / "d" / ".snap" / "two").mkdir()
    shutil.rmtree(volume / "d")
    assert (volume / ".snap" / "one" / "d" / "file").read_bytes() == b"first" * 10_000
    run_snapfs("restore", volume.path, "one")
    assert (volume / "d" / "file").read_bytes() == b"first" * 10_000
    assert os.getxattr(volume / "d" / "file", "user.x") == b"y"
    assert "file" in run_snapfs("diff", volume.path, "two").stdout
    run_snapfs("snapshot", "delete", volume.path, "two")
    for command in ("df", "info", "scrub", "snapshot list"):
        run_snapfs(*command.split(), volume.path)
    assert "in memory" in run_snapfs("info", volume.path).stdout


def test_d6_two_volumes_share_something(mount_memory, run_snapfs: Run) -> None:
    """D6: the same word twice is two volumes, each with its own daemon that commands find."""
    volumes = [mount_memory("mem:32M"), mount_memory("mem:32M")]
    assert (
        len({volume.pid for volume in volumes})
        == len({volume.info()["uuid"] for volume in volumes})
        == 2
    )
    (volumes[0] / "file").write_text("first")
    run_snapfs("snapshot", "create", volumes[0].path, "s")
    assert list(volumes[1].path.iterdir()) == []
    assert json.loads(run_snapfs("snapshot", "list", volumes[1].path, "--json").stdout) == []
    volumes[0].unmount()
    (volumes[1] / "file").write_text("second")
    assert (volumes[1] / "file").read_text() == "second"


def test_d6_what_was_in_memory_outlives_its_mount(mount_memory) -> None:
    """D6: the next one is another, and empty."""
    first = mount_memory("mem:32M")
    (first / "file").write_text("text")
    before = first.info()["uuid"]
    first.unmount()
    second = mount_memory("mem:32M")
    assert list(second.path.iterdir()) == []
    assert second.info()["uuid"] != before


def test_d6_unfilled_and_freed_memory_is_taken(mount_memory, wait_until) -> None:
    """D6: what is deleted gives its memory back, by default; what was never written takes none."""
    volume = mount_memory("mem:1G")
    assert volume.used() < 1 << 20
    (volume / "large").write_bytes(os.urandom(1 << 20) * 64)
    for number in range(500):
        (volume / f"small{number}").write_bytes(b"x" * 4096)
    os.sync()
    assert volume.used() > 64 << 20
    (volume / "large").unlink()
    wait_until(lambda: volume.used() < 6 << 20, what="the memory of a large file")
    for number in range(500):
        (volume / f"small{number}").unlink()
    wait_until(lambda: volume.used() < 2 << 20, what="the memory of small files")


def test_d6_memory_is_kept_if_asked_for(mount_memory, wait_until) -> None:
    volume = mount_memory("mem:1G", options="nodiscard,commit=0.1")
    (volume / "large").write_bytes(os.urandom(1 << 20) * 16)
    descriptor = os.open(volume / "large", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    before = volume.info()["free"]
    (volume / "large").unlink()
    wait_until(lambda: volume.info()["free"] > before, what="the space of a large file")
    assert volume.used() > 16 << 20


def test_d6_a_full_volume_in_memory_is_another_error(mount_memory, wait_until) -> None:
    volume = mount_memory("mem:8M", options="writeback=off")
    with pytest.raises(OSError) as caught:
        (volume / "file").write_bytes(bytes(range(256)) * (16 << 12))
    assert caught.value.errno == errno.ENOSPC
    (volume / "file").unlink()
    # The kernel lets go of the file in its own time.
    wait_until(lambda: volume.info()["available"] > 2 << 20, what="space after deleting")
    (volume / "file").write_bytes(b"x" * (1 << 20))


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group that may have 400 MiB. Needs root and the memory controller: skipped, with
    the reason, without.
    """
    places = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            places["memory.limit_in_bytes"] = Path(f"/sys/fs/cgroup/memory{path}")
        elif not controllers:
            places["memory.max"] = Path(f"/sys/fs/cgroup{path}")
    made = None
    for limit, parent in places.items():
        group = parent / f"snapfs-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            made = group
            (group / limit).write_text(str(400 << 20))
            break
        if made is not None:
            made.rmdir()
            made = None
    if made is None:
        pytest.skip("no control group with a limit of memory can be made here")
    yield made
    made.rmdir()


def test_d6_memory_that_runs_out_ends_the_daemon(
    memory_group: Path, mount_memory, wait_until
) -> None:
    """D6: what a container may have is used up by files: writing ends with ENOSPC, deleting gives
    memory back, nothing was killed.
    """
    volume = mount_memory("mem:380M", options="writeback=off,commit=0.2")
    (memory_group / "cgroup.procs").write_text(
        str(volume.pid)
    )  # from the start it would be warned of, and less than that is free
    content = os.urandom(1 << 20)
    with pytest.raises(OSError) as caught, (volume / "x").open("wb", buffering=0) as file:
        for _ in range(600):
            file.write(content)
    assert caught.value.errno == errno.ENOSPC
    assert volume.used() < 375 << 20, "the volume itself was full"
    assert volume.info()["read_only"] is None
    (volume / "x").unlink()
    wait_until(lambda: volume.used() < 20 << 20, what="the memory of the file")
    (volume / "y").write_bytes(content * 100)
    assert (volume / "y").read_bytes() == content * 100
    volume.run("scrub", volume.path)
    volume.unmount()


# From an image


@pytest.fixture
def filled(mount_volume) -> Path:
    """An image with files and a snapshot in it, and much free space."""
    volume = mount_volume(size="256M")
    (volume / "file").write_bytes(b"old" * 100_000)
    volume.snapshot("s")
    (volume / "file").write_bytes(b"new" * 100_000)
    volume.unmount()
    return volume.image


def test_d6_a_loaded_volume_differs_from_its_image(
    filled: Path, mount_memory, run_snapfs: Run
) -> None:
    """D6: it begins with all that is in the image, takes memory for no more than that, and changes
    nothing there.
    """
    before = filled.read_bytes()
    volume = mount_memory("--load", filled, "mem:")
    assert volume.used() < 8 << 20
    assert (volume / "file").read_bytes() == b"new" * 100_000
    assert (volume / ".snap" / "s" / "file").read_bytes() == b"old" * 100_000
    assert volume.info()["uuid"] == json.loads(run_snapfs("info", filled, "--json").stdout)["uuid"]
    (volume / "file").write_bytes(b"newest")
    run_snapfs("restore", volume.path, "s")
    assert (volume / "file").read_bytes() == b"old" * 100_000
    assert filled.read_bytes() == before
    # Nobody holds the image, and it can be mounted beside.
    second = mount_memory("--load", filled, "mem:", options="ro")
    assert (second / "file").read_bytes() == b"new" * 100_000
    with pytest.raises(OSError) as caught:
        (second / "file").write_bytes(b"")
    assert caught.value.errno == errno.EROFS


def test_d6_a_loaded_volume_cannot_be_mounted_as_images_can(filled: Path, mount_memory) -> None:
    """D6: options mean what they mean for images."""
    assert (
        mount_memory("--load", filled, "mem:", options="restore=s") / "file"
    ).read_bytes() == b"old" * 100_000
    assert (
        mount_memory("--load", filled, "mem:", options="snapshot=s,ro") / "file"
    ).read_bytes() == b"old" * 100_000


def test_d6_loading_what_cannot_be(
    filled: Path, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """D6: each mistake is one line, and nothing is mounted."""
    path = tmp_path / "point"
    path.mkdir()
    busy = mount_volume()
    (tmp_path / "text").write_text("not a volume" * 10_000)
    for words, code, texts in (
        (["--load", filled, "mem:1G", path], 1, ["mem:1G", "'mem:'"]),
        (["--load", filled, tmp_path / "other.img", path], 1, ["--load", "'mem:'"]),
        (["--load", tmp_path / "missing", "mem:", path], 32, ["missing", "No such file"]),
        (["--load", tmp_path / "text", "mem:", path], 32, ["text", "not a snapfs volume"]),
        (["--load", busy.image, "mem:", path], 32, ["in use by process"]),
        (["--load", tmp_path, "mem:", path], 32, ["neither a regular file nor a block device"]),
        (["--load", "mem:1G", "mem:", path], 32, ["mem:1G", "mount point"]),
        (["mem:", path], 1, ["needs a size", "--load"]),
        (["mem:much", path], 1, ["mem:much", "not a size"]),
        (["mem:0", path], 1, ["mem:0"]),
        (["mem:4K", path], 1, ["too small"]),
        (["mem:1000T", path], 1, ["mem:1000T", "more than all memory"]),
        (["mem:64M", tmp_path / "nowhere"], 32, ["no such mount point"]),
        (["mem:64M", path, "-o", "snapshot=none"], 32, ["none"]),
    ):
        one_line(run_snapfs("mount", *words, code=code), *texts)
        assert not path.is_mount()


def test_d6_a_size_that_may_not_be_there_is_not_told(run_snapfs: Run, tmp_path: Path) -> None:
    """D6: more than is free now is mounted, with one line of warning."""
    path = tmp_path / "m"
    path.mkdir()
    figures = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (
        sum(int(figures[name].split()[0]) for name in names)
        for names in (("MemTotal", "SwapTotal"), ("MemAvailable",))
    )
    free = available + int(figures["SwapFree"].split()[0])
    if total - free < 1 << 10:
        pytest.skip("nothing of this machine's memory is in use")
    result = run_snapfs("mount", f"mem:{total - 64}K", path, code=None)
    if result.returncode:
        assert "more than all memory" in result.stderr, (
            "this process may have less than the machine has"
        )
        return
    try:
        one_line(result, "of memory are free now", "no space left")
    finally:
        run_snapfs("umount", path)


def test_d6_commands_take_memory_for_a_path(run_snapfs: Run, tmp_path: Path) -> None:
    """D6: where an image is wanted, one line says what to name instead; a file of that name can be
    given.
    """
    for words in (
        ["info", "mem:64M"],
        ["df", "mem:64M"],
        ["snapshot", "list", "mem:64M"],
        ["snapshot", "create", "mem:64M"],
        ["scrub", "mem:64M"],
        ["umount", "mem:64M"],
    ):
        one_line(run_snapfs(*words, code=1, cwd=tmp_path), "mem:64M", "name its mount point")
    one_line(
        run_snapfs("check", "mem:64M", code=8, cwd=tmp_path), "mem:64M", "name its mount point"
    )
    one_line(
        run_snapfs("mkfs", "mem:64M", "--size", "64M", code=2, cwd=tmp_path),
        "snapfs mount mem:64M MOUNTPOINT",
    )
    assert list(tmp_path.iterdir()) == []
    run_snapfs("mkfs", "./mem:64M", "--size", "64M", cwd=tmp_path)
    run_snapfs("check", "./mem:64M", cwd=tmp_path)
    one_line(run_snapfs("info", "mem:64M", code=1, cwd=tmp_path), "./mem:64M")


def test_d6_the_log_does_not_say_that_it_is_gone(
    snapfs_command, start, tmp_path: Path, run_snapfs: Run
) -> None:
    """D6: in the foreground both lines are on standard error."""
    path = tmp_path / "m"
    path.mkdir()
    process = start(
        snapfs_command("mount", "-f", "mem:64M", path), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "in memory" in first and "gone when it is unmounted" in first
    run_snapfs("umount", path)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "gone with all that was in it" in rest
