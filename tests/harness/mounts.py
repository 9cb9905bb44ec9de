"""A volume that a test has mounted: by the command line, as users do."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.commands import COMMAND_LIMIT, Word, run_snapfs
from tests.harness.waiting import ProcessWatch

#: Flags of umount2(2).
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8


@dataclass
class Mounted:
    image: Path
    path: Path
    options: str = ""
    is_mounted: bool = False

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def run(self, *arguments: Word, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_snapfs(*arguments, **options)

    def mount(self, options: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        words = ["-o", options] if options else []
        result = run_snapfs("mount", self.image, self.path, *words, code=code)
        self.options = options
        self.is_mounted = code == 0
        return result

    def unmount(self) -> None:
        if self.is_mounted:
            result = run_snapfs("umount", self.path)
            self.is_mounted = False
            # A mount namespace that somebody has made meanwhile, as other tests do, has the mount
            # as long as it lives.
            if kept := re.search(r"its daemon \(process (\d+)\) keeps the image", result.stderr):
                with (
                    contextlib.suppress(ProcessLookupError),
                    contextlib.closing(ProcessWatch(int(kept[1]))) as watch,
                ):
                    watch.wait(COMMAND_LIMIT)

    def remount(self, options: str = "") -> None:
        """Unmount and mount again, with the options that are given now."""
        self.unmount()
        self.mount(options)

    def snapshot(self, name: str) -> Path:
        run_snapfs("snapshot", "create", self.path, name)
        return self.view(name)

    def view(self, name: str) -> Path:
        return self.path / ".snap" / name

    @property
    def pid(self) -> int:
        return int(json.loads(run_snapfs("info", self.path, "--json").stdout)["pid"])

    def kill(self, pid: int | None = None, by: int = signal.SIGKILL) -> None:
        """kill -9 the daemon; the mount point is an empty directory afterwards.

        ``pid``: of the daemon, for a test that must not ask for it at that moment.
        """
        pid = pid or self.pid
        with contextlib.closing(ProcessWatch(pid)) as watch:
            os.kill(pid, by)
            self._detach()
            watch.wait()
        self.is_mounted = False

    def _detach(self) -> None:
        if os.geteuid() != 0:
            command = ["fusermount3", "-u", "-z", os.fspath(self.path)]
            subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_LIMIT)
            return
        # MNT_FORCE ends the connection: a killed daemon's thread may wait for a lock of the
        # kernel's that somebody holds who waits for the daemon. This is no command: starting one
        # closes what the test has open on the mount, and that waits for the daemon, too.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self.path), MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)

    def close(self) -> None:
        """The fixture's end: unmount, by force if it does not go otherwise."""
        if not self.is_mounted:
            return
        try:
            self.unmount()
        except BaseException:
            self._detach()
            raise


def resident(pid: int) -> int:
    """What a process has in memory (VmRSS), in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))
