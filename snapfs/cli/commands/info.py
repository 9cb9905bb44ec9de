"""``snapfs info``: what there is to know about a volume, and about its mount when it has one."""

from __future__ import annotations

import argparse
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.commands.restore import scheduled_json, scheduled_text
from snapfs.cli.exits import OK
from snapfs.cli.target import session

#: What is shown of a histogram.
_LATENCY_PARTS: Final = ("p50", "p99", "p999", "max")

_LATENCY_COLUMNS: Final = ("Of", "Count", *_LATENCY_PARTS)


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument(
        "--counters",
        action="store_true",
        help="show also how long requests, commits and flushes took since it was mounted",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    with session(arguments.target, write=False, timeout=arguments.timeout) as volume:
        info = volume.call("info")
        latencies = {}
        if arguments.counters and volume.mountpoint is not None:
            latencies = volume.call("latencies")["latencies"]
    times = ("created_ns", "committed_ns", "mounted_ns")
    if arguments.json:
        document = {name: value for name, value in info.items() if name not in times}
        document |= {
            name.removesuffix("_ns") + "_at": info[name] and output.time_json(info[name])
            for name in times
        }
        document["scheduled_restore"] = info["scheduled_restore"] and scheduled_json(
            info["scheduled_restore"]
        )
        document["copy"] = info["copy"] and copy_json(info["copy"])
        document["restores"] = [restored_json(one) for one in info["restores"]]
        if arguments.counters:
            document["latencies"] = latencies
        output.print_json(document)
        return OK
    facts = [
        (
            "Image",
            info["image"]
            + (" (in memory: gone when it is unmounted)" if info["in_memory"] else ""),
        ),
        ("Label", info["label"] or "(none)"),
        ("UUID", info["uuid"]),
        (
            "Size",
            f"{output.size_text(info['size'])} in blocks of {output.size_text(info['block_size'])}",
        ),
        ("Free", output.size_text(info["free"])),
        ("Snapshots", str(info["snapshots"])),
        ("Generation", f"{info['generation']} (epoch {info['epoch']})"),
        ("Created", output.time_text(info["created_ns"])),
        ("Last commit", output.time_text(info["committed_ns"])),
    ]
    if info["mounted"]:
        facts.append(
            (
                "Mounted at",
                (
                    f"{info['mounted']} by process {info['pid']} since "
                    f"{output.time_text(info['mounted_ns'])}"
                ),
            )
        )
    else:
        facts.append(("Mounted at", "(not mounted)"))
    if info["read_only"]:
        facts.append(("Read-only", info["read_only"]))
    if info["scheduled_restore"]:
        wanted = info["scheduled_restore"]
        asked = f"asked for by user {wanted['owner']}, {output.time_text(wanted['since_ns'])}"
        facts.append(("Next mount", f"goes back to {scheduled_text(wanted)} ({asked})"))
    if info["copy"]:
        facts.append(("Copy", copy_text(info["copy"])))
    if info["restores"]:
        facts.append(("Last restore", restored_text(info["restores"][0])))
    output.print_facts(facts)
    for title, numbers in (("Counters", info["counters"]), ("Requests", info["requests"])):
        if numbers:
            output.line()
            output.line(f"{title}:")
            output.print_facts([(f"  {name}", str(value)) for name, value in numbers.items()])
    if latencies:
        output.line()
        output.line("Latencies, in microseconds (p50: half took no longer):")
        output.print_table(_LATENCY_COLUMNS, _latency_rows(latencies))
    return OK


def _latency_rows(latencies: dict[str, Any]) -> list[list[str]]:
    return [
        [name, str(one["count"]), *(f"{one[f'{part}_us']:,.1f}" for part in _LATENCY_PARTS)]
        for name, one in latencies.items()
    ]


def copy_text(one: dict[str, Any]) -> str:
    """A copy that is not complete, in words."""
    place = "on the volume" if one["map"] is None else f"in {one['map']}"
    state = ", paused" if one["paused"] else ""
    since = f"since {output.time_text(one['since_ns'])}, by user {one['owner']}"
    return f"to {one['destination']}, {since}, copy map {place}{state}"


def copy_json(one: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {
        **{name: value for name, value in one.items() if name != "since_ns"},
        "since_at": output.time_json(one["since_ns"]),
    }


def restored_text(one: dict[str, Any]) -> str:
    """A restore that was done, in words: when, from what, what of it, by whom, and how it is
    undone.
    """
    paths = [*one["paths"]] + ([f"{one['more_paths']} more"] if one["more_paths"] else [])
    what = f", only {', '.join(paths)}" if paths else ""
    undo = ""
    if one["undo"]:
        undo = f"; before it: '{one['undo']}'" + (
            "" if one["undo_exists"] else " (deleted or renamed since)"
        )
    return (
        f"{output.time_text(one['when_ns'])} from '{one['name']}'{what}, by user "
        f"{one['owner']}, {one['inodes']} inodes{undo}"
    )


def restored_json(one: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {
        **{name: value for name, value in one.items() if name != "when_ns"},
        "restored_at": output.time_json(one["when_ns"]),
    }
