"""The process that makes the kernel send what it holds back of a file: it opens and closes it,
which waits for the writes.

Not a thread of the daemon: one that waits in the kernel for its own daemon cannot be killed, and
keeps ``/dev/fuse`` open. A daemon that is killed just then would never end, nor would anybody who
uses the mount. This process has nothing of the daemon's but two pipes; when the daemon ends, the
kernel ends the mount, and with it whatever this waits for.

The file is also the program that runs there, without the rest of snapfs: it imports next to
nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess

#: Seconds that the process gets to end by itself, when it has nothing to wait for any more.
END_SECONDS = 2.0

#: FILEID_INO64_GEN of linux/exportfs.h: what a file handle of FUSE is (``fuse_encode_fh``), as two
#: halves of the inode's number, the high one first, and its generation.
_HANDLE_TYPE = 0x81
_HANDLE = struct.Struct("=IiIII")

#: Seconds after which a change of size is given up that waits for somebody's lease (F_SETLEASE of
#: fcntl(2)): he has 45 for each file.
LEASE_SECONDS = 0.5

#: As the time of change of a file: whatever it is.
KEEP_TIME = -1 << 63

#: What ``Flusher.flush`` finds when the process cannot get into the mount.
NO_WAY = 13


class WantedFlush(NamedTuple):
    """An inode to open and close: its number, and how it is found."""

    node: int
    #: With the number, the kernel's handle of it.
    generation: int = 0
    #: A name in the mount's root; empty: it is opened by its handle, which takes
    #: CAP_DAC_READ_SEARCH.
    name: bytes = b""
    #: For ``Flusher.renew``: its size (-1: as the kernel thinks), and its time of change in
    #: nanoseconds.
    size: int = -1
    mtime: int = 0


class Result(NamedTuple):
    """What came of it, as errnos; 0: nothing went wrong."""

    opening: int
    #: What the kernel could not have stored.
    closing: int = 0


class Flusher:
    """The daemon's side. Its methods wait: they are for worker threads, one at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process whose opens are ours; -1 while there is none."""
        return self._process.pid if self._process else -1

    def flush(self, mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
        """Open and close these in the mount with that device number: what came of each, in order.

        Raises ``OSError`` when the process cannot be started, or has been ended by somebody.
        """
        return self._ask(b"flush", mountpoint, device, wanted)

    def renew(self, mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
        """Look these up by their names, and have the kernel believe size and time of those that
        have a size. Raises as ``flush``.
        """
        return self._ask(b"renew", mountpoint, device, wanted)

    def look(self, mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
        """Look up names, each in a directory that is found by its handle. Raises as ``flush``."""
        return self._ask(b"look", mountpoint, device, wanted)

    def _ask(
        self, what: bytes, mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]
    ) -> list[Result]:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, as asked for
        words = [b"%d,%d,%s,%d,%d" % one._replace(name=one.name.hex().encode()) for one in wanted]
        answer = b""
        with contextlib.suppress(BrokenPipeError):  # it has ended before, and there is no answer
            process.stdin.write(
                b" ".join([what, b"%d" % device, mountpoint.hex().encode(), *words]) + b"\n"
            )
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            self.close()
            raise ConnectionAbortedError("the process that flushes has ended")
        return [Result(*map(int, word.split(b","))) for word in answer.split()]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # somebody has ended it
        if self._process is None:
            import subprocess

            command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        import subprocess

        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # it waits in the kernel, and ends when the mount does


def serve() -> None:
    """The process's side: a line with requests, a line with results, until the daemon ends."""
    signal.signal(signal.SIGALRM, lambda *_: None)  # ends a wait, and nothing else
    for line in sys.stdin.buffer:
        what, device, mountpoint, *words = line.split()
        function = {b"flush": flush_all, b"renew": renew_all, b"look": look_all}[what]
        results = function(
            bytes.fromhex(mountpoint.decode()),
            int(device),
            [_wanted(*word.decode().split(",")) for word in words],
        )
        sys.stdout.buffer.write(b" ".join(b"%d,%d" % result for result in results) + b"\n")
        sys.stdout.buffer.flush()


def _wanted(node: str, generation: str, name: str, size: str, mtime: str) -> WantedFlush:
    return WantedFlush(int(node), int(generation), bytes.fromhex(name), int(size), int(mtime))


def flush_all(mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
    """See ``Flusher.flush``."""
    by_handle = any(not one.name for one in wanted)

    def flush(top: int) -> list[Result]:
        opener = _handle_opener(top) if by_handle else _name_opener(top)
        return [_open_and_close(one, opener) for one in wanted]

    # Where names are used nobody need have leave to list the root, nor be told of it.
    return _inside(mountpoint, device, os.O_RDONLY if by_handle else os.O_PATH, flush) or [
        Result(NO_WAY)
    ] * len(wanted)


def renew_all(mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
    """See ``Flusher.renew``."""
    return _inside(
        mountpoint, device, os.O_PATH, lambda top: [_renew(top, one) for one in wanted]
    ) or [Result(NO_WAY)] * len(wanted)


def look_all(mountpoint: bytes, device: int, wanted: Sequence[WantedFlush]) -> list[Result]:
    """See ``Flusher.look``."""

    def look(top: int) -> list[Result]:
        opener = _handle_opener(top)
        return [_look(one, opener) for one in wanted]

    return _inside(mountpoint, device, os.O_RDONLY, look) or [Result(NO_WAY)] * len(wanted)


def _inside(
    mountpoint: bytes, device: int, flags: int, function: Callable[[int], list[Result]]
) -> list[Result]:
    """What a function gives that gets the root of the mount as a descriptor; nothing where there is
    no way into it.
    """
    try:
        top = os.open(mountpoint, flags | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if os.fstat(top).st_dev != device:  # detached, or something is mounted over it
            return []
        return function(top)
    finally:
        os.close(top)


def _handle_opener(top: int) -> Callable[[WantedFlush, int], int]:
    """Opens an inode by its handle, and gives the descriptor."""
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).open_by_handle_at

    def open_handle(one: WantedFlush, flags: int) -> int:
        handle = _HANDLE.pack(
            _HANDLE.size - 8, _HANDLE_TYPE, one.node >> 32, one.node & 0xFFFF_FFFF, one.generation
        )
        descriptor: int = function(top, handle, flags)
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return descriptor

    return open_handle


def _name_opener(top: int) -> Callable[[WantedFlush, int], int]:
    """The same by its name in the root."""
    return lambda one, flags: os.open(one.name, flags, dir_fd=top)


def _open_and_close(one: WantedFlush, opener: Callable[[WantedFlush, int], int]) -> Result:
    try:
        # Whatever is found, it is not followed, waited for, or made this process's terminal.
        descriptor = opener(
            one, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
        )
    except OSError as exc:
        return Result(exc.errno or NO_WAY)
    try:
        # The kernel itself compares a handle's number.
        is_it = not one.name or os.fstat(descriptor).st_ino == one.node
    except OSError:
        is_it = False
    try:
        os.close(descriptor)
    except OSError as exc:
        return Result(0 if is_it else NO_WAY, exc.errno or 5)
    return Result(0 if is_it else NO_WAY)


def _look(one: WantedFlush, opener: Callable[[WantedFlush, int], int]) -> Result:
    try:
        directory = opener(one, os.O_PATH | os.O_CLOEXEC)
        try:
            os.close(os.open(one.name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory))
        finally:
            os.close(directory)
    except OSError as exc:
        return Result(exc.errno or NO_WAY)
    return Result(0)


def _renew(top: int, one: WantedFlush) -> Result:
    """With its writeback cache the kernel keeps size and times of a file that it knows, whatever it
    is told: these are changes of its own.

    The daemon answers them with what is so, and changes nothing.
    """
    try:
        # Looked up once; what is not opened takes no error away from those who have the file open,
        # when it is closed.
        file = os.open(one.name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=top)
    except OSError as exc:
        return Result(exc.errno or NO_WAY)
    try:
        status = os.fstat(file)
        if status.st_ino != one.node:
            return Result(NO_WAY)
        path = f"/proc/self/fd/{file}"
        if one.size >= 0 and status.st_size != one.size:
            _truncate(path, one.size)
        if (
            one.size >= 0
            and one.mtime != KEEP_TIME
            and (status.st_size != one.size or status.st_mtime_ns != one.mtime)
        ):
            with contextlib.suppress(
                PermissionError
            ):  # a time that is wrong while somebody uses the file is better than no file
                os.utime(path, ns=(status.st_atime_ns, one.mtime))
    except OSError as exc:
        return Result(exc.errno or NO_WAY)
    finally:
        os.close(file)
    return Result(0)


def _truncate(path: str, size: int) -> None:
    """Raises ``InterruptedError`` where somebody has a lease of the file; what the kernel waits for
    otherwise is not interrupted.
    """
    signal.setitimer(signal.ITIMER_REAL, LEASE_SECONDS, LEASE_SECONDS)
    try:
        os.truncate(path, size)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    serve()
