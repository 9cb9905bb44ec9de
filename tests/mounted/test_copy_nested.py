"""Full copies that would have the daemon wait for itself, and full copies of full volumes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from snapfs.control.socket import client, mounts
from snapfs.errors import SnapfsError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and bind mounts need root")

INSIDE = "is in the volume that is to be copied"


@pytest.fixture
def undone() -> Iterator[ExitStack]:
    """What is called when the test ends, before the mounts go."""
    with ExitStack() as stack:
        yield stack


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@needs_root
@pytest.mark.volume(size="200M")
def test_a_volume_is_copied_into_itself(
    mounted, mount_volume, undone: ExitStack, tmp_path: Path
) -> None:
    """D1, D7: refused wherever it can be told, before anything is opened or made: the daemon would
    wait for itself.
    """
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", mounted.path, bind], check=True)
    undone.callback(lambda: subprocess.run(["umount", bind], check=True))
    link = tmp_path / "link"
    link.symlink_to(mounted / "through a link")
    sparse(mounted / "there", 200 << 20)
    for place in (mounted / "new", bind / "new", link, mounted / "there", bind / "there"):
        result = mounted.run("copy", mounted.path, place, "--force", code=2)
        assert INSIDE in result.stderr, result.stderr
    assert os.listdir(mounted.path) == ["there"]


@needs_root
@pytest.mark.volume(size="300M")
def test_a_volume_is_copied_into_a_device_that_stands_on_it(
    mounted, mount_volume, make_loop: Callable[..., Path], undone: ExitStack, tmp_path: Path
) -> None:
    """As above: a loop device, one over that, a filesystem on one, and another volume whose image
    lies there.
    """

    def looped(path: Path) -> Path:
        device = make_loop(path)
        undone.callback(subprocess.run, ["losetup", "-d", device], check=True)
        return device

    loop = looped(sparse(mounted / "t", 61 << 20))
    over = looped(loop)
    cases = [loop, over]
    image = sparse(mounted / "inner.img", 80 << 20)
    mounted.run("mkfs", image)
    inner = mount_volume(image)
    undone.callback(inner.unmount)
    cases += [inner / "copy.img", looped(sparse(inner / "t", 61 << 20))]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    subprocess.run(["mkfs.ext4", "-q", sparse(mounted / "ext4", 30 << 20)], check=True)
    subprocess.run(["mount", looped(mounted / "ext4"), foreign], check=True)
    undone.callback(subprocess.run, ["umount", foreign], check=True)
    cases.append(foreign / "copy.img")
    for place in cases:
        result = mounted.run("copy", mounted.path, place, "--force", code=2)
        assert INSIDE in result.stderr, (place, result.stderr)
    assert sorted(os.listdir(inner.path)) == ["t"]
    assert not (foreign / "copy.img").exists()
    # The other way round nothing waits for itself.
    mounted.run("copy", inner.path, tmp_path / "copy.img", "--wait")


@pytest.fixture
def altered(
    mounted, wait_until, tmp_path: Path
) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Mounts the volume by a daemon that has executed some lines before: constants are others, or
    something is not noticed.
    """
    started: list[subprocess.Popen[bytes]] = []

    def mount(lines: str) -> subprocess.Popen[bytes]:
        mounted.unmount()
        program = (
            f"{lines}\nfrom snapfs.cli.main import main\nmain(['mount', '--foreground', "
            "*sys.argv[1:]], 'snapfs')"
        )
        command = [sys.executable, "-c", f"import sys\n{program}", mounted.image, mounted.path]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log)
        started.append(process)

        def is_mounted() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return mounts.mount_at(str(mounted.path)) is not None and control_answers(mounted)

        wait_until(is_mounted, 60, "the mount")
        return process

    yield mount
    for process in started:
        process.terminate()
        process.wait(60)


def control_answers(mounted: Any) -> bool:
    found = mounts.mount_at(str(mounted.path))
    assert found is not None
    with suppress(SnapfsError), client.of_mount(found):
        return True
    return False


