"""Image files and block devices.

Both are read and written through the host's page cache: a write costs a copy, ``flush`` makes it
durable, and ``read_nowait`` finds what the cache holds. Cold reads are for worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from snapfs.device.base import NO_PATH, Buffer, Guard, SoleUse, is_memory
from snapfs.device.in_use import device_message
from snapfs.device.locking import (
    Lock,
    Part,
    close_parts,
    is_writable,
    lock_ranges,
    take_lock,
    take_locks_below,
    take_writer_lock,
)
from snapfs.device.pinned import Pinned, pin
from snapfs.device.storage import Storage
from snapfs.errors import DeviceError, DeviceFull, VolumeBusy

if TYPE_CHECKING:
    from snapfs.device.discarding import Discarder

#: ioctls that tell the size of a block device in bytes, and whether it is write-protected
#: (linux/fs.h).
BLKGETSIZE64 = 0x80081272
BLKROGET = 0x125E

#: What ``preadv2`` answers where the filesystem below has no non-blocking reads.
_NOWAIT_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class ImageDevice(SoleUse):
    """An open image file or block device. ``parts`` of what lies below it are closed with it."""

    def __init__(
        self, descriptor: int, path: str, size: int, read_only: bool, parts: Sequence[Part] = ()
    ) -> None:
        self.path = path
        self.size = size
        self.read_only = read_only
        #: Its name, of a file that is removed when nobody needs it any more.
        self.pinned: Pinned | None = None
        self._descriptor = descriptor
        self._parts = parts
        #: Asked before each write.
        self.guard: Guard | None = None
        self._nowait = True
        self._discarder: Discarder | None = None

    def read(self, offset: int, length: int) -> bytes:
        """See ``Device.read``."""
        self._check_range("read", offset, length)
        try:
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length:
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    raise DeviceError(
                        f"{self.path}: the image ends at {offset + len(data)}, "
                        f"{length - len(data)} bytes are missing"
                    )
                data += more
        except OSError as exc:
            raise self._failed("read", offset, exc) from exc
        return data

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """See ``Device.read_nowait``; a partial hit counts as a miss."""
        self._check_range("read", offset, length)
        if not self._nowait:
            return None
        buffer = bytearray(length)
        try:
            count = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno in _NOWAIT_UNSUPPORTED:
                self._nowait = False
                return None
            raise self._failed("read", offset, exc) from exc
        return buffer if count == length else None

    def prefetch(self, offset: int, length: int) -> None:
        """See ``Device.prefetch``."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    @property
    def taken(self) -> str | None:
        """See ``Device.taken``."""
        return self.guard.lost if self.guard is not None else None

    @property
    def storage(self) -> Storage:
        """The innermost that this process has locked for itself, or some of it: the same for all
        who lock the same.
        """
        exact = [part for descriptor, part in self._parts if part.exact and is_writable(descriptor)]
        return exact[-1].storage if exact else Storage.of(self.status())

    def write(self, offset: int, data: Buffer) -> None:
        """See ``Device.write``. Raises ``DeviceError`` also when somebody
        else has the device now.
        """
        if self.guard is not None:
            self.guard.check()
        self._check_range("write", offset, len(data))
        try:
            count = os.pwrite(self._descriptor, data, offset)
            while count < len(data):
                with memoryview(data) as view:
                    more = os.pwrite(self._descriptor, view[count:], offset + count)
                if not more:
                    raise DeviceError(
                        f"{self.path}: write at {offset} ended after {count} of {len(data)} bytes"
                    )
                count += more
        except OSError as exc:
            raise self._failed("write", offset, exc) from exc

    def flush(self) -> None:
        """See ``Device.flush``. What somebody cut off the image meanwhile is not durable, and later
        writes would hide that it is gone.
        """
        try:
            os.fdatasync(self._descriptor)
            self._check_size()
        except OSError as exc:
            raise self._failed("flush", 0, exc) from exc

    def _check_size(self) -> None:
        size = _size(self._descriptor, self.path)
        if size < self.size:
            raise DeviceError(
                f"{self.path}: the image has been cut from {self.size} to {size} bytes "
                "while it was in use"
            )

    def discard(self, offset: int, length: int) -> None:
        """See ``Device.discard``."""
        if self.guard is not None:
            self.guard.check()
        self._check_range("discard", offset, length)
        try:
            if self._discarder is None:
                from snapfs.device.discarding import Discarder

                self._discarder = Discarder(self._descriptor)
            self._discarder.discard(offset, length)
        except OSError as exc:
            raise self._failed("discard", offset, exc) from exc

    def status(self) -> os.stat_result:
        """The open file's, whatever its path leads to by now."""
        return os.fstat(self._descriptor)

    def resize(self, size: int) -> None:
        """Make it an empty file of ``size`` bytes, whatever it was. Raises ``OSError``."""
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, size)
        self.size = size

    def data_spans(self, end: int) -> Iterator[tuple[int, int]]:
        """Where the first ``end`` bytes are not a hole, as (start, stop).
        Raises ``DeviceError``.
        """
        place = 0
        if stat.S_ISBLK(self.status().st_mode):  # of which nobody knows
            yield 0, end
            return
        while place < end:
            try:
                start = os.lseek(self._descriptor, place, os.SEEK_DATA)
                stop = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # no data from there on
                    return
                raise self._failed("search for data", place, exc) from exc
            if start < end:
                yield start, min(stop, end)
            place = stop

    def remove_name(self) -> bool:
        """Remove the file's name, if it still leads to the file; whether it
        is gone now. May block.
        """
        with contextlib.suppress(OSError):
            return self.pinned is not None and self.pinned.remove()
        return False

    def close(self) -> None:
        """Close the file, which gives the lock back. Further calls do nothing."""
        guard, self.guard = self.guard, None
        if guard is not None:
            guard.release()
        if self.pinned is not None:
            self.pinned.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            close_parts(self._parts)

    def be_writer(self) -> None:
        """Be the only one that writes what several have locked together. Raises ``VolumeBusy``."""
        take_writer_lock(self._descriptor, self.path)
        lock_ranges(self._parts, self.path, read_only=False)

    def _check_range(self, what: str, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise DeviceError(
                f"{self.path}: {what} of {length} bytes at {offset} is outside the device"
            )

    def _failed(self, what: str, offset: int, exc: OSError) -> DeviceError:
        kind = DeviceFull if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DeviceError
        if kind is DeviceFull:
            try:
                self._check_size()  # behind the end of a block device there is no space either
            except (OSError, DeviceError) as why:
                return DeviceError(str(why))
        return kind(f"{self.path}: {what} at {offset} failed: {exc.strerror}")


def open_device(path: str, *, read_only: bool = False, lock: Lock = Lock.EXCLUSIVE) -> ImageDevice:
    """Open an image file or block device, if nothing is said for this process alone.

    Raises ``DeviceError`` when it cannot be opened, or not be written, or is neither,
    ``VolumeBusy`` when another process has it.
    """
    with pin_image(path) as pinned:
        return open_pinned(pinned, read_only=read_only, lock=lock)


def pin_image(path: str) -> Pinned:
    """Look an image up, whatever it is. Raises ``DeviceError``."""
    if is_memory(path):
        raise DeviceError(f"{path}: {NO_PATH} (a file of that name is ./{path})")
    try:
        return pin(path)
    except OSError as exc:
        raise DeviceError(f"{path}: cannot be opened: {exc.strerror}") from exc


def open_pinned(
    pinned: Pinned, *, read_only: bool = False, lock: Lock = Lock.EXCLUSIVE
) -> ImageDevice:
    """The same of what was looked up before, which stays the caller's to close. Never waits for
    whoever else uses a FIFO.
    """
    path = pinned.path
    flags = os.O_RDONLY if read_only else os.O_RDWR
    if not (pinned.is_regular or pinned.is_block_device):
        raise DeviceError(f"{path}: neither a regular file nor a block device")
    if lock is Lock.EXCLUSIVE and pinned.is_block_device:
        flags |= os.O_EXCL  # the kernel then refuses devices that it has mounted itself
    try:
        descriptor = pinned.open(flags)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise VolumeBusy(device_message(path, pinned.place)) from exc
        if exc.errno == errno.EROFS:
            raise _write_protected(path) from exc
        raise DeviceError(f"{path}: cannot be opened: {exc.strerror}") from exc
    try:
        size = _size(descriptor, path)
        # The kernel lets it be opened, and fails what is written.
        if (
            not read_only
            and pinned.is_block_device
            and struct.unpack("=i", fcntl.ioctl(descriptor, BLKROGET, bytes(4))) != (0,)
        ):
            raise _write_protected(path)
        take_lock(descriptor, path, lock)
        parts = take_locks_below(descriptor, path, lock, read_only=read_only)
    except BaseException:
        os.close(descriptor)
        raise
    return ImageDevice(descriptor, path, size, read_only, parts)


def _write_protected(path: str) -> DeviceError:
    return DeviceError(f"{path}: is write-protected: it can only be read (mount it with '-o ro')")


def _size(descriptor: int, path: str) -> int:
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    if stat.S_ISBLK(status.st_mode):
        answer = fcntl.ioctl(descriptor, BLKGETSIZE64, bytes(8))
        return int(struct.unpack("=Q", answer)[0])
    raise DeviceError(f"{path}: neither a regular file nor a block device")
