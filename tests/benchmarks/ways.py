"""The five ways: which modules of snapfs a 4 KiB write, an fsync, a snapshot, a live restore and a
read from a snapshot pass, on a real mount.

The daemon runs in front, in a process that records each module that is entered, by thread, while it
is told to. Prints the table of ``doc/ways.md``; with ``--modules`` the modules too, in the order in
which each operation first meets them. The thread that renews the claim is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import snapfs

PACKAGE = Path(snapfs.__file__).parent
BLOCK = 4096
LIMIT = 30.0

#: Name of an operation -> how many modules it shall pass at most, once all of them are short.
AIMS = {
    "a 4 KiB write": 12,
    "an fsync": 10,
    "`mkdir .snap/x`": 18,
    "a live restore": 14,
    "a read from a snapshot": 14,
}


class Recorder:
    """In the daemon's process: each signal begins a recording, or ends it and stores it."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._is_on = False
        self._entered: dict[str, list[str]] = {}
        self._stored = 0

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._is_on:
            return
        file = frame.f_code.co_filename
        if file.startswith(f"{PACKAGE}/"):
            module = file[len(f"{PACKAGE}/") : -len(".py")].replace("/", ".")
            entered = self._entered.setdefault(threading.current_thread().name, [])
            if not entered or entered[-1] != module:
                entered.append(module)

    def toggle(self, *_: object) -> None:
        if not self._is_on:
            self._entered.clear()
            self._is_on = True
            (self._out / "on").touch()
            return
        self._is_on = False
        (self._out / "on").unlink()
        half = self._out / "half"
        half.write_text(json.dumps(self._entered))
        half.rename(self._out / f"{self._stored}.json")
        self._stored += 1


def serve(out: Path, image: str, mountpoint: str) -> int:
    """Be the daemon."""
    from snapfs.cli.main import main as command_line

    recorder = Recorder(out)
    signal.signal(signal.SIGUSR2, recorder.toggle)
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    words = ["mount", "-f", "-o", "commit=3600,polling=off", image, mountpoint]
    return command_line(words, "snapfs")


class Mount:
    """A volume, mounted by a process that records."""

    def __init__(self, place: Path) -> None:
        self.path = place / "mount"
        self._out = place / "out"
        self._image = place / "image"
        self.path.mkdir()
        self._out.mkdir()
        command("mkfs", "--size", "256M", str(self._image))
        words = [sys.executable, __file__, "--serve", str(self._out), str(self._image)]
        self._daemon = subprocess.Popen([*words, str(self.path)], stderr=subprocess.DEVNULL)
        self._count = 0
        until(self.path.is_mount)

    def record(self, operation: Callable[[], object]) -> dict[str, list[str]]:
        """The modules that an operation enters, by thread."""
        self._signal((self._out / "on").exists)
        operation()
        stored = self._out / f"{self._count}.json"
        self._signal(stored.exists)
        self._count += 1
        found: dict[str, list[str]] = json.loads(stored.read_text())
        return {thread: modules for thread, modules in found.items() if thread != "snapfs-claim"}

    def _signal(self, is_done: Callable[[], bool]) -> None:
        self._daemon.send_signal(signal.SIGUSR2)
        until(is_done)

    def end(self) -> None:
        command("umount", str(self.path))
        self._daemon.wait(LIMIT)


def command(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "snapfs.cli", *words], check=True, stdout=subprocess.DEVNULL
    )


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("the daemon does not answer")
        time.sleep(0.01)


def measure(place: Path) -> dict[str, dict[str, list[str]]]:
    """Operation -> thread -> modules, as they are entered."""
    mount = Mount(place)
    ways: dict[str, dict[str, list[str]]] = {}
    names = list(AIMS)
    file = mount.path / "file"
    send = ctypes.CDLL(None, use_errno=True).sync_file_range
    send.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)

        def write(at: int) -> None:
            """What is written reaches the daemon when the kernel sends it, and not before."""
            os.pwrite(descriptor, os.urandom(BLOCK), at)
            send(descriptor, at, BLOCK, 7)  # wait before, write, wait after

        for _ in range(3):  # the first fsync of all has no log yet
            write(0)
            os.fsync(descriptor)
        ways[names[0]] = mount.record(lambda: write(0))
        ways[names[1]] = mount.record(lambda: os.fsync(descriptor))
        ways[names[2]] = mount.record(lambda: os.mkdir(mount.path / ".snap" / "x"))
        write(0)
        os.fsync(descriptor)
        os.close(descriptor)
        ways[names[4]] = mount.record((mount.path / ".snap" / "x" / "file").read_bytes)
        ways[names[3]] = mount.record(lambda: command("restore", str(mount.path), "x"))
    finally:
        mount.end()
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", action="store_true", help="print the modules, too")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        out, image, mountpoint = arguments.serve
        sys.exit(serve(Path(out), image, mountpoint))
    with tempfile.TemporaryDirectory(prefix="snapfs-ways-") as place:
        ways = measure(Path(place))
    print("| operation | modules | entered | aim |\n|---|---|---|---|")
    for name, aim in AIMS.items():
        modules = list(dict.fromkeys(module for each in ways[name].values() for module in each))
        entered = sum(len(each) for each in ways[name].values())
        print(f"| {name} | {len(modules)} | {entered} times | {aim} |")
    if arguments.modules:
        for name in AIMS:
            print(f"\n{name}:")
            for thread, each in ways[name].items():
                print(f"  {thread}: {', '.join(dict.fromkeys(each))}")


if __name__ == "__main__":
    main()
