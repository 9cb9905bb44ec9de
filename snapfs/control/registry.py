"""Where daemons listen, and how one is found from an image or from a path in a mount.

There is no file to keep true: the socket's name says all. It is ``IMAGE-MOUNT.sock``, where IMAGE is the image's device and
inode (or the number of a block device) and MOUNT the ``st_dev`` of the mount, in hexadecimal. The directory belongs to the user
who mounted: ``/run/snapfs`` for root, ``$XDG_RUNTIME_DIR/snapfs`` or else ``/tmp/snapfs-UID`` for others, and nobody else can enter it.

Nobody is talked into asking a stranger's process: the kernel says who mounted (mountinfo) or who holds the image's lock, only
that user's directories are looked into, and ``client`` compares the other side's uid with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator

from snapfs.control.mounts import Mount
from snapfs.control.protocol import ControlError
from snapfs.device.locking import lock_holder

#: Longest path that a unix socket's address holds, less its terminator (unix(7)).
ADDRESS_LIMIT = 107


def image_key(status: os.stat_result) -> str:
    """Names an image file or a block device, whatever path leads to it."""
    if stat.S_ISBLK(status.st_mode):
        return f"b{status.st_rdev:x}"
    return f"{status.st_dev:x}.{status.st_ino:x}"


def directories(uid: int) -> list[str]:
    """Where daemons of this user may listen, best first."""
    if uid == 0:
        return ["/run/snapfs", "/tmp/snapfs-0"]  # noqa: S108 - ownership and mode are verified
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.geteuid() else None
    places = [own and os.path.join(own, "snapfs"), f"/run/user/{uid}/snapfs", f"/tmp/snapfs-{uid}"]  # noqa: S108 - as above
    return list(dict.fromkeys(place for place in places if place))


def is_private(directory: str, uid: int) -> bool:
    """Belongs to this user, and nobody else may enter. A link does not count."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and stat.S_IMODE(status.st_mode) & 0o077 == 0


def new_socket_path(image: os.stat_result, mount_device: int) -> str:
    """The path for this process's own daemon; makes the directory. Raises ``ControlError`` when none can be had."""
    name = f"{image_key(image)}-{mount_device:x}.sock"
    return os.path.join(own_directory(name), name)


def own_directory(name: str) -> str:
    """A directory for this process's own, in which a file of that name can be; made if need be. Raises ``ControlError``."""
    uid = os.geteuid()
    for directory in directories(uid):
        if len(os.fsencode(os.path.join(directory, name))) > ADDRESS_LIMIT:
            continue
        with contextlib.suppress(OSError):
            os.mkdir(directory, 0o700)
        if is_private(directory, uid) and os.access(directory, os.W_OK):
            return directory
    raise ControlError(f"no directory for the control socket: {' and '.join(directories(uid))} cannot be used")


def sockets_of_mount(mount: Mount) -> Iterator[str]:
    """Paths where the daemon of a mount may listen."""
    return _sockets(mount.owner, lambda name: name.endswith(f"-{mount.device:x}.sock"))


def sockets_of_image(path: str) -> Iterator[tuple[str, int]]:
    """Paths where a daemon that has this image may listen, each with the uid that it must have."""
    try:
        status = os.stat(path)
    except OSError:
        return
    owner = image_owner(path)
    for uid in dict.fromkeys([os.geteuid(), 0] if owner is None else [owner]):
        for place in _sockets(uid, lambda name: name.startswith(f"{image_key(status)}-")):
            yield place, uid


def image_owner(path: str) -> int | None:
    """The uid of the process that holds the image's lock, or None when nobody does or it cannot be known."""
    pid = image_holder(path)
    try:
        return None if pid is None else os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def image_holder(path: str) -> int | None:
    """The process that holds the image's lock, or None when nobody does or it cannot be known."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return lock_holder(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(directory: str) -> None:
    """Remove the sockets of daemons that are gone. Only for directories of one's own."""
    for entry in _names(directory):
        place = os.path.join(directory, entry)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(place)
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    os.unlink(place)
            except OSError:
                pass  # alive, but busy; or just gone


def _sockets(uid: int, wanted: Callable[[str], bool]) -> Iterator[str]:
    for directory in directories(uid):
        if is_private(directory, uid):
            yield from (os.path.join(directory, name) for name in _names(directory) if wanted(name))


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".sock")]
    except OSError:
        return []
