"""Paths that are looked up once: what is exchanged meanwhile is neither opened, nor followed, nor
removed.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs.device import Lock, open_device, open_pinned, pin, pin_name
from snapfs.device.pinned import Pinned, anybody, pin_link
from snapfs.errors import DeviceError, SnapfsError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")

#: Somebody else.
STRANGER = 65534


@pytest.fixture(autouse=True)
def nothing_stays_open() -> object:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def replace_by_fifo(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    victim = path.with_suffix(".victim")
    victim.write_bytes(b"precious")
    path.symlink_to(victim)


@pytest.mark.parametrize("replace", [replace_by_fifo, replace_by_link])
def test_what_was_exchanged_after_the_look_is_opened(
    replace: Callable[[Path], None], tmp_path: Path
) -> None:
    """What is opened is what was looked at; a FIFO that came into its place
    is not even waited for.
    """
    path = tmp_path / "image"
    path.write_bytes(b"x" * 4096)
    with pin_name(str(path)) as pinned:
        replace(path)
        device = open_pinned(pinned)
        assert device.read(0, 4096) == b"x" * 4096
        device.close()
        assert not pinned.remove()  # its name is another's by now
    assert os.path.lexists(path)


def test_a_name_is_removed_although_it_is_another_files(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"")
    with pin_name(str(path)) as pinned:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another's")
        assert not pinned.remove()
        path.unlink()
        assert not pinned.remove()
        (tmp_path / "moved").rename(path)
        assert pinned.remove()
        assert not path.exists()


def test_a_file_is_made_or_removed_in_a_directory_that_came_later(tmp_path: Path) -> None:
    """The directory is looked up once as well."""
    (tmp_path / "there").mkdir()
    with pin_name(str(tmp_path / "there" / "image")) as pinned:
        assert not pinned.exists
        (tmp_path / "there").rename(tmp_path / "moved")
        (tmp_path / "there").mkdir()
        pinned.make()
        assert (tmp_path / "moved" / "image").stat().st_mode == stat.S_IFREG | 0o600
        assert not (tmp_path / "there" / "image").exists()
        (tmp_path / "there" / "image").write_bytes(b"another's")
        assert pinned.remove()
    assert os.listdir(tmp_path / "moved") == []
    assert (tmp_path / "there" / "image").exists()


def test_something_that_is_there_by_now_is_taken_for_what_is_made(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    with pin_name(str(tmp_path / "image")) as pinned:
        (tmp_path / "image").symlink_to(victim)
        with pytest.raises(FileExistsError):
            pinned.make()
    assert victim.read_bytes() == b"precious"


@needs_root
@pytest.mark.parametrize("what", ["file", "missing file", "directory"])
def test_a_strangers_link_is_followed(what: str, tmp_path: Path) -> None:
    """Of a path that is used later than it was given. Root's links and one's own are followed."""
    (tmp_path / "goal").mkdir()
    (tmp_path / "goal" / "image").write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to({"file": "goal/image", "missing file": "goal/other", "directory": "goal"}[what])
    path = f"{link}/image" if what == "directory" else str(link)
    with pin_name(path) as pinned:
        assert pinned.exists == (what != "missing file")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(DeviceError, match=f"'link' is a symbolic link of user {STRANGER}"):
        pin_name(path)
    with pin_name(path, anybody) as pinned:
        assert pinned.exists == (what != "missing file")


def test_links_lead_elsewhere_than_the_kernel_goes(tmp_path: Path) -> None:
    """Relative ones, absolute ones, those of links, dots, doubled slashes, and what has no path at
    all.
    """
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "image").write_bytes(b"1")
    (tmp_path / "a" / "up").symlink_to("../a/./b")
    (tmp_path / "whole").symlink_to(tmp_path / "a")
    (tmp_path / "last").symlink_to("whole//up/../b/image")
    wanted = (tmp_path / "a" / "b" / "image").stat()
    for path in (
        tmp_path / "last",
        tmp_path / "whole" / "up" / "image",
        f"{tmp_path}//a/../whole/up/./image",
    ):
        with pin_name(str(path)) as pinned:
            assert os.path.samestat(pinned.status(), wanted)
            assert os.path.samestat(pinned.directory_status(), (tmp_path / "a" / "b").stat())
    memory = os.memfd_create("x")
    with pin_name(f"/proc/self/fd/{memory}") as pinned:
        assert os.path.samestat(pinned.status(), os.fstat(memory))
    os.close(memory)


@pytest.mark.parametrize(
    "path", ["", "/", "a\0b", "dir/", "dir/.", "dir/..", "loop", "file/x", "missing/x", "n" * 300]
)
def test_what_cannot_be_the_name_of_a_file(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dir").mkdir()
    Path("loop").symlink_to("loop")
    Path("file").write_bytes(b"")
    with pytest.raises((OSError, SnapfsError)):
        pin_name(path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory"])
def test_opening_waits_for_what_is_no_image(kind: str, tmp_path: Path) -> None:
    """A FIFO that nobody writes would be waited for, for ever."""
    path = tmp_path / "odd"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(str(path))
    elif kind == "directory":
        path.mkdir()
    listener.close()
    found: list[object] = []

    def look() -> None:
        for lock in (Lock.NONE, Lock.EXCLUSIVE):
            with pytest.raises(
                DeviceError, match="neither a regular file nor a block device"
            ) as caught:
                open_device(
                    "/dev/null" if kind == "device" else str(path), read_only=True, lock=lock
                )
            found.append(caught.value)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert len(found) == 2


def test_a_link_is_removed_although_it_leads_elsewhere_by_now(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/fd/0")
    with pin_link(str(link)) as pinned:
        link.rename(tmp_path / "kept")
        link.symlink_to("/proc/self/fd/1")
        assert not pinned.remove()
        (tmp_path / "kept").rename(link)
        assert pinned.remove()


def test_a_copy_is_closed_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"")
    with pin(str(path)) as first:
        second: Pinned = first.copied()
    assert os.path.samestat(second.status(), path.stat())
    assert not second.remove()  # where it was is not known
    second.close()
    second.close()
