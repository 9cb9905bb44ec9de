"""``snapfs diff``: what differs between two snapshots, or between a snapshot and the present."""

from __future__ import annotations

import argparse
from typing import Final

from snapfs.cli import changes, output
from snapfs.cli.arguments import Parser, add_target
from snapfs.cli.changes import Change
from snapfs.cli.exits import DIFFERENT, OK, TROUBLE, CommandFailed, describe_os_error
from snapfs.cli.paths import PATHS_HELP
from snapfs.cli.target import session
from snapfs.errors import SnapfsError

#: What stands for the present where a snapshot's name is expected: no snapshot's name begins with a
#: dot.
PRESENT: Final = "."


class _Enough(Exception):
    """All is known that was asked for."""


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument("old", metavar="A", help=f"a snapshot; '{PRESENT}' stands for the present")
    parser.add_argument(
        "new", metavar="B", nargs="?", default=PRESENT, help="another one (default: the present)"
    )
    parser.add_argument(
        "--path", dest="paths", metavar="PATH", action="append", default=[],
        help="show only what lies there; may be given several times",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    form.add_argument(
        "--json-lines",
        action="store_true",
        help="print one JSON document for each change, as they are found",
    )
    form.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="print letters, a space and the path, with a NUL behind; no sizes",
    )
    form.add_argument(
        "--quiet",
        action="store_true",
        help="print nothing, stop at the first change; implies --exit-code",
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="tell by the exit code whether anything differs"
    )
    parser.epilog = (
        "A added, D removed, T of another type, R renamed (old -> new); M data and m "
        "attributes differ (permissions, owner, extended "
        "attributes; the time of modification where the data are the same). A directory "
        "that was renamed is one line; what lies in it is "
        "compared with what it was. Exit codes: 0 done, 1 error, 2 usage; with "
        "--exit-code or --quiet as diff(1): 0 nothing differs, "
        "1 something does, 2 trouble. " + PATHS_HELP
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print in the form that was asked for."""
    if not (arguments.exit_code or arguments.quiet):
        _run(arguments)
        return OK
    try:
        return DIFFERENT if _run(arguments) else OK
    except (SnapfsError, CommandFailed) as exc:
        raise CommandFailed(str(exc), TROUBLE) from exc
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise CommandFailed(describe_os_error(exc), TROUBLE) from exc


def _run(arguments: argparse.Namespace) -> bool:
    """Does anything differ? Prints it."""
    kept: list[Change] = []
    count = 0

    def found(change: Change) -> None:
        nonlocal count
        count += 1
        if arguments.quiet:
            raise _Enough
        if arguments.json_lines:
            output.print_json(changes.document(change), indent=None)
        else:
            kept.append(change)

    with (
        session(arguments.target, write=False, timeout=arguments.timeout) as volume,
        output.progress("Comparing") as progress,
    ):
        try:
            old, new = (
                None if name == PRESENT else name for name in (arguments.old, arguments.new)
            )
            result = changes.ask(volume, "diff", arguments.paths, found, progress, old=old, new=new)
        except _Enough:
            return True
        mountpoint = volume.mountpoint
    kept.sort(key=changes.order)
    if arguments.json:
        document = {
            "target": arguments.target,
            "mounted": mountpoint,
            "old": result["old"],
            "new": result["new"],
            "counts": result["counts"],
            "changes": [changes.document(change) for change in kept],
        }
        output.print_json(document)
    elif arguments.null:
        for change in kept:
            changes.print_null(change)
    else:
        for change in kept:
            output.line(_line(change))
    return bool(count)


def _line(change: Change) -> str:
    """``M     1.0 KiB -> 2.0 KiB  path``"""
    return f"{changes.letters(change):<4}{changes.sizes(change):>24}  {changes.name(change)}"
