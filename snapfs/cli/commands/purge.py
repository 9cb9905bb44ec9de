"""``snapfs purge``: remove files and directories from snapshots, and free what nothing else needs
of them.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_discard, add_json, add_timeout
from snapfs.cli.exits import ERROR, INTERRUPTED, OK, USAGE, CommandFailed, report
from snapfs.cli.paths import PATHS_HELP, PathAlone, all_in_volume
from snapfs.cli.target import Session, session

Document = dict[str, Any]

#: Snapshots that a line names; of more, the number is told.
NAMED: Final = 4


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="an image, a mount point, or any path in a mount; alone, the path to purge in a mount",
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", default=[], help="what to purge")
    parser.add_argument(
        "--snapshot",
        dest="names",
        metavar="NAME",
        action="append",
        help="only from this one; may be given several times (default: from all)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="purge nothing; list what the snapshots have, and what purging would free",
    )
    add_timeout(parser)
    add_discard(parser)
    add_json(parser)
    parser.epilog = (
        "The present is never changed, nor are snapshots that are held. Read-only "
        "snapshots are purged as well. It cannot be undone. "
        "Exit codes: 0 done, 1 error (also when a snapshot could not be purged, when "
        "nothing has the path, or the answer was no), 2 usage. " + PATHS_HELP
    )


def run(arguments: argparse.Namespace) -> int:
    """Look, ask, purge, wait until it is freed."""
    alone = (
        None
        if arguments.paths
        else PathAlone(arguments.target, "name what to purge in it as well", arguments.timeout)
    )
    if not (arguments.yes or arguments.dry_run or sys.stdin.isatty()):
        raise CommandFailed(
            "nobody can be asked here: give --yes to purge without being asked, or "
            "--dry-run to see what it would do",
            USAGE,
        )
    purging = _Purging()
    try:
        target, write = alone.target if alone else arguments.target, not arguments.dry_run
        with session(
            target, write=write, timeout=arguments.timeout, discard=arguments.discard
        ) as volume:
            inside = [alone.in_present(volume)] if alone else all_in_volume(arguments.paths, volume)
            if arguments.dry_run or not arguments.yes:
                result = purging.ask(volume, inside, arguments.names, dry_run=True)
            if not arguments.dry_run and (arguments.yes or _agreed(result)):
                result = purging.ask(volume, inside, arguments.names, dry_run=False)
            mountpoint = volume.mountpoint
    except KeyboardInterrupt:
        if not purging.purged:
            raise
        report(
            f"interrupted; purged from {_snapshots(purging.purged)} already, and the "
            "space comes back in the background of a mount"
        )
        return INTERRUPTED
    if arguments.json:
        document = {
            "target": arguments.target,
            "mounted": mountpoint,
            **result,
            "paths": ["/" + path for path in result["paths"]],
        }
        output.print_json({**document, "snapshots": [_document(one) for one in purging.found]})
    elif arguments.dry_run:
        columns = ("Snapshot", "Path", "Modified", "Size")
        output.print_table(columns, [_row(one) for one in purging.found], whole=columns[:2])
    if not arguments.json:
        _tell(result)
    for refused in result["refused"]:
        report(refused["reason"])
    if not result["snapshots"] and not result["refused"]:
        report(
            f"only snapshots that are held have {_paths(result)}: 'snapfs snapshot "
            "release' lets them go"
        )
    return OK if result["snapshots"] and not result["refused"] else ERROR


class _Purging:
    """What has been told so far."""

    def __init__(self) -> None:
        self.found: list[Document] = []
        self.purged = 0

    def ask(
        self, volume: Session, paths: list[str], names: list[str] | None, *, dry_run: bool
    ) -> Document:
        """Have it done, or tried."""
        self.found = []
        with output.progress("Looking" if dry_run else "Purging") as progress:

            def told(event: Document) -> None:
                self.found += event.get("found", ())
                self.purged = event.get("purged", self.purged)
                if progress and "freed" in event:
                    progress(event["freed"], None)

            return volume.call("purge", told=told, paths=paths, names=names, dry_run=dry_run)


def _agreed(result: Document) -> bool:
    """Ask. What nobody can do is not asked about."""
    if not result["snapshots"]:
        return False
    question = (
        f"Purge {_paths(result)} from {_snapshots(result['snapshots'])}, which frees "
        f"{_size(result)}? It cannot be undone. [y/N] "
    )
    if output.ask(question).lower() in ("y", "yes"):
        return True
    raise CommandFailed("nothing was purged")


def _tell(result: Document) -> None:
    if result["snapshots"]:
        words = (
            ("purging this from", "would free")
            if result["dry_run"]
            else ("purged from", "which frees")
        )
        comma = "" if result["dry_run"] else ","
        output.line(
            f"{words[0]} {_snapshots(result['snapshots'])}{comma} {words[1]} {_size(result)}"
        )
    if result["left_out"]:
        names = [one["name"] for one in result["left_out"]]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        output.line(f"left as they are, because they are held: {', '.join(names[:NAMED])}{more}")


def _paths(result: Document) -> str:
    first = "/" + result["paths"][0]
    return first if len(result["paths"]) == 1 else f"{first} and {len(result['paths']) - 1} more"


def _snapshots(count: int) -> str:
    return "1 snapshot" if count == 1 else f"{count} snapshots"


def _size(result: Document) -> str:
    most = "" if result["exact"] else "at most "
    return f"{most}{output.size_text(result['frees'])} ({result['frees']} bytes)"


def _document(one: Document) -> Document:
    return {
        "snapshot": one["snapshot"],
        "created": output.time_json(one["created_ns"]),
        "path": "/" + one["path"],
        **output.shown_json(one["shown"]),
    }


def _row(one: Document) -> tuple[str, str, str, str]:
    shown = one["shown"]
    size = shown["type"] if shown["size"] is None else output.size_text(shown["size"])
    return one["snapshot"], "/" + one["path"], output.time_text(shown["mtime_ns"]), size
