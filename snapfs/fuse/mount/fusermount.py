"""Mounting by fusermount3, which gives the way to the kernel to whoever serves the mount. For
commands; loads neither trio nor pyfuse3.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from typing import TYPE_CHECKING, Any, Final

from snapfs.errors import MountFailed

if TYPE_CHECKING:
    from snapfs.fuse.options import MountOptions

#: What a user of a mount of a snapshot can rely on, whoever serves it.
_ALWAYS: Final = frozenset(
    {"ro", "nosuid", "nodev", "noatime", "default_permissions", "subtype=snapfs"}
)


def mount_read_only(
    mountpoint: str, options: MountOptions, source: str, owner: tuple[int, int]
) -> int:
    """Mount, as the user ``owner`` (uid, gid): the descriptor to serve. Raises ``MountFailed`` with
    what fusermount3 says.

    Waits for whatever is on the way to the mount point. ``source`` is shown in mountinfo.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        command = ["fusermount3", "-o", ",".join(_words(options, source)), "--", mountpoint]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"}
        try:
            result = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", env=environment, pass_fds=[theirs.fileno()], **_as_user(*owner),
            )  # fmt: skip
        except FileNotFoundError:
            raise MountFailed("fusermount3 is missing: install the package fuse3") from None
        if result.returncode:
            reason = (
                result.stderr.strip().splitlines()
                or [f"fusermount3 ended with {result.returncode}"]
            )[-1]
            raise MountFailed(f"{mountpoint}: {reason.removeprefix('fusermount3: ')}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountFailed(f"{mountpoint}: fusermount3 gave no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _words(options: MountOptions, source: str) -> list[str]:
    """The options for fusermount3, which takes a character behind a backslash as it is."""
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    words = {*_ALWAYS, f"fsname={escaped}", *(word for word in options.kernel if word == "noexec")}
    return sorted(words | ({"allow_other"} if options.allow_other else set()))


def _as_user(uid: int, gid: int) -> dict[str, Any]:
    """Arguments of ``subprocess.run`` with which root is somebody else. What that user serves is
    mounted as that user may.
    """
    if os.geteuid() or not uid:
        return {}
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    return {"user": uid, "group": gid, "extra_groups": groups}
