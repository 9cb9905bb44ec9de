"""mount(8), umount(8), mkfs(8) and fsck(8) work with snapfs as with any
filesystem of the kernel's.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="mount(8) with a helper in /sbin needs root"
)


def test_mount_and_umount_by_type(with_helpers, images) -> None:
    image = images.make()
    out = with_helpers(
        f"""
        mkdir m
        mount -t snapfs -o noatime,nodev {image} m
        echo text > m/file
        findmnt -n -o FSTYPE,SOURCE,TARGET m
        umount m
        mount -t fuse.snapfs {image} m
        cat m/file
        umount m
        # umount has waited: nobody holds the image.
        flock --nonblock --exclusive {image} echo released
        """
    )
    assert f"fuse.snapfs {image}" in out
    assert out.endswith("text\nreleased\n")


def test_an_fstab_line(with_helpers, images, tmp_path: Path) -> None:
    image = images.make()
    table = tmp_path / "fstab"
    table.write_text(
        f"{image} {tmp_path}/m snapfs defaults,allow_other,nofail,noauto,x-systemd.automount 0 0\n"
    )
    out = with_helpers(
        f"mkdir m; mount --fstab {table} {tmp_path}/m; touch m/file; stat -f -c %T m; "
        "umount m; mountpoint m || echo gone",
        0,
    )
    assert "fuseblk" in out or "fuse" in out
    assert "gone" in out


def test_memory_by_type_and_by_fstab(with_helpers, tmp_path: Path) -> None:
    """D6: ``mem:SIZE`` is a source as any other; ``mount -a`` knows that it is mounted."""
    table = tmp_path / "fstab"
    table.write_text(f"mem:32M {tmp_path}/m snapfs defaults,nodev,nofail 0 0\n")
    out = with_helpers(
        f"""
        mkdir m n
        mount --all --fstab {table}
        echo text > m/file
        mount --all --fstab {table}
        cat m/file
        findmnt -n -o FSTYPE,SOURCE m
        mount -t snapfs mem:16M n
        ls n | wc -l
        umount m n
        mountpoint m || echo gone
        """
    )
    assert out.startswith("text\nfuse.snapfs mem:32M\n0\n")
    assert out.endswith("gone\n")


def test_a_mount_by_fstab_does_not_do_what_is_scheduled(
    with_helpers, images, tmp_path: Path, run_snapfs
) -> None:
    """A10: the restore that is scheduled is done, whoever mounts, and only
    then the mount is live.
    """
    image = images.make()
    run_snapfs("snapshot", "create", image, "empty")
    table = tmp_path / "fstab"
    table.write_text(f"{image} {tmp_path}/m snapfs defaults,noauto 0 0\n")
    mount = f"mount --fstab {table} {tmp_path}/m"
    with_helpers(f"mkdir m; {mount}; touch m/file; umount m")
    run_snapfs("restore", image, "empty", "--schedule")
    assert with_helpers(f"{mount}; ls m; umount m") == ""


def test_remount_and_fake_do_not_mount(with_helpers, images) -> None:
    image = images.make()
    out = with_helpers(
        f"""
        mkdir m
        mount -f -t snapfs {image} m
        grep -c " $PWD/m " /proc/self/mountinfo || true
        mount -t snapfs {image} m
        mount -o remount,rw m
        grep -c " $PWD/m " /proc/self/mountinfo
        umount m
        """
    )
    assert out.split() == ["0", "1"]


def test_mkfs_and_fsck_by_type(with_helpers) -> None:
    out = with_helpers(
        "truncate -s 64M v.img; mkfs -t snapfs v.img; fsck -t snapfs -n $PWD/v.img; "
        "fsck.snapfs -a v.img"
    )
    assert out.count("clean") == 2


def test_failures_of_mount_have_its_exit_codes(with_helpers, tmp_path: Path) -> None:
    (tmp_path / "no.img").write_text("not a volume")
    (tmp_path / "m").mkdir()
    with_helpers(f"mount -t snapfs {tmp_path}/no.img {tmp_path}/m", code=32)
    with_helpers(f"mount -t snapfs -o bogus {tmp_path}/no.img {tmp_path}/m", code=1)
