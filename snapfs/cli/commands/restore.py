"""``snapfs restore``: go back to a snapshot, on a mounted volume or in an image; now, when it is
mounted next, or only in words.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, Final

from snapfs.cli import changes, output
from snapfs.cli.arguments import Parser, add_target
from snapfs.cli.changes import Change
from snapfs.cli.exits import OK
from snapfs.cli.paths import PATHS_HELP, all_in_volume
from snapfs.cli.target import Session, session
from snapfs.errors import UsageError
from snapfs.printable import quoted

#: What a restore would do to a path, in the words of its lines and of the totals, and in those of
#: ``--json``.
WORDS: Final = {
    "added": ("would come back", "come back", "comes_back"),
    "removed": ("would be removed", "be removed", "removed"),
    "changed": ("would change", "change", "changed"),
    "retyped": ("would change its type", "change their type", "retyped"),
    "renamed": ("would be renamed", "be renamed", "renamed"),
}


class _Cancel(argparse.Action):
    """``--cancel`` needs no NAME. Were it optional from the beginning, it could not stand behind an
    option.
    """

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        name_action: argparse.Action,
        help: str,  # noqa: A002 - argparse's
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self._name_action = name_action

    def __call__(
        self,
        _parser: object,
        namespace: argparse.Namespace,
        _values: object,
        _option: str | None = None,
    ) -> None:
        """See ``argparse``."""
        namespace.cancel, self._name_action.required = True, False


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    name = parser.add_argument("name", metavar="NAME", help="the snapshot to go back to")
    parser.add_argument(
        "--path", dest="paths", metavar="PATH", action="append", default=[],
        help="restore only what lies there; may be given several times",
    )  # fmt: skip
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--dry-run", action="store_true", help="change nothing, list what would change"
    )
    when.add_argument(
        "--schedule",
        action="store_true",
        help="do it when the volume is mounted next, before anyone sees it",
    )
    when.add_argument(
        "--cancel",
        action=_Cancel,
        name_action=name,
        help="take back what was scheduled; without NAME",
    )
    parser.add_argument(
        "--detach-mounts",
        action="store_true",
        help="go back although something is mounted inside on what goes or changes: it is detached",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    form.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="with --dry-run: print letters, a space and the path, with a NUL behind",
    )
    parser.epilog = (
        "The state from before stays as the snapshot before-restore-...; restoring that "
        "takes a restore back. Only one restore is "
        "scheduled at a time. The letters of -0 are those of 'snapfs diff'. " + PATHS_HELP
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    if arguments.null and not arguments.dry_run:
        raise UsageError("-0 prints what a dry run has found: add --dry-run")
    if arguments.cancel:
        if arguments.name is not None or arguments.paths:
            raise UsageError(
                "--cancel takes neither NAME nor --path: at most one restore is scheduled"
            )
        return _cancel(arguments)
    if arguments.dry_run:
        return _plan(arguments)
    return _schedule(arguments) if arguments.schedule else _restore(arguments)


def _restore(arguments: argparse.Namespace) -> int:
    """Restore, and say how to undo it."""
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        result = volume.call(
            "restore",
            name=arguments.name,
            detach=arguments.detach_mounts or None,
            **_paths(arguments, volume),
        )
    undo = result["undo"]
    if arguments.json:
        output.print_json(
            {"name": result["name"], "changed": result["changed"], "undo": undo and undo["name"]}
        )
    elif not result["changed"]:
        output.line(f"nothing differs from '{arguments.name}': nothing was changed")
    else:
        output.line(
            f"restored '{arguments.name}'"
            + (f"; the state from before is the snapshot '{undo['name']}'" if undo else "")
        )
    return OK


def _paths(arguments: argparse.Namespace, volume: Session) -> dict[str, Any]:
    return {"paths": all_in_volume(arguments.paths, volume)} if arguments.paths else {}


# When the volume is mounted next


def _schedule(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        result = volume.call("restore.schedule", name=arguments.name, **_paths(arguments, volume))
    wanted, replaced = result["scheduled"], result["replaced"]
    if arguments.json:
        output.print_json(
            {"scheduled": scheduled_json(wanted), "replaced": replaced and scheduled_json(replaced)}
        )
        return OK
    output.line(
        f"the next mount goes back to {scheduled_text(wanted)}; 'snapfs restore "
        f"{quoted(arguments.target)} --cancel' takes that back"
    )
    if replaced:
        output.line(f"it does not go back to {scheduled_text(replaced)}, as was scheduled before")
    return OK


def _cancel(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        cancelled = volume.call("restore.cancel")["cancelled"]
    if arguments.json:
        output.print_json({"cancelled": scheduled_json(cancelled)})
    else:
        output.line(f"cancelled: the next mount does not go back to {scheduled_text(cancelled)}")
    return OK


def scheduled_text(one: dict[str, Any]) -> str:
    """What the next mount goes back to, in words."""
    name = "a snapshot that is lost" if one["name"] is None else f"'{one['name']}'"
    return name + (f", only {', '.join(one['paths'])}" if one["paths"] else "")


def scheduled_json(one: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "name": one["name"],
        "paths": one["paths"],
        "asked_at": output.time_json(one["since_ns"]),
        "owner": one["owner"],
    }


# A dry run


def _plan(arguments: argparse.Namespace) -> int:
    """List what would change."""
    found: list[Change] = []
    with (
        session(arguments.target, write=False, timeout=arguments.timeout) as volume,
        output.progress("Comparing") as progress,
    ):
        changes.ask(
            volume, "restore.plan", arguments.paths, found.append, progress, name=arguments.name
        )
        mountpoint = volume.mountpoint
    found.sort(key=changes.order)
    totals = {kind: _total(change for change in found if change["kind"] == kind) for kind in WORDS}
    if arguments.json:
        document = {
            "target": arguments.target,
            "mounted": mountpoint,
            "name": arguments.name,
            "dry_run": True,
            "totals": {
                WORDS[kind][2]: {"paths": paths, "bytes": size}
                for kind, (paths, size) in totals.items()
            },
            "changes": [changes.document(change) for change in found],
        }
        output.print_json(document)
    elif arguments.null:
        for change in found:
            changes.print_null(change)
    elif not found:
        output.line(f"nothing differs from '{arguments.name}': nothing would change")
    else:
        for change in found:
            output.line(f"{_words(change):<32}{changes.sizes(change):>24}  {changes.name(change)}")
        parts = ", ".join(
            f"{paths} would {WORDS[kind][1]} ({output.size_text(size)})"
            for kind, (paths, size) in totals.items()
            if paths
        )
        size = output.size_text(sum(size for _, size in totals.values()))
        output.line(f"{len(found)} {'path' if len(found) == 1 else 'paths'} with {size}: {parts}")
    return OK


def _words(change: Change) -> str:
    what = " and ".join(word for word in ("data", "attributes") if change[word])
    return WORDS[change["kind"]][0] + (f" ({what})" if what else "")


def _total(found: Iterable[Change]) -> tuple[int, int]:
    """How many, and the bytes of those whose data come, go or change: as they would be, of what
    goes as they are.
    """
    paths = size = 0
    for change in found:
        paths += 1
        if change["data"] or change["kind"] in ("added", "removed", "retyped"):
            size += (change["new"] or change["old"])["size"] or 0
    return paths, size