@needs_root
def test_a_map_goes_into_the_volume_itself(
    mounted, altered: Callable[..., Any], make_loop: Callable[..., Path], tmp_path: Path
) -> None:
    """D5: the map of a copy to a device is among the user's own files, which may be in the volume
    that is copied.
    """
    device = make_loop(sparse(tmp_path / "t", 64 << 20))
    altered(
        "from snapfs.copying import map_file; map_file.STATE_DIRECTORY = "
        f"{str(mounted / 'state')!r}"
    )
    result = mounted.run("copy", mounted.path, device, "--force", "--map", "outside", code=2)
    assert INSIDE in result.stderr, result.stderr
    assert not os.listdir(mounted / "state")
    mounted.run("copy", mounted.path, device, "--force", "--wait")


def fill(mounted: Any) -> None:
    """Until not even the smallest file finds room."""
    for size in (1 << 20, 4096):
        with suppress(OSError):
            for number in itertools.count():
                with (mounted / f"{size}-{number}").open("wb") as file:
                    file.write(b"x" * size)
                    file.flush()
                    os.fsync(file.fileno())


@pytest.mark.volume(size="64M")
def test_a_full_volume_cannot_be_saved(mounted, images, mount_volume, tmp_path: Path) -> None:
    """D5: with its map outside a copy needs no room on the volume; without, it says what to do."""
    fill(mounted)
    names = sorted(os.listdir(mounted.path))
    result = mounted.run("copy", mounted.path, tmp_path / "copy.img", code=1)
    assert "--map outside" in result.stderr
    assert "copy.img" not in os.listdir(tmp_path)
    mounted.run("copy", mounted.path, tmp_path / "saved.img", "--map", "outside", "--wait")
    images.watch(tmp_path / "saved.img")
    copy = mount_volume(tmp_path / "saved.img")
    assert sorted(os.listdir(copy.path)) == names


# --- targets that do not answer -------------------------------------------------------------------

#: What cannot be told to lie in the volume: so the daemon does wait for itself.
UNTOLD = "import snapfs.control.copies.copying as one; one.refuse_nested = lambda *_: None"

#: Whoever writes waits for the target so long, and not half a minute.
HASTY = "import snapfs.copying.before_write as other; other.WAIT_SECONDS = 1.0"

#: "Within seconds", on a machine that is busy.
SECONDS = 40

#: Another user of the volume, as a process: one who waits in the kernel cannot be ended.
OTHER_USER = """
import os, sys
os.mkdir(sys.argv[1])
with open(sys.argv[1] + "/file", "wb") as file:
    file.write(b"x" * 100_000)
    file.flush()
    os.fsync(file.fileno())
"""


def end(process: subprocess.Popen[Any]) -> None:
    """Whatever has become of the test: the mounts are gone by force by then, so nobody waits in the
    kernel.
    """
    process.kill()
    process.communicate(timeout=SECONDS)


