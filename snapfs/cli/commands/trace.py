"""``snapfs trace``: the requests to a mounted volume, recorded in a file, shown, and replayed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target, size
from snapfs.cli.exits import DIFFERENT, OK, CommandFailed
from snapfs.cli.target import locate
from snapfs.cli.waiting import patience
from snapfs.control.socket import client
from snapfs.fuse.tracing.record import SIZE

if TYPE_CHECKING:
    from snapfs.fuse.tracing.reading import Gap, Trace
    from snapfs.fuse.tracing.record import Record


#: Fields of arguments and results that are names in the filesystem.
_NAMES: Final = frozenset({"name", "new_name", "target"})

#: Fields that lines for people do without.
_LEFT_OUT: Final = frozenset({"atime", "mtime", "ctime", "blocks", "generation"})


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    on = actions.add_parser(
        "on", help="record every request to a mounted volume, in a file of bounded size"
    )
    add_target(on)
    on.add_argument(
        "file",
        metavar="FILE",
        help="the trace; it has names of files, so only its owner may read it",
    )
    on.add_argument(
        "--size",
        type=size,
        default=SIZE,
        metavar="BYTES",
        help="with K, M or G: how much is kept, the newest requests (default: 16M)",
    )
    on.add_argument(
        "--data",
        action="store_true",
        help="record what is written to files, too, not only its checksum and length",
    )
    on.set_defaults(action=_on)
    off = actions.add_parser("off", help="record no more")
    add_target(off)
    off.set_defaults(action=_off)
    status = actions.add_parser("status", help="say whether and where requests are recorded")
    add_target(status)
    add_json(status)
    status.set_defaults(action=_status)
    show = actions.add_parser(
        "show", help="print a trace, oldest request first, also while it is written"
    )
    show.add_argument("file", metavar="FILE")
    add_json(show)
    show.set_defaults(action=_show)
    replay = actions.add_parser(
        "replay",
        help="serve a trace once more, in memory, and say which answers differ; IMAGE is only read",
    )
    replay.add_argument("file", metavar="FILE")
    replay.add_argument(
        "image", metavar="IMAGE", help="the image as it was when the trace began, not mounted"
    )
    add_json(replay)
    replay.set_defaults(action=_replay)
    parser.epilog = "Exit codes: 0 done, 1 error, and of replay also: answers differ, 2 usage."


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    code: int = arguments.action(arguments)
    return code


def _call(arguments: argparse.Namespace, command: str, **more: object) -> dict[str, Any]:
    limit = patience(arguments.timeout)
    mount = locate(arguments.target, limit)
    found = client.of_mount(mount, limit) if mount else client.of_image(arguments.target, limit)
    if found is None:
        raise CommandFailed(
            f"{arguments.target}: not mounted, so nobody asks anything of it: "
            "mount it, with '-o trace=FILE' to record from the start"
        )
    with found:
        return found.call(command, None, **more)


def _on(arguments: argparse.Namespace) -> int:
    path = os.path.abspath(arguments.file)
    _call(arguments, "trace.on", path=path, size=arguments.size, has_data=arguments.data)
    return OK


def _off(arguments: argparse.Namespace) -> int:
    _call(arguments, "trace.off")
    return OK


def _status(arguments: argparse.Namespace) -> int:
    found = _call(arguments, "trace.status")
    if arguments.json:
        since = found.pop("since_ns")
        output.print_json({**found, "since": since and output.time_json(since)})
    elif found["path"] is None:
        why = f": it has ended by itself: {found['failure']}" if found["failure"] else ""
        output.line(f"no trace is written{why}")
    else:
        output.print_facts(
            [
                ("Trace", found["path"]),
                ("Since", output.time_text(found["since_ns"])),
                ("Requests", str(found["requests"])),
                (
                    "Size",
                    f"{output.size_text(found['size'])}, of which the newest requests are kept",
                ),
                ("Written data", "recorded" if found["has_data"] else "as checksums"),
            ]
        )
    return OK


def _opened(path: str) -> Trace:
    from snapfs.fuse.tracing.reading import Trace

    return Trace(path)


def _show(arguments: argparse.Namespace) -> int:
    with _opened(arguments.file) as trace:
        header = trace.header
        if arguments.json:
            # Written piece by piece: a trace may be larger than memory.
            began = {"began": output.time_json(header.began), "size": header.size, **header.facts}
            output.line(f'{{"trace": {json.dumps(began, ensure_ascii=True)}, "requests": [')
            for index, one in enumerate(_documents(trace)):
                output.line(("," if index else "") + json.dumps(one, ensure_ascii=True))
            output.line("]}")
            return OK
        facts = header.facts
        output.line(
            f"# {facts.get('image')} on {facts.get('mountpoint')}, process {facts.get('pid')}, "
            f"snapfs {facts.get('snapfs')}, since {output.time_text(header.began)}"
        )
        for record in trace.records():
            output.line(_line(trace, record))
    return OK


def _line(trace: Trace, one: Record | Gap) -> str:
    from snapfs.fuse.tracing.describing import describe
    from snapfs.fuse.tracing.reading import Gap

    if isinstance(one, Gap):
        return f"# {one.records} requests are missing here"
    found = describe(one)
    time = output.time_json(trace.header.time(one.began))
    result = found.error or " ".join(_words(found.result))
    asked = ", ".join([str(found.node), *_words(found.arguments)])
    return (
        f"{time} {round(one.took * 1e6):>7} us #{found.unique} {found.operation}({asked})"
        f" pid={found.pid} uid={found.uid} gid={found.gid}{' -> ' if result else ''}{result}"
    )


def _words(words: dict[str, Any]) -> list[str]:
    """``name=value``; names of files in quotes."""
    return [
        f"{name}={json.dumps(value, ensure_ascii=False) if name in _NAMES else value}"
        for name, value in words.items()
        if name not in _LEFT_OUT
    ]


def _documents(trace: Trace) -> Iterator[dict[str, Any]]:
    from snapfs.fuse.tracing.describing import describe
    from snapfs.fuse.tracing.reading import Gap

    for one in trace.records():
        if isinstance(one, Gap):
            yield {"missing": one.records}
            continue
        yield {
            "number": one.number,
            "time": output.time_json(trace.header.time(one.began)),
            "microseconds": round(one.took * 1e6, 1),
            **describe(one)._asdict(),
        }


def _replay(arguments: argparse.Namespace) -> int:
    import trio

    from snapfs.cli.exits import report
    from snapfs.cli.mounting import source
    from snapfs.filesystem import Filesystem
    from snapfs.fuse.replaying.replay import replay
    from snapfs.store.commit.recovery import open_volume

    with _opened(arguments.file) as trace:
        device = source.parse("mem:", arguments.image).open(
            read_only=False, interval=None, warn=report
        )
        try:
            volume = open_volume(device)
            facts = trace.header.facts
            if str(volume.uuid) != facts.get("uuid"):
                raise CommandFailed(
                    f"{arguments.image}: is another volume than the one that was traced"
                )
            if volume.generation != facts.get("generation") or not facts.get("is_saved"):
                report(
                    f"{arguments.image}: is not as it was when the trace began: "
                    f"generation {volume.generation} now, {facts.get('generation')} then"
                )
            found = trio.run(replay, Filesystem(volume), trace.header, trace.records())
            volume.close()
        finally:
            device.close()
    if arguments.json:
        output.print_json(
            {
                "served": found.served,
                "skipped": found.skipped,
                "differences": [vars(one) for one in found.mismatches],
            }
        )
    else:
        for one in found.mismatches:
            what = f"request {one.number}: {one.operation}: {one.what}"
            output.line(f"{what}: {one.recorded} then, {one.replayed} now")
        left_out = f", {found.skipped} left out" if found.skipped else ""
        output.line(
            f"{found.served} requests served{left_out}, {len(found.mismatches)} differences"
        )
    return DIFFERENT if found.mismatches else OK
