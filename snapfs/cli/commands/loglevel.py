"""``snapfs loglevel``: what the daemon of a mount logs, shown or changed while it is mounted."""

from __future__ import annotations

import argparse

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target
from snapfs.cli.exits import OK, CommandFailed
from snapfs.cli.target import session


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    from snapfs.fuse.options import LOG_LEVELS

    add_target(parser)
    parser.add_argument(
        "level", nargs="?", metavar="LEVEL", choices=LOG_LEVELS, help=", ".join(LOG_LEVELS)
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, or tell, the daemon."""
    target = arguments.target
    with session(target, write=False, timeout=arguments.timeout) as volume:
        if volume.mountpoint is None:
            raise CommandFailed(
                f"{target}: not mounted, so there is no daemon: mount it with '-o loglevel=LEVEL'"
            )
        told = {} if arguments.level is None else {"level": arguments.level}
        level = volume.call("loglevel", **told)["level"]
    if arguments.json:
        output.print_json({"level": level})
    elif arguments.level is None:
        output.line(level)
    return OK
