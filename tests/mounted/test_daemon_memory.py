"""What must not grow with the size of the volume and with all that anybody has looked at: the
daemon's memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from snapfs import ids
from tests.harness.mounts import resident
from tests.harness.offline import make, offline


def test_work_on_a_volume_of_1_tib_stays_in_150_mib(mount_volume) -> None:
    """Files all over it, one of the largest size, snapshots: nothing is kept in memory for the size
    of the volume.
    """
    mounted = mount_volume(size="1T")
    pid = mounted.pid
    chunk = os.urandom(1 << 20)
    for number in range(3):
        for name in range(300):
            (mounted / f"file{name}").write_bytes(chunk[name : name + 50_000])
        (mounted / "sparse").touch()
        with (mounted / "sparse").open("r+b") as file:
            for place in range(64):
                os.pwrite(file.fileno(), chunk[:5000], place * (250 << 30) + number)
        with (mounted / "large").open("wb") as file:
            for _ in range(100):
                file.write(chunk)
        (mounted / ".snap" / f"s{number}").mkdir()
        assert resident(pid) < 150 << 20
    for number in range(3):
        with (mounted.view(f"s{number}") / "sparse").open("rb") as file:
            file.seek(63 * (250 << 30) + number)
            assert file.read(5000) == chunk[:5000]
    (mounted / "sparse").unlink()
    (mounted / "large").unlink()
    mounted.run("restore", mounted.path, "s1")
    (mounted / ".snap" / "s1").rmdir()
    assert (mounted / "large").stat().st_size == 100 << 20
    assert resident(pid) < 150 << 20


@pytest.mark.parametrize("loop", ["", ",requests=pyfuse3"])
def test_the_daemon_remembers_all_that_anybody_has_ever_looked_at(
    loop: str, images, mount_volume, wait_until: Callable[..., None]
) -> None:
    """What nobody uses the kernel is asked to let go of. What is in use stays."""
    image = images.make()
    count = 5000
    with offline(image) as fs:
        for number in range(count):
            make(fs, ids.ROOT_INO, f"file {number}")
    mounted = mount_volume(image, f"cache=1M{loop}")

    def forgotten() -> int:
        return int(
            json.loads(mounted.run("info", mounted.path, "--json").stdout)["requests"].get(
                "forget", 0
            )
        )

    with (mounted / "file 7").open("r+") as used:
        used.write("before")
        used.flush()
        assert sum(entry.stat().st_size for entry in os.scandir(mounted.path)) == len("before")
        wait_until(forgotten, what="the first inode that the kernel lets go of")
        used.write(" and after")
    assert sum(entry.stat().st_size for entry in os.scandir(mounted.path)) == len(
        "before and after"
    )
    assert (mounted / "file 7").read_text() == "before and after"
