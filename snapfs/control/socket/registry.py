"""Where daemons listen, and how one is found from an image or from a path in a mount.

There is no file to keep true: the socket's name says all. It is ``IMAGE-MOUNT.sock``, where IMAGE
is the image's device and inode (or the number of a block device) and MOUNT the ``st_dev`` of the
mount, in hexadecimal. The directory belongs to the user who mounted: ``/run/snapfs`` for root,
``$XDG_RUNTIME_DIR/snapfs`` or else ``/tmp/snapfs-UID`` for others, and nobody else can enter it.

Such a directory can go before the daemon does (``/run/user/UID`` ends with the last session), or
somebody else may have made it. So each daemon listens by an abstract name as well,
``@snapfs/UID/IMAGE-MOUNT/RANDOM``, which is found in the kernel's list of sockets.

Nobody is talked into asking a stranger's process: the kernel says who mounted (mountinfo) or who
holds the image's lock, only that user's directories are looked into, and ``client`` compares the
other side's uid with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator

from snapfs.control.socket.mounts import Mount
from snapfs.control.socket.protocol import ControlError
from snapfs.device.pinned import pin
from snapfs.errors import SnapfsError

#: Longest path that a unix socket's address holds, less its terminator (unix(7)).
ADDRESS_LIMIT = 107

#: Behind the name of a socket; the name of one that does not listen yet (``listening.at_path``).
_SUFFIX = ".sock"
_BEGINNING = re.compile(r"\.[0-9]+")

#: The flag of a socket that listens, in the kernel's list: __SO_ACCEPTCON.
_LISTENS = b"00010000"

#: Whether a socket is looked for, by its key.
Wanted = Callable[[str], bool]

#: Where the kernel lists the sockets of this network namespace; an abstract name begins with @
#: there, with a zero byte elsewhere.
SOCKETS = "/proc/net/unix"


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
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == uid
        and stat.S_IMODE(status.st_mode) & 0o077 == 0
    )


def new_socket_path(image: os.stat_result, mount_device: int) -> str:
    """The path for this process's own daemon; makes the directory. Raises ``ControlError`` when
    none can be had.
    """
    name = socket_key(image, mount_device) + ".sock"
    return os.path.join(own_directory(name), name)


def socket_key(image: os.stat_result, mount_device: int) -> str:
    """What a daemon's socket is found by."""
    return f"{image_key(image)}-{mount_device:x}"


def abstract_prefix(uid: int) -> str:
    """What the abstract names of this user's daemons begin with; others may
    have such names, too.
    """
    return f"\0snapfs/{uid}/"


def own_directory(name: str) -> str:
    """A directory for this process's own, in which a file of that name can be; made if need be.
    Raises ``ControlError``.
    """
    uid = os.geteuid()
    for directory in directories(uid):
        if len(os.fsencode(os.path.join(directory, name))) > ADDRESS_LIMIT:
            continue
        with contextlib.suppress(OSError):
            os.mkdir(directory, 0o700)
        if is_private(directory, uid) and os.access(directory, os.W_OK):
            return directory
    raise ControlError(
        f"no directory for the control socket: {' and '.join(directories(uid))} cannot be used"
    )


def sockets_of_mount(mount: Mount) -> Iterator[str]:
    """Paths where the daemon of a mount may listen."""
    return _sockets(mount.owner, _of_mount(mount))


def names_of_mount(mount: Mount) -> Iterator[str]:
    """The same for abstract names, which anybody can have."""
    return _names(mount.owner, _of_mount(mount))


def sockets_of_image(path: str) -> Iterator[tuple[str, int]]:
    """Paths where a daemon that has this image may listen, each with the uid that it must have."""
    return _of_image(path, _sockets)


def names_of_image(path: str) -> Iterator[tuple[str, int]]:
    """The same for abstract names."""
    return _of_image(path, _names)


def _of_mount(mount: Mount) -> Wanted:
    return lambda key: key.endswith(f"-{mount.device:x}")


def _of_image(
    path: str, found: Callable[[int, Wanted], Iterator[str]]
) -> Iterator[tuple[str, int]]:
    try:
        with pin(path) as pinned:
            key, owner = image_key(pinned.status()), _owner_of(pinned.holder())
    except (OSError, SnapfsError):
        return
    for uid in dict.fromkeys([os.geteuid(), 0] if owner is None else [owner]):
        for place in found(uid, lambda one: one.startswith(f"{key}-")):
            yield place, uid


def image_owner(path: str) -> int | None:
    """The uid of the process that holds the image's lock, or None when nobody does or it cannot be
    known.
    """
    return _owner_of(image_holder(path))


def _owner_of(pid: int | None) -> int | None:
    try:
        return None if pid is None else os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def image_holder(path: str) -> int | None:
    """The process that holds the image's lock, or None when nobody does or it cannot be known."""
    try:
        with pin(path) as pinned:
            return pinned.holder()
    except (OSError, SnapfsError):
        return None


def remove_stale(directory: str) -> None:
    """Remove the sockets of daemons that are gone, also those that they never listened at.

    Only for directories of one's own, and only while nobody makes a socket there
    (``listening.alone``): one that is being made, or takes the place of a dead one in this moment,
    would go as well.
    """
    for entry in _entries(directory):
        if not entry.endswith(_SUFFIX) and not _BEGINNING.fullmatch(entry):
            continue
        place = os.path.join(directory, entry)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(place)
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    os.unlink(place)
            except OSError:
                pass  # alive, but busy; or just gone


def _sockets(uid: int, wanted: Wanted) -> Iterator[str]:
    for directory in directories(uid):
        if is_private(directory, uid):
            for entry in _entries(directory):
                if entry.endswith(_SUFFIX) and wanted(entry.removesuffix(_SUFFIX)):
                    yield os.path.join(directory, entry)


def _names(uid: int, wanted: Wanted) -> Iterator[str]:
    prefix = abstract_prefix(uid)
    for name in _abstract_names():
        if name.startswith(prefix) and wanted(name.removeprefix(prefix).partition("/")[0]):
            yield name


def _abstract_names() -> list[str]:
    """Of the sockets that listen; see proc(5)."""
    try:
        with open(SOCKETS, "rb") as file:
            words = [line.rstrip(b"\n").split(None, 7) for line in file]
    except OSError:
        return []
    found = (
        os.fsdecode(word[7])
        for word in words
        if len(word) == 8 and word[3] == _LISTENS and word[7].startswith(b"@")
    )
    return list(dict.fromkeys("\0" + name[1:] for name in found))


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
