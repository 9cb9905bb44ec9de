"""Full copies where a path leads somewhere else than before: exchanged by others, named by an
image, or odd from the beginning.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.control.socket import client, mounts
from snapfs.errors import SnapfsError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")

#: Two users who are neither root nor one another.
OWNER, STRANGER = 1101, 1102


def ask(mounted: Any, **arguments: Any) -> dict[str, Any]:
    """As a command that found nothing wrong with what it was given."""
    mount = mounts.mount_at(str(mounted.path))
    assert mount is not None
    with client.of_mount(mount) as daemon:
        return daemon.call("copy", told=lambda _: None, **arguments)


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert "internal error" not in lines[0]


@pytest.mark.parametrize("where", ["on-volume", "outside"])
def test_cancelling_removes_another_file_of_the_same_name(
    where: str, mounted, tmp_path: Path
) -> None:
    """D4: what is removed is what was made for the copy, target and map, wherever their names lead
    by now.
    """
    (mounted / "file").write_bytes(os.urandom(1 << 20))
    target, moved, path = tmp_path / "a.img", tmp_path / "b.img", tmp_path / "a.img.copymap"
    mounted.run("copy", mounted.path, target, "--rate", "0", "--map", where)
    target.rename(moved)
    target.write_text("precious")
    if where == "outside":
        path.rename(tmp_path / "map")
        path.write_text("as precious")
    assert "has been moved" in mounted.run("copy", "cancel", mounted.path).stdout
    assert target.read_text() == "precious"
    assert where == "on-volume" or path.read_text() == "as precious"


@needs_root
def test_a_link_that_came_into_the_targets_place_is_followed(mounted, tmp_path: Path) -> None:
    """Root copies into a user's directory, who exchanges the target with a link before the daemon
    opens it.
    """
    victim, home = tmp_path / "victim", tmp_path / "home"
    victim.write_text("precious")
    home.mkdir()
    for name, goal in (("copy.img", victim), ("sub", tmp_path)):
        (home / name).symlink_to(goal)
        os.chown(home / name, STRANGER, STRANGER, follow_symlinks=False)
    for path in (home / "copy.img", home / "sub" / "victim"):
        with pytest.raises(SnapfsError, match=f"a symbolic link of user {STRANGER}"):
            ask(mounted, destination=str(path), force=True)
        assert victim.read_text() == "precious"
    with pytest.raises(SnapfsError, match=f"a symbolic link of user {STRANGER}"):
        ask(mounted, destination=str(home / "sub" / "new.img"))
    assert not (tmp_path / "new.img").exists()


@needs_root
@pytest.mark.parametrize("whose", ["target", "map"])
def test_an_image_has_a_strangers_file_used(whose: str, mounted, tmp_path: Path) -> None:
    """An image names the target of its copy, and the map: believed only if root or the image's
    owner has them.
    """
    (mounted / "file").write_bytes(os.urandom(1 << 20))
    target = tmp_path / "copy.img"
    path = tmp_path / "copy.img.copymap"
    mounted.run("copy", mounted.path, target, "--rate", "0", "--map", "outside")
    mounted.kill()
    for file in (mounted.image, target, path):
        os.chown(file, OWNER, OWNER)
    mounted.mount()
    assert (
        json.loads(mounted.run("copy", "status", mounted.path, "--json").stdout)["state"]
        == "copying"
    )
    mounted.kill()
    strange = target if whose == "target" else path
    os.chown(strange, STRANGER, STRANGER)
    before = strange.read_bytes()
    assert "does not go on" in mounted.mount().stderr
    assert strange.read_bytes() == before
    mounted.run("copy", "cancel", mounted.path, code=1)
    assert strange.exists()
    mounted.unmount()


@pytest.fixture(
    params=[
        "fifo",
        "socket",
        "directory",
        "null",
        "full",
        "memory",
        "zero byte",
        "relative",
        "empty",
        "too long",
        "no directory",
    ]
)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where no copy can go."""
    path = tmp_path / "odd"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif request.param == "directory":
        path.mkdir()
    return {
        "null": "/dev/null", "full": "/dev/full", "memory": "/proc/self/mem", "zero byte": "\0",
        "relative": "odd", "empty": "",
        "too long": f"{tmp_path}/{'n' * 300}", "no directory": f"{path}/none/copy.img",
    }.get(request.param, str(path))  # fmt: skip


def test_an_odd_target_is_an_internal_error(odd: str, mounted) -> None:
    """D7: each is one clear line, with and without --force, and changes nothing; by the command
    line or by the socket.
    """
    for force in (False, True):
        with pytest.raises(SnapfsError) as caught:
            ask(mounted, destination=odd, force=force)
        assert "\n" not in str(caught.value)
        assert "internal error" not in str(caught.value)
    if odd and "\0" not in odd and odd.startswith("/"):
        one_line(mounted.run("copy", mounted.path, odd, "--force", code=None))
    assert (
        json.loads(mounted.run("copy", "status", mounted.path, "--json").stdout)["state"] == "none"
    )


@pytest.mark.parametrize(
    "command",
    [
        lambda fifo, image, _: ["mkfs", fifo, "--force"],
        lambda fifo, image, place: ["mount", fifo, place],
        lambda fifo, image, _: ["check", fifo],
        lambda fifo, image, _: ["check", image, "--undo", fifo],
        lambda fifo, image, _: ["info", fifo],
        lambda fifo, image, _: ["copy", image, fifo, "--force"],
        lambda fifo, image, _: ["copy", "status", fifo],
        lambda fifo, image, place: ["mount", "mem:", place, "--load", fifo],
    ],
)
def test_a_command_waits_for_a_fifo(
    command: Callable[[str, str, str], list[str]],
    volume_image: Path,
    run_snapfs: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Whatever has a FIFO where an image or a file belongs says so at once."""
    fifo, place = tmp_path / "fifo", tmp_path / "place"
    os.mkfifo(fifo)
    place.mkdir()
    result = run_snapfs(*command(str(fifo), str(volume_image), str(place)), code=None, limit=30)
    assert result.returncode
    one_line(result, "fifo")


def test_a_file_that_mkfs_has_not_made_is_removed(
    run_snapfs: Callable[..., Any], tmp_path: Path
) -> None:
    """What is removed after a failure is only what was made: neither what a link leads to nor what
    was there before.
    """
    image = tmp_path / "image"
    run_snapfs("mkfs", image, "--size", "64M", "--block-size", "3000", code=None)
    assert not image.exists()
    (tmp_path / "link").symlink_to(image)
    run_snapfs("mkfs", tmp_path / "link", "--size", "64M")
    assert image.exists()
    one_line(run_snapfs("mkfs", tmp_path / "link", "--size", "1", "--force", code=None))
    assert image.exists()
