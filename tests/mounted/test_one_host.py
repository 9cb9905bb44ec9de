"""H3, I11: another host has the volume open, as far as one machine can play two: its claim is on
the image, its locks are not seen.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE, Claim
from snapfs.device import Lock, open_device
from snapfs.device.identity import Identity
from snapfs.device.storage import Storage
from snapfs.store.commit.claiming import Claiming

Run = Callable[..., subprocess.CompletedProcess[str]]

#: What the other host promises. It renews much more often, so that nobody here waits long to see
#: that it is alive, however busy we are.
INTERVAL = 5.0
ELSEWHERE = replace(
    Identity.of_this_process(),
    host="elsewhere.example",
    boot=b"another boot 000",
    pid=4711,
    command="snapfs mount /nfs/d.img /mnt",
)


@pytest.fixture
def elsewhere(volume_image: Path) -> Iterator[Claiming]:
    """The other host. It has not claimed the volume yet."""
    device = open_device(str(volume_image), lock=Lock.NONE)
    with closing(device):
        yield Claiming(device, ELSEWHERE, Storage(1, 2), INTERVAL)


@contextmanager
def alive(host: Claiming) -> Iterator[None]:
    """The host renews its claim meanwhile, and then ends without a word."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.1):
            host.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def claim_of(image: Path) -> Claim:
    with image.open("rb") as file:
        file.seek(CLAIM_PLACE)
        claim = Claim.decode(file.read(CLAIM_BYTES))
    assert claim is not None
    return claim


def test_h3_a_volume_that_another_host_has_open(
    elsewhere: Claiming, volume_image: Path, mount_volume, run_snapfs: Run, tmp_path: Path
) -> None:
    """H3: nobody writes it, and is told who has it; readers may. When the other host is gone
    without a word, it is taken over.
    """
    (tmp_path / "m").mkdir()
    run_snapfs("mkfs", tmp_path / "source", "--size", "4M")
    elsewhere.take(elsewhere.look())
    before = volume_image.read_bytes()
    with alive(elsewhere):
        for words, code in (
            (["mount", volume_image, tmp_path / "m"], 32),
            (["mkfs", "--force", volume_image], 1),
            (["check", "--repair", volume_image], 8),
            (["snapshot", "create", volume_image, "s"], 1),
            (["copy", tmp_path / "source", volume_image, "--force"], 1),
        ):
            line = run_snapfs(*words, code=code).stderr.splitlines()[-1]
            assert re.fullmatch(
                rf"snapfs: {volume_image}: in use on host elsewhere\.example by process "
                r"4711 \(snapfs mount /nfs/d\.img /mnt\) since "
                r"20\d\d-\d\d-\d\dT[\d:]+Z: unmount it there first",
                line,
            ), line
        run_snapfs("check", volume_image)
        mount_volume(volume_image, options="ro").unmount()
    after = volume_image.read_bytes()
    assert (
        before[:CLAIM_PLACE] + before[CLAIM_PLACE + CLAIM_BYTES :]
        == after[:CLAIM_PLACE] + after[CLAIM_PLACE + CLAIM_BYTES :]
    )
    mounted = mount_volume(volume_image, options="mmp=1")
    (mounted / "file").write_text("x")
    assert claim_of(volume_image).pid == mounted.pid and claim_of(volume_image).interval == 1
    mounted.unmount()
    assert not claim_of(volume_image).is_open


def test_h3_a_daemon_that_was_stopped_while_another_host_came(
    elsewhere: Claiming, volume_image: Path, mount_volume, wait_until
) -> None:
    """H3: it writes nothing after it goes on, whatever waits to be written; its users are told."""
    mounted = mount_volume(volume_image, options="mmp=1,commit=0.5")
    (mounted / "file").write_text("before")
    descriptor = os.open(mounted / "file", os.O_RDWR)
    try:
        os.fsync(descriptor)
        pid = mounted.pid
        os.pwrite(descriptor, b"after!", 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            elsewhere.take(elsewhere.look())
            before = volume_image.read_bytes()
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(OSError) as caught:
            os.fsync(descriptor)
        assert caught.value.errno in (errno.EIO, errno.EROFS)
    finally:
        with suppress(OSError):
            os.close(descriptor)

    def reason() -> str:
        return str(
            json.loads(mounted.run("info", mounted.path, "--json").stdout)["read_only"] or ""
        )

    wait_until(
        lambda: "taken over" in reason() and "elsewhere.example" in reason(),
        what="the end of writing",
    )
    with pytest.raises(OSError) as caught:
        (mounted / "new").write_text("x")
    assert caught.value.errno in (errno.EIO, errno.EROFS)
    mounted.unmount()
    assert volume_image.read_bytes() == before
    elsewhere.release()


def test_h3_nobody_waits_for_a_daemon_that_was_killed_here(mounted, run_snapfs: Run) -> None:
    """H3: on the machine where its locks are, the end of a process is known at once."""
    mounted.kill()
    assert claim_of(mounted.image).is_open
    result = run_snapfs("snapshot", "create", mounted.image, "s")
    assert result.stderr == ""  # it would say that it waits
    assert not claim_of(mounted.image).is_open
    mounted.mount("mmp=off")
    assert not claim_of(mounted.image).is_open  # and is not asked
    mounted.remount("ro")
    assert not claim_of(mounted.image).is_open


def test_h3_a_copy_has_the_holder_of_its_source(
    mounted, run_snapfs: Run, tmp_path: Path, images
) -> None:
    """H3: a full copy belongs to nobody when it is complete, and to who fills it before."""
    target = tmp_path / "copy.img"
    (mounted / "file").write_bytes(os.urandom(1 << 20))
    run_snapfs("copy", mounted.path, target, "--rate", "0")
    filling = claim_of(target)
    assert filling.is_open and filling.nonce != claim_of(mounted.image).nonce
    assert filling.pid == mounted.pid
    run_snapfs("copy", "resume", mounted.path, "--rate", "max", "--wait")
    assert not claim_of(target).is_open
    images.watch(target)
