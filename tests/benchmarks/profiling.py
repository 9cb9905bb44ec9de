"""Where a daemon spends its time under a workload: py-spy samples the stacks of a mount in front,
from outside, and never stops it, so that it runs as fast as ever.

Prints the functions with most samples, and keeps all stacks in a file: one line each, as flame
graph viewers read them (speedscope.app among others), or with ``--flamegraph`` a picture. A
workload is a scene of the benchmark (``rows.py``), whose cold rows are warm here, ``snapshots``, or
any shell command that runs in the mount.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import rows
from targets import PATIENCE, Absent, Target, daemon, snapfs, until

#: Stacks that are taken in a second. A request takes 30 to 200 microseconds, so none is seen twice.
RATE = 500

#: Functions that are printed.
SHOWN = 25

#: Frames of a daemon that is being started, and of threads that have nothing to do: from outside,
#: not every kernel tells which threads are asleep.
LOADING = ("_find_and_load ", "_call_with_frames_removed ")
WAITING = (
    "Condition.wait (threading.py",
    "WorkerThread._work (trio/_core/_thread_cache.py",
    "EpollIOManager.get_events (trio/_core/_io_epoll.py",
)


def snapshots(place: Path) -> None:
    """Snapshots of a volume that is being written, and going back to them."""
    top = place.parent
    files = [place / f"file-{number}" for number in range(200)]
    for number in range(20):
        for file in files:
            file.write_bytes(b"%d" % number * 4096)
        (top / ".snap" / f"at-{number}").mkdir()
    for number in range(0, 20, 4):
        snapfs("restore", top, f"at-{number}")
    for number in range(20):
        (top / ".snap" / f"at-{number}").rmdir()


def workloads() -> dict[str, Callable[[Path], object]]:
    """By their names: what is done in a directory of a mount."""

    def played(scene: rows.Scene) -> Callable[[Path], object]:
        return lambda place: scene.play(place, rows.Counts(), rows.Recorder(Target("", place)))

    found: dict[str, Callable[[Path], object]] = {
        scene.play.__name__: played(scene) for scene in rows.SCENES
    }
    return {**found, "snapshots": snapshots}


def profile(work: Callable[[Path], object], out: Path, options: list[str], size: str) -> None:
    """Run a workload on a new volume, whose daemon is sampled from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="snapfs-profile-") as scratch:
        image, mount = Path(scratch) / "volume.img", Path(scratch) / "mnt"
        mount.mkdir()
        snapfs("mkfs", image, "--size", size)
        program = [sys.executable, "-m", "snapfs.cli", "mount", "--foreground", image, mount]
        spy = Path(sys.executable).with_name("py-spy")
        with daemon(spy, "record", "--output", out, *options, "--", *program) as process:
            try:
                until(mount.is_mount, "it has not mounted")
                place = mount / "work"
                place.mkdir()
                work(place)
            finally:
                if mount.is_mount():
                    snapfs("umount", mount)
                if process.wait(PATIENCE):
                    raise Absent(f"py-spy ended with {process.returncode}: see above")


def summary(stacks: str) -> list[tuple[str, float, float]]:
    """Functions with the share of samples that they were running in, and that they were on the
    stack in, in percent; those that were running most come first. Start and waits do not count.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks.splitlines():
        names, _, count = line.rpartition(" ")
        frames = names.split(";")
        if (
            not names
            or any(frame.startswith(LOADING) for frame in frames)
            or frames[-1].startswith(WAITING)
        ):
            continue
        own[frames[-1]] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    samples = own.total() or 1
    ordered = sorted(own | total, key=lambda name: (-own[name], -total[name], name))
    return [(name, 100 * own[name] / samples, 100 * total[name] / samples) for name in ordered]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make profile ARGS=...", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--workload", choices=list(workloads()), default="names")
    what.add_argument("--command", metavar="SHELL", help="run this in the mount, by sh -c")
    parser.add_argument("--size", default="4G", help="of the volume (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=RATE, help="samples a second (%(default)s)")
    parser.add_argument("--flamegraph", action="store_true", help="an SVG instead of a table")
    parser.add_argument("--output", metavar="FILE", type=Path, help="(default: in .profile)")
    arguments = parser.parse_args()
    command = arguments.command
    name = "command" if command else arguments.workload
    out = arguments.output or Path(".profile") / (
        name + (".svg" if arguments.flamegraph else ".txt")
    )
    out.parent.mkdir(exist_ok=True)
    # Never without: who stops the threads of a daemon one by one waits for ever for one that is in
    # the kernel, where it waits for somebody who waits for the daemon.
    options = ["--nonblocking", "--rate", str(arguments.rate)]
    options += ["--format", "flamegraph"] if arguments.flamegraph else ["--format", "raw", "-F"]
    if command:
        work: Callable[[Path], object] = lambda place: subprocess.run(  # noqa: E731 - one of several
            ["sh", "-c", command], check=True, cwd=place
        )
    else:
        rows.make_cold = lambda: None  # nobody profiles the kernel's caches
        work = workloads()[name]
    profile(work, out.resolve(), options, arguments.size)
    if not arguments.flamegraph:
        print(f"{'own %':>7} {'total %':>8}  function")
        for function, own, total in summary(out.read_text())[:SHOWN]:
            print(f"{own:7.1f} {total:8.1f}  {function}")
    print(f"{os.fspath(out)}: all stacks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
