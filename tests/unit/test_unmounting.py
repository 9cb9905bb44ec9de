"""What unmounting does when the mount is in use: it waits for what ends by itself, and not for
ever.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from snapfs.cli.commands import umount
from snapfs.cli.exits import CommandFailed
from snapfs.device import mount_users, mountinfo
from snapfs.device.mountinfo import Mount
from snapfs.errors import MountBusy, MountCovered
from snapfs.fuse.mount import unmounting

MOUNT = Mount(
    36, 35, os.makedev(0, 99), "/", "/mnt", "fuse.snapfs", "/srv/x.img", frozenset({"rw"}), 0
)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch):
    """Has the mount be in use for so many attempts, by these."""

    def make(attempts: float, users: list[str]) -> list[int]:
        tried: list[int] = []

        def unmount(_mount: Mount, *, lazy: bool) -> None:
            tried.append(lazy)
            if len(tried) <= attempts:
                raise MountBusy("in use")

        monkeypatch.setattr(unmounting, "unmount", unmount)
        monkeypatch.setattr(mount_users, "users", lambda *_: users)
        return tried

    return make


@pytest.mark.parametrize("users", [[], ["process 7 (cat: an open file)"]])
def test_a_mount_that_is_free_in_a_moment_is_in_use(busy, users: list[str]) -> None:
    tried = busy(4, users)
    umount._when_free(MOUNT, lazy=False, but=())
    assert len(tried) == 5


def test_a_mount_in_use_is_waited_for_without_end(busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umount, "UNKNOWN_SECONDS", 0.05)
    monkeypatch.setattr(umount, "USED_SECONDS", 0.02)
    busy(float("inf"), [])
    with pytest.raises(CommandFailed, match="in use, by what cannot be seen"):
        umount._when_free(MOUNT, lazy=False, but=())
    busy(float("inf"), [f"process {number} (cat: an open file)" for number in range(7)])
    with pytest.raises(
        CommandFailed, match=r"process 4 .* and 2 more: end that first, or give --lazy"
    ):
        umount._when_free(MOUNT, lazy=False, but=())


def test_on_older_kernels_another_mount_is_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the descriptor does not tell: on the same path, of our type, and not there before."""
    old = replace(MOUNT, id=40, device=os.makedev(0, 1))
    beside = replace(MOUNT, id=41, path="/mnt2", device=os.makedev(0, 2))
    other = replace(MOUNT, id=42, fstype="tmpfs", device=os.makedev(0, 3))
    ours = replace(MOUNT, id=43)
    monkeypatch.setattr(mountinfo, "_number_in_fdinfo", lambda *_: None)
    monkeypatch.setattr(mountinfo, "mounts", lambda: [old, beside, ours, other])
    assert mountinfo.fuse_device(7, [old], "/mnt") == MOUNT.device
    monkeypatch.setattr(mountinfo, "mounts", lambda: [old, beside, other])
    assert mountinfo.fuse_device(7, [old], "/mnt") is None


def test_the_kernels_coding_of_a_device_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountinfo, "_number_in_fdinfo", lambda *_: (259 << 20) | 0xABCDE)
    assert mountinfo.fuse_device(7, [], "/mnt") == os.makedev(259, 0xABCDE)


def test_what_is_mounted_in_it_is_ours_or_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount of the volume in itself, and a stranger's in that; what only lies beside is no
    part of it.
    """
    bind = replace(MOUNT, id=50, parent=MOUNT.id, path="/mnt/bind", root="/d")
    deep = replace(
        MOUNT, id=37, parent=50, path="/mnt/bind/x", device=os.makedev(0, 5), fstype="tmpfs"
    )
    beside = replace(MOUNT, id=60, parent=MOUNT.parent, path="/mnt2", device=os.makedev(0, 6))
    monkeypatch.setattr(mountinfo, "mounts", lambda: [deep, beside, MOUNT, bind])
    assert unmounting.carried_by(MOUNT) == [deep]


def test_nothing_is_unmounted_that_is_not_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    over = replace(MOUNT, id=99, fstype="tmpfs", source="other", device=os.makedev(0, 7))
    called: list[str] = []
    monkeypatch.setattr(unmounting, "_by_system_call", lambda path, _: called.append(path))
    monkeypatch.setattr(unmounting, "_by_fusermount", lambda path, **_: called.append(path))
    monkeypatch.setattr(mountinfo, "mounts", lambda: [MOUNT, over])
    monkeypatch.setattr(mountinfo, "reached", lambda _: over)
    with pytest.raises(MountCovered, match=r"other \(tmpfs\) is mounted over it"):
        unmounting.unmount(MOUNT, lazy=True)
    monkeypatch.setattr(mountinfo, "reached", lambda _: None)
    with pytest.raises(MountCovered, match="cannot be reached"):
        unmounting.unmount(MOUNT)
    monkeypatch.setattr(mountinfo, "mounts", list)
    unmounting.unmount(MOUNT)  # it is gone
    monkeypatch.setattr(
        mountinfo, "reached", lambda _: replace(MOUNT, device=os.makedev(0, 8))
    )  # another one has its number
    unmounting.unmount(MOUNT)
    assert called == []
    monkeypatch.setattr(mountinfo, "reached", lambda _: MOUNT)
    unmounting.unmount(MOUNT)
    assert called == [MOUNT.path]
