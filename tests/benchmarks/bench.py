"""Measures snapfs against its peers in one run, on one disk, in turns, and prints one table:
medians, and how many times as fast snapfs is.

Targets: snapfs; an empty filesystem on stock pyfuse3 (see ``empty_filesystem.py``); bindfs;
zfs-fuse; S3QL; btrfs on a loop device; and the filesystem that all their images lie on. Those that
are not here are left out, with the reason. Then what snapshots cost, on a volume and on one that is
20 times as large; memory; and bytes written. ``*`` marks what is below its goal, ``~`` what is so
by less than two measurements of the same thing differ; all of them are listed at the end.

Needs root, to empty the kernel's caches and to mount. Beside other work on the machine the numbers
mean little: they become smaller, and those of whoever sleeps between requests may double, as a busy
processor need not be woken up. The load before and after stands below.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import signal
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import picture
import resources
import snapshot_rows
import table
from goals import missed
from rows import QUICK, SCENES, Counts, Scene, Value, play
from targets import TARGETS, Absent, Present, host_type, present

#: Row -> target -> one value for each round.
Results = dict[str, dict[str, list[Value]]]


def measure(here: Present, scenes: list[Scene], counts: Counts, rounds: int) -> Results:
    """Every scene on every target, in another order in every round: what one gets from the one
    before is not always the same.
    """
    results: Results = {}
    for number in range(rounds):
        for index, scene in enumerate(scenes):
            turn = (number + index) % len(here.targets)
            for target in here.targets[turn:] + here.targets[:turn]:
                progress(f"round {number + 1} of {rounds}, {scene.play.__name__}: {target.name}")
                try:
                    values = play(scene, target, counts, number)
                except OSError as error:
                    if target.name == "snapfs":
                        raise
                    # A peer's trouble is no reason to lose all that was measured.
                    here.targets.remove(target)
                    here.absent[target.name] = (
                        f"it failed in round {number + 1}, {scene.play.__name__}: {error}"
                    )
                    continue
                for row, value in values.items():
                    results.setdefault(row, {}).setdefault(target.name, []).append(value)
    return {
        row: {name: values for name, values in by.items() if name not in here.absent}
        for row, by in results.items()
    }


def progress(what: str) -> None:
    """Say what is being done, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def medians(results: Results) -> dict[str, dict[str, float]]:
    return {
        row: {name: statistics.median(one.rate for one in values) for name, values in by.items()}
        for row, by in results.items()
    }


def machine(place: str | None) -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "host": host_type(Path(place or ".")),
    }


def wanted(row: str, pattern: str) -> bool:
    return pattern in row or fnmatch.fnmatch(row, pattern)


def targets(text: str) -> list[str]:
    """The names in a list; snapfs is always one, since all others are compared with it."""
    names = [name for name in TARGETS if name in text.split(",") or name == "snapfs"]
    unknown = set(text.split(",")) - set(TARGETS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no target {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}"
        )
    return names


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a number from 1 is wanted, not {text!r}")
    return int(text)


def arguments_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="each row's value is the median of so many (default 3)",
    )
    parser.add_argument(
        "--targets",
        type=targets,
        default=list(TARGETS),
        metavar="A,B,C",
        help=f"of {','.join(TARGETS)}",
    )
    parser.add_argument(
        "--rows",
        default="*",
        metavar="PATTERN",
        help="only rows with this in their name, or of this form ('*cold')",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of everything: to try it, not to believe it"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every value of every round there"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also draw the ratios there, as SVG"
    )
    parser.add_argument(
        "--directory", help="where images are made (default: where temporary files are)"
    )
    arguments = parser.parse_args(words)
    for file in (arguments.json, arguments.picture):
        if file is not None and not file.absolute().parent.is_dir():
            parser.error(f"{file}: there is no directory {file.absolute().parent}")
    if arguments.directory is not None and not os.path.isdir(arguments.directory):
        parser.error(f"{arguments.directory} is not a directory")
    if os.geteuid() != 0:
        parser.error("it needs root, to empty the kernel's caches: run 'sudo make bench'")
    rows = [*(row for scene in SCENES for row in scene.rows), *snapshot_rows.ROWS, *resources.ROWS]
    if not any(wanted(row, arguments.rows) for row in rows):
        parser.error(f"no row is like {arguments.rows!r}; there are: {'; '.join(rows)}")
    return arguments


def main(words: list[str]) -> int:
    arguments = arguments_of(words)
    pattern, counts = arguments.rows, QUICK if arguments.quick else Counts()
    scenes = [scene for scene in SCENES if any(wanted(row, pattern) for row in scene.rows)]
    about = machine(arguments.directory)
    load = [os.getloadavg()[0]]
    with present(arguments.targets if scenes else [], arguments.directory) as here:
        about["absent"] = here.absent
        results = measure(here, scenes, counts, arguments.rounds)
    results = {row: results[row] for scene in scenes for row in scene.rows if wanted(row, pattern)}
    snapshots = resource_values = {}
    if any(wanted(row, pattern) for row in snapshot_rows.ROWS):
        snapshots = snapshot_rows.measure(
            arguments.directory, arguments.rounds, quick=arguments.quick, progress=progress
        )
        snapshots = {row: values for row, values in snapshots.items() if wanted(row, pattern)}
    if any(wanted(row, pattern) for row in resources.ROWS):
        resource_values = resources.measure(
            arguments.directory, quick=arguments.quick, progress=progress
        )
    progress("")
    load.append(os.getloadavg()[0])
    found = medians(results)
    units = {row: unit for scene in SCENES for row, unit in scene.rows.items()}
    below = [*missed(found), *snapshot_rows.missed(snapshots), *resources.missed(resource_values)]
    if arguments.json:
        document = {
            "rounds": arguments.rounds,
            "quick": arguments.quick,
            "machine": about,
            "load": load,
            "units": units,
            "results": {
                row: {name: [asdict(one) for one in values] for name, values in by.items()}
                for row, by in results.items()
            },
            "snapshots": snapshots,
            "resources": resource_values,
            "missed": [asdict(one) for one in below],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.picture:
        arguments.picture.write_text(picture.of_ratios(found, about))
    table.show(found, units, results, snapshots, resource_values, below, about, load)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is mounted is unmounted
    try:
        sys.exit(main(sys.argv[1:]))
    except (Absent, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
