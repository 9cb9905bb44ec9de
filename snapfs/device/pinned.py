"""Paths that are looked up once. What a path led to stays what is meant, whatever the path leads to
later.

Whoever may write a directory can exchange what has a name there, between any two look-ups. So a
path becomes a descriptor that only says which file is meant (``O_PATH``: nothing is opened, so no
FIFO is waited for and no device begins to work), checks ask that descriptor, and the file is opened
through it. A file is removed only if its name still leads to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from snapfs.device.in_use import lock_holder
from snapfs.errors import DeviceError

#: Links on the way of one path, at most (path_resolution(7)).
LINKS_MAX: Final = 40

_PATH: Final = os.O_PATH | os.O_CLOEXEC
_DIRECTORY: Final = _PATH | os.O_DIRECTORY

#: Decides by the uid of a symbolic link's owner whether the link is followed.
Trust = Callable[[int], bool]


def anybody(_uid: int) -> bool:
    """Follow every link: of paths that the user of this process has just given."""
    return True


def root_and_self(uid: int) -> bool:
    """Follow the links of root and of this process's user: of paths that were given earlier, or
    elsewhere.
    """
    return uid in (0, os.geteuid())


class Pinned:
    """A name in a directory, and what it led to when it was looked up, if there was something.
    Close it after use.
    """

    def __init__(self, path: str, descriptor: int, directory: int = -1, name: str = "") -> None:
        #: How users know it.
        self.path = path
        self._descriptor = descriptor
        self._directory = directory
        self._name = name

    @property
    def exists(self) -> bool:
        """Was there something, or has ``make`` made it?"""
        return self._descriptor >= 0

    def status(self) -> os.stat_result:
        """Of what was there."""
        return os.fstat(self._descriptor)

    def directory_status(self) -> os.stat_result:
        """Of the directory where the name is."""
        return os.fstat(self._directory)

    @property
    def directory_place(self) -> str:
        """A path that leads this process to the directory where the name is."""
        return f"/proc/self/fd/{self._directory}"

    @property
    def is_regular(self) -> bool:
        """Is it a regular file?"""
        return stat.S_ISREG(self.status().st_mode)

    @property
    def is_block_device(self) -> bool:
        """Is it a block device?"""
        return stat.S_ISBLK(self.status().st_mode)

    @property
    def place(self) -> str:
        """A path that leads this process to what was there."""
        return f"/proc/self/fd/{self._descriptor}"

    def holder(self) -> int | None:
        """The process that has it locked, as far as that can be known."""
        return lock_holder(self._descriptor)

    def open(self, flags: int) -> int:
        """A descriptor of what was there, for reading or writing. Only for files and block devices:
        others may wait. Raises ``OSError``.
        """
        return os.open(self.place, flags | os.O_CLOEXEC)

    def make(self) -> None:
        """Make an empty file of that name, which only its owner may read; durable when this
        returns. Raises ``OSError``.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._name, flags, 0o600, dir_fd=self._directory)
        try:
            directory = os.open(
                ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory
            )
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> bool:
        """Remove the name, if it still leads to what was there; whether that is gone now. Raises
        ``OSError``.
        """
        if self._directory < 0 or self._descriptor < 0:
            return False
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if not os.path.samestat(found, self.status()):
                return False
            os.unlink(self._name, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        return True

    def rename(self, suffix: str) -> None:
        """Put this behind the name, in the same directory; what has that name is gone. The name
        must still lead to what was there. Raises ``OSError``.
        """
        found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        if not os.path.samestat(found, self.status()):
            raise OSError(errno.ESTALE, "another file has been put there meanwhile", self.path)
        new = self._name + suffix
        os.rename(self._name, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def forget(self) -> None:
        """What was there is gone: only the name is left, for ``make``."""
        os.close(self._descriptor)
        self._descriptor = -1

    def copied(self) -> Pinned:
        """The same once more, to be closed by somebody else."""
        return Pinned(
            self.path, _duplicate(self._descriptor), _duplicate(self._directory), self._name
        )

    def close(self) -> None:
        """Let go. Further calls do nothing."""
        for descriptor in {self._descriptor, self._directory} - {-1}:
            os.close(descriptor)
        self._descriptor = self._directory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pin(path: str) -> Pinned:
    """What a path leads to, through whatever links. Raises ``OSError``; ``DeviceError`` for what
    cannot be a path.
    """
    return Pinned(path, os.open(_checked(path), _PATH))


def pin_name(path: str, trust: Trust = root_and_self) -> Pinned:
    """What a path leads to, which may be missing, and its name, so that it can be made and removed.

    Links on the way are followed as far as they are trusted. Raises ``OSError`` for a directory
    that is missing, ``DeviceError`` for a link that is not trusted and for what cannot be the name
    of a file.
    """
    rest = deque(_checked(path).split("/"))
    directory = os.open("/" if path.startswith("/") else ".", _DIRECTORY)
    descriptor = -1
    links = 0
    try:
        while True:
            name = rest.popleft()
            if not name and rest:
                continue
            if name in ("", ".", ".."):
                if rest:
                    directory = _exchanged(directory, os.open(name, _DIRECTORY, dir_fd=directory))
                    continue
                raise DeviceError(f"{path}: is the name of a directory")
            descriptor = _look_up(name, directory, is_last=not rest)
            if descriptor >= 0 and stat.S_ISLNK((status := os.fstat(descriptor)).st_mode):
                if not trust(status.st_uid):
                    raise DeviceError(
                        f"{path}: {name!r} is a symbolic link of user {status.st_uid}, "
                        "which is not followed: name what it leads to"
                    )
                links += 1
                if links > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if (
                    status.st_dev == os.stat("/proc").st_dev
                ):  # it may lead to something that has no path
                    descriptor = _exchanged(descriptor, os.open(name, _PATH, dir_fd=directory))
                else:
                    goal = os.readlink("", dir_fd=descriptor)
                    rest = deque(goal.split("/")) + rest
                    if goal.startswith("/"):
                        directory = _exchanged(directory, os.open("/", _DIRECTORY))
                    os.close(descriptor)
                    descriptor = -1
                    continue
            if not rest:
                return Pinned(path, descriptor, directory, name)
            directory, descriptor = _exchanged(directory, descriptor), -1
    except BaseException:
        for one in {directory, descriptor} - {-1}:
            os.close(one)
        raise


def pin_link(path: str) -> Pinned:
    """The symbolic link itself that has this path, in a directory of one's
    own. Raises ``OSError``.
    """
    directory, name = os.path.split(path)
    parent = os.open(directory or ".", _DIRECTORY)
    try:
        return Pinned(path, os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=parent), parent, name)
    except BaseException:
        os.close(parent)
        raise


def _checked(path: str) -> str:
    if not path or "\0" in path:
        raise DeviceError(f"{path!r}: no file can have this name")
    return path


def _look_up(name: str, directory: int, *, is_last: bool) -> int:
    """What has this name in a directory, links themselves; -1 when the last name of a path is
    missing. Raises ``OSError``.
    """
    try:
        if not is_last:
            # O_DIRECTORY makes the kernel mount what is mounted when it is used (autofs).
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError:
        pass  # it may be a link to one
    try:
        found = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        if is_last:
            return -1
        raise
    if not is_last and not stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    return found


def _duplicate(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0) if descriptor >= 0 else -1


def _exchanged(old: int, new: int) -> int:
    os.close(old)
    return new