@pytest.fixture
def other_user(mounted, undone: ExitStack) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts one, who makes a directory of that name and a file in it."""

    def start(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", OTHER_USER, mounted / name])
        undone.callback(end, process)
        return process

    return start


@pytest.fixture
def begun(
    mounted, make_loop: Callable[..., Path], snapfs_command, wait_until, undone: ExitStack
) -> Callable[[], subprocess.Popen[str]]:
    """Begins a copy of the volume to a device that stands on it, in a process of its own."""

    def begin() -> subprocess.Popen[str]:
        (mounted / "data").write_bytes(os.urandom(8 << 20))
        loop = make_loop(sparse(mounted / "t", 201 << 20))
        process = subprocess.Popen(
            snapfs_command("copy", mounted.path, loop, "--force"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        undone.callback(end, process)
        wait_until(
            lambda: process.poll() is not None or status(mounted).get("id") is not None,
            60,
            "the copy's beginning",
        )
        assert process.poll() is None, process.communicate()
        return process

    return begin


def status(mounted: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        mounted.run("copy", "status", mounted.path, "--json", code=None).stdout
    )
    return found


@needs_root
@pytest.mark.volume(size="200M")
def test_a_copy_that_waits_for_itself_cannot_be_cancelled(
    mounted, altered, begun, other_user
) -> None:
    """D4, D7: cancelling ends within seconds, and with it the waiting of everybody else."""
    altered(UNTOLD)
    process = begun()
    user = other_user("user")
    mounted.run("copy", "cancel", mounted.path, limit=SECONDS)
    _, complaint = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "cancelled" in complaint, complaint
    assert user.wait(SECONDS) == 0
    assert status(mounted)["state"] == "none"


@needs_root
@pytest.mark.volume(size="200M")
def test_users_wait_for_ever_for_a_copy_that_waits_for_itself(
    mounted, altered, begun, other_user
) -> None:
    """D7: the target is given so long, then the copy fails, and says why; nobody has to do
    anything.
    """
    altered(f"{UNTOLD}\n{HASTY}")
    process = begun()
    assert other_user("user").wait(SECONDS) == 0
    _, complaint = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "does not answer" in complaint, complaint
    assert other_user("another").wait(SECONDS) == 0


@needs_root
@pytest.mark.volume(size="200M")
def test_a_daemon_that_waits_for_itself_never_ends(mounted, altered, begun, other_user) -> None:
    """D4: detaching the mount, and SIGTERM, end within seconds; what was
    written before is there.
    """
    daemon = altered(UNTOLD)
    process = begun()
    user = other_user("user")
    mounted.run("umount", "--lazy", mounted.path, limit=SECONDS)
    daemon.terminate()
    daemon.wait(SECONDS)
    process.communicate(timeout=SECONDS)
    user.wait(SECONDS)
    mounted.mount()
    assert (mounted / "data").stat().st_size == 8 << 20


@pytest.fixture
def elsewhere(mounted, mount_volume, undone: ExitStack, tmp_path: Path) -> Any:
    """Another volume, for targets. Its daemon can be stopped; then nothing that is asked of a
    target there is answered.
    """
    mount = mount_volume(size="200M")
    pid = mount.pid
    undone.callback(os.kill, pid, signal.SIGCONT)
    mount.stop = lambda: os.kill(pid, signal.SIGSTOP)
    mount.go_on = lambda: os.kill(pid, signal.SIGCONT)
    return mount


def with_data(mounted: Any) -> None:
    (mounted / "old").write_bytes(os.urandom(12 << 20))
    subprocess.run(["sync", mounted / "old"], check=True)


def overwrite(mounted: Any, undone: ExitStack) -> subprocess.Popen[bytes]:
    """Delete what the copy has not got yet, and write until that is overwritten."""
    program = (
        "import os, sys\nos.unlink(sys.argv[1])\n"
        "for number in range(52):\n"
        "    with open(f'{sys.argv[2]}{number}', 'wb') as file:\n"
        "        file.write(os.urandom(1 << 20)); file.flush(); os.fsync(file.fileno())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, mounted / "old", mounted / "new"], stderr=subprocess.DEVNULL
    )
    undone.callback(end, process)
    return process


@pytest.mark.volume(size="64M")
def test_a_target_that_does_not_answer_holds_writers_up(
    mounted, altered, elsewhere, undone, wait_until, tmp_path: Path
) -> None:
    """D3, D7: whoever has to wait for it does so for a while; then the copy has failed, and another
    one can be made.
    """
    daemon = altered(HASTY)
    with_data(mounted)
    mounted.run("copy", mounted.path, elsewhere / "copy.img", "--rate", "0")
    elsewhere.stop()
    assert overwrite(mounted, undone).wait(SECONDS) == 0
    found = status(mounted)
    assert found["state"] == "failed"
    assert "does not answer" in found["reason"]
    again = ("copy", mounted.path, tmp_path / "copy.img", "--wait")
    wait_until(
        lambda: not mounted.run(*again, code=None, limit=SECONDS).returncode,
        SECONDS,
        "another copy",
    )
    mounted.run("umount", mounted.path, limit=SECONDS)
    mounted.mount()  # by another daemon, whatever the kernel keeps of that one
    mounted.unmount()
    elsewhere.go_on()
    daemon.wait(SECONDS)


@pytest.mark.volume(size="64M")
def test_a_copy_to_what_does_not_answer_cannot_be_given_up(
    mounted, altered: Callable[..., Any], elsewhere, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    """D4: cancelled within seconds, and so does the mount end; the target is removed when that is
    possible again, or is of no use.
    """
    daemon = altered("")
    with_data(mounted)
    mounted.run("copy", mounted.path, elsewhere / "copy.img", "--rate", "0")
    elsewhere.stop()
    mounted.run("copy", "resume", mounted.path, "--rate", "max")
    mounted.run("copy", "cancel", mounted.path, limit=SECONDS)
    assert status(mounted)["state"] == "cancelled"
    daemon.terminate()
    wait_until(lambda: mounts.mount_at(str(mounted.path)) is None, SECONDS, "the end of the mount")
    wait_until(
        lambda: not mounted.run("check", mounted.image, code=None).returncode,
        SECONDS,
        "the release of the image",
    )
    elsewhere.go_on()
    daemon.wait(SECONDS)
    wait_until(
        lambda: (
            not (elsewhere / "copy.img").exists() or is_refused(mounted, elsewhere / "copy.img")
        ),
        SECONDS,
        "the end of the target",
    )


def is_refused(mounted: Any, image: Path) -> bool:
    return mounted.run("check", image, code=None).returncode == 8


@pytest.mark.volume(size="64M")
def test_a_write_that_comes_second_waits_for_ever(
    mounted, altered, elsewhere, other_user, undone
) -> None:
    """D7: with --on-error write it is the write that fails while the target does not answer; both
    go on when it does.
    """
    altered(HASTY)
    with_data(mounted)
    mounted.run("copy", mounted.path, elsewhere / "copy.img", "--rate", "0", "--on-error", "write")
    elsewhere.stop()
    assert overwrite(mounted, undone).wait(SECONDS) != 0
    found = status(mounted)
    assert found["state"] == "blocked"
    assert "does not answer" in found["reason"]
    elsewhere.go_on()
    result = json.loads(
        mounted.run(
            "copy", "resume", mounted.path, "--rate", "max", "--wait", "--json", limit=SECONDS
        ).stdout
    )
    assert result["state"] == "complete"
    assert mounted.run("check", elsewhere / "copy.img").returncode == 0
    assert other_user("user").wait(SECONDS) == 0


#: Setting up a copy gets no further when the volume remembers it.
UNFINISHED = (
    "import threading, snapfs.copying.job as job; job.CopyJob.put_map = lambda _: "
    "threading.Event().wait()"
)


@pytest.mark.parametrize("where", ["on-volume", "outside"])
def test_a_mount_that_ends_leaves_a_copy_that_was_never_set_up(
    where: str, mounted, altered, snapfs_command, undone, wait_until, tmp_path: Path
) -> None:
    """D2, D4: the task that sets it up is cancelled with the daemon, and still leaves nothing: no
    target, no map, nothing remembered.
    """
    daemon = altered(UNFINISHED)
    with_data(mounted)
    target = tmp_path / "copies" / "copy.img"
    target.parent.mkdir()
    command = snapfs_command("copy", mounted.path, target, "--map", where)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    undone.callback(end, process)
    wait_until(
        lambda: json.loads(mounted.run("info", mounted.path, "--json").stdout)["copy"] is not None,
        60,
        "the copy's registration",
    )
    assert target.exists()
    daemon.terminate()
    daemon.wait(SECONDS)
    assert process.wait(SECONDS) == 1
    assert os.listdir(target.parent) == []
    assert json.loads(mounted.run("info", mounted.image, "--json").stdout)["copy"] is None
