"""What the kernel believes after a restore, a purge, a rename or a deletion of views is what the
volume says (A10, C7, I4).

The older harnesses did not see where it was not: they look through fresh mounts or into the core,
or list a tree before they look into it, and a listing tells the kernel the truth.

``SNAPFS_WARM`` sets how many random histories there are, ``SNAPFS_WARM_SEED`` which is the first,
``SNAPFS_WARM_OPTIONS`` the mount.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.model.histories import History
from tests.model.rooms import SPOILS, USES, build
from tests.model.stories import STORIES
from tests.model.twin import Mounter, Twins, daemon_of, unmount
from tests.model.watch import Run, Watch

HISTORIES = int(os.environ.get("SNAPFS_WARM", "3"))
OPTIONS = os.environ.get("SNAPFS_WARM_OPTIONS", "")
SEED = int(os.environ.get("SNAPFS_WARM_SEED", "0")) or random.randrange(1, 1 << 30)


@pytest.fixture(scope="module")
def mounter() -> Iterator[Mounter]:
    made = Mounter()
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(run_snapfs, tmp_path_factory) -> Path:
    image = tmp_path_factory.mktemp("template") / "volume.img"
    run_snapfs("mkfs", image, "--size", "64M")
    return image


@pytest.fixture
def watch(template: Path, mounter: Mounter, tmp_path: Path, wait_until) -> Iterator[Watch]:
    """A fresh volume under watch."""
    image, top = tmp_path / "volume.img", tmp_path / "mnt"
    shutil.copyfile(template, image)
    top.mkdir()
    mounter.mount(image, top, f"-o {OPTIONS}" if OPTIONS else "")
    pid = daemon_of(top)
    watched = Watch(top, image, pid, Twins(mounter, tmp_path, wait_until))
    try:
        yield watched
    finally:
        watched.close()
        unmount(top, pid)


@pytest.fixture
def rooms(watch: Watch) -> list[tuple[str, str, str]]:
    """One for each way to spoil it and each use: its path, what is done in it, and who uses it."""
    (watch.top / "all").mkdir()
    found = [(f"all/{spoil}/{use}", spoil, use) for spoil in SPOILS for use in USES]
    for path, _, _ in found:
        build(watch.top / path)
    return found


def spoil(watch: Watch, rooms: list[tuple[str, str, str]]) -> None:
    """With the kernel knowing all names before and after."""
    watch.warm()
    for path, _, use in rooms:
        read, written = USES[use]
        watch.hold(f"{path}/{name}".rstrip("/") for name in read)
        watch.hold((f"{path}/{name}" for name in written), writes=True)
    for path, what, _ in rooms:
        SPOILS[what](watch.top / path)
    SPOILS["attributes_of_the_room_changed"](watch.top)
    watch.hold(
        f"{path}/{name}"
        for path, _, use in rooms
        if use == "open"
        for name in ("new", "project/new", "empty/new", "file/inside")
    )
    watch.warm()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "directory", "paths"])
def test_the_kernel_goes_on_believing_what_was(
    watch: Watch, rooms: list[tuple[str, str, str]], run_snapfs: Run, way: str
) -> None:
    """Before a restore of everything, of what a snapshot covers, of paths; and before that, after
    all that programs did.
    """
    watch.share = 5
    if way == "directory":
        (watch.top / "all/.snap/s").mkdir()
    else:
        run_snapfs("snapshot", "create", watch.top, "s")
    spoil(watch, rooms)
    paths = (
        [word for what in SPOILS for word in ("--path", f"all/{what}")] if way == "paths" else []
    )
    if way == "whole":
        watch.check("before going back")
    watch.may_end = way == "whole"
    run_snapfs("restore", watch.top, "s", *paths)
    watch.check(f"after going back: {way}")


@pytest.mark.parametrize("story", STORIES)
def test_people_lose_by_what_the_kernel_believes(
    watch: Watch, snapfs_command: Callable[..., list[str]], story: str
) -> None:
    commands, right = STORIES[story]
    script = (
        f"umask 022\nM={shlex.quote(os.fspath(watch.top))}\nsnapfs() {{ "
        f'{shlex.join(snapfs_command())} "$@" >/dev/null; }}\n{commands}'
    )
    result = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == right, result.stderr
    watch.users |= {f"{file.lstat().st_ino:#x}" for file in watch.top.rglob("*")}
    watch.check(commands)


@pytest.mark.slow
def test_the_kernel_goes_on_believing_in_views_that_changed(
    watch: Watch, run_snapfs: Run, wait_until
) -> None:
    """Spoiled in the view of a snapshot; then that is renamed, purged and deleted, each under the
    eyes of a kernel that knows it.
    """
    run_snapfs("snapshot", "create", watch.top, "empty")
    names = sorted(SPOILS)[::4]
    for what in names:
        build(watch.top / what)
    for name in ("s", "t"):
        run_snapfs("snapshot", "create", watch.top, name)
    (watch.top / names[0] / ".snap/part").mkdir()
    watch.snapshots |= {"renamed", "again"}
    watch.warm()
    watch.hold(
        f".snap/s/{what}/{name}"
        for what in names
        for name in ("", "file", "project", "project/log")
    )
    for what in names:
        SPOILS[what](watch.top / ".snap/s" / what)

    def then(*command: str | Path, what: str) -> None:
        watch.warm()
        run_snapfs(*command)
        wait_until(lambda: watch.is_settled(run_snapfs), 60, "the end of a purge")
        watch.check(what)

    then("snapshot", "rename", watch.top, "s", "renamed", what="after renaming a snapshot")
    then(
        "snapshot",
        "rename",
        watch.top,
        "part",
        "again",
        what="after renaming a directory's snapshot",
    )
    then(
        "purge",
        watch.top,
        names[1],
        f"{names[2]}/project",
        f"{names[3]}/file",
        "--yes",
        what="after purging",
    )
    then("snapshot", "delete", watch.top, "again", what="after deleting a directory's snapshot")
    watch.warm()
    (watch.top / ".snap/renamed").rename(watch.top / ".snap/s")
    watch.check("after renaming a snapshot in .snap")
    then("purge", watch.top, names[0], "--snapshot", "t", "--yes", what="after purging from one")
    watch.warm()
    (watch.top / ".snap/s").rmdir()
    watch.check("after deleting a snapshot in .snap")
    then("restore", watch.top, "empty", what="after going back to nothing")
    (undo,) = (
        name for name in os.listdir(watch.top / ".snap") if name.startswith("before-restore-")
    )
    then("restore", watch.top, undo, what="after undoing that")
    then(
        "restore",
        watch.top,
        "t",
        "--path",
        f"{names[4]}/project",
        what="after going back to one path",
    )


#: How often something is done with snapshots in a history.
ROUNDS = 6


@pytest.mark.slow
@pytest.mark.parametrize("number", range(HISTORIES))
def test_the_kernel_goes_on_believing_what_was_in_random_histories(
    images, watch: Watch, run_snapfs: Run, wait_until, number: int
) -> None:
    images.watch(watch.image)
    seed = SEED + number
    print(f"SNAPFS_WARM_SEED={seed}")
    history = History(watch, run_snapfs, wait_until, seed)
    for round_number in range(ROUNDS):
        history.programs(12)
        history.use()
        watch.warm()
        history.programs(6)
        watch.warm()
        history.snapshots()
        watch.check(
            f"SNAPFS_WARM_SEED={seed}, round {round_number}:\n" + "\n".join(history.told) + "\n"
        )
