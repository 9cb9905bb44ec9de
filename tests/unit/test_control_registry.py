"""Finding a daemon: the right one, and never a stranger's."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from snapfs.control.socket import (
    client,
    mounts,
    registry,
)
from snapfs.control.socket.mounts import Mount
from snapfs.control.socket.protocol import ControlError
from snapfs.errors import AccessDenied

LINE = (
    rb"36 35 98:0 /mnt1 /mnt2/with\040space rw,noatime master:1 - fuse.snapfs "
    rb"/srv/a\040b.img rw,user_id=1000,group_id=1000"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory where daemons of this user listen; short, for a socket's address is."""
    directory = Path("/tmp") / f"snapfs-test-{os.getpid()}"
    monkeypatch.setattr(
        registry, "directories", lambda uid: [str(directory)] if uid == os.geteuid() else []
    )
    yield directory
    if directory.is_dir():
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def test_a_line_of_mountinfo_is_understood() -> None:
    mount = mounts.parse_line(LINE)
    assert mount == Mount(
        36,
        35,
        os.makedev(98, 0),
        "/mnt1",
        "/mnt2/with space",
        "fuse.snapfs",
        "/srv/a b.img",
        mount.options,
        1000,
    )
    assert {"rw", "noatime", "user_id=1000"} <= mount.options
    assert mount.is_ours


def test_optional_fields_and_missing_owners_do_not_matter() -> None:
    mount = mounts.parse_line(b"22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    assert (mount.path, mount.fstype, mount.owner, mount.is_ours) == ("/proc", "proc", 0, False)
    assert (
        mounts.parse_line(b"22 27 0:21 / /x rw shared:1 master:2 - tmpfs none rw").source == "none"
    )


def test_the_root_is_a_mount_and_a_plain_directory_is_none(tmp_path: Path) -> None:
    assert mounts.mount_at("/") is not None
    assert mounts.mount_at("/proc/../proc/.").fstype == "proc"
    assert mounts.mount_at(str(tmp_path)) is None
    assert mounts.mount_with_device(os.stat("/proc").st_dev) is None  # not ours


def test_images_are_told_apart_by_what_they_are_and_not_by_their_paths(tmp_path: Path) -> None:
    first, second, link, other = (tmp_path / name for name in ("a", "b", "link", "c"))
    first.write_bytes(b"")
    second.write_bytes(b"")
    link.symlink_to(first)
    os.link(first, other)
    keys = [registry.image_key(path.stat()) for path in (first, second, link, other)]
    assert keys[0] == keys[2] == keys[3] != keys[1]


def test_the_directory_is_made_for_its_user_alone(place: Path, tmp_path: Path) -> None:
    path = registry.new_socket_path(tmp_path.stat(), 0x2A)
    assert os.path.dirname(path) == str(place)
    assert path.endswith("-2a.sock")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_directory_that_others_prepared_is_not_used(
    trap: str, place: Path, tmp_path: Path
) -> None:
    if trap == "open":
        place.mkdir()
        place.chmod(0o777)
    elif trap == "link":
        place.symlink_to(tmp_path)
    else:
        place.write_text("")
    assert not registry.is_private(str(place), os.geteuid())
    with pytest.raises(ControlError):
        registry.new_socket_path(tmp_path.stat(), 1)
    if trap != "open":
        place.unlink()


def test_a_runtime_directory_with_a_long_path_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("d" * 100)
    monkeypatch.setattr(registry, "directories", lambda _: [str(long), str(place)])
    assert registry.new_socket_path(tmp_path.stat(), 1).startswith(str(place))


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


def mount_of(device: int, owner: int | None = None) -> Mount:
    return Mount(
        36,
        35,
        device,
        "/",
        "/mnt",
        "fuse.snapfs",
        "x.img",
        frozenset(),
        os.geteuid() if owner is None else owner,
    )


def test_daemons_are_found_by_mount_and_by_image(place: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(b"")
    with listen(registry.new_socket_path(image.stat(), 0x99)):
        with client.of_mount(mount_of(0x99)) as found:
            assert found.pid == os.getpid()
        with pytest.raises(ControlError, match="does not answer"):
            client.of_mount(mount_of(0x9))
        daemon = client.of_image(str(image))
        assert daemon is not None
        daemon.close()
        assert client.of_image(str(tmp_path / "none.img")) is None
        assert client.of_image("/dev/null") is None


def test_the_socket_of_a_dead_daemon_is_nobody_and_is_removed(place: Path, tmp_path: Path) -> None:
    dead = registry.new_socket_path(tmp_path.stat(), 1)
    listen(dead).close()
    with listen(alive := registry.new_socket_path(tmp_path.stat(), 2)):
        with pytest.raises(ControlError):
            client.of_mount(mount_of(1))
        registry.remove_stale(str(place))
        assert [str(path) for path in place.iterdir()] == [alive]


def test_another_users_mount_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AccessDenied, match="uid 2000"):
        client.of_mount(mount_of(1, owner=2000))


def test_a_strangers_process_is_not_asked_even_in_the_right_place(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen(registry.new_socket_path(tmp_path.stat(), 7)):
        monkeypatch.setattr(client, "peer", lambda _: (1, os.geteuid() + 1))
        with pytest.raises(ControlError):
            client.of_mount(mount_of(7))


def test_who_holds_the_lock_is_known(tmp_path: Path) -> None:
    import fcntl

    image = tmp_path / "a.img"
    with image.open("wb") as file:
        assert registry.image_holder(str(image)) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert registry.image_holder(str(image)) == os.getpid()
        assert registry.image_owner(str(image)) == os.geteuid()
