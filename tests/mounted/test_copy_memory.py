"""Copies from memory and to memory (D6): usable at once, kept while their daemon lives, and never
lost by unmounting.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

MIB = 1 << 20


def hashes(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


def fill(top: Path, seed: int = 1) -> dict[str, str]:
    dice = random.Random(seed)
    for number in range(30):
        (top / f"f{number}").write_bytes(dice.randbytes(dice.randrange(500_000)))
    return hashes(top)


def status(mounted: Any, target: object) -> dict[str, Any]:
    return json.loads(mounted.run("copy", "status", target, "--json", code=None).stdout)


def test_a_volume_in_memory_cannot_be_kept(mount_volume, images, tmp_path: Path) -> None:
    """D6: the command returns when the file has all of it; page-sized blocks; a new daemon starts
    from the file.
    """
    memory = mount_volume(Path("mem:200M"))
    before = fill(memory.path)
    snapshot = memory.snapshot("one")
    (memory / "f0").write_bytes(b"later")
    now = hashes(memory.path)
    target = tmp_path / "kept.img"
    told = json.loads(memory.run("copy", memory.path, target, "--json").stdout)
    assert told["state"] == "complete"
    (memory / "f1").write_bytes(b"not in the file")
    assert hashes(snapshot) == before
    memory.unmount()
    kept = mount_volume(images.watch(target))
    assert json.loads(kept.run("info", kept.path, "--json").stdout)["block_size"] == os.sysconf(
        "SC_PAGE_SIZE"
    )
    assert hashes(kept.path) == now
    assert hashes(kept.view("one")) == before


def test_unmounting_loses_what_a_copy_of_memory_lacks(
    mount_volume, snapfs_command, start, images, wait_until, tmp_path: Path
) -> None:
    """D6: whoever does not wait for the command, and unmounts, has all of it."""
    memory = mount_volume(Path("mem:200M"))
    now = fill(memory.path)
    target = tmp_path / "kept.img"
    start(
        snapfs_command("copy", memory.path, target, "--rate", "100K"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(
        lambda: target.exists() and status(memory, memory.path)["state"] == "copying",
        30,
        "the copy",
    )
    memory.unmount()
    assert hashes(mount_volume(images.watch(target)).path) == now


def test_a_copy_in_memory_is_another_moment(
    mounted, mount_volume, run_snapfs, images, tmp_path: Path
) -> None:
    """D1, D6: in another part of memory, usable at once by its name, an image like any other when
    it is complete.
    """
    before = fill(mounted.path)
    mounted.run("copy", mounted.path, "mem:then", "--rate", "0")
    fill(mounted.path, 2)
    early = mount_volume(Path("mem:then"))
    assert hashes(early.path) == before
    assert status(mounted, "mem:then")["map"] == "in memory"
    mounted.run("copy", "resume", mounted.path, "--rate", "max", "--wait")
    assert hashes(early.path) == before
    early.unmount()
    assert json.loads(run_snapfs("check", "mem:then", "--json").stdout)["clean"]
    again = mount_volume(Path("mem:then"))
    assert hashes(again.path) == before
    (again / "new").write_bytes(b"new")
    again.remount()
    assert (again / "new").read_bytes() == b"new"
    again.unmount()
    run_snapfs("copy", "mem:then", tmp_path / "kept.img")
    assert (mount_volume(images.watch(tmp_path / "kept.img")) / "new").read_bytes() == b"new"
    run_snapfs("copy", "cancel", "mem:then")
    result = run_snapfs("check", "mem:then", code=8)
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr)


def test_memory_to_memory(mount_volume, run_snapfs) -> None:
    """D6: a mount of the copy outlives the volume that it is of."""
    memory = mount_volume(Path("mem:100M"))
    before = fill(memory.path)
    memory.run("copy", memory.path, "mem:other", "--wait")
    other = mount_volume(Path("mem:other"))
    memory.unmount()
    assert hashes(other.path) == before
    other.unmount()
    result = run_snapfs("mount", "mem:other", other.path, code=1)
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr)


def test_a_killed_daemon_leaves_the_source_waiting_for_memory(mounted, run_snapfs) -> None:
    """D6, D7: a copy in memory has gone with its daemon, whatever should come first; a new one can
    have its name.
    """
    now = fill(mounted.path)
    mounted.run("copy", mounted.path, "mem:gone", "--rate", "0", "--on-error", "write")
    mounted.kill()
    assert run_snapfs("check", mounted.image).returncode == 0
    mounted.mount()
    assert hashes(mounted.path) == now
    assert status(mounted, mounted.path)["state"] == "none"
    mounted.run("copy", mounted.path, "mem:gone", "--wait")
    assert json.loads(run_snapfs("check", "mem:gone", "--json").stdout)["clean"]


def test_names_that_cannot_be(mounted, run_snapfs) -> None:
    (mounted / "file").write_bytes(b"x" * MIB)
    for name in ("mem:", "mem:2G", "mem:a/b", "mem:" + "n" * 200, "mem:..", "mem: "):
        result = run_snapfs("copy", mounted.path, name, code=2)
        assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), name
    mounted.run("copy", mounted.path, "mem:one", "--wait")
    result = run_snapfs("copy", mounted.path, "mem:one", code=2)
    assert "copy cancel mem:one" in result.stderr
    mounted.unmount()
    result = run_snapfs("copy", mounted.image, "mem:two", code=2)
    assert "mount" in result.stderr


def test_the_end_of_a_session_takes_a_copy_in_memory_away(mounted, run_snapfs, wait_until) -> None:
    """31: its name is where the daemon's socket is, which may go before the daemon does; both are
    made anew.
    """
    from snapfs.control.copies import memory
    from snapfs.control.socket import registry
    from snapfs.control.socket.mounts import mount_at

    name = f"mem:lasting-{os.getpid()}"
    mounted.run("copy", mounted.path, name, "--wait")
    mount = mount_at(os.fspath(mounted.path))
    (place,) = registry.sockets_of_mount(mount)
    for path in (memory.find(name), place):
        os.unlink(path)
    assert memory.find(name) is None
    wait_until(lambda: memory.find(name), limit=60, what="the name of the copy")
    wait_until(lambda: os.path.exists(place), limit=60, what="the socket")
    assert json.loads(run_snapfs("check", name, "--json").stdout)["clean"]
    run_snapfs("copy", "cancel", name)
    assert memory.find(name) is None
