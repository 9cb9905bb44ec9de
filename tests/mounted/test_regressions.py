"""What conformance suites and stress tools found on real mounts, each as small as it can be."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest


def test_a_namespace_alone_is_taken_for_a_name(mounted) -> None:
    path = mounted / "file"
    path.touch()
    for name in ("user.", "trusted.", "security."):
        with pytest.raises(OSError) as failure:
            os.setxattr(path, name, b"value")
        assert failure.value.errno == errno.EINVAL


@pytest.mark.parametrize("options", ["", "writeback=off"])
def test_a_size_that_stays_has_other_times_after_a_remount(options: str, mounted) -> None:
    """With its writeback cache the kernel keeps a file's times unless truncate(2) changes the size,
    and says nothing of it.
    """
    mounted.remount(options)
    path: Path = mounted / "file"
    path.write_bytes(b"hello")
    os.utime(path, ns=(10**18, 10**18))
    os.truncate(path, 5)
    shown = path.stat()
    assert (shown.st_mtime_ns == 10**18) == (options == "")
    mounted.remount(options)
    stored = path.stat()
    assert (stored.st_mtime_ns, stored.st_ctime_ns) == (shown.st_mtime_ns, shown.st_ctime_ns)


def test_a_restore_has_the_kernel_forget_names_in_what_is_no_directory(
    volume_image: Path, tmp_path: Path, snapfs_command, wait_until
) -> None:
    """A file that has the number of a directory that comes back: libfuse would complain on standard
    error for every name in it.
    """
    mount = tmp_path / "mount"
    mount.mkdir()
    with subprocess.Popen(
        snapfs_command("mount", volume_image, mount, "-f"), stderr=subprocess.PIPE, text=True
    ) as daemon:
        try:
            wait_until(mount.is_mount, what="the mount")
            (mount / "directory").mkdir()
            number = (mount / "directory").stat().st_ino
            (mount / "directory" / "file").touch()
            (mount / ".snap" / "before").mkdir()
            (mount / "directory" / "file").unlink()
            (mount / "directory").rmdir()

            def again() -> bool:
                path = mount / f"file{len(os.listdir(mount))}"
                path.touch()
                return path.stat().st_ino == number

            wait_until(again, what="a file with the number of the directory")
            # In use, so that the kernel knows it until the end. It is none of the snapshot's, and
            # its number is a directory's.
            used = os.open(
                mount / max(os.listdir(mount), key=lambda name: int(name[4:])), os.O_RDONLY
            )
            subprocess.run(
                snapfs_command("restore", mount, "before"), check=True, stdout=subprocess.DEVNULL
            )
            with pytest.raises(OSError, match="error"):
                os.read(used, 1)
            with contextlib.suppress(
                OSError
            ):  # the kernel says of the descriptor what it says of the file
                os.close(used)
            assert os.listdir(mount) == ["directory"]
            assert os.listdir(mount / "directory") == ["file"]
        finally:
            subprocess.run(snapfs_command("umount", mount), check=True)
        assert daemon.stderr is not None
        assert [line for line in daemon.stderr if "INFO" not in line] == []
