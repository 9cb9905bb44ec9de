"""``snapfs diff``: what differs between two snapshots, or between a snapshot and the present."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_target
from snapfs.cli.exits import DIFFERENT, OK, TROUBLE, CommandFailed, describe_os_error
from snapfs.cli.target import CODING, Session, as_sent, in_volume, session
from snapfs.errors import SnapfsError

#: What stands for the present where a snapshot's name is expected: no snapshot's name begins with a dot.
PRESENT: Final = "."

#: What has happened, in one letter; what differs of what both states have follows: M for data, m for attributes.
LETTERS: Final = {"added": "A", "removed": "D", "changed": "", "retyped": "T", "renamed": "R"}

Change = dict[str, Any]


class _Enough(Exception):
    """All is known that was asked for."""


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument("old", metavar="A", help=f"a snapshot; '{PRESENT}' stands for the present")
    parser.add_argument("new", metavar="B", nargs="?", default=PRESENT, help="another one (default: the present)")
    parser.add_argument(
        "--path", dest="paths", metavar="PATH", action="append", default=[],
        help="show only what lies there, given by its path in the volume or in the mount; may be given several times",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    form.add_argument("--json-lines", action="store_true", help="print one JSON document for each change, as they are found")
    form.add_argument("-0", "--null", action="store_true", help="print letters, a space and the path, with a NUL behind; no sizes")
    form.add_argument("--quiet", action="store_true", help="print nothing, stop at the first change; implies --exit-code")
    parser.add_argument("--exit-code", action="store_true", help="tell by the exit code whether anything differs")
    parser.epilog = (
        "A added, D removed, T of another type, R renamed (old -> new); M data and m attributes differ (permissions, owner, extended "
        "attributes; the time of modification where the data are the same). A directory that was renamed is one line; what lies in it is "
        "compared with what it was. Exit codes: 0 done, 1 error, 2 usage; with --exit-code or --quiet as diff(1): 0 nothing differs, "
        "1 something does, 2 trouble."
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
    changes: list[Change] = []
    count = 0

    def found(change: Change) -> None:
        nonlocal count
        count += 1
        if arguments.quiet:
            raise _Enough
        if arguments.json_lines:
            print(json.dumps(_document(change), ensure_ascii=True))
        else:
            changes.append(change)

    with session(arguments.target, write=False) as volume, output.progress("Comparing") as progress:
        try:
            result = _ask(volume, arguments, found, progress)
        except _Enough:
            return True
        mountpoint = volume.mountpoint
    changes.sort(key=_order)
    if arguments.json:
        document = {
            "target": arguments.target,
            "mounted": mountpoint,
            "old": result["old"],
            "new": result["new"],
            "counts": result["counts"],
            "changes": [_document(change) for change in changes],
        }
        output.print_json(document)
    elif arguments.null:
        for change in changes:
            _print_null(change)
    else:
        for change in changes:
            print(_line(change))
    return bool(count)


def _ask(volume: Session, arguments: argparse.Namespace, found: Callable[[Change], None], progress: output.Progress | None) -> Change:
    def told(event: dict[str, Any]) -> None:
        for change in event["found"]:
            found(change)
        if progress:
            progress(event["compared"], None)

    old, new = (None if name == PRESENT else name for name in (arguments.old, arguments.new))
    paths = [as_sent(in_volume(path, volume.mountpoint)) for path in arguments.paths]
    return volume.call("diff", told=told, old=old, new=new, paths=paths)


def _order(change: Change) -> bytes:
    path = change["old_path"] if change["path"] is None else change["path"]
    return bytes(path.encode(*CODING))


def _letters(change: Change) -> str:
    return LETTERS[change["kind"]] + ("M" if change["data"] else "") + ("m" if change["attributes"] else "")


def _line(change: Change) -> str:
    """``M     1.0 KiB -> 2.0 KiB  path``"""
    old, new = (one and one["size"] for one in (change["old"], change["new"]))
    sizes = [output.size_text(size) for size in (old, new) if size is not None]
    size = sizes[0] if old == new and sizes else " -> ".join(sizes)
    mark = "/" if (change["new"] or change["old"])["type"] == "directory" else ""
    path = change["old_path"] if change["path"] is None else change["path"]
    if change["kind"] == "renamed":
        path = f"{change['old_path']}{mark} -> {path}"
    return f"{_letters(change):<4}{size:>24}  {output.plain(path)}{mark}"


def _print_null(change: Change) -> None:
    """As ``git status -z``: the old path of what was renamed comes after the new one."""
    paths = [path for path in (change["path"], change["old_path"]) if path is not None]
    shown = paths if change["kind"] == "renamed" else paths[:1]
    sys.stdout.flush()
    sys.stdout.buffer.write(_letters(change).encode() + b" " + b"".join(path.encode(*CODING) + b"\0" for path in shown))


def _document(change: Change) -> Change:
    """A change for programs: times as text, and the old path only where it is another."""
    old_path = change["old_path"] if change["old_path"] != change["path"] else None
    sides = {side: change[side] and output.shown_json(change[side]) for side in ("old", "new")}
    return {**change, "old_path": old_path, "letters": _letters(change), **sides}
