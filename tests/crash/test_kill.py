"""kill -9 of the daemon, again and again on one image: what was acknowledged is there, and the
checker finds nothing.

``SNAPFS_KILLS`` sets how often; ``make torture`` uses it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable

import pytest

from tests.crash.killing import WRITERS, Life, Log, prove
from tests.harness.mounts import Mounted

#: Kills in a normal run of the tests.
KILLS = int(os.environ.get("SNAPFS_KILLS", "50"))
SEED = int(os.environ.get("SNAPFS_KILL_SEED", "0"))

#: Every so many kills the logs begin anew, so that reading all of them stays quick, and the
#: progress is told.
ROUND = 8


def findings(mounted: Mounted) -> list[str]:
    """What the checker says, but that the newest superblock has no copy yet: between its two writes
    a kill leaves it so.
    """
    found = json.loads(mounted.run("check", mounted.image, "--json", code=None).stdout)["findings"]
    return [one["message"] for one in found if one["rule"] != "superblock-copy"]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.volume(size="256M", options="commit=1")
def test_kills_lose_nothing_that_was_acknowledged(
    mounted: Mounted, wait_until: Callable[..., None]
) -> None:
    """A2, A6, A9; I8. The seed makes the same changes again, though not at the same moments."""
    seed = SEED or random.randrange(1, 1 << 30)
    print(f"\n{KILLS} kills, SNAPFS_KILL_SEED={seed}")
    began = time.monotonic()
    dice = random.Random(seed)
    log = Log()
    digests: dict[str, dict[str, bytes]] = {}
    (mounted / "tree").mkdir()
    for kill in range(KILLS):
        prove(mounted.path, log, digests)
        if kill % ROUND == ROUND - 1:
            for writer in range(WRITERS):
                with (mounted / f"log{writer}").open("r+b") as file:
                    file.truncate(0)
                    os.fsync(file.fileno())
                log.lengths[writer] = log.returned[writer] = 0
            print(
                f"{kill} of {KILLS} kills, {log.acknowledged} changes acknowledged, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        life = Life(mounted.path, log, seed + kill)
        pid = mounted.pid
        goal = log.acknowledged + dice.randrange(1, 80)
        threads = life.work()
        try:
            wait_until(
                lambda goal=goal, life=life: log.acknowledged >= goal or life.wrong,
                limit=60,
                what="the work before the kill",
            )
        finally:
            life.end()
            mounted.kill(pid)
            for thread in threads:
                thread.join(60)
        assert not [thread for thread in threads if thread.is_alive()]
        life.close()
        assert not os.listdir(mounted.path), "somebody went on in the directory below the mount"
        assert not life.wrong, f"after kill {kill} of seed {seed}"
        assert findings(mounted) == [], f"after kill {kill} of seed {seed}"
        mounted.mount("commit=1")
    prove(mounted.path, log, digests)
    assert log.acknowledged > KILLS
    print(
        f"{KILLS} kills, {log.acknowledged} changes acknowledged, none missing, always "
        f"clean: {time.monotonic() - began:.0f} s"
    )


def test_a_kill_while_mounting_going_back_and_unmounting(mounted: Mounted) -> None:
    """A10, I8: going back is done or not done."""
    (mounted / "file").write_bytes(b"old" * 10_000)
    mounted.snapshot("s")
    (mounted / "file").write_bytes(b"new" * 10_000)
    states = {b"old" * 10_000, b"new" * 10_000}
    for _ in range(8):
        pid = mounted.pid
        thread = threading.Thread(
            target=mounted.run, args=("restore", mounted.path, "s"), kwargs={"code": None}
        )
        thread.start()
        while thread.is_alive() and len(os.listdir(mounted / ".snap")) == 1:
            pass
        mounted.kill(pid)
        thread.join(60)
        assert findings(mounted) == []
        mounted.mount()
        content = (mounted / "file").read_bytes()
        assert content in states
        others = set(os.listdir(mounted / ".snap")) - {"s"}
        assert bool(others) == (content == b"old" * 10_000)
        for name in others:
            assert (mounted.view(name) / "file").read_bytes() == b"new" * 10_000
            (mounted / ".snap" / name).rmdir()
        assert (mounted.view("s") / "file").read_bytes() == b"old" * 10_000
        (mounted / "file").write_bytes(b"new" * 10_000)
