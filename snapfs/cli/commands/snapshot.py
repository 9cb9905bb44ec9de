"""``snapfs snapshot create|list|show|rename|delete|set|hold|release``."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from typing import Any

from snapfs.cli import output, shown_snapshot
from snapfs.cli.arguments import Parser, add_discard, add_json, add_target
from snapfs.cli.commands import hot
from snapfs.cli.exits import ERROR, OK, report
from snapfs.cli.paths import PATHS_HELP, all_in_volume
from snapfs.cli.seen import seen_at, shown
from snapfs.cli.target import session
from snapfs.errors import UsageError


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make a snapshot", allow_abbrev=False)
    add_target(create)
    create.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="its name (default: the time in UTC, with a number behind it if another one has "
        "that name)",
    )
    create.add_argument(
        "--path",
        metavar="PATH",
        action="append",
        default=[],
        help="cover only this directory or file; may be given several times",
    )
    create.add_argument(
        "--designated",
        metavar="POLICY",
        help="cover the directories whose attribute user.snapfs.designate has this value, "
        "and below",
    )
    create.add_argument(
        "--of", metavar="OTHER", help="what another snapshot shows now, instead of the live tree"
    )
    create.add_argument(
        "--read-only",
        action="store_true",
        help="let nobody change what it shows (default: it can be changed)",
    )
    create.add_argument("--description", metavar="TEXT", help="one line about it")
    create.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        type=_tag,
        action="append",
        default=[],
        help="tag it; may be given several times",
    )
    add_json(create)
    create.epilog = PATHS_HELP
    create.set_defaults(action=_create)

    listing = actions.add_parser(
        "list", help="list the snapshots, oldest first", allow_abbrev=False
    )
    add_target(listing)
    listing.add_argument(
        "--name", metavar="GLOB", help="only those with such a name, such as 'daily-*'"
    )
    listing.add_argument(
        "--tag",
        metavar="KEY[=VALUE]",
        type=_wanted_tag,
        action="append",
        default=[],
        help="only those with this tag; with all, if several",
    )
    listing.add_argument("--held", action="store_true", help="only those that somebody holds")
    add_json(listing)
    listing.set_defaults(action=_list)

    show = actions.add_parser("show", help="show one snapshot", allow_abbrev=False)
    add_target(show)
    show.add_argument("name", metavar="NAME")
    show.add_argument(
        "--hot",
        action="store_true",
        help="which files and blocks of the live tree were written most since then, instead",
    )
    show.add_argument(
        "--limit", metavar="N", type=int, help="with --hot: how many of each (default: 10)"
    )
    add_json(show)
    show.set_defaults(action=_show)

    rename = actions.add_parser("rename", help="give a snapshot another name", allow_abbrev=False)
    add_target(rename)
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new_name", metavar="NEW-NAME")
    rename.set_defaults(action=_rename)

    delete = actions.add_parser("delete", help="delete snapshots", allow_abbrev=False)
    add_target(delete)
    delete.add_argument("names", metavar="NAME", nargs="+")
    delete.add_argument(
        "--dry-run",
        action="store_true",
        help="delete nothing; say what deleting all of them would free",
    )
    add_discard(delete)
    add_json(delete)
    delete.set_defaults(action=_delete)

    change = actions.add_parser(
        "set", help="make a snapshot read-only or writable, describe it, tag it", allow_abbrev=False
    )
    add_target(change)
    change.add_argument("name", metavar="NAME")
    mode = change.add_mutually_exclusive_group()
    mode.add_argument(
        "--read-only",
        dest="read_only",
        action="store_true",
        default=None,
        help="let nobody change what it shows",
    )
    mode.add_argument(
        "--writable",
        dest="read_only",
        action="store_false",
        default=None,
        help="let it be changed again",
    )
    change.add_argument("--description", metavar="TEXT", help="one line about it; '' for none")
    change.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        type=_tag,
        action="append",
        default=[],
        help="set a tag; may be given several times",
    )
    change.add_argument(
        "--untag",
        metavar="KEY",
        action="append",
        default=[],
        help="remove a tag; may be given several times",
    )
    change.set_defaults(action=_set)

    hold = actions.add_parser(
        "hold",
        help="forbid everybody to delete a snapshot, until it is released",
        allow_abbrev=False,
    )
    add_target(hold)
    hold.add_argument("name", metavar="NAME")
    hold.add_argument(
        "--as",
        dest="hold",
        metavar="HOLD",
        help="a name for the hold: each of several must be released (default: 'hold')",
    )
    hold.add_argument("--reason", metavar="TEXT", help="why, for those who want to delete it")
    hold.set_defaults(action=_hold)

    release = actions.add_parser("release", help="end a hold", allow_abbrev=False)
    add_target(release)
    release.add_argument("name", metavar="NAME")
    release.add_argument(
        "--as", dest="hold", metavar="HOLD", help="the name of the hold (default: 'hold')"
    )
    release.set_defaults(action=_release)


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    code: int = arguments.action(arguments)
    return code


def _create(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        paths = all_in_volume(arguments.path, volume, follow=True)
        created = volume.call(
            "snapshot.create",
            name=arguments.name,
            paths=paths,
            designated=arguments.designated,
            origin=arguments.of,
            read_only=arguments.read_only,
            description=arguments.description,
            tags=dict(arguments.tag),
        )
    if arguments.json:
        output.print_json(
            {**shown_snapshot.document(created), "left_out": created.get("left_out", [])}
        )
    else:
        output.line(created["name"])
    if left_out := created.get("left_out"):
        what = (
            f"{len(left_out)} designated directories of other users, {left_out[0]} the first"
            if len(left_out) > 1
            else left_out[0]
        )
        report(f"the snapshot has no room for {what}: make one of its own with --path")
    return OK


def _list(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=False, timeout=arguments.timeout) as volume:
        found = [
            one for one in volume.call("snapshot.list")["snapshots"] if _is_wanted(one, arguments)
        ]
    if arguments.json:
        output.print_json([shown_snapshot.document(one) for one in found])
    elif found:
        shown_snapshot.print_list(found)
    return OK


def _show(arguments: argparse.Namespace) -> int:
    if arguments.hot:
        return hot.show(arguments)
    if arguments.limit is not None:
        raise UsageError("--limit goes with --hot")
    with session(arguments.target, write=False, timeout=arguments.timeout) as volume:
        one = volume.call("snapshot.show", name=arguments.name)
        seen = seen_at(volume, one)
    if arguments.json:
        output.print_json({**shown_snapshot.document(one), "seen_at": seen})
        return OK
    facts = shown_snapshot.facts(one)
    facts += [("Seen at", shown(place, sys.stdout.encoding)) for place in seen]
    output.print_facts(facts)
    return OK


def _rename(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        volume.call("snapshot.rename", name=arguments.name, new_name=arguments.new_name)
    return OK


def _delete(arguments: argparse.Namespace) -> int:
    """Delete all that can be; each that cannot gets its line."""
    with session(
        arguments.target,
        write=not arguments.dry_run,
        timeout=arguments.timeout,
        discard=arguments.discard,
    ) as volume:
        found = volume.call("snapshot.delete", names=arguments.names, dry_run=arguments.dry_run)
    if arguments.json:
        output.print_json({"dry_run": arguments.dry_run, **found})
    elif arguments.dry_run and found["names"]:
        count = len(found["names"])
        what = f"snapshot '{found['names'][0]}'" if count == 1 else f"{count} snapshots"
        output.line(
            f"deleting {what} would free {output.size_text(found['frees'])} "
            f"({found['frees']} bytes)"
        )
    for refused in found["refused"]:
        report(refused["reason"])
    return ERROR if found["refused"] else OK


def _set(arguments: argparse.Namespace) -> int:
    if (
        arguments.read_only is None
        and arguments.description is None
        and not arguments.tag
        and not arguments.untag
    ):
        raise UsageError(
            "nothing to set: give --read-only, --writable, --description, --tag or --untag"
        )
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        volume.call(
            "snapshot.set",
            name=arguments.name,
            read_only=arguments.read_only,
            description=arguments.description,
            tags=dict(arguments.tag),
            untag=arguments.untag,
        )
    return OK


def _hold(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        volume.call(
            "snapshot.hold", name=arguments.name, hold=arguments.hold, reason=arguments.reason
        )
    return OK


def _release(arguments: argparse.Namespace) -> int:
    with session(arguments.target, write=True, timeout=arguments.timeout) as volume:
        volume.call("snapshot.release", name=arguments.name, hold=arguments.hold)
    return OK


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not a tag: give KEY=VALUE")
    return key, value


def _wanted_tag(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"'{text}' is not a tag: give KEY or KEY=VALUE")
    return key, value if equals else None


def _is_wanted(one: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether a listing shall show a snapshot."""
    tags = one["tags"]
    return (
        (arguments.name is None or fnmatch.fnmatchcase(one["name"], arguments.name))
        and all(key in tags and value in (None, tags[key]) for key, value in arguments.tag)
        and (not arguments.held or bool(one["holds"]))
    )
