"""The process that makes the kernel send what it holds back of a file: it opens and closes it, which waits for the writes.

Not a thread of the daemon: one that waits in the kernel for its own daemon cannot be killed, and keeps ``/dev/fuse`` open. A daemon that is
killed just then would never end, nor would anybody who uses the mount. This process has nothing of the daemon's but two pipes; when the
daemon ends, the kernel ends the mount, and with it whatever this waits for.

The file is also the program that runs there, without the rest of snapfs: it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

#: Seconds that the process gets to end by itself, when it has nothing to wait for any more.
END_SECONDS = 2.0


class Flusher:
    """The daemon's side. Its methods wait: they are for worker threads, one at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process whose opens are ours; -1 while there is none."""
        return self._process.pid if self._process else -1

    def flush(self, mountpoint: bytes, device: int, names: list[bytes]) -> list[int]:
        """Open and close these names in the root of the mount with that device number: for each 0 or an errno; none when it is not there.

        Raises ``OSError`` when the process cannot be started, or has been ended by somebody.
        """
        return self._ask(mountpoint, device, [name.hex().encode() for name in names])

    def renew(self, mountpoint: bytes, device: int, names: list[tuple[bytes, int, int]]) -> list[int]:
        """Look these names up in the root, each with a size and a time of change, and have the kernel believe these of the file.

        A size of -1: look up alone. Answers and raises as ``flush``.
        """
        return self._ask(mountpoint, device, [b"%s:%d:%d" % (name.hex().encode(), size, mtime) for name, size, mtime in names])

    def _ask(self, mountpoint: bytes, device: int, words: list[bytes]) -> list[int]:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, as asked for
        process.stdin.write(b" ".join([b"%d" % device, mountpoint.hex().encode(), *words]) + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            self.close()
            raise ConnectionAbortedError("the process that flushes has ended")
        return [int(word) for word in answer.split()]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            import subprocess

            command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/")
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
    for line in sys.stdin.buffer:
        device, mountpoint, *words = line.split()
        results = work_on(bytes.fromhex(mountpoint.decode()), int(device), words)
        sys.stdout.buffer.write(b" ".join(b"%d" % result for result in results) + b"\n")
        sys.stdout.buffer.flush()


def work_on(mountpoint: bytes, device: int, words: list[bytes]) -> list[int]:
    """See ``Flusher.flush`` and ``Flusher.renew``."""
    try:
        directory = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if os.fstat(directory).st_dev != device:  # detached, or something is mounted over it
            return []
        return [_work_on(directory, *word.decode().split(":")) for word in words]
    finally:
        os.close(directory)


def _work_on(directory: int, name: str, *facts: str) -> int:
    return _renew(directory, bytes.fromhex(name), *map(int, facts)) if facts else _open_and_close(directory, bytes.fromhex(name))


def _renew(directory: int, name: bytes, size: int, mtime: int) -> int:
    """With its writeback cache the kernel keeps size and times of a file that it knows, whatever it is told: these are changes of its own.

    The daemon answers them with what is so, and changes nothing.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if size < 0:
            return 0
        if status.st_size != size:
            file = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
            try:
                os.ftruncate(file, size)
            finally:
                os.close(file)
        if status.st_size != size or status.st_mtime_ns != mtime:
            with contextlib.suppress(PermissionError):  # a time that is wrong while somebody uses the file is better than no file
                os.utime(name, ns=(status.st_atime_ns, mtime), dir_fd=directory, follow_symlinks=False)
    except OSError as exc:
        return exc.errno or 5
    return 0


def _open_and_close(directory: int, name: bytes) -> int:
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory))
    except OSError as exc:
        return exc.errno or 5
    return 0


if __name__ == "__main__":
    serve()
