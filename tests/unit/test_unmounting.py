"""What unmounting does when the mount is in use: it waits for what ends by itself, and not for ever."""

from __future__ import annotations

import os

import pytest

from snapfs.cli import umount
from snapfs.cli.exits import CommandFailed
from snapfs.device import mount_users
from snapfs.device.mountinfo import Mount
from snapfs.errors import MountBusy
from snapfs.fuse import unmounting

MOUNT = Mount(36, 35, os.makedev(0, 99), "/", "/mnt", "fuse.snapfs", "/srv/x.img", frozenset({"rw"}), 0)


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
    with pytest.raises(CommandFailed, match=r"process 4 .* and 2 more: end that first, or give --lazy"):
        umount._when_free(MOUNT, lazy=False, but=())
