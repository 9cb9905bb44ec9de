"""``snapfs info``: what there is to know about a volume, and about its mount when it has one."""

from __future__ import annotations

import argparse

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.exits import OK
from snapfs.cli.target import session


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    with session(arguments.target, write=False) as volume:
        info = volume.call("info")
    times = ("created_ns", "committed_ns", "mounted_ns")
    if arguments.json:
        document = {name: value for name, value in info.items() if name not in times}
        document |= {name.removesuffix("_ns") + "_at": info[name] and output.time_json(info[name]) for name in times}
        output.print_json(document)
        return OK
    facts = [
        ("Image", info["image"]),
        ("Label", info["label"] or "(none)"),
        ("UUID", info["uuid"]),
        ("Size", f"{output.size_text(info['size'])} in blocks of {output.size_text(info['block_size'])}"),
        ("Free", output.size_text(info["free"])),
        ("Snapshots", str(info["snapshots"])),
        ("Generation", f"{info['generation']} (epoch {info['epoch']})"),
        ("Created", output.time_text(info["created_ns"])),
        ("Last commit", output.time_text(info["committed_ns"])),
    ]
    if info["mounted"]:
        facts.append(("Mounted at", f"{info['mounted']} by process {info['pid']} since {output.time_text(info['mounted_ns'])}"))
    else:
        facts.append(("Mounted at", "(not mounted)"))
    if info["read_only"]:
        facts.append(("Read-only", info["read_only"]))
    output.print_facts(facts)
    for title, numbers in (("Counters", info["counters"]), ("Requests", info["requests"])):
        if numbers:
            print(f"\n{title}:")
            output.print_facts([(f"  {name}", str(value)) for name, value in numbers.items()])
    return OK
