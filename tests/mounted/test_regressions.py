"""What conformance suites and stress tools found on real mounts, each as small as it can be."""

from __future__ import annotations

import errno
import os
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
    """With its writeback cache the kernel keeps a file's times unless truncate(2) changes the size, and says nothing of it."""
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
